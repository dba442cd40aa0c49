"""A wrapped model's graph in Keras' own layers, as far as these make up the others."""

from __future__ import annotations

import inspect
import re
from typing import Any

import keras
from keras import KerasTensor

from kseg.errors import KsegError
from kseg.graph import replay
from kseg.model import use_statistics

# Of Keras and kseg: what their layers have inside is known to export.
_KNOWN = ("keras.", "kseg.")

# Keras' layers that change images at random in training, and give them as they are else.
_RANDOM = re.compile(r"Random(?!Crop)\w+|AugMix|CutMix|MixUp|RandAugment")


def flatten(model: keras.Model) -> keras.Model:
    """The same function of the same layers without models, and layers of layers, inside.

    A custom layer is opened where all its weights are those of layers inside, and its ``call``
    runs on symbolic tensors; else it stays as it is. Layers whose names meet those of others
    get the name of what they were in before theirs, with a dot.

    Args:
        model: functional, not shared with anyone: its layers are called again, and renamed.

    Raises:
        KsegError: a call with ``training=True``, or one whose arguments have no place.
    """
    (source,) = model.inputs
    shape = tuple(source.shape)
    image = keras.Input(shape[1:], batch_size=shape[0], dtype=source.dtype, name="image")
    flat = _Flat(reserved={image._keras_history.operation.name})
    flat.name_all(model)
    outputs = flat.outputs(model, [image], "")
    return keras.Model(image, outputs[0], name=model.name)


class _Flat:
    """Calls of the layers inside, each under a name of its own.

    Args:
        reserved: names that are taken.
    """

    def __init__(self, reserved: set[str]) -> None:
        self._names = set(reserved)
        # Kept, since an id names one only while it lives.
        self._named: dict[int, keras.Operation] = {}
        self._called: set[int] = set()
        # How many custom layers the present call is in.
        self._depth = 0

    def name_all(self, model: keras.Model) -> None:
        """Names the layers, those of the outer models first: they keep theirs."""
        level = [("", model)]
        while level:
            inside = []
            for prefix, outer in level:
                for operation in getattr(outer, "operations", outer.layers):
                    if _is_graph(operation):
                        inside.append((_joined(prefix, operation.name), operation))
                    elif not isinstance(operation, keras.layers.InputLayer):
                        self._name(operation, prefix)
            level = inside

    def outputs(
        self, model: keras.Model, inputs: list[KerasTensor], prefix: str
    ) -> list[KerasTensor]:
        """A functional model's outputs, its layers named by the prefix where they must be."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = keras.tree.flatten(self.call(layer, (inputs[0],), {}, prefix))
            return inputs
        values = dict(zip(map(id, model.inputs), inputs, strict=True))

        def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            return self.call(operation, args, kwargs, prefix)

        return replay(model.outputs, values, call)

    def call(
        self, operation: keras.Operation, args: tuple, kwargs: dict[str, Any], prefix: str
    ) -> Any:
        """What an operation gives; a model, or a layer of layers, by those inside."""
        if _is_graph(operation):
            tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, KerasTensor)]
            inner = _without_number(operation.name) if self._depth else operation.name
            return self.outputs(operation, tensors, _joined(prefix, inner))
        if _is_known(operation) and _RANDOM.fullmatch(type(operation).__name__):
            return (*args, *kwargs.values())[0]
        self._name(operation, prefix)
        again = id(operation) in self._called
        self._called.add(id(operation))
        args = _by_position(operation, args, kwargs)
        if _is_made_of_layers(operation):
            opened = self._opened(operation, args)
            if opened is not None:
                return opened
        if again and isinstance(operation, keras.Layer) and _is_known(operation):
            # A layer a call, since each call may be rewritten in its own way.
            twin = type(operation).from_config(operation.get_config())
            self._name(twin, prefix)
            result = twin(*args)
            twin.set_weights(operation.get_weights())
            use_statistics(twin)
            return result
        return operation(*args)

    def _opened(self, layer: keras.Layer, args: tuple) -> list[KerasTensor] | None:
        """What a custom layer gives, by the layers inside; None where it cannot be seen."""
        try:
            result = layer.call(*args)
        except Exception:  # of code that is not for symbolic tensors
            return None
        tensors = keras.tree.flatten(result)
        if not all(isinstance(tensor, KerasTensor) for tensor in tensors):
            return None
        given = {id(x): x for x in keras.tree.flatten(args) if isinstance(x, KerasTensor)}

        def call(operation: keras.Operation, *inner: Any, **kwargs: Any) -> Any:
            return self.call(operation, inner, kwargs, layer.name)

        self._depth += 1
        try:
            return replay(tensors, given, call)
        finally:
            self._depth -= 1

    def _name(self, operation: keras.Operation, prefix: str) -> None:
        if id(operation) in self._named:
            return
        self._named[id(operation)] = operation
        name, number = operation.name, 0
        # A call of a layer again has it already.
        if not (prefix and name.startswith(f"{prefix}.")):
            if self._depth:
                # Numbers of the process would be others in the next copy.
                name = _joined(prefix, _without_number(name))
            elif name in self._names:
                name = _joined(prefix, name)
        base = name
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        operation.name = name


def _is_graph(operation: keras.Operation) -> bool:
    """Whether it is a functional or Sequential model, whose operations can be called apart."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "inputs", None))


def _without_number(name: str) -> str:
    return re.sub(r"_[0-9]+$", "", name)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _is_known(operation: keras.Operation) -> bool:
    return type(operation).__module__.startswith(_KNOWN)


def _is_made_of_layers(operation: keras.Operation) -> bool:
    """Whether it is a layer of the user's whose weights are all those of layers inside."""
    if not isinstance(operation, keras.Layer) or _is_known(operation):
        return False
    inner = operation._flatten_layers(include_self=False)
    weights = {id(weight) for layer in inner for weight in layer.weights}
    return all(id(weight) in weights for weight in operation.weights)


def _by_position(operation: keras.Operation, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """The arguments of a call without names, for inference.

    Raises:
        KsegError: ``training`` is True, or an argument that only has a name.
    """
    signature = inspect.signature(operation.call)
    takes = signature.parameters
    # Keras' own, where ``call`` does not take them.
    kwargs = {k: v for k, v in kwargs.items() if k in takes or v is not None}
    # Keras records it where it is the default, as of Resizing.
    by_default = "training" in takes and takes["training"].default is True
    if kwargs.pop("training", None) and not by_default:
        raise KsegError(
            f"{operation.name}: is called with training=True, which inference has not; "
            "leave it out of the graph"
        )
    bound = signature.bind(*args, **kwargs)
    if bound.kwargs and any(value is not None for value in bound.kwargs.values()):
        names = ", ".join(bound.kwargs)
        raise KsegError(f"{operation.name}: {names} can be given by name only; export has no form")
    bound.apply_defaults()
    values = list(bound.args)
    defaults = [takes[name].default for name in list(takes)[: len(values)]]
    while len(values) > len(args) and values and values[-1] is defaults[len(values) - 1]:
        values.pop()
    return tuple(values)
