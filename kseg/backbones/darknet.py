"""DarkNet19, arXiv:1612.08242, with the dilations and paddings of LiteSeg.

Layer names are those of LiteSeg's checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import IMAGENET
from kseg.layers import batch_norm, conv


class Layer(NamedTuple):
    """A convolution; ``padding`` in zeros on each side, None where the size stays."""

    channels: int
    kernel: int
    dilation: int = 1
    padding: int | None = None


# Table 6 of the paper without its classifier; None is 2x2 max pooling. Layer 18 pooled
# once and now does nothing. The padded 1x1 convolutions grow the map by two, with a
# border of BatchNorm of zero, and the dilated 3x3 shrink it by two.
LAYERS: dict[int, Layer | None] = {
    1: Layer(32, 3),
    2: None,
    3: Layer(64, 3),
    4: None,
    5: Layer(128, 3),
    6: Layer(64, 1),
    7: Layer(128, 3),
    8: None,
    9: Layer(256, 3),
    10: Layer(128, 1),
    11: Layer(256, 3),
    12: None,
    13: Layer(512, 3),
    14: Layer(256, 1, padding=1),
    15: Layer(512, 3),
    16: Layer(256, 1, padding=1),
    17: Layer(512, 3),
    19: Layer(1024, 3, dilation=2, padding=1),
    20: Layer(512, 1, padding=1),
    21: Layer(1024, 3, dilation=2, padding=1),
    22: Layer(512, 1),
    23: Layer(1024, 3, dilation=2, padding=1),
}
# The last layers at strides 2, 4 and 8.
STEM_LAYER, LOW_LEVEL_LAYER, MID_LEVEL_LAYER = 3, 7, 11


def darknet19(x: KerasTensor) -> Features:
    """DarkNet19's features of (N, H, W, 3).

    ``output`` is (N, h, w, 1024), h and w from pooling ``low_level``, which is (N,
    ceil(H/4), ceil(W/4), 128), twice more and rounding down: at least 13x13 must come in.
    ``mid_level`` has 256 channels and the size after the first of these poolings; ``stem`` is
    (N, ceil(H/2), ceil(W/2), 64).
    """
    levels = {}
    for number, layer in LAYERS.items():
        if layer is None:
            # The original rounds down everywhere; it cannot decode what 4 does not divide.
            padding = "same" if number < LOW_LEVEL_LAYER else "valid"
            name = f"resnet_features.layers.{number}_max"
            x = kl.MaxPooling2D(2, padding=padding, name=name)(x)
            continue
        name = f"resnet_features.layers.{number}_convbatch.layers"
        x = conv(
            x,
            layer.channels,
            layer.kernel,
            dilation=layer.dilation,
            padding="symmetric" if layer.padding is None else layer.padding,
            name=f"{name}.0",
        )
        x = batch_norm(x, epsilon=1e-5, name=f"{name}.1")
        x = kl.LeakyReLU(0.1, name=f"{name}.2")(x)
        levels[number] = x
    return Features(x, levels[LOW_LEVEL_LAYER], levels[MID_LEVEL_LAYER], stem=levels[STEM_LAYER])


ENCODERS = {
    "DarkNet19": Encoder(
        darknet19,
        IMAGENET,
        prefixes=("resnet_features.",),
        parameters=19_817_376,
        channels={2: 64, 4: 128, 8: 256, 16: 1024},
        least_size=13,  # two poolings that round up, then two that round down
        imagenet="a file in LiteSeg's names",
        source="arXiv:1612.08242, as in LiteSeg",
    )
}
