"""LiteSeg, arXiv:1912.06683 (Emara et al., DICTA 2019).

Layer names are those of the authors' PyTorch code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features, applications
from kseg.backbones.darknet import darknet19
from kseg.backbones.mobilenet_v2 import PYTORCH, mobilenet_v2
from kseg.backbones.shufflenet import shufflenet
from kseg.card import IMAGENET
from kseg.layers import Resize, batch_norm, conv, depthwise_conv
from kseg.networks import Variant

WIDTH = 96
RATES = (1, 3, 6, 9)

# The backbone and the channels that its low-level features are projected to, if at all.
BACKBONES: dict[str, tuple[Callable[..., Features], int | None]] = {
    "mobilenet_v2": (functools.partial(mobilenet_v2, style=PYTORCH), None),
    "shufflenet": (shufflenet, 48),
    "darknet19": (darknet19, 32),
}


def liteseg(
    x: KerasTensor,
    num_classes: int,
    *,
    backbone: str = "mobilenet_v2",
    aspp: str = "deep",
    short_residual: bool = True,
    long_residual: bool = True,
) -> KerasTensor:
    """LiteSeg: (N, H, W, 3) to logits (N, ceil(H/s), ceil(W/s), num_classes).

    s is the stride of the low-level features: 8 with ShuffleNet, else 4.

    Args:
        backbone: "mobilenet_v2" or "shufflenet" at stride 32, "darknet19" at 16; or a
            network of keras.applications at 32, by its row of the zoo.
        aspp: "deep" has a second separable convolution behind every dilated one, and the
            activation only there; "plain" is DeepLabv3's, with the activation behind
            every branch.
        short_residual: the backbone's output beside the branches of the pyramid.
        long_residual: the low-level features in the decoder.
    """
    if backbone in BACKBONES:
        features, projected = BACKBONES[backbone]
    elif backbone in applications.names():
        features, projected = functools.partial(applications.application, name=backbone), 48
    else:
        raise ValueError(f"backbone is {backbone!r}, not one of {', '.join(BACKBONES)}")
    if aspp not in ("deep", "plain"):
        raise ValueError(f"aspp is {aspp!r}, not deep or plain")
    output, low_level, *_ = features(x)

    branches = [output] if short_residual else []
    for i, rate in enumerate(RATES, start=1):
        branches.append(_branch(output, rate, deep=aspp == "deep", name=f"aspp{i}"))
    branches.append(_image_pooling(output))
    x = kl.Concatenate(name="aspp.concat")(branches)

    x = _bn_relu(_separable(x, WIDTH, 1, name="conv1"), "bn1", "relu")
    x = Resize("align_corners", name="resize")(x, low_level)
    if long_residual:
        if projected is not None:
            low_level = _separable(low_level, projected, 1, name="conv2")
            low_level = _bn_relu(low_level, "bn2", "relu2")
        x = kl.Concatenate(name="concat")([x, low_level])
    for i in (0, 3):
        x = _separable(x, WIDTH, 3, name=f"last_conv.{i}")
        x = _bn_relu(x, f"last_conv.{i + 1}", f"last_conv.{i + 2}")
    return conv(x, num_classes, 1, use_bias=True, name="last_conv.6")


def _bn_relu(x: KerasTensor, bn_name: str, relu_name: str) -> KerasTensor:
    return kl.ReLU(name=relu_name)(batch_norm(x, epsilon=1e-5, name=bn_name))


def _separable(
    x: KerasTensor, filters: int, kernel_size: int, *, dilation: int = 1, name: str
) -> KerasTensor:
    """Depthwise, then 1x1, nothing between. A kernel of 1 scales every channel first."""
    x = depthwise_conv(x, kernel_size, dilation=dilation, name=f"{name}.conv1")
    return conv(x, filters, 1, name=f"{name}.pointwise")


def _branch(x: KerasTensor, rate: int, *, deep: bool, name: str) -> KerasTensor:
    kernel_size = 1 if rate == 1 else 3
    x = _separable(x, WIDTH, kernel_size, dilation=rate, name=f"{name}.atrous_convolution")
    if not deep:
        return _bn_relu(x, f"{name}.bn", f"{name}.relu")
    x = batch_norm(x, epsilon=1e-5, name=f"{name}.bn")
    if rate == 1:
        return x
    return _bn_relu(_separable(x, WIDTH, 3, name=f"{name}.conv1"), f"{name}.bn1", f"{name}.relu1")


def _image_pooling(x: KerasTensor) -> KerasTensor:
    pooled = kl.GlobalAveragePooling2D(keepdims=True, name="global_avg_pool.0")(x)
    pooled = conv(pooled, WIDTH, 1, name="global_avg_pool.1")
    pooled = _bn_relu(pooled, "global_avg_pool.2", "global_avg_pool.3")
    return Resize("align_corners", name="global_avg_pool.resize")(pooled, x)


_LITESEG = Variant(
    builder=liteseg,
    normalization=IMAGENET,
    resize="align_corners",
    backbone=("mobile_features.", "shuffle_features.", "resnet_features."),
    classifier=("last_conv.6",),
    # ImageNet classifiers.
    unused=("mobile_features.classifier.", "shuffle_features.module.fc."),
    source="arXiv:1912.06683; github.com/tahaemara/LiteSeg",
)

VARIANTS = {
    "liteseg_mobilenet_v2": _LITESEG.replace(
        options={"backbone": "mobilenet_v2"},
        parameters=3_101_707,
        multiply_adds={(512, 1024): 4.31e9, (360, 640): 1.94e9, (1024, 2048): 17.22e9},
        mean_iou="67.81 Cityscapes test",
    ),
    "liteseg_shufflenet": _LITESEG.replace(
        options={"backbone": "shufflenet"},
        parameters=1_971_451,
        multiply_adds={(512, 1024): 2.25e9, (360, 640): 1.01e9, (1024, 2048): 8.98e9},
        mean_iou="65.17 Cityscapes test",
    ),
    "liteseg_darknet19": _LITESEG.replace(
        options={"backbone": "darknet19"},
        least_size=13,  # two poolings that round up, then two that round down
        parameters=20_545_459,
        multiply_adds={(512, 1024): 57.13e9, (360, 640): 25.35e9, (1024, 2048): 222.56e9},
        mean_iou="70.75 Cityscapes test",
    ),
}

HEADS = {"liteseg": _LITESEG}
