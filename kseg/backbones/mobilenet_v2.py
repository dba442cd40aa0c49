"""MobileNetV2, arXiv:1801.04381, as DeepLab (TF-Slim) and as LiteSeg (PyTorch) run it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import IMAGENET, SYMMETRIC_RANGE
from kseg.layers import atrous_units, batch_norm, conv, depthwise_conv

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
# The last blocks at strides 2, 4, 8 and 16 give the features of these levels.
LEVEL_BLOCKS = (0, 2, 5, 12)


def _slim_names(block: int | None, part: str, _position: int) -> tuple[str, str]:
    if block is None:
        name = "MobilenetV2.Conv"
    else:
        name = f"MobilenetV2.expanded_conv{f'_{block}' if block else ''}.{part}"
    return name, f"{name}.BatchNorm"


def _pytorch_names(block: int | None, part: str, position: int) -> tuple[str, str]:
    blocks = sum(stage[2] for stage in STAGES)
    if block is None:
        name, first = f"mobile_features.features.{0 if part == 'stem' else blocks + 1}", 0
    else:
        # Convolution, BatchNorm, activation: three numbers each.
        name, first = f"mobile_features.features.{block + 1}.conv", 3 * position
    return f"{name}.{first}", f"{name}.{first + 1}"


@dataclasses.dataclass(frozen=True)
class Style:
    """In what the published forms differ.

    Attributes:
        names: layer names of a convolution and its BatchNorm, from the block (None for
            stem and head), the part ("stem", "expand", "depthwise", "project", "head")
            and its place in the block.
        padding: of the convolutions with stride 2, see ``kseg.layers.conv``.
        epsilon, momentum: of BatchNorm.
        head: whether a 1x1 convolution to 1280 channels comes last.
        level: what of ``LEVEL_BLOCKS`` the decoder takes: "depthwise", six times as
            wide and with its activation, or the block's "output".
    """

    names: Callable[[int | None, str, int], tuple[str, str]]
    padding: str
    epsilon: float
    momentum: float
    head: bool
    level: str


TF_SLIM = Style(
    names=_slim_names,
    padding="same",
    epsilon=1e-3,
    momentum=0.997,
    head=False,
    level="depthwise",
)
PYTORCH = Style(
    names=_pytorch_names,
    padding="symmetric",
    epsilon=1e-5,
    momentum=0.9,
    head=True,
    level="output",
)


def mobilenet_v2(
    x: KerasTensor,
    *,
    style: Style = TF_SLIM,
    output_stride: int = 32,
    depth_multiplier: float = 1.0,
) -> Features:
    """MobileNetV2's features of (N, H, W, 3), at depth multiplier 1 with these channels.

    ``output`` is (N, ceil(H/s), ceil(W/s), 320), or 1280 channels with a head;
    ``low_level`` is (N, ceil(H/4), ceil(W/4), 144), or 24 channels of a block's output;
    ``mid_level`` is (N, ceil(H/8), ceil(W/8), 192), or 32 channels; ``high_level`` has 576 or
    96 channels, ``stem`` at stride 2 32 or 16.

    Args:
        style: ``TF_SLIM`` or ``PYTORCH``.
        output_stride: s, 8, 16 or 32. Below 32 the later depthwise convolutions are
            dilated instead (arXiv:1802.02611, Section 3.1).
        depth_multiplier: of the channels, which are rounded to a multiple of 8 at 1.0
            only, as the published DeepLab weights are.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {output_stride}, not 8, 16 or 32")
    if depth_multiplier <= 0:
        raise ValueError(f"depth_multiplier is {depth_multiplier}; it must be positive")
    divisor = 8 if depth_multiplier == 1 else 1

    def unit(
        x: KerasTensor,
        channels: int | None,
        block: int | None,
        part: str,
        position: int,
        *,
        kernel_size: int = 3,
        strides: int = 1,
        dilation: int = 1,
    ) -> KerasTensor:
        """Convolution, BatchNorm, and ReLU6 everywhere but behind a projection."""
        name, bn_name = style.names(block, part, position)
        if channels is None:
            x = depthwise_conv(
                x,
                kernel_size,
                strides=strides,
                dilation=dilation,
                padding=style.padding,
                name=name,
            )
        else:
            x = conv(
                x,
                channels,
                kernel_size,
                strides=strides,
                dilation=dilation,
                padding=style.padding,
                name=name,
            )
        x = batch_norm(x, epsilon=style.epsilon, momentum=style.momentum, name=bn_name)
        return x if part == "project" else kl.ReLU(6, name=f"{name}.relu6")(x)

    stem = _divisible(STEM_CHANNELS * depth_multiplier, divisor)
    x = unit(x, stem, None, "stem", 0, kernel_size=3, strides=2)
    strides = [s if i == 0 else 1 for _, _, blocks, s in STAGES for i in range(blocks)]
    units = atrous_units([2, *strides], output_stride)[1:]
    block, levels = 0, []
    for expansion, channels, blocks, _ in STAGES:
        channels = _divisible(channels * depth_multiplier, divisor)
        for _ in range(blocks):
            inputs, position = x, 0
            stride, dilation = units[block]
            # Expansions are multiples of 8 at every depth multiplier.
            wide = _divisible(x.shape[-1] * expansion, 8) if expansion > 1 else 0
            if wide > x.shape[-1]:
                x = unit(x, wide, block, "expand", position, kernel_size=1)
                position += 1
            x = depthwise = unit(
                x, None, block, "depthwise", position, strides=stride, dilation=dilation
            )
            x = unit(x, channels, block, "project", position + 1, kernel_size=1)
            if stride == 1 and inputs.shape[-1] == channels:
                name = style.names(block, "project", position + 1)[0]
                x = kl.Add(name=f"{name}.sum")([inputs, x])
            if block in LEVEL_BLOCKS:
                levels.append({"depthwise": depthwise, "output": x}[style.level])
            block += 1
    if style.head:
        # Multipliers below 1 leave the last layer as it is (Section 6.1).
        head = _divisible(HEAD_CHANNELS * max(1.0, depth_multiplier), divisor)
        x = unit(x, head, None, "head", 0, kernel_size=1)
    stem, low, mid, high = levels
    return Features(x, low, mid, high, stem=stem)


def _divisible(value: float, divisor: int) -> int:
    """The multiple nearest to ``value``, at least one and no less than 90% of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


ENCODERS = {
    "MobileNetV2Slim": Encoder(
        functools.partial(mobilenet_v2, style=TF_SLIM),
        SYMMETRIC_RANGE,
        prefixes=("MobilenetV2.",),
        parameters=1_811_712,
        channels={2: 32, 4: 144, 8: 192, 16: 576, 32: 320},
        tensors="tf_slim",
        unused=("MobilenetV2/Conv_1/", "MobilenetV2/Logits/"),
        imagenet="a TF-Slim checkpoint, mobilenet_v2_1.0_224; its int8 .tflite; Keras' .h5",
        source="arXiv:1801.04381, TF-Slim's, as in DeepLab",
    ),
    "MobileNetV2PyTorch": Encoder(
        functools.partial(mobilenet_v2, style=PYTORCH),
        IMAGENET,
        prefixes=("mobile_features.",),
        parameters=2_223_872,
        channels={2: 16, 4: 24, 8: 32, 16: 96, 32: 1280},
        unused=("mobile_features.classifier.",),
        imagenet="a file in LiteSeg's names",
        source="arXiv:1801.04381, as in LiteSeg",
    ),
}
