"""SkipNet of RTSeg, arXiv:1803.02758 (Siam et al., ICIP 2018).

The reference is github.com/MSiam/TFSegmentation; names of encoder layers are those of
TF-Slim (MobileNet) and LiteSeg (ShuffleNet).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from keras import KerasTensor

from kseg.backbones import Features
from kseg.backbones.mobilenet import mobilenet
from kseg.backbones.shufflenet import shufflenet
from kseg.card import Normalization
from kseg.layers import conv
from kseg.networks import Variant
from kseg.networks.fcn import add_skips

BACKBONES: dict[str, Callable[[KerasTensor], Features]] = {
    "mobilenet": mobilenet,
    "shufflenet": functools.partial(shufflenet, groups=3),
}


def skipnet(x: KerasTensor, num_classes: int, backbone: str) -> KerasTensor:
    """SkipNet (Section 2.2): (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    FCN-8s' decoder: 1x1 classifiers on the features at strides 32, 16 and 8, summed from
    coarse to fine. Upsampling is bilinear: the reference's transposed convolutions start
    so and stay so with MobileNet, while those with ShuffleNet are trained.

    Args:
        backbone: a name of ``BACKBONES``; the row of the zoo gives it.
    """
    features = BACKBONES[backbone](x)
    x = conv(features.output, num_classes, 1, use_bias=True, name="score_fr")
    return add_skips(x, [("feed1", features.high_level), ("feed2", features.mid_level)])


# The mean of Cityscapes in BGR, divided by 255.
_SKIPNET_INPUT = Normalization((73.29132098, 83.04442645, 72.5238962), (255.0, 255.0, 255.0), "BGR")
_SKIPNET = Variant(
    builder=skipnet,
    normalization=_SKIPNET_INPUT,
    classifier=("score_",),
    source="arXiv:1803.02758; github.com/MSiam/TFSegmentation",
)

VARIANTS = {
    "skipnet_mobilenet": _SKIPNET.replace(
        options={"backbone": "mobilenet"},
        tensors="tf_slim",
        backbone=("MobilenetV1.",),
        parameters=3_241_081,
        multiply_adds={(360, 640): 2.69e9, (512, 1024): 6.00e9},
        mean_iou="61.5 Cityscapes test",
    ),
    "skipnet_shufflenet": _SKIPNET.replace(
        options={"backbone": "shufflenet"},
        backbone=("shuffle_features.",),
        parameters=948_897,
        multiply_adds={(360, 640): 0.67e9, (512, 1024): 1.49e9},
        mean_iou="58.3 Cityscapes test",
    ),
}
