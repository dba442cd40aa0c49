"""Any network of keras.applications as an encoder with an output stride.

The network is built as Keras builds it, and its graph walked once: strides beyond the
output stride become dilations of what comes behind (arXiv:1606.00915, Section 3.1), all
else is copied. Layers are called ``encoder.`` and Keras' name, and have Keras' weights.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import IMAGENET, RESNET_CAFFE, SYMMETRIC_RANGE, Normalization
from kseg.layers import DilatedPooling, subsample

PREFIX = "encoder."
FEATURES = f"{PREFIX}features"

# What ``preprocess_input`` does, or layers inside the network, by the beginning of its
# name; the first that fits.
_NORMALIZATIONS = (
    (r"DenseNet|EfficientNetB|EfficientNetV2B", IMAGENET),
    (r"EfficientNetV2", Normalization((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))),
    (r"ResNet\d+V2|MobileNet|Xception|Inception", SYMMETRIC_RANGE),
    (r"ResNet|VGG", RESNET_CAFFE),
)

# The height and width below which a layer without padding has no output, by the beginning of
# the name.
_LEAST_SIZES = ((r"DenseNet", 29), (r"VGG", 32), (r"Xception", 7))

# Layers and operations that compute every pixel by itself, or several at the same place.
_POINTWISE = frozenset(
    ["Activation", "Add", "BatchNormalization", "Concatenate", "Dropout", "Multiply", "ReLU"]
)
_CONVOLUTIONS = (kl.Conv2D, kl.DepthwiseConv2D, kl.SeparableConv2D)
_POOLINGS = {kl.MaxPooling2D: "max", kl.AveragePooling2D: "average"}


# Those that are no encoders, and why.
NOT_DILATED = {
    **dict.fromkeys(
        ("InceptionV3", "InceptionResNetV2"),
        "its average poolings leave out what lies beyond the border, which has no dilated form",
    ),
    **dict.fromkeys(
        ("NASNetLarge", "NASNetMobile"),
        "its cells join features of two strides, so that no stride can become a dilation",
    ),
    **dict.fromkeys(
        (f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
        "its LayerNormalization and GELU need operators that the GPU delegate does not have",
    ),
}


class _Grid(NamedTuple):
    """Where a tensor's pixels are: the stride in the unchanged network, and the dilation
    by which a convolution on it sees the pixels that it saw there."""

    stride: int
    dilation: int


def application(x: KerasTensor, *, name: str, output_stride: int = 32) -> Features:
    """The features of (N, H, W, 3) at the output stride.

    At stride 32 they are those of ``include_top=False``; where Keras pads by the parity of
    a fixed size, so does this at any size. At smaller strides they agree with those where
    the grids meet, at sizes 32k+1, of Xception, whose first convolutions have no padding, at
    32k+7. To that end the mean of a squeeze-and-excitation is taken over the pixels of the
    unchanged network, which its weights were trained on.

    A level is the last tensor of its stride that all later ones come from: behind an
    expansion's activation in networks of inverted residuals, a unit's output in ResNets. A
    network has no level where it has no such tensor.

    Args:
        name: of a function in ``keras.applications``.
        output_stride: 8, 16 or 32.

    Raises:
        ValueError: a layer that cannot be dilated.
    """
    network = _build(name, None)
    (source,) = network.inputs
    tensors = {id(source): x}
    grids: dict[int, _Grid | None] = {id(source): _Grid(1, 1)}
    paddings: dict[int, Any] = {}
    for operation, fresh_name in _operations(network):
        node = _node(operation)
        output = id(operation.output)
        inputs = [id(tensor) for tensor in node.input_tensors]
        first = inputs[0]
        grid = _merged(name, operation, [grids[i] for i in inputs])
        kind = type(operation)
        if kind in (kl.Rescaling, kl.Normalization) or (kind is kl.Reshape and grid is None):
            # The card's normalisation; and pooled features keep their four dimensions.
            y = tensors[first]
        elif kind is kl.ZeroPadding2D:
            # Left to the convolution behind it, which may be dilated.
            y, paddings[output] = tensors[first], operation.padding
        elif kind is kl.GlobalAveragePooling2D:
            y = tensors[first]
            if grid is not None and grid.dilation > 1:
                y = kl.MaxPooling2D(1, strides=grid.dilation, name=f"{fresh_name}.grid")(y)
            y, grid = kl.GlobalAveragePooling2D(keepdims=True, name=fresh_name)(y), None
        elif grid is None and isinstance(operation, _CONVOLUTIONS):
            y = _copy(operation, fresh_name)(tensors[first])
        elif grid is not None and (kind in _POOLINGS or isinstance(operation, _CONVOLUTIONS)):
            step = operation.strides[0]
            stride = step if grid.stride * step <= output_stride else 1
            spatial = _pool if kind in _POOLINGS else _convolve
            y = spatial(
                tensors[first], operation, paddings.get(first), stride, grid.dilation, fresh_name
            )
            grid = _Grid(grid.stride * step, grid.dilation * step // stride)
        elif kind.__name__ in _POINTWISE:
            args, kwargs = node.arguments.fill_in(tensors)
            y = _copy(operation, fresh_name)(*args, **kwargs)
        else:
            raise ValueError(f"{name} has a {kind.__name__}, which has no dilated form here")
        tensors[output], grids[output] = y, grid
    levels = {
        grid.stride: tensors[tensor]
        for tensor in _bottlenecks(network)
        if (grid := grids[tensor]) is not None
    }
    low, mid, high, stem = (levels.get(stride) for stride in (4, 8, 16, 2))
    return Features(tensors[id(network.outputs[0])], low, mid, high, stem=stem)


def load_weights(model: keras.Model, name: str, weights: str | Path) -> None:
    """Keras' weights into the encoder of ``model``.

    Args:
        name: of a function in ``keras.applications``.
        weights: "imagenet", which Keras downloads, or a weights file of that network
            without its top.

    Raises:
        ValueError, OSError: from Keras, where they are missing or do not fit.
    """
    for operation, fresh_name in _operations(_build(name, weights)):
        if getattr(operation, "weights", None) and not isinstance(operation, kl.Normalization):
            model.get_layer(fresh_name).set_weights(operation.get_weights())


def _build(name: str, weights: str | Path | None) -> keras.Model:
    """Of any size: Keras then pads as for even sizes where it goes by parity."""
    function = getattr(keras.applications, name)
    weights = None if weights is None else str(weights)
    return function(include_top=False, weights=weights, input_shape=(None, None, 3))


def _operations(network: keras.Model) -> Iterator[tuple[Any, str]]:
    """Operations from input to output, each with its name in kseg.

    Keras numbers names that it made itself through the whole process; here the numbers
    begin with each network. The last operation is ``encoder.features``.
    """
    counts: dict[str, int] = {}
    for operation in network.operations:
        if isinstance(operation, kl.InputLayer):
            continue
        if operation is network.operations[-1]:
            yield operation, FEATURES
            continue
        name, kind = operation.name, type(operation).__name__
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind))
        if re.fullmatch(rf"{snake.lower()}(_\d+)?", name):
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}_{counts[kind]}"
        yield operation, f"{PREFIX}{name}"


def _node(operation: Any) -> Any:
    """The only call of an operation. Keras has no public way to its arguments."""
    (node,) = operation._inbound_nodes
    return node


def _merged(name: str, operation: Any, grids: list[_Grid | None]) -> _Grid | None:
    """The grid of tensors that meet; what is pooled to one pixel (None) fits any."""
    kinds = {grid for grid in grids if grid is not None}
    if len(kinds) > 1:
        raise ValueError(f"{name}: tensors of several strides meet in {operation.name}")
    return kinds.pop() if kinds else None


def _copy(operation: Any, name: str, **changes: Any) -> Any:
    """The same operation without its weights."""
    return type(operation).from_config({**operation.get_config(), "name": name, **changes})


def _convolve(
    x: KerasTensor, layer: kl.Layer, padding: Any, stride: int, dilation: int, name: str
) -> KerasTensor:
    size = layer.kernel_size
    if size == (1, 1):
        if stride > 1:
            x, stride = subsample(x, name), 1
        return _copy(layer, name, strides=stride)(x)
    mode = layer.padding
    if padding is not None:
        even = tuple((k // 2 - 1, k // 2) for k in size)
        symmetric = tuple((k // 2, k // 2) for k in size)
        if padding == even or (padding == symmetric and stride == 1):
            # Padding by parity is TensorFlow's "same".
            mode = "same"
        else:
            scaled = tuple(tuple(dilation * n for n in sides) for sides in padding)
            x = kl.ZeroPadding2D(scaled, name=f"{name}.pad")(x)
    rates = tuple(dilation * rate for rate in layer.dilation_rate)
    return _copy(layer, name, strides=stride, padding=mode, dilation_rate=rates)(x)


def _pool(
    x: KerasTensor, layer: kl.Layer, padding: Any, stride: int, dilation: int, name: str
) -> KerasTensor:
    if layer.pool_size == (1, 1) and stride == 1:
        return x
    if padding is not None:
        scaled = tuple(tuple(dilation * n for n in sides) for sides in padding)
        x = kl.ZeroPadding2D(scaled, name=f"{name}.pad")(x)
    if dilation == 1:
        return _copy(layer, name, strides=stride)(x)
    return DilatedPooling(
        _POOLINGS[type(layer)], layer.pool_size[0], dilation, layer.padding, name=name
    )(x)


def _bottlenecks(network: keras.Model) -> list[int]:
    """Ids of the tensors that all later ones come from, in order."""
    operations = [operation for operation, _ in _operations(network)]
    last_use = {}
    for i, operation in enumerate(operations):
        for tensor in _node(operation).input_tensors:
            last_use[id(tensor)] = i
    found, needed_until = [], 0
    for i, operation in enumerate(operations):
        output = id(operation.output)
        if needed_until <= i:
            found.append(output)
        needed_until = max(needed_until, last_use.get(output, i))
    return found


# Parameters, and channels at strides 2 to 32.
_FACTS: dict[str, tuple[int, tuple[int, ...]]] = {
    "DenseNet121": (6_953_856, (64, 128, 256, 512, 1024)),
    "DenseNet169": (12_484_480, (64, 128, 256, 640, 1664)),
    "DenseNet201": (18_092_928, (64, 128, 256, 896, 1920)),
    "EfficientNetB0": (4_007_548, (96, 144, 240, 672, 1280)),
    "EfficientNetB1": (6_513_184, (96, 144, 240, 672, 1280)),
    "EfficientNetB2": (7_700_994, (96, 144, 288, 720, 1408)),
    "EfficientNetB3": (10_696_232, (144, 192, 288, 816, 1536)),
    "EfficientNetB4": (17_548_616, (144, 192, 336, 960, 1792)),
    "EfficientNetB5": (28_340_784, (144, 240, 384, 1056, 2048)),
    "EfficientNetB6": (40_735_704, (192, 240, 432, 1200, 2304)),
    "EfficientNetB7": (63_786_960, (192, 288, 480, 1344, 2560)),
    "EfficientNetV2B0": (5_858_704, (16, 32, 192, 672, 1280)),
    "EfficientNetV2B1": (6_860_052, (16, 32, 192, 672, 1280)),
    "EfficientNetV2B2": (8_687_086, (16, 32, 224, 720, 1408)),
    "EfficientNetV2B3": (12_821_406, (16, 40, 224, 816, 1536)),
    "EfficientNetV2L": (117_234_272, (32, 64, 384, 1344, 1280)),
    "EfficientNetV2M": (52_858_356, (24, 48, 320, 1056, 1280)),
    "EfficientNetV2S": (20_177_488, (24, 48, 256, 960, 1280)),
    "MobileNet": (3_206_976, (64, 128, 256, 512, 1024)),
    "MobileNetV2": (2_223_872, (96, 144, 192, 576, 1280)),
    "MobileNetV3Large": (2_971_952, (64, 72, 240, 672, 960)),
    "MobileNetV3Small": (927_008, (16, 72, 96, 288, 576)),
    "ResNet101": (42_552_832, (64, 256, 512, 1024, 2048)),
    "ResNet101V2": (42_528_896, (64, 256, 512, 1024, 2048)),
    "ResNet152": (58_219_520, (64, 256, 512, 1024, 2048)),
    "ResNet152V2": (58_187_904, (64, 256, 512, 1024, 2048)),
    "ResNet50": (23_534_592, (64, 256, 512, 1024, 2048)),
    "ResNet50V2": (23_519_360, (64, 256, 512, 1024, 2048)),
    "VGG16": (14_714_688, (128, 256, 512, 512, 512)),
    "VGG19": (20_024_384, (128, 256, 512, 512, 512)),
    "Xception": (20_806_952, (64, 128, 256, 728, 2048)),
}

ENCODERS = {
    name: Encoder(
        functools.partial(application, name=name),
        next(value for pattern, value in _NORMALIZATIONS if re.match(pattern, name)),
        prefixes=(PREFIX,),
        parameters=parameters,
        channels=dict(zip((2, 4, 8, 16, 32), channels, strict=True)),
        tensors="tf_slim",
        least_size=next((size for start, size in _LEAST_SIZES if re.match(start, name)), 1),
        imagenet="Keras downloads them",
        application=name,
        source=f"keras.applications.{name}",
    )
    for name, (parameters, channels) in _FACTS.items()
}
