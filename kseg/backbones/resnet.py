"""ResNets, arXiv:1512.03385: DeepLab's in TF-Slim, and those of PyTorch and Caffe.

ResNet-v1-101 "beta", of DeepLabv3 and v3+, differs from the paper in its stem of three
3x3 convolutions in place of one 7x7, and in the last unit of a block carrying the
stride. Layer names are those of the TF-Slim code. In the others the first unit has it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features, grid_of_three
from kseg.card import IMAGENET, SYMMETRIC_RANGE
from kseg.layers import (
    DeformableConv2D,
    atrous_units,
    batch_norm,
    ceil_max_pool,
    conv,
    max_pool,
    slim_conv,
    subsample,
)

_conv = functools.partial(slim_conv, epsilon=1e-5, momentum=0.95)

# Bottleneck channels and units of the blocks; all but the last end with stride 2.
_BLOCKS = ((64, 3), (128, 4), (256, 23), (512, 3))


def resnet_v1_101_beta(
    x: KerasTensor,
    *,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
) -> Features:
    """(N, H, W, 3) to 2048 channels at the output stride.

    The low, middle and high levels are the third convolution of ``block1.unit_2``,
    ``block2.unit_3`` and ``block3.unit_22``, after BatchNorm and before the sum; ``stem`` is
    the last of the three convolutions at stride 2, 128 channels.

    Args:
        output_stride: 8, 16 or 32.
        multi_grid: dilations of block 4's three units, times the block's own
            (arXiv:1706.05587 Section 3.1.1); None for the published weights' 1, 2, 4.
    """
    multi_grid = grid_of_three(multi_grid, (1, 2, 4))
    units = [
        (f"block{b}.unit_{u}", channels, 2 if u == count and b < 4 else 1)
        for b, (channels, count) in enumerate(_BLOCKS, 1)
        for u in range(1, count + 1)
    ]
    strides = atrous_units([2, 2, *(stride for _, _, stride in units)], output_stride)[2:]

    prefix = "resnet_v1_101"
    for i, filters in enumerate((64, 64, 128), 1):
        x = _conv(x, filters, 3, strides=2 if i == 1 else 1, name=f"{prefix}.conv1_{i}")
    root = x
    x = kl.MaxPooling2D(3, strides=2, padding="same", name=f"{prefix}.pool1")(x)
    residuals = {}
    for (unit, channels, _), (stride, dilation) in zip(units, strides, strict=True):
        grid = multi_grid[int(unit[-1]) - 1] if unit.startswith("block4") else 1
        x, residuals[unit] = _bottleneck(
            x,
            channels,
            stride=stride,
            dilation=dilation * grid,
            name=f"{prefix}.{unit}.bottleneck_v1",
        )
    low, mid, high = (
        residuals[f"block{b}.unit_{count - 1}"] for b, (_, count) in enumerate(_BLOCKS[:3], 1)
    )
    return Features(x, low, mid, high, stem=root)


def _bottleneck(
    x: KerasTensor, channels: int, *, stride: int, dilation: int, name: str
) -> tuple[KerasTensor, KerasTensor]:
    """The unit's output and its residual before the sum."""
    shortcut = x
    if stride == 2:  # only in units whose shortcut is the identity
        shortcut = subsample(shortcut, f"{name}.shortcut")
    if x.shape[-1] != 4 * channels:
        shortcut = _conv(shortcut, 4 * channels, 1, activation=False, name=f"{name}.shortcut")
    x = _conv(x, channels, 1, name=f"{name}.conv1")
    x = _conv(x, channels, 3, strides=stride, dilation=dilation, name=f"{name}.conv2")
    residual = _conv(x, 4 * channels, 1, activation=False, name=f"{name}.conv3")
    x = kl.Add(name=f"{name}.sum")([shortcut, residual])
    return kl.ReLU(name=f"{name}.relu")(x), residual


# Units of the four blocks (Table 1); their bottlenecks have 64, 128, 256 and 512 channels.
RESNET_50 = (3, 4, 6, 3)
RESNET_101 = (3, 4, 23, 3)


def pytorch_names(scope: str, part: str) -> tuple[str, str]:
    """torchvision's names of a convolution and its BatchNorm in a unit or another scope."""
    if part == "shortcut":
        return f"{scope}.downsample.0", f"{scope}.downsample.1"
    return f"{scope}.{part}", f"{scope}.{part.replace('conv', 'bn')}"


def _torchvision_names(block: int, unit: int, part: str) -> tuple[str, str]:
    return pytorch_names(f"backbone.layer{block}.{unit - 1}" if block else "backbone", part)


def _pspnet_names(block: int, unit: int, part: str) -> tuple[str, str]:
    if block == 0:
        return f"layer0.{3 * unit - 3}", f"layer0.{3 * unit - 2}"
    return pytorch_names(f"layer{block}.{unit - 1}", part)


def _deeplab_v2_names(block: int, unit: int, part: str) -> tuple[str, str]:
    parts = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase", "shortcut": "shortcut"}
    name = f"layer{block + 1}." + (f"block{unit}.{parts[part]}" if block else part)
    return f"{name}.conv", f"{name}.bn"


def _caffe_names(block: int, unit: int, part: str) -> tuple[str, str]:
    parts = {
        "conv1": "1x1_reduce",
        "conv2": "3x3",
        "conv3": "1x1_increase",
        "shortcut": "1x1_proj",
    }
    name = f"conv{block + 1}_{unit}_{parts[part] if block else '3x3'}"
    if name == "conv1_1_3x3":
        name += "_s2"
    return name, f"{name}.bn"


def _mxnet_names(block: int, unit: int, part: str) -> tuple[str, str]:
    if block == 0:
        return "conv1", "bn_conv1"
    # Units of short blocks have letters, those of long ones numbers behind the first.
    letter = "abc"[unit - 1] if block in (1, 4) or unit == 1 else f"b{unit - 1}"
    parts = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    scope = f"{block + 1}{letter}_branch{parts[part]}"
    return f"res{scope}", f"bn{scope}"


@dataclasses.dataclass(frozen=True)
class Style:
    """In what the published forms differ.

    Attributes:
        names: layer names of a convolution and its BatchNorm, from the block (0 for the
            stem), the unit and the part ("conv1" to "conv3", "shortcut").
        stem: filters of the 3x3 convolutions before the pooling; one is 7x7.
        stride_first: whether the first convolution of a unit has its stride, as in the
            paper, or the second, as in torchvision.
        dilate_first: whether the first unit of a block that keeps its stride no more is dilated
            as its others are. In torchvision it has the dilation of the block before.
        momentum: of BatchNorm.
        pool: the max pooling behind the stem, from its input and name.
        gate: what is done to a unit's residual before the sum, from the block and the unit.
    """

    names: Callable[[int, int, str], tuple[str, str]]
    stem: tuple[int, ...]
    stride_first: bool
    momentum: float
    dilate_first: bool = True
    pool: Callable[[KerasTensor, str], KerasTensor] = max_pool
    gate: Callable[[KerasTensor, int, int], KerasTensor] | None = None


def caffe_pool(x: KerasTensor, name: str) -> KerasTensor:
    """3x3 max pooling of stride 2 as in the authors' ResNets: (floor(H/2), floor(W/2))."""
    return ceil_max_pool(x, 3, name=name)


# torchvision, PSPNet in PyTorch, DeepLab v2, ICNet in Caffe, and deformable DeepLab in MXNet.
TORCHVISION = Style(_torchvision_names, (64,), stride_first=False, momentum=0.9, dilate_first=False)
DEEP_STEM = Style(_pspnet_names, (64, 64, 128), stride_first=False, momentum=0.9)
STRIDE_FIRST = Style(_deeplab_v2_names, (64,), stride_first=True, momentum=0.999)
CAFFE = Style(_caffe_names, (64, 64, 128), stride_first=True, momentum=0.95)
MXNET = Style(_mxnet_names, (64,), stride_first=True, momentum=0.9, pool=caffe_pool)


def resnet(
    x: KerasTensor,
    units: tuple[int, int, int, int],
    *,
    style: Style,
    output_stride: int = 32,
    deformable_units: int = 0,
) -> Features:
    """(N, H, W, 3) to 2048 channels at the output stride.

    The levels are the outputs of the first three blocks, 256, 512 and 1024 channels, and what
    goes into the max pooling.

    Args:
        units: of the blocks, ``RESNET_50`` or ``RESNET_101``.
        style: names and details of a published form.
        output_stride: 8, 16 or 32. Where a block keeps its stride no more, the 3x3
            convolutions of its units are dilated, as published.
        deformable_units: how many units, from the last one on, have deformable 3x3
            convolutions (arXiv:1703.06211, Section 2.1).
    """
    stem_features = convolve_stem(x, style)
    x = style.pool(stem_features, "pool1")
    outputs = []
    deformable_from = sum(units) - deformable_units
    strides = atrous_units([2, 2, 1, 2, 2, 2], output_stride)[2:]
    for block, (count, (stride, dilation)) in enumerate(zip(units, strides, strict=True), 1):
        later = 2 * dilation if block > 1 and stride == 1 else dilation
        first = later if style.dilate_first else dilation
        for i in range(1, count + 1):
            x = bottleneck(
                x,
                32 * 2**block,
                block=block,
                unit=i,
                stride=stride if i == 1 else 1,
                dilation=first if i == 1 else later,
                deformable=sum(units[: block - 1]) + i > deformable_from,
                style=style,
            )
        outputs.append(x)
    low, mid, high, _ = outputs
    return Features(x, low, mid, high, stem=stem_features)


def stem(x: KerasTensor, style: Style) -> KerasTensor:
    """The convolutions before the first block and the max pooling: stride 4."""
    return style.pool(convolve_stem(x, style), "pool1")


def convolve_stem(x: KerasTensor, style: Style) -> KerasTensor:
    """The convolutions before the first block: stride 2."""
    for i, filters in enumerate(style.stem, 1):
        x = conv_bn_relu(
            x,
            filters,
            3 if len(style.stem) > 1 else 7,
            strides=2 if i == 1 else 1,
            names=style.names(0, i, "conv1"),
            style=style,
        )
    return x


def bottleneck(
    x: KerasTensor,
    channels: int,
    *,
    block: int,
    unit: int,
    stride: int = 1,
    dilation: int = 1,
    deformable: bool = False,
    style: Style,
) -> KerasTensor:
    """A unit (Figure 5) of four times ``channels``."""

    def layer(
        x: KerasTensor,
        filters: int,
        part: str,
        *,
        strides: int = 1,
        dilation: int = 1,
        activation: bool = True,
    ) -> KerasTensor:
        return conv_bn_relu(
            x,
            filters,
            3 if part == "conv2" else 1,
            strides=strides,
            dilation=dilation,
            activation=activation,
            deformable=deformable and part == "conv2",
            names=style.names(block, unit, part),
            style=style,
        )

    name = f"block{block}.unit_{unit}"
    inputs = shortcut = x
    if stride == 2:
        shortcut = subsample(inputs, f"{name}.shortcut")
        if style.stride_first:
            x = shortcut
    if unit == 1:
        shortcut = layer(shortcut, 4 * channels, "shortcut", activation=False)
    x = layer(x, channels, "conv1")
    x = layer(
        x,
        channels,
        "conv2",
        strides=1 if style.stride_first else stride,
        dilation=dilation,
    )
    x = layer(x, 4 * channels, "conv3", activation=False)
    if style.gate is not None:
        x = style.gate(x, block, unit)
    x = kl.Add(name=f"{name}.sum")([shortcut, x])
    return kl.ReLU(name=f"{name}.relu")(x)


def conv_bn_relu(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    activation: bool = True,
    deformable: bool = False,
    names: tuple[str, str],
    style: Style,
) -> KerasTensor:
    """A convolution and its BatchNorm by these names, and ReLU where ``activation``."""
    if deformable:
        x = _deformable_conv(x, filters, kernel_size, strides, dilation, names[0])
    else:
        x = conv(x, filters, kernel_size, strides=strides, dilation=dilation, name=names[0])
    x = batch_norm(x, epsilon=1e-5, momentum=style.momentum, name=names[1])
    return kl.ReLU(name=f"{names[0]}.relu")(x) if activation else x


def _deformable_conv(
    x: KerasTensor, filters: int, kernel_size: int, strides: int, dilation: int, name: str
) -> KerasTensor:
    """A deformable convolution whose offsets ``name_offset`` gives, zero at the start.

    The convolution of the offsets has no dilation, as in the authors' code; the paper gives it
    the layer's.
    """
    offsets = kl.Conv2D(
        2 * kernel_size**2,
        kernel_size,
        strides=strides,
        padding="same",
        kernel_initializer="zeros",
        name=f"{name}_offset",
    )(x)
    layer = DeformableConv2D(
        filters, kernel_size, strides=strides, dilation_rate=dilation, use_bias=False, name=name
    )
    return layer(x, offsets)


ENCODERS = {
    "ResNet101Beta": Encoder(
        resnet_v1_101_beta,
        SYMMETRIC_RANGE,
        prefixes=("resnet_v1_101.",),
        parameters=42_623_936,
        channels={2: 128, 4: 256, 8: 512, 16: 1024, 32: 2048},
        tensors="tf_slim",
        unused=("resnet_v1_101/logits/",),
        imagenet="DeepLab's TF-Slim checkpoint, resnet_v1_101_beta",
        source="arXiv:1512.03385, DeepLab's in TF-Slim",
    ),
    # torchvision's "v1.5": strides in the 3x3 convolutions.
    "ResNet50PyTorch": Encoder(
        functools.partial(resnet, units=RESNET_50, style=TORCHVISION, deformable_units=0),
        IMAGENET,
        prefixes=("backbone.",),
        parameters=23_508_032,
        channels={2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048},
        alone="",
        unused=("backbone.fc.",),
        imagenet="torchvision's file, resnet50-*.pth",
        source="arXiv:1512.03385, as in torchvision",
    ),
    # After arXiv:1812.01187, Section 4.1: a deep stem, and strides in the 3x3 convolutions.
    "ResNet50C": Encoder(
        functools.partial(resnet, units=RESNET_50, style=DEEP_STEM, deformable_units=0),
        IMAGENET,
        prefixes=("layer",),
        parameters=23_631_808,
        channels={2: 128, 4: 256, 8: 512, 16: 1024, 32: 2048},
        imagenet="a file in PSPNet's names",
        source="arXiv:1512.03385 with PSPNet's stem",
    ),
}
