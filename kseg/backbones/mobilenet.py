"""MobileNet v1, arXiv:1704.04861 (Howard et al.).

Layer names are those of TF-Slim.
"""

from __future__ import annotations

import functools

from keras import KerasTensor

from kseg.backbones import Features
from kseg.layers import slim_conv, slim_separable_conv

# Table 1: channels and stride of the separable convolutions behind the first convolution.
LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)

_conv = functools.partial(slim_conv, padding="same", epsilon=1e-3, momentum=0.9997)
_separable_conv = functools.partial(
    slim_separable_conv, padding="same", epsilon=1e-3, momentum=0.9997
)


def mobilenet(x: KerasTensor) -> Features:
    """(N, H, W, 3) to (N, ceil(H/32), ceil(W/32), 1024).

    The levels are the first separable convolutions at strides 4, 8 and 16, of 128, 256
    and 512 channels.
    """
    x = _conv(x, 32, 3, strides=2, name="MobilenetV1.Conv2d_0")
    levels = []
    for i, (filters, stride) in enumerate(LAYERS, 1):
        x = _separable_conv(x, filters, strides=stride, name=f"MobilenetV1.Conv2d_{i}")
        if stride == 2:
            levels.append(x)
    return Features(x, *levels[:3])
