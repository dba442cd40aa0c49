"""Which layers of a graph the operators of its file compute, and names that say so."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from kseg.errors import KsegError
from kseg.layers import Resize
from kseg.tflite.flatbuffer import Flatbuffer, input_name, operator_outputs

# These give another form of the same values.
_FORMS = ("DENSIFY", "DEQUANTIZE", "QUANTIZE")

# What the inputs of operators are, where they are constants; the schema has no names for them.
_ROLES = {
    "CONV_2D": ("input", "kernel", "bias"),
    "DEPTHWISE_CONV_2D": ("input", "kernel", "bias"),
    "FULLY_CONNECTED": ("input", "kernel", "bias"),
    "MEAN": ("input", "axes"),
    "PAD": ("input", "paddings"),
    "PRELU": ("input", "alpha"),
    "RESIZE_BILINEAR": ("input", "size"),
    "RESIZE_NEAREST_NEIGHBOR": ("input", "size"),
    "TRANSPOSE_CONV": ("output_shape", "kernel", "input", "bias"),
}


def layer_names(content: bytes, graph: keras.Model) -> dict[str, list[str]]:
    """The layers of the graph that each operator computes, by its output tensor.

    Args:
        content: what ``to_flatbuffer`` made of the graph: names are those of its layers,
            numbered where they were traced more than once.
        graph: of Keras 3.

    Returns:
        Names by output tensor, in the order of the graph; none of an operation that is no layer.
    """
    known = {operation.name: place for place, operation in enumerate(graph.operations)}
    owners = {tensor: known_in(tensor, known) for _, tensor in operator_outputs(content).values()}
    if owners:
        # The output has the signature's name instead.
        last = list(owners)[-1]
        owners[last] = owners[last] or [_last_computing(graph).name]
    return owners


def _last_computing(graph: keras.Model) -> keras.Operation:
    """The graph's last operation, but for a resize to the size that is there already."""
    computing = (
        operation
        for operation in reversed(graph.operations)
        if not isinstance(operation, Resize)
        or keras.tree.flatten(operation.input)[0].shape != operation.output.shape
    )
    return next(computing)


def known_in(tensor: str, known: Mapping[str, int]) -> list[str]:
    """The layers that a traced tensor's name has.

    Args:
        tensor: scopes with slashes between them, "a/b;c/d" where there are several.
        known: places of all layers, by which they are sorted.
    """
    found = set()
    for part in tensor.split(";"):
        for scope in part.split("/")[1:-1]:
            names = (re.sub(r"_\d+$", "", scope), scope)
            found |= set([name for name in names if name in known][:1])
    return sorted(found, key=known.__getitem__)


def with_layer_names(model: Flatbuffer, graph: keras.Model) -> Flatbuffer:
    """The model with its tensors named by the layers that compute them, as viewers show them.

    "a;b" is what the layers a and b make together, "a/PAD" an operator of the layer a before its
    last one, "a/kernel" a constant of it. Tensors of no layer keep their names.

    Args:
        model: of the graph; the names of its tensors are those of the trace.
        graph: of Keras 3.
    """
    owners = layer_names(model.content, graph)
    operators = model.main_operators()
    (source,), _ = model.ends
    _, _, image = input_name(model.content)
    names = Names({source: image})
    computing = [each for each in operators if each.kind not in _FORMS]
    labels = operator_names([(";".join(owners[each.name]), each.kind) for each in computing])
    for operator, label in zip(computing, labels, strict=True):
        for tensor in operator.outputs if owners[operator.name] else ():
            names.give(tensor, label)
    made = {tensor: operator for operator in operators for tensor in operator.outputs}
    for operator in computing:
        roles = _ROLES.get(operator.kind, ())
        for place, tensor in enumerate(operator.inputs):
            # Half precision and zeros left out are other forms of a constant.
            while (maker := made.get(tensor)) is not None and maker.kind in _FORMS:
                (tensor,) = maker.inputs
            if maker is None and tensor >= 0 and owners[operator.name]:
                role = roles[place] if place < len(roles) else "constant"
                names.give(tensor, f"{owners[operator.name][0]}/{role}")
    for operator in operators:
        if operator.kind in _FORMS and operator.inputs[0] in names.given:
            names.give(operator.outputs[0], f"{names.given[operator.inputs[0]]}/{operator.kind}")
    return model.with_tensor_names(names.given)


class Names:
    """A name for each tensor, no name twice.

    Attributes:
        given: by the tensor's number or its name before.
    """

    def __init__(self, given: Mapping[Any, str]) -> None:
        self.given = dict(given)
        self._used = set(given.values())

    def give(self, tensor: Any, name: str) -> None:
        """Names a tensor that has no name yet so, with a number where the name is taken."""
        if tensor in self.given:
            return
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        unused = next(each for each in itertools.chain([name], numbered) if each not in self._used)
        self.given[tensor] = unused
        self._used.add(unused)


def operator_names(operators: Sequence[tuple[str, str]]) -> list[str]:
    """Names for operators: the layers' for their last one, with the kind for those before it.

    Args:
        operators: (layers, kind) in the order in which they run.
    """
    last = {layers: place for place, (layers, _) in enumerate(operators)}
    return [
        layers if last[layers] == place else f"{layers}/{kind}"
        for place, (layers, kind) in enumerate(operators)
    ]


def layers_in(tensor: str) -> str:
    """The layers that a tensor's name has, where the graph is not at hand; else ""."""
    scopes = [part.split("/")[1:-1] for part in tensor.split(";")]
    names = ["/".join(re.sub(r"_\d+$", "", scope) for scope in each) for each in scopes]
    return " ".join(dict.fromkeys(filter(None, names)))


def tensors_of(layers: Collection[str], content: bytes, graph: keras.Model) -> list[str]:
    """The output tensors of the layers' operators.

    A BatchNorm or a mean that export has split stands for its parts.

    Raises:
        KsegError: a layer that is not there or has no operator of its own.
    """
    owners = layer_names(content, graph)
    tensors = []
    for layer in layers:
        pattern = re.compile(re.escape(layer) + r"(\.branch\d+|\.depthwise|\.columns)?")
        found = [t for t, names in owners.items() if any(map(pattern.fullmatch, names))]
        if not found:
            names = sorted({name for names in owners.values() for name in names})
            near = difflib.get_close_matches(layer, names, 3, 0) or names[:3]
            raise KsegError(
                f"{layer}: no operator of the file is of such a layer; near ones are "
                + ", ".join(near)
            )
        tensors += found
    return tensors
