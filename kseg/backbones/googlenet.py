"""GoogLeNet with BatchNorm, arXiv:1409.4842 (Szegedy et al.), as torchvision has it.

Layer names are torchvision's.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import SYMMETRIC_RANGE
from kseg.layers import DilatedPooling, atrous_units, batch_norm, ceil_max_pool, conv

# Filters (Table 1): 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; behind the pooling.
_Filters = tuple[int, tuple[int, int], tuple[int, int], int]

# Each stage's modules; a max pooling of this size and stride 2 stands before it.
_STAGES: dict[str, tuple[int, dict[str, _Filters]]] = {
    "maxpool2": (
        3,
        {
            "3a": (64, (96, 128), (16, 32), 32),
            "3b": (128, (128, 192), (32, 96), 64),
        },
    ),
    "maxpool3": (
        3,
        {
            "4a": (192, (96, 208), (16, 48), 64),
            "4b": (160, (112, 224), (24, 64), 64),
            "4c": (128, (128, 256), (24, 64), 64),
            "4d": (112, (144, 288), (32, 64), 64),
            "4e": (256, (160, 320), (32, 128), 128),
        },
    ),
    "maxpool4": (
        2,
        {
            "5a": (256, (160, 320), (32, 128), 128),
            "5b": (384, (192, 384), (48, 128), 128),
        },
    ),
}


def googlenet(x: KerasTensor, *, output_stride: int = 32) -> Features:
    """(N, H, W, 3) to 1024 channels at the output stride.

    Of RGB normalised to -1..1, or by ImageNet's statistics, as the weights want it. The 3x3
    max poolings round down, as the published ones without padding do: the three of them make
    of 101 rows 25, 12 and 6.

    The levels are what goes into the poolings: 192, 480 and 832 channels at strides 4, 8 and
    16; the stem has 64.

    Args:
        output_stride: 8, 16 or 32.
    """
    strides = atrous_units([2] * 5, output_stride)
    stem = x = _conv(x, 64, 7, strides=2, name="conv1")
    x = ceil_max_pool(x, 3, name="maxpool1")
    x = _conv(x, 64, 1, name="conv2")
    x = _conv(x, 192, 3, name="conv3")
    levels = [x]
    units = zip(_STAGES.items(), strides[2:], strict=True)
    for (pool, (size, modules)), (stride, dilation) in units:
        x = ceil_max_pool(x, size, strides=stride, dilation=dilation, name=pool)
        for module, filters in modules.items():
            x = _inception(x, filters, dilation * 2 // stride, f"inception{module}")
        levels.append(x)
    low, mid, high, _ = levels
    return Features(x, low, mid, high, stem=stem)


def _inception(x: KerasTensor, filters: _Filters, dilation: int, name: str) -> KerasTensor:
    """A module (Figure 2b); its "5x5" is 3x3, a slip that the published weights keep."""
    first, *pairs, last = filters
    branches = [_conv(x, first, 1, name=f"{name}.branch1")]
    for i, (reduced, channels) in enumerate(pairs, 2):
        y = _conv(x, reduced, 1, name=f"{name}.branch{i}.0")
        branches.append(_conv(y, channels, 3, dilation=dilation, name=f"{name}.branch{i}.1"))
    if dilation == 1:
        pool = kl.MaxPooling2D(3, strides=1, padding="same", name=f"{name}.branch4.0")
    else:
        pool = DilatedPooling("max", 3, dilation, "same", name=f"{name}.branch4.0")
    branches.append(_conv(pool(x), last, 1, name=f"{name}.branch4.1"))
    return kl.Concatenate(name=name)(branches)


def _conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    name: str,
) -> KerasTensor:
    """``name.conv``, ``name.bn`` and ``name.relu``."""
    x = conv(x, filters, kernel_size, strides=strides, dilation=dilation, name=f"{name}.conv")
    x = batch_norm(x, epsilon=1e-3, name=f"{name}.bn")
    return kl.ReLU(name=f"{name}.relu")(x)


ENCODERS = {
    "GoogLeNet": Encoder(
        googlenet,
        # Torchvision turns its ImageNet-normalised input back to this for the published weights.
        SYMMETRIC_RANGE,
        prefixes=(
            *(f"conv{i}.{part}." for i in (1, 2, 3) for part in ("conv", "bn")),
            "inception",
        ),
        parameters=5_599_904,
        channels={2: 64, 4: 192, 8: 480, 16: 832, 32: 1024},
        least_size=15,  # a convolution that rounds up, then three poolings that round down
        unused=("fc.", "aux1.", "aux2."),
        imagenet="the file googlenet-1378be20.pth",
        source="arXiv:1409.4842, as in torchvision",
    )
}
