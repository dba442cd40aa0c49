"""LR-ASPP, the head of MobileNetV3, arXiv:1905.02244 (Howard et al., ICCV 2019).

Layer names are those of torchvision.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.layers import Resize, batch_norm, conv
from kseg.networks import Head


def lraspp(features: Features, num_classes: int, *, filters: int = 128) -> KerasTensor:
    """Lite R-ASPP (Figure 10): features of (N, H, W, 3) to logits at stride 8.

    One branch is a 1x1 convolution, the other scales it by the mean of the whole map through
    another 1x1 convolution; the paper has the mean of 49x49 windows, torchvision that of the
    map. The classifiers of this and of the features at stride 8 are summed.

    Args:
        filters: channels of both branches.
    """
    if filters < 1:
        raise ValueError(f"filters is {filters}; it must be at least 1")
    low_level = features.at(8)
    x = conv(features.output, filters, 1, name="classifier.cbr.0")
    x = batch_norm(x, epsilon=1e-5, name="classifier.cbr.1")
    x = kl.ReLU(name="classifier.cbr.2")(x)
    scale = kl.GlobalAveragePooling2D(keepdims=True, name="classifier.scale.0")(features.output)
    scale = conv(scale, filters, 1, name="classifier.scale.1")
    scale = kl.Activation("sigmoid", name="classifier.scale.2")(scale)
    x = kl.Multiply(name="classifier.product")([x, scale])
    x = Resize(name="classifier.resize")(x, low_level)
    scores = [
        conv(low_level, num_classes, 1, use_bias=True, name="classifier.low_classifier"),
        conv(x, num_classes, 1, use_bias=True, name="classifier.high_classifier"),
    ]
    return kl.Add(name="classifier.sum")(scores)


_LRASPP = Head(
    lraspp,
    # As in torchvision and in the paper's Table 7.
    options={"output_stride": 16},
    classifier=("classifier.low_classifier", "classifier.high_classifier"),
    needs=(8,),
    source="arXiv:1905.02244, as in torchvision",
)

VARIANTS = {
    "lraspp_mobilenet_v3_large": _LRASPP.on(
        ENCODERS["MobileNetV3LargePyTorch"],
        num_classes=21,
        dataset="voc",
        parameters=3_221_538,
        multiply_adds={(520, 520): 2.09e9, (512, 1024): 3.95e9, (1024, 2048): 15.79e9},
        mean_iou="57.9 COCO val2017 with VOC's classes",
        source=_LRASPP.source,
    ),
}

HEADS = {"lraspp": _LRASPP}
