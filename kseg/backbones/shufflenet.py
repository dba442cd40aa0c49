"""ShuffleNet v1, arXiv:1707.01083, as LiteSeg runs it.

Layer names are those of LiteSeg's checkpoints.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import IMAGENET
from kseg.layers import (
    ChannelShuffle,
    GroupedPointwiseConv,
    PaddedAveragePooling,
    batch_norm,
    conv,
    depthwise_conv,
    max_pool,
)

STEM_CHANNELS = 24
# Table 1 of the paper: channels of the stages by groups, and their numbers and units; the
# first unit has stride 2.
CHANNELS = {3: (240, 480, 960), 8: (384, 768, 1536)}
STAGES = ((2, 4), (3, 8), (4, 4))

_PREFIX = "shuffle_features.module"


def shufflenet(x: KerasTensor, *, groups: int = 8) -> Features:
    """ShuffleNet's features of (N, H, W, 3), with 8 groups of these channels.

    ``output`` is (N, ceil(H/32), ceil(W/32), 1536). ``mid_level`` is (N, ceil(H/8), ceil(W/8),
    384), ``high_level`` has 768 channels, and ``stem`` the first convolution's 24. There is no
    unit at stride 4.

    Args:
        groups: of the 1x1 convolutions, a key of ``CHANNELS``.
    """
    # Neither BatchNorm nor activation here.
    x = conv(x, STEM_CHANNELS, 3, strides=2, use_bias=True, name=f"{_PREFIX}.conv1")
    stem = x
    x = max_pool(x, f"{_PREFIX}.maxpool")
    outputs = []
    for (stage, units), channels in zip(STAGES, CHANNELS[groups], strict=True):
        for i in range(units):
            x = _unit(
                x,
                channels,
                groups,
                down=i == 0,
                # 24 channels are too few for groups (Section 3.2).
                first_groups=1 if stage == 2 and i == 0 else groups,
                name=f"{_PREFIX}.stage{stage}.ShuffleUnit_Stage{stage}_{i}",
            )
        outputs.append(x)
    return Features(x, mid_level=outputs[0], high_level=outputs[1], stem=stem)


def _unit(
    x: KerasTensor, channels: int, groups: int, *, down: bool, first_groups: int, name: str
) -> KerasTensor:
    """Figure 2(b), or 2(c) where ``down``: the pooled input makes up the channels."""
    inputs = x
    x = _pointwise(x, channels // 4, first_groups, f"{name}.g_conv_1x1_compress")
    x = kl.ReLU(name=f"{name}.g_conv_1x1_compress.relu")(x)
    x = ChannelShuffle(groups, name=f"{name}.shuffle")(x)
    x = depthwise_conv(
        x, 3, strides=2 if down else 1, use_bias=True, name=f"{name}.depthwise_conv3x3"
    )
    x = batch_norm(x, epsilon=1e-5, name=f"{name}.bn_after_depthwise")
    branch = channels - inputs.shape[-1] if down else channels
    x = _pointwise(x, branch, groups, f"{name}.g_conv_1x1_expand")
    if down:
        inputs = PaddedAveragePooling(name=f"{name}.pool")(inputs)
        x = kl.Concatenate(name=f"{name}.concat")([inputs, x])
    else:
        x = kl.Add(name=f"{name}.sum")([inputs, x])
    return kl.ReLU(name=f"{name}.relu")(x)


def _pointwise(x: KerasTensor, filters: int, groups: int, name: str) -> KerasTensor:
    if groups == 1:
        x = conv(x, filters, 1, use_bias=True, name=f"{name}.conv1x1")
    else:
        x = GroupedPointwiseConv(filters, groups, name=f"{name}.conv1x1")(x)
    return batch_norm(x, epsilon=1e-5, name=f"{name}.batch_norm")


ENCODERS = {
    "ShuffleNet": Encoder(
        shufflenet,
        IMAGENET,
        prefixes=("shuffle_features.",),
        parameters=917_304,
        channels={2: 24, 8: 384, 16: 768, 32: 1536},
        unused=("shuffle_features.module.fc.",),
        imagenet="a file in LiteSeg's names",
        source="arXiv:1707.01083, as in LiteSeg",
    )
}
