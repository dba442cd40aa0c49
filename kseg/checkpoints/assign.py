"""Published tensors into a model, by name, all or nothing."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kseg.checkpoints.applications import in_keras_names, in_tf_slim_names
from kseg.errors import KsegError
from kseg.model import SegmentationModel
from kseg.networks import Variant
from kseg.zoo import build, find_variant, new_card

PARTS = ("all", "backbone", "all-but-classifier")

_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

# By weight name, a published tensor's and the axes that take it to Keras' layout; None keeps
# it. Layers of kseg say theirs themselves (``published_tensors``, see ``kseg.layers``).
_Tensors = dict[str, tuple[str, tuple[int, ...] | None]]

_PYTORCH: dict[str, _Tensors] = {
    "Conv2D": {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    "DepthwiseConv2D": {"kernel": ("weight", (2, 3, 0, 1)), "bias": ("bias", None)},
    "Conv2DTranspose": {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    "PReLU": {"alpha": ("weight", None)},
    "BatchNormalization": {
        name: (published, None)
        for name, published in zip(
            _BATCH_NORM, ("weight", "bias", "running_mean", "running_var"), strict=True
        )
    },
}
_TF_SLIM: dict[str, _Tensors] = {
    "Conv2D": {"kernel": ("weights", None), "bias": ("biases", None)},
    "DepthwiseConv2D": {"kernel": ("depthwise_weights", None), "bias": ("biases", None)},
    "SeparableConv2D": {
        "depthwise_kernel": ("depthwise_weights", None),
        "pointwise_kernel": ("pointwise_weights", None),
        "bias": ("biases", None),
    },
    "BatchNormalization": {name: (name, None) for name in _BATCH_NORM},
}
_LAYOUTS = {"pytorch": (_PYTORCH, "."), "tf_slim": (_TF_SLIM, "/")}

# What programs for training put before the names, or around the tensors.
_WRAPPERS = (
    *("state_dict.", "model_state_dict.", "model_state.", "model.", "module.", "_orig_mod."),
    *("network.", "net."),
)

# Counters and optimizer slots that published files carry besides the network.
_COUNTERS = ("num_batches_tracked", "global_step", "mean_rgb")
# Averages too: DeepLab's code starts from the weights themselves.
_SLOTS = ("Momentum", "ExponentialMovingAverage", "Adam", "Adam_1", "RMSProp", "RMSProp_1")


# A layer that has some of the published layer's output channels (see ``kseg.layers``).
_GROUP = re.compile(r"\.group\d+$")


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Variables of a model as one tensor of the published checkpoint.

    Attributes:
        layer: the published one.
        variables: one; or several, which are its output channels in groups.
        axes: that take the tensor to Keras' layout, None where it has it.
    """

    layer: str
    variables: list[Any]
    axes: tuple[int, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The published shape."""
        first, *others = (self._published(tuple(v.shape)) for v in self.variables)
        return (first[0] + sum(shape[0] for shape in others), *first[1:]) if others else first

    def _published(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.axes is None:
            return _squeezed(shape) if len(shape) == 3 else shape
        return tuple(shape[self.axes.index(i)] for i in range(len(shape)))

    def fits(self, tensor: np.ndarray) -> bool:
        # A linear layer's (O, I) is the 1x1 convolution that stands for it here.
        return tensor.shape == self.shape or (*tensor.shape, 1, 1) == self.shape

    def to_published(self) -> np.ndarray:
        """The variables' values in the published layout."""
        values = [np.asarray(variable) for variable in self.variables]
        if self.axes is not None:
            values = [value.transpose(np.argsort(self.axes)) for value in values]
        joined = np.concatenate(values) if len(values) > 1 else values[0]
        return np.ascontiguousarray(joined.reshape(self.shape))

    def assign(self, tensor: np.ndarray) -> None:
        """Gives the variables the values of a tensor that fits."""
        if self.axes is not None:
            tensor = tensor.reshape(self.shape)
        pieces = [tensor]
        if len(self.variables) > 1:
            sizes = [self._published(tuple(v.shape))[0] for v in self.variables]
            pieces = np.split(tensor, np.cumsum(sizes)[:-1])
        for variable, piece in zip(self.variables, pieces, strict=True):
            if self.axes is not None:
                piece = piece.transpose(self.axes)
            variable.assign(piece.reshape(variable.shape))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """PReLU slopes, (1, 1, C) or (1, 1, 1) in Keras, are (C,) or (1,) in PyTorch."""
    return shape[-1:]


def _published_tensors(layer: keras.Layer, layout: str) -> _Tensors:
    """The published tensors of a layer's weights, by weight name."""
    own = getattr(layer, "published_tensors", None)
    return own[layout] if own else _LAYOUTS[layout][0][type(layer).__name__]


def _entries(model: keras.Model, variant: Variant) -> dict[str, _Entry]:
    separator = _LAYOUTS[variant.tensors][1]
    entries: dict[str, _Entry] = {}
    for layer in sorted(model.layers, key=_group_number):
        for variable in layer.weights:
            suffix, axes = _published_tensors(layer, variant.tensors)[variable.name]
            published = _GROUP.sub("", layer.name)
            name = f"{published.replace('.', separator)}{separator}{suffix}"
            entries.setdefault(name, _Entry(published, [], axes)).variables.append(variable)
    return entries


def _group_number(layer: keras.Layer) -> int:
    """For an order in which groups of one layer follow their numbers."""
    found = _GROUP.search(layer.name)
    return int(found[0].removeprefix(".group")) if found else -1


def published_shapes(model: SegmentationModel) -> dict[str, tuple[int, ...]]:
    """Published tensor names and shapes of all of a model's variables."""
    entries = _entries(model, find_variant(model.card.name))
    return {name: entry.shape for name, entry in entries.items()}


def published(model: SegmentationModel) -> dict[str, np.ndarray]:
    """A model's variables under their published names, as ``assign`` takes them."""
    entries = _entries(model, find_variant(model.card.name))
    return {name: entry.to_published() for name, entry in entries.items()}


@functools.cache
def _shapes(name: str) -> tuple[int, dict[str, tuple[int, ...]], list[str]]:
    """The classes of a model without arguments, its published shapes, the classifier's names.

    Building a model takes seconds, and one is built for its weights anyway.
    """
    variant = find_variant(name)
    model = build(new_card(name))
    entries = _entries(model, variant)
    classifier = [k for k, entry in entries.items() if entry.layer.startswith(variant.classifier)]
    return model.card.num_classes, {k: entry.shape for k, entry in entries.items()}, classifier


def count_classes(name: str, tensors: Mapping[str, Any]) -> int:
    """The classes of a checkpoint for the network ``name``, by its classifier's shape.

    Raises:
        KsegError: it has no classifier of that network.
    """
    classes, shapes, classifier = _shapes(name)
    tensors = _unwrap(tensors, shapes)
    for published in classifier:
        # Some layers of a classifier have a multiple of the classes, or a fraction.
        if classes not in shapes[published]:
            continue
        shape = np.shape(tensors[published]) if published in tensors else ()
        if len(shape) == len(shapes[published]):
            return int(shape[shapes[published].index(classes)])
    raise KsegError(f"the checkpoint has no classifier of {name}; is it another network's?")


def is_encoder_alone(name: str, tensors: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the backbone of the network ``name``, and nothing of its head."""
    variant = find_variant(name)
    _, shapes, _ = _shapes(name)
    tensors = _renamed(_unwrap(tensors, shapes), variant)
    separator = _LAYOUTS[variant.tensors][1]
    belongs = _membership(variant, "backbone")
    found = {belongs(tensor.replace(separator, ".")) for tensor in shapes if tensor in tensors}
    return found == {True}


def assign(model: SegmentationModel, tensors: Mapping[str, Any], *, part: str = "all") -> None:
    """Assigns published tensors by name; nothing is assigned unless all fit.

    Args:
        model: a model of the zoo.
        tensors: from ``read``; wrappers (``module.``, ``model``, ``state_dict`` and their
            like) are taken off.
        part: "all"; "backbone", of an ImageNet checkpoint of TF-Slim or torchvision too, and
            for MobileNetV2 of keras.applications; or "all-but-classifier". Within the part
            every tensor must be there and fit; outside it none is looked at.

    Where BatchNorm is folded into the convolutions, as in a .tflite file, the model gets the
    folded kernels and a BatchNorm that adds the bias alone: the same function in inference.
    Training it further needs frozen statistics, or ``unfold_batch_norm`` first.

    Raises:
        KsegError: one line with all missing, unexpected and misshapen tensors, and those that
            are no finite floating-point numbers; or the weights are there twice.
    """
    variant = find_variant(model.card.name)
    separator = _LAYOUTS[variant.tensors][1]
    belongs = _membership(variant, part)
    entries = {n: e for n, e in _entries(model, variant).items() if belongs(e.layer)}
    tensors = _unwrap(tensors, published_shapes(model))
    tensors = _renamed(tensors, variant)
    if variant.tensors == "tf_slim":
        tensors = _unfolded(tensors, entries, model)
    given = {
        name: np.asarray(tensor)
        for name, tensor in tensors.items()
        if belongs(name.replace(separator, "."))
    }
    missing = [name for name in entries if name not in given]
    unexpected = [
        name for name in given if name not in entries and not _is_unused(name, variant, separator)
    ]
    misshapen = [
        f"{name} is {given[name].shape}, not {entry.shape}"
        for name, entry in entries.items()
        if name in given and not entry.fits(given[name])
    ]
    unusable = [
        f"{name} is {kind}"
        for name in entries
        if name in given and (kind := _unusable_kind(given[name]))
    ]
    problems = [
        f"{len(names)} {word} ({', '.join(names)})"
        for word, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            ("damaged", unusable),
        )
        if names
    ]
    if problems:
        raise KsegError(
            f"the checkpoint does not fit {model.card.name} with {model.card.num_classes} "
            f"classes: {'; '.join(problems)}; choose the model, its options, or another part"
        )
    for name, entry in entries.items():
        entry.assign(given[name])


def copy(model: SegmentationModel, source: SegmentationModel, *, part: str = "all") -> None:
    """Copies the weights of another model by layer name; nothing unless all fit.

    An encoder alone has no ``encoder.`` before its names, a network around it has.

    Args:
        model: a model of the zoo.
        source: one with the same layers in ``part``; an output stride may differ.
        part: as for ``assign``.

    Raises:
        KsegError: one line with all layers that are missing or misshapen in ``source``.
    """
    variant = find_variant(model.card.name)
    belongs = _membership(variant, part)
    given = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    pairs = []
    problems = []
    for layer in model.layers:
        if not layer.weights or not belongs(layer.name):
            continue
        alone = layer.name.removeprefix("encoder.")
        values = given.get(layer.name, given.get(alone))
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if values is None:
            problems.append(f"{layer.name} is missing")
        elif (shapes := [value.shape for value in values]) != wanted:
            problems.append(f"{layer.name} has {shapes}, not {wanted}")
        else:
            pairs.append((layer, values))
    if problems:
        raise KsegError(
            f"{source.card.name} with {source.card.num_classes} classes does not fit "
            f"{model.card.name} with {model.card.num_classes}: {'; '.join(problems)}; "
            "choose the model, its options, or another part"
        )
    for layer, values in pairs:
        layer.set_weights(values)


def _membership(variant: Variant, part: str) -> Callable[[str], bool]:
    """Whether a layer belongs to a part of the network."""
    if part not in PARTS:
        raise KsegError(f"part is {part!r}; it must be one of {', '.join(PARTS)}")

    def belongs(layer: str) -> bool:
        if part == "backbone":
            return variant.is_backbone(layer)
        return part == "all" or not layer.startswith(variant.classifier)

    return belongs


def _renamed(tensors: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """Names that others gave to networks of TF-Slim and Keras, and to encoders alone."""
    encoder = variant.encoder
    if encoder and encoder.alone is not None and not any(map(variant.is_backbone, tensors)):
        (prefix,), own = encoder.prefixes, encoder.alone
        return {
            name if not name.startswith(own) else f"{prefix}{name[len(own) :]}": tensor
            for name, tensor in tensors.items()
        }
    if variant.tensors != "tf_slim":
        return tensors
    if encoder and encoder.application == "MobileNetV2":
        return in_keras_names(tensors)
    return in_tf_slim_names(tensors, variant.backbone)


def _unfolded(
    tensors: dict[str, Any], entries: Mapping[str, _Entry], model: keras.Model
) -> dict[str, Any]:
    """TF-Slim's tensors with a BatchNorm for each bias that stands for one.

    Converters give a convolution without bias one of zeros, which is left out.
    """
    unfolded: dict[str, Any] = {}
    for name, tensor in tensors.items():
        scope, _, last = name.rpartition("/")
        layer = scope.removesuffix("/BatchNorm")
        if layer != scope and (own := _norm_of(layer, entries)):
            # Keras has other names for the same layer.
            name = f"{own}/{last}"
        norm = _norm_of(scope, entries)
        folded = last == "biases" and name not in entries
        if folded and norm and f"{norm}/gamma" not in tensors:
            ones = np.ones_like(tensor)
            # With epsilon the variance is 1.
            epsilon = model.get_layer(norm.replace("/", ".")).epsilon
            values = (ones, tensor, 0 * ones, (1 - epsilon) * ones)
            named = {f"{norm}/{k}": v for k, v in zip(_BATCH_NORM, values, strict=True)}
            unfolded |= {k: v for k, v in named.items() if k in entries}
        elif not (folded and f"{scope}/weights" in entries and not np.any(tensor)):
            unfolded[name] = tensor
    return unfolded


def _norm_of(scope: str, entries: Mapping[str, _Entry]) -> str:
    """The BatchNorm of a convolution, in TF-Slim's or Keras' names; "" if it has none."""
    parent, _, last = scope.rpartition("/")
    norms = (f"{scope}/BatchNorm", f"{scope}_BN", f"{scope}_bn", f"{parent}/bn_{last}")
    return next((norm for norm in norms if f"{norm}/beta" in entries), "")


def _is_unused(name: str, variant: Variant, separator: str) -> bool:
    last = name.rpartition(separator)[2]
    return last in _COUNTERS or last in _SLOTS or name.startswith(variant.unused or "\0")


def _unwrap(tensors: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Takes off the wrappers that no expected name has."""
    tensors = _flat(tensors)
    wrappers = [p for p in _WRAPPERS if not any(name.startswith(p) for name in expected)]
    for _ in range(len(wrappers)):  # each once at most
        inside = {
            p: {name[len(p) :]: t for name, t in tensors.items() if name.startswith(p)}
            for p in wrappers
        }
        found = [prefix for prefix in wrappers if inside[prefix]]
        if not found:
            break
        for other in found[1:]:
            # Which of the two is meant, the file does not say.
            same = inside[found[0]].keys() & inside[other].keys() & expected.keys()
            if any(not np.array_equal(inside[found[0]][k], inside[other][k]) for k in same):
                raise KsegError(
                    f"the checkpoint has other weights under {found[0]!r} than under {other!r}; "
                    "save the one that you mean alone"
                )
        tensors = inside[found[0]]
    return tensors


def _unusable_kind(tensor: np.ndarray) -> str | None:
    """What a tensor is that is no weight; None where it can be one."""
    if not (tensor.dtype.kind == "f" or tensor.dtype.name.startswith(("bfloat", "float"))):
        return f"of type {tensor.dtype}"
    if not np.isfinite(tensor.astype(np.float32)).all():
        return "not finite"
    return None


def _flat(tensors: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
