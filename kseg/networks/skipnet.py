"""SkipNet of RTSeg, arXiv:1803.02758 (Siam et al., ICIP 2018).

The reference is github.com/MSiam/TFSegmentation; names of encoder layers are those of
TF-Slim (MobileNet) and LiteSeg (ShuffleNet). The ShuffleNet is LiteSeg's too, whose first
convolution has neither BatchNorm nor activation; the reference's has both.
"""

from __future__ import annotations

from keras import KerasTensor

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.card import Normalization
from kseg.layers import conv
from kseg.networks import Head
from kseg.networks.fcn import add_skips


def skipnet(features: Features, num_classes: int) -> KerasTensor:
    """SkipNet (Section 2.2): features of (N, H, W, 3) to logits at stride 8.

    FCN-8s' decoder: 1x1 classifiers on the features at strides 32, 16 and 8, summed from
    coarse to fine. Upsampling is bilinear: the reference's transposed convolutions start
    so and stay so with MobileNet, while those with ShuffleNet are trained.
    """
    x = conv(features.output, num_classes, 1, use_bias=True, name="score_fr")
    return add_skips(x, [("feed1", features.at(16)), ("feed2", features.at(8))])


# The mean of Cityscapes in BGR, divided by 255.
_SKIPNET_INPUT = Normalization((73.29132098, 83.04442645, 72.5238962), (255.0, 255.0, 255.0), "BGR")
_SKIPNET = Head(
    skipnet,
    classifier=("score_",),
    needs=(8, 16),
    source="arXiv:1803.02758; github.com/MSiam/TFSegmentation",
)

VARIANTS = {
    "skipnet_mobilenet": _SKIPNET.on(
        ENCODERS["MobileNetSlim"],
        normalization=_SKIPNET_INPUT,
        parameters=3_241_081,
        multiply_adds={(360, 640): 2.69e9, (512, 1024): 6.00e9},
        mean_iou="61.5 Cityscapes test",
        source=_SKIPNET.source,
    ),
    "skipnet_shufflenet": _SKIPNET.on(
        ENCODERS["ShuffleNet"],
        options={"groups": 3},
        normalization=_SKIPNET_INPUT,
        parameters=948_897,
        multiply_adds={(360, 640): 0.67e9, (512, 1024): 1.49e9},
        mean_iou="58.3 Cityscapes test",
        source=_SKIPNET.source,
    ),
}

HEADS = {"skipnet": _SKIPNET}
