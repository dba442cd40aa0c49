"""ResNet-v1-101 "beta", the ResNet of DeepLabv3 and v3+ in TF-Slim.

It differs from ResNet-101 (arXiv:1512.03385) in its stem of three 3x3 convolutions in
place of one 7x7, and in the last unit of a block carrying the stride. Layer names are
those of the TF-Slim code.
"""

from __future__ import annotations

import functools

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.layers import atrous_units, slim_conv, subsample

_conv = functools.partial(slim_conv, epsilon=1e-5, momentum=0.95)

# Bottleneck channels and units of the blocks; all but the last end with stride 2.
_BLOCKS = ((64, 3), (128, 4), (256, 23), (512, 3))


def resnet_v1_101_beta(
    x: KerasTensor,
    *,
    output_stride: int = 16,
    multi_grid: tuple[int, int, int] = (1, 2, 4),
) -> Features:
    """(N, H, W, 3) to 2048 channels at the output stride.

    The low and middle levels are the third convolution of ``block1.unit_2`` and
    ``block2.unit_3``, after BatchNorm and before the sum.

    Args:
        output_stride: 8, 16 or 32.
        multi_grid: dilations of block 4's three units, times the block's own
            (arXiv:1706.05587 Section 3.1.1; the published weights have 1, 2, 4).
    """
    units = [
        (f"block{b}.unit_{u}", channels, 2 if u == count and b < 4 else 1)
        for b, (channels, count) in enumerate(_BLOCKS, 1)
        for u in range(1, count + 1)
    ]
    strides = atrous_units([2, 2, *(stride for _, _, stride in units)], output_stride)[2:]

    prefix = "resnet_v1_101"
    for i, filters in enumerate((64, 64, 128), 1):
        x = _conv(x, filters, 3, strides=2 if i == 1 else 1, name=f"{prefix}.conv1_{i}")
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
    return Features(x, low_level=residuals["block1.unit_2"], mid_level=residuals["block2.unit_3"])


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
