"""MobileNet v1, arXiv:1704.04861 (Howard et al.), as RTSeg has it.

Layer names are those of TF-Slim. The activation is RTSeg's ReLU: TF-Slim's own has ReLU6, so that
its checkpoint computes something else here where it would clip. Keras' ``MobileNet`` has ReLU6.
"""

from __future__ import annotations

import functools

from keras import KerasTensor

from kseg.backbones import Encoder, Features
from kseg.card import SYMMETRIC_RANGE
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
    and 512 channels; ``stem`` is the one at stride 2, of 64.
    """
    x = _conv(x, 32, 3, strides=2, name="MobilenetV1.Conv2d_0")
    levels, stem = [], None
    for i, (filters, stride) in enumerate(LAYERS, 1):
        x = _separable_conv(x, filters, strides=stride, name=f"MobilenetV1.Conv2d_{i}")
        if stride == 2:
            levels.append(x)
        elif stem is None:
            stem = x
    low, mid, high, _ = levels
    return Features(x, low, mid, high, stem=stem)


ENCODERS = {
    "MobileNetSlim": Encoder(
        mobilenet,
        SYMMETRIC_RANGE,
        prefixes=("MobilenetV1.",),
        parameters=3_206_976,
        channels={2: 64, 4: 128, 8: 256, 16: 512, 32: 1024},
        tensors="tf_slim",
        unused=("MobilenetV1/Logits/",),
        imagenet="a TF-Slim checkpoint, mobilenet_v1_1.0_224, whose ReLU6 is ReLU here",
        source="arXiv:1704.04861, MobileNet v1 as in github.com/MSiam/TFSegmentation",
    )
}
