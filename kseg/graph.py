"""Whether a model's graph is the one that its card describes.

Files are made of a graph that is built again from the card, at a size and a precision of
their own, and takes the weights by the layers' names. What its user has put before, behind or
into a model would be left out without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import KerasTensor

from kseg.errors import KsegError
from kseg.layers import Normalize

# Options of layers that do not change what is computed in inference.
_INCIDENTAL = (
    "_initializer",
    "_regularizer",
    "_constraint",
    "name",
    "dtype",
    "trainable",
    "momentum",
    "synchronized",
)


class _Step(NamedTuple):
    """What gives a tensor, whatever the layers' own names and the size of the image are."""

    kind: str
    name: str
    config: Any
    arguments: Any

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


def check_same_graph(
    model: keras.Model, logits: KerasTensor, *, card_name: str, skip_normalization: bool = False
) -> None:
    """Raises KsegError where a model computes something else than a card's network.

    Args:
        model: functional, from one image to logits, or to a dict that has "logits".
        logits: of the card's network at any size of the image.
        card_name: of the card, for the message.
        skip_normalization: whether the model takes what the network normalises itself.
    """
    output = model.output
    if isinstance(output, dict):
        output = output.get("logits")
    if not isinstance(output, KerasTensor):
        raise _mismatch(card_name, "it has no single output of logits")
    own = _steps(output, skip_normalization=False)
    wanted = _steps(logits, skip_normalization=skip_normalization)
    for mine, other in zip(own, wanted, strict=False):
        if mine != other:
            what = "with other options" if str(mine) == str(other) else f"in place of {other}"
            raise _mismatch(card_name, f"it has {mine} {what}")
    if len(own) != len(wanted):
        more, where = (own, "besides") if len(own) > len(wanted) else (wanted, "missing")
        raise _mismatch(card_name, f"it has {more[min(len(own), len(wanted))]} {where}")


def _mismatch(card_name: str, difference: str) -> KsegError:
    return KsegError(
        f"{card_name}: the model's graph is not the network of its card ({difference}), so it "
        "cannot be built again from it; make it with kseg.create_model and copy the weights, or "
        "correct model.card"
    )


def _steps(tensor: KerasTensor, *, skip_normalization: bool) -> list[_Step]:
    """What the tensor is computed from, sources first.

    Args:
        skip_normalization: whether Normalize counts as its input.
    """
    numbers: dict[tuple[int, int], int] = {}
    steps: list[_Step] = []
    for operation, node in ordered_nodes([tensor]):
        key = _key(node.output_tensors[0])
        if skip_normalization and isinstance(operation, Normalize):
            numbers[key] = numbers[_key(node.input_tensors[0])]
            continue
        numbers[key] = len(steps)
        steps.append(_step(operation, node.arguments, numbers))
    return steps


def ordered_nodes(
    tensors: Iterable[KerasTensor], given: Collection[int] = ()
) -> Iterator[tuple[keras.Operation, Any]]:
    """The calls that tensors are computed by, as (operation, its node), sources first.

    Args:
        tensors: of a functional graph.
        given: ids of tensors that need no call.
    """
    done: set[tuple[int, int]] = set()
    pending = [tensor for tensor in tensors if id(tensor) not in given]
    while pending:
        key = _key(pending[-1])
        if key in done:
            pending.pop()
            continue
        operation, call, _ = pending[-1]._keras_history
        node = operation._inbound_nodes[call]
        missing = [t for t in node.input_tensors if id(t) not in given and _key(t) not in done]
        if missing:
            pending += reversed(missing)
            continue
        pending.pop()
        done.add(key)
        yield operation, node


def replay(
    tensors: Sequence[KerasTensor],
    values: Mapping[int, KerasTensor],
    call: Callable[..., Any] = lambda operation, *args, **kwargs: operation(*args, **kwargs),
) -> list[KerasTensor]:
    """What tensors become where others are in the place of some that they come from.

    Args:
        tensors: of a functional graph.
        values: what stands for a tensor, by the id of that.
        call: takes an operation and its arguments, and gives what the operation would.
    """
    values = dict(values)
    for operation, node in ordered_nodes(tensors, frozenset(values)):
        args, kwargs = node.arguments.fill_in(values)
        results = keras.tree.flatten(call(operation, *args, **kwargs))
        values.update(zip(map(id, node.output_tensors), results, strict=True))
    return [values[id(tensor)] for tensor in tensors]


def _key(tensor: KerasTensor) -> tuple[int, int]:
    operation, call, _ = tensor._keras_history
    return id(operation), call


def _step(operation: keras.Operation, arguments: Any, numbers: dict[tuple[int, int], int]) -> _Step:
    def plain(value: Any) -> Any:
        if isinstance(value, KerasTensor):
            return "tensor", numbers[_key(value)], value._keras_history[2]
        return value.tolist() if hasattr(value, "tolist") else value

    kwargs = {
        name: value
        for name, value in arguments.kwargs.items()
        if name not in ("training", "mask") and value is not None
    }
    has_weights = isinstance(operation, keras.Layer) and bool(operation.weights)
    return _Step(
        kind=type(operation).__name__,
        # By which weights are copied; the other names are numbers of the process.
        name=operation.name if has_weights else "",
        config=_config(operation),
        arguments=keras.tree.map_structure(plain, (tuple(arguments.args), kwargs)),
    )


def _config(operation: keras.Operation) -> Any:
    """Options that tell in inference."""
    if isinstance(operation, keras.layers.InputLayer | keras.layers.Dropout):
        return None
    try:
        config = operation.get_config()
    except NotImplementedError:
        # An operation of keras.ops whose values are its arguments.
        return None
    return _essence(config)


def _essence(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _essence(v) for k, v in value.items() if not k.endswith(_INCIDENTAL)}
    return tuple(map(_essence, value)) if isinstance(value, list | tuple) else value
