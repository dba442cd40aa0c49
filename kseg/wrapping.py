"""Any functional Keras model as a SegmentationModel, with a card."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from kseg.card import Card, Normalization, check_num_classes, check_type, tuples
from kseg.errors import KsegError, KsegWarning, first_line
from kseg.graph import ordered_nodes, replay
from kseg.layers import LogProbabilities, Normalize, Resize
from kseg.model import (
    SegmentationModel,
    check_backend,
    check_card,
    dtype_policy,
    fixed_size,
    leaf_layers,
    normalize,
    use_statistics,
)
from kseg.pictures import spread_colors

# Of a model that takes RGB 0..255 as it is.
_AS_IT_IS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# The layer of a wrapped model that holds the user's.
_NETWORK = "network"

# (H, W) of the image on which the copy is compared, where the model takes any.
_PROBE = (128, 128)

# Of the outputs' range: what sums in another order may differ by, in float32 and below it.
_FLOAT32, _HALF = 1e-3, 3e-2


def wrap(
    model: keras.Model,
    *,
    normalization: Normalization | None = None,
    class_names: Sequence[str] | None = None,
    colors: Sequence[Sequence[int]] | None = None,
    void_channels: Sequence[int] = (),
    output: str | int | None = None,
    probabilities: bool | None = None,
    resize: str = "half_pixel",
) -> SegmentationModel:
    """A functional Keras model with a card, for all that kseg does with its own.

    The result has a copy of the model, made of its configuration and its weights as a
    ``.keras`` file would be, as the layer "network". A softmax at the end is left out, since
    kseg's models give logits.

    Args:
        model: functional or Sequential, from one image (N, H, W, 3) to logits or
            probabilities (N, h, w, classes) at any stride. Models inside it are allowed;
            layers of your own need ``get_config`` and
            ``keras.saving.register_keras_serializable``.
        normalization: what the model expects its input to be, which the result computes of
            RGB 0..255; None where the model itself takes RGB 0..255.
        class_names, colors: by train id, one for every channel that is not void; RGB 0..255.
            None gives "class 0" and so on, and colours around the circle.
        void_channels: channels that mean "no class".
        output: name, key or index of the output, where the model has several.
        probabilities: whether the output is a softmax already. None looks at the last
            layer, and says so where it leaves a softmax out.
        resize: how logits at a stride become those at the input's size, "half_pixel" or
            "align_corners".

    Returns:
        A model from RGB 0..255 (N, H, W, 3) to float32 logits (N, H, W, classes) at the
        input's size. A model with a fixed size takes that size alone.

    Raises:
        KsegError: a model of another form, several outputs without a choice, a layer that
            cannot be made of its configuration, or a value that does not fit the model.

    Warns:
        KsegWarning: a softmax was left out that ``probabilities`` does not mention, a model that
            ends in a sigmoid, or one that begins with a normalisation and is given another.
    """
    check_backend()
    _check_form(model)
    check_type("normalization", normalization, Normalization | None)
    check_type("probabilities", probabilities, bool | None)
    if isinstance(model, keras.Sequential):
        # Nothing has called it yet, so that it has no output.
        model = keras.Model(model.inputs, model.outputs[0], name=model.name)
    with dtype_policy("float32"):
        network = _copy(model)
        index = _choose(network, output)
        network, stripped = _logits_of(network, index, probabilities)
        if stripped and probabilities is None:
            warnings.warn(
                f"{model.name}: its softmax is left out, since kseg's models give logits; "
                "probabilities=True says that this is known",
                KsegWarning,
                stacklevel=2,
            )
        last = network.outputs[0]._keras_history.operation
        if getattr(last, "activation", None) is keras.activations.sigmoid:
            warnings.warn(
                f"{model.name}: ends in a sigmoid, whose values 0..1 are taken for logits: losses "
                "and means of several scales need others; end it in no activation or a softmax",
                KsegWarning,
                stacklevel=2,
            )
        convert = bool(probabilities) and not stripped
        if normalization is None:
            normalization = _AS_IT_IS
        else:
            _warn_of_two_normalizations(model)
        _compare(model, network, index, stripped, normalization, convert)
        channels = network.outputs[0].shape[-1]
        card = _card(model.name, channels, normalization, class_names, colors, void_channels)
        return _assembled(network, card.replace(resize=resize), convert)


def _warn_of_two_normalizations(model: keras.Model) -> None:
    inner = (x for x in leaf_layers(model) if not isinstance(x, keras.layers.InputLayer))
    first = next(inner, None)
    if isinstance(first, keras.layers.Rescaling | keras.layers.Normalization):
        warnings.warn(
            f"{model.name}: begins with the {type(first).__name__} {first.name!r} and is given a "
            "normalization besides; leave normalization out if the model takes RGB 0..255",
            KsegWarning,
            stacklevel=3,
        )


def _card(
    name: str,
    channels: int,
    normalization: Normalization,
    class_names: Sequence[str] | None,
    colors: Sequence[Sequence[int]] | None,
    void_channels: Sequence[int],
) -> Card:
    check_num_classes(channels)
    card = Card(
        name=name,
        options={},
        num_classes=channels,
        dataset=None,
        class_names=tuples(class_names),
        colors=tuples(colors),
        void_channels=tuples(void_channels),
        preprocessing=True,
        normalization=normalization,
        resize="half_pixel",
        weights="of a wrapped model",
        wrapped=True,
    )
    if colors is not None:
        return card
    return card.replace(colors=spread_colors(channels - len(card.void_channels)))


def _check_form(model: keras.Model) -> None:
    """Raises KsegError for what is no functional model from one image to a map of scores."""
    if isinstance(model, SegmentationModel):
        check_card(model)
        raise KsegError(f"{model.name}: has a card already; wrap is for models of plain Keras")
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise KsegError(
            f"model is {_described(model)}; wrap takes a functional model, or a Sequential one "
            "that begins with keras.Input"
        )
    if len(model.inputs) != 1:
        raise KsegError(
            f"{model.name}: has {len(model.inputs)} inputs; wrap takes a model of one image"
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[3] != 3:
        raise KsegError(f"{model.name}: its input is {shape}; it must be (N, H, W, 3), RGB")


def _described(model: Any) -> str:
    kind = type(model).__name__
    if isinstance(model, keras.Sequential):
        return "a Sequential model that is not built"
    return f"a {kind}, a subclass without a graph" if isinstance(model, keras.Model) else f"{kind}"


def _copy(model: keras.Model) -> keras.Model:
    """The same model made of its configuration, uncompiled, with its weights, as "network".

    Raises:
        KsegError: what could not be loaded from a file either.
    """
    try:
        copy = _remade(model)
    except Exception as error:  # Keras and the layers' own raise theirs
        lambdas = [x.name for x in model._flatten_layers() if isinstance(x, keras.layers.Lambda)]
        if lambdas:
            hint = f"write the Lambda {lambdas[0]} as a layer, since no file can hold its code"
        else:
            hint = (
                "each layer of your own needs get_config and "
                "keras.saving.register_keras_serializable"
            )
        raise KsegError(
            f"{model.name}: cannot be made again of its configuration ({_innermost(error)}); {hint}"
        ) from error
    copy.name = _NETWORK
    return copy


def _remade(model: keras.Model, policy: str | None = None) -> keras.Model:
    """The model made of its configuration, with its weights and the names of its layers.

    Args:
        policy: of all layers, None for their own.
    """
    copy = type(model).from_config(_plain(model.get_config(), policy))
    copy.set_weights(model.get_weights())
    pairs = zip(model._flatten_layers(), copy._flatten_layers(), strict=True)
    for layer, other in pairs:
        # A model of a class of its own makes some anew, which then count on in the process.
        other.name = layer.name
        use_statistics(other)
    return copy


def _innermost(error: BaseException) -> str:
    """The line that says what failed, which Keras puts behind a line of its own."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return first_line(cause)


def _plain(config: Any, policy: str | None = None) -> Any:
    """A configuration without what training needs, its layers of this policy where one is given.

    kseg's own layers keep their precision, and an input its type.
    """
    if isinstance(config, dict):
        kept = {k: v for k, v in config.items() if k != "compile_config"}
        own = str(kept.get("registered_name") or "").startswith("kseg>")
        fixed = own and kept.get("class_name") != "SegmentationModel"
        if fixed or kept.get("class_name") == "InputLayer":
            return kept
        if policy and "dtype" in kept and "name" in kept:
            kept["dtype"] = policy
        return {k: _plain(v, policy) for k, v in kept.items()}
    if isinstance(config, list | tuple):
        return type(config)(_plain(item, policy) for item in config)
    return config


def _choose(network: keras.Model, output: str | int | None) -> int:
    """The number of the output that ``output`` names."""
    struct = network.output if isinstance(network.output, dict) else {}
    keys = [{id(x): key for key, x in struct.items()}.get(id(t)) for t in network.outputs]
    layers = [tensor._keras_history.operation.name for tensor in network.outputs]
    count = len(network.outputs)
    if output is None:
        if count == 1:
            return 0
    elif isinstance(output, int) and not isinstance(output, bool):
        if -count <= output < count:
            return output % count
    else:
        for names in (keys, layers):
            if names.count(output) == 1:
                return names.index(output)
    listed = ", ".join(
        f"{i} {(key or layer)!r} {tuple(tensor.shape)}"
        for i, (key, layer, tensor) in enumerate(zip(keys, layers, network.outputs, strict=True))
    )
    raise KsegError(
        f"output is {output!r}; the model has {listed}: choose one by name or by number"
    )


def _logits_of(
    network: keras.Model, index: int, probabilities: bool | None
) -> tuple[keras.Model, bool]:
    """The network up to one output, and whether a softmax at its end is gone."""
    tensor = network.outputs[index]
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[3] is None:
        raise KsegError(
            f"output is {shape}; it must be scores of classes (N, h, w, classes), the number of "
            "classes fixed"
        )
    if not keras.backend.is_float_dtype(tensor.dtype):
        raise KsegError(
            f"output is of {tensor.dtype}; wrap takes scores, so end the model before its argmax"
        )
    stripped = False
    if probabilities is not False:
        operation, call, _ = tensor._keras_history
        if _is_softmax(operation):
            tensor, stripped = operation._inbound_nodes[call].input_tensors[0], True
        elif getattr(operation, "activation", None) is keras.activations.softmax:
            # The copy's own layer.
            operation.activation, stripped = keras.activations.linear, True
    if stripped or len(network.outputs) > 1 or not isinstance(network.output, KerasTensor):
        network = keras.Model(network.inputs, tensor, name=_NETWORK)
    return network, stripped


def _is_softmax(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.layers.Softmax):
        return operation.axis in (-1, 3)
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.softmax
    return type(operation).__name__ == "Softmax" and getattr(operation, "axis", None) in (-1, 3)


def _compare(
    model: keras.Model,
    network: keras.Model,
    index: int,
    stripped: bool,
    normalization: Normalization,
    convert: bool,
) -> None:
    """Whether the copy computes what the model does, on an image of random colours.

    Raises:
        KsegError: it does not, or the model does not run, or gives what ``probabilities``
            denies.
    """
    height, width = (own or usual for own, usual in zip(fixed_size(model), _PROBE, strict=True))
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3))
    image = Normalize(**vars(normalization))(pixels.astype(np.float32))
    try:
        want = keras.tree.flatten(model(_as_input(model, image), training=False))[index]
        got = network(_as_input(network, image), training=False)
    except Exception as error:  # of any layer
        raise KsegError(
            f"{model.name}: does not run on an image of {height}x{width} ({first_line(error)}); "
            "give its keras.Input the size that it takes"
        ) from error
    want, got = (np.asarray(keras.ops.cast(x, "float32")) for x in (want, got))
    sums = want.sum(-1)
    alike = want.min() >= 0 and np.allclose(sums, 1, atol=_FLOAT32)
    if stripped:
        got = np.asarray(keras.ops.softmax(got))
    elif alike != convert:
        found = "are" if alike else "are not"
        raise KsegError(
            f"{model.name}: its outputs {found} probabilities (0 to 1, sum 1); "
            f"give probabilities={alike}"
        )
    floats = {layer.dtype_policy.compute_dtype for layer in model._flatten_layers()}
    tolerance = (_HALF if floats - {"float32", "float64"} else _FLOAT32) * max(np.ptp(want), 1e-6)
    if not np.allclose(got, want, rtol=0, atol=tolerance, equal_nan=True):
        raise KsegError(
            f"{model.name}: made again of its configuration it computes something else; "
            "a layer's get_config leaves an option out"
        )


def _as_input(model: keras.Model, image: Any) -> Any:
    """The image as the model takes it: some name their one input, or have it in a list."""
    return keras.tree.pack_sequence_as(model.input, [image])


def _assembled(network: keras.Model, card: Card, convert: bool) -> SegmentationModel:
    """The normalisation, the network and the resizing as one model."""
    shape = tuple(network.inputs[0].shape)
    image = keras.Input(shape[1:], batch_size=shape[0], name="image")
    x = image if card.normalization == _AS_IT_IS else normalize(image, card.normalization)
    x = network(_as_input(network, x))
    if convert:
        x = LogProbabilities(name="log", dtype="float32")(x)
    logits = Resize(card.resize, name="logits", dtype="float32")(x, image)
    return SegmentationModel(image, logits, name=card.name, card=card)


def rebuild(
    model: SegmentationModel,
    card: Card,
    input_shape: tuple[int | None, int | None, int],
    batch_size: int | None,
    dtype: str,
    output: str,
) -> SegmentationModel:
    """A wrapped model again, for another size of the image, with its weights.

    Args:
        model: wrapped.
        card: of the result.
        input_shape: None is what the model takes.
        batch_size, dtype, output: as for ``kseg.zoo.build``; the layers have the policy in
            force.

    Raises:
        KsegError: a size that the model does not take, or a card that contradicts it.
    """
    own = fixed_size(model)
    wanted = input_shape[:2]
    if any(a is not None and b not in (None, a) for a, b in zip(own, wanted, strict=True)):
        raise KsegError(
            f"{card.name}: takes images of {own[0]}x{own[1]} (HxW) alone, since it was made so, "
            f"not of {wanted[0]}x{wanted[1]}; leave input_size out, or wrap a model of another "
            "size"
        )
    height, width = (a or b for a, b in zip(own, wanted, strict=True))
    _check_card(model, card)
    policy = keras.config.dtype_policy().name
    copy = _remade(model, policy)
    image = keras.Input((height, width, 3), batch_size=batch_size, dtype=dtype, name="image")
    tensor = copy.outputs[0]
    if output == "stride-logits":
        operation, call, _ = tensor._keras_history
        tensor = operation._inbound_nodes[call].input_tensors[0]
    x = image if dtype == "float32" else keras.ops.cast(image, "float32")
    has_normalize = card.normalization != _AS_IT_IS
    (logits,) = replay([tensor], {id(copy.inputs[0]): image if has_normalize else x})
    return SegmentationModel(image, logits, name=card.name, card=card)


def _check_card(model: SegmentationModel, card: Card) -> None:
    """Raises KsegError where the card of a wrapped model says something else than its graph."""
    operations = [operation for operation, _ in ordered_nodes(model.outputs)]
    own = [x for x in operations if isinstance(x, Normalize)]
    found = _AS_IT_IS
    if own:
        names = [field.name for field in dataclasses.fields(Normalization)]
        found = Normalization(**{name: getattr(own[0], name) for name in names})
    last = operations[-1]
    facts = {
        "normalization": (found, card.normalization),
        "resize": (getattr(last, "convention", None), card.resize),
        "num_classes": (model.outputs[0].shape[-1], card.num_classes),
        "preprocessing": (True, card.preprocessing),
    }
    for name, (graph, said) in facts.items():
        if graph != said:
            raise KsegError(
                f"{card.name}: the model's graph is not the network of its card ({name} is "
                f"{said!r} there and {graph!r} in the graph); wrap the model again"
            )
