"""LiteSeg, arXiv:1912.06683 (Emara et al., DICTA 2019).

Layer names are those of the authors' PyTorch code.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.layers import Resize, batch_norm, conv, depthwise_conv
from kseg.networks import Head

RATES = (1, 3, 6, 9)


def liteseg(
    features: Features,
    num_classes: int,
    *,
    filters: int = 96,
    low_level_channels: int | None = 48,
    aspp: str = "deep",
    short_residual: bool = True,
    long_residual: bool = True,
) -> KerasTensor:
    """LiteSeg: features of (N, H, W, 3) to logits (N, ceil(H/s), ceil(W/s), num_classes).

    s is 4, or 8 where the encoder has no features at stride 4.

    Args:
        filters: channels of the pyramid's branches, of its output and of the decoder.
        low_level_channels: to which the low-level features are projected; None for as they are.
        aspp: "deep" has a second separable convolution behind every dilated one, and the
            activation only there; "plain" is DeepLabv3's, with the activation behind
            every branch.
        short_residual: the encoder's output beside the branches of the pyramid.
        long_residual: the low-level features in the decoder.
    """
    if aspp not in ("deep", "plain"):
        raise ValueError(f"aspp is {aspp!r}, not deep or plain")
    if min(filters, 1 if low_level_channels is None else low_level_channels) < 1:
        raise ValueError(
            f"filters is {filters}, low_level_channels {low_level_channels}; "
            "they must be at least 1"
        )
    output = features.output
    low_level = features.at(8 if features.low_level is None else 4)

    branches = [output] if short_residual else []
    for i, rate in enumerate(RATES, start=1):
        branches.append(_branch(output, filters, rate, deep=aspp == "deep", name=f"aspp{i}"))
    branches.append(_image_pooling(output, filters))
    x = kl.Concatenate(name="aspp.concat")(branches)

    x = _bn_relu(_separable(x, filters, 1, name="conv1"), "bn1", "relu")
    x = Resize("align_corners", name="resize")(x, low_level)
    if long_residual:
        if low_level_channels is not None:
            low_level = _separable(low_level, low_level_channels, 1, name="conv2")
            low_level = _bn_relu(low_level, "bn2", "relu2")
        x = kl.Concatenate(name="concat")([x, low_level])
    for i in (0, 3):
        x = _separable(x, filters, 3, name=f"last_conv.{i}")
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


def _branch(x: KerasTensor, filters: int, rate: int, *, deep: bool, name: str) -> KerasTensor:
    kernel_size = 1 if rate == 1 else 3
    x = _separable(x, filters, kernel_size, dilation=rate, name=f"{name}.atrous_convolution")
    if not deep:
        return _bn_relu(x, f"{name}.bn", f"{name}.relu")
    x = batch_norm(x, epsilon=1e-5, name=f"{name}.bn")
    if rate == 1:
        return x
    x = _separable(x, filters, 3, name=f"{name}.conv1")
    return _bn_relu(x, f"{name}.bn1", f"{name}.relu1")


def _image_pooling(x: KerasTensor, filters: int) -> KerasTensor:
    pooled = kl.GlobalAveragePooling2D(keepdims=True, name="global_avg_pool.0")(x)
    pooled = conv(pooled, filters, 1, name="global_avg_pool.1")
    pooled = _bn_relu(pooled, "global_avg_pool.2", "global_avg_pool.3")
    return Resize("align_corners", name="global_avg_pool.resize")(pooled, x)


_LITESEG = Head(
    liteseg,
    resize="align_corners",
    classifier=("last_conv.6",),
    parts={"long_residual": ("low_level_channels",)},
    source="arXiv:1912.06683; github.com/tahaemara/LiteSeg",
)

VARIANTS = {
    "liteseg_mobilenet_v2": _LITESEG.on(
        ENCODERS["MobileNetV2PyTorch"],
        options={"low_level_channels": None},
        parameters=3_101_707,
        multiply_adds={(512, 1024): 4.31e9, (360, 640): 1.94e9, (1024, 2048): 17.22e9},
        mean_iou="67.81 Cityscapes test",
        source=_LITESEG.source,
    ),
    "liteseg_shufflenet": _LITESEG.on(
        ENCODERS["ShuffleNet"],
        parameters=1_971_451,
        multiply_adds={(512, 1024): 2.25e9, (360, 640): 1.01e9, (1024, 2048): 8.98e9},
        mean_iou="65.17 Cityscapes test",
        source=_LITESEG.source,
    ),
    "liteseg_darknet19": _LITESEG.on(
        ENCODERS["DarkNet19"],
        options={"low_level_channels": 32},
        parameters=20_545_459,
        multiply_adds={(512, 1024): 57.13e9, (360, 640): 25.35e9, (1024, 2048): 222.56e9},
        mean_iou="70.75 Cityscapes test",
        source=_LITESEG.source,
    ),
    "liteseg_efficientnet_lite0": _LITESEG.on(
        ENCODERS["EfficientNetLite0"],
        parameters=3_259_675,  # counted here
        multiply_adds={(512, 1024): 4.85e9},
    ),
}

HEADS = {"liteseg": _LITESEG}
