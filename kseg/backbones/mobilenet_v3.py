"""MobileNetV3-Large, arXiv:1905.02244 (Howard et al., ICCV 2019), as torchvision has it.

Layer names are those of torchvision's segmentation networks. The network of keras.applications
has weights of the same shapes, and computes something else: it pads strided convolutions as
TensorFlow does. Its features are other ones too, so neither can stand for both.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features, check_output_stride
from kseg.card import IMAGENET
from kseg.layers import atrous_units, batch_norm, conv, depthwise_conv


class _Block(NamedTuple):
    """A line of Table 1; ``squeezed`` is 0 without squeeze-and-excitation."""

    kernel_size: int
    expanded: int
    channels: int
    squeezed: int
    activation: str
    stride: int


_RELU, _HARD_SWISH = "relu", "hard_silu"
STEM_CHANNELS = 16
BLOCKS = (
    _Block(3, 16, 16, 0, _RELU, 1),
    _Block(3, 64, 24, 0, _RELU, 2),
    _Block(3, 72, 24, 0, _RELU, 1),
    _Block(5, 72, 40, 24, _RELU, 2),
    _Block(5, 120, 40, 32, _RELU, 1),
    _Block(5, 120, 40, 32, _RELU, 1),
    _Block(3, 240, 80, 0, _HARD_SWISH, 2),
    _Block(3, 200, 80, 0, _HARD_SWISH, 1),
    _Block(3, 184, 80, 0, _HARD_SWISH, 1),
    _Block(3, 184, 80, 0, _HARD_SWISH, 1),
    _Block(3, 480, 112, 120, _HARD_SWISH, 1),
    _Block(3, 672, 112, 168, _HARD_SWISH, 1),
    _Block(5, 672, 160, 168, _HARD_SWISH, 2),
    _Block(5, 960, 160, 240, _HARD_SWISH, 1),
    _Block(5, 960, 160, 240, _HARD_SWISH, 1),
)
LAST_CHANNELS = 960

_batch_norm = functools.partial(batch_norm, epsilon=1e-3, momentum=0.99)


def mobilenet_v3_large(x: KerasTensor, *, output_stride: int = 32) -> Features:
    """MobileNetV3-Large's features of (N, H, W, 3), of ImageNet's normalised RGB.

    ``output`` is (N, ceil(H/s), ceil(W/s), 960). The levels are what torchvision's heads take:
    the stem, 16 channels at stride 2, and the first block of each later stride, which ends
    without an activation: 24 channels at 4, 40 at 8 and 80 at 16.

    Args:
        output_stride: s, 8, 16 or 32. Below 32 the later depthwise convolutions are dilated
            instead, that of the block that loses its stride among them, as in torchvision. The
            means of squeeze-and-excitation are over more pixels then.
    """
    check_output_stride(output_stride)
    name = "backbone.0"
    x = conv(x, STEM_CHANNELS, 3, strides=2, name=f"{name}.0")
    x = kl.Activation(_HARD_SWISH, name=f"{name}.2")(_batch_norm(x, name=f"{name}.1"))
    levels, reached = {2: x}, 2
    units = atrous_units([2, *(block.stride for block in BLOCKS)], output_stride)[1:]
    for i, (block, (stride, dilation)) in enumerate(zip(BLOCKS, units, strict=True), 1):
        x = _inverted_residual(
            x, block, f"backbone.{i}", stride=stride, dilation=dilation * block.stride // stride
        )
        reached *= block.stride
        levels.setdefault(reached, x)
    name = f"backbone.{len(BLOCKS) + 1}"
    x = _batch_norm(conv(x, LAST_CHANNELS, 1, name=f"{name}.0"), name=f"{name}.1")
    x = kl.Activation(_HARD_SWISH, name=f"{name}.2")(x)
    return Features(x, levels[4], levels[8], levels[16], stem=levels[2])


def _inverted_residual(
    x: KerasTensor, block: _Block, name: str, *, stride: int, dilation: int
) -> KerasTensor:
    """A block (Figure 4); its parts are numbered as they come."""
    inputs, part = x, 0
    if block.expanded > x.shape[-1]:
        x = conv(x, block.expanded, 1, name=f"{name}.block.{part}.0")
        x = _batch_norm(x, name=f"{name}.block.{part}.1")
        x = kl.Activation(block.activation, name=f"{name}.block.{part}.2")(x)
        part += 1
    x = depthwise_conv(
        x, block.kernel_size, strides=stride, dilation=dilation, name=f"{name}.block.{part}.0"
    )
    x = _batch_norm(x, name=f"{name}.block.{part}.1")
    x = kl.Activation(block.activation, name=f"{name}.block.{part}.2")(x)
    part += 1
    if block.squeezed:
        x = _squeeze_excite(x, block.squeezed, f"{name}.block.{part}")
        part += 1
    x = conv(x, block.channels, 1, name=f"{name}.block.{part}.0")
    x = _batch_norm(x, name=f"{name}.block.{part}.1")
    if block.stride == 1 and inputs.shape[-1] == block.channels:
        x = kl.Add(name=f"{name}.sum")([inputs, x])
    return x


def _squeeze_excite(x: KerasTensor, squeezed: int, name: str) -> KerasTensor:
    """A factor a channel, 0 to 1, from the means of all channels (Section 5.3)."""
    y = kl.GlobalAveragePooling2D(keepdims=True, name=f"{name}.avgpool")(x)
    y = conv(y, squeezed, 1, use_bias=True, name=f"{name}.fc1")
    y = kl.ReLU(name=f"{name}.activation")(y)
    y = conv(y, x.shape[-1], 1, use_bias=True, name=f"{name}.fc2")
    y = kl.Activation("hard_sigmoid", name=f"{name}.scale_activation")(y)
    return kl.Multiply(name=f"{name}.scale")([x, y])


ENCODERS = {
    "MobileNetV3LargePyTorch": Encoder(
        mobilenet_v3_large,
        IMAGENET,
        prefixes=("backbone.",),
        parameters=2_971_952,
        channels={2: 16, 4: 24, 8: 40, 16: 80, 32: 960},
        alone="features.",
        imagenet="torchvision's file, mobilenet_v3_large-*.pth",
        source="arXiv:1905.02244, as in torchvision",
    )
}
