"""ICNet, arXiv:1704.08545 (Zhao et al., ECCV 2018).

Layer names are those of the authors' Caffe model, github.com/hszhao/ICNet. Its stem's pooling
rounds up, so that features have its size at its own 1025x2049.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones.resnet import CAFFE, RESNET_50, bottleneck, conv_bn_relu, stem
from kseg.card import RESNET_CAFFE
from kseg.layers import AdaptiveAveragePooling, Resize, conv, subsample
from kseg.networks import Variant

BINS = (1, 2, 3, 6)
_FUSED = 128


def icnet(
    x: KerasTensor, num_classes: int, *, width: int = 32, auxiliary: bool = False
) -> KerasTensor | dict[str, KerasTensor]:
    """ICNet (Figure 2): (N, H, W, 3) to logits (N, ceil(H/4), ceil(W/4), num_classes).

    The image at half its size goes through ResNet-50 up to the first unit of its third
    stage; the features there, halved once more, through the rest, dilated as in PSPNet,
    and the pyramid pooling, which sums. Two cascade feature fusions join that with the
    medium branch at 1/16 and with three convolutions on the full image at 1/8.

    Halving takes every second pixel, which is the reference's resizing at its sizes of
    16k+1. The pyramid's windows are those of adaptive pooling; the reference has them as
    constants for one size. The published weights have half of ResNet-50's channels
    (Section 3.4), and so have these.

    Args:
        width: bottleneck channels of the first stage, 32; 64 for all of ResNet-50.
        auxiliary: besides "logits" also "sub24" at 1/8 and "sub4" at 1/16 (Section 3.3),
            published with weights of 1, 0.4 and 0.16 in the loss.
    """
    if width < 1:
        raise ValueError(f"width is {width}; it must be at least 1")
    image = x
    low = _low_branch(subsample(image, "data_sub2"), width)
    medium = low["conv3_1"]

    high = quarter = image
    for i, filters in enumerate((32, 32, 64), 1):
        quarter, high = high, _conv_bn(high, filters, 3, strides=2, name=f"conv{i}_sub1")

    sub4 = Resize("align_corners", name="conv5_4_interp")(low["conv5_4_k1"], medium)
    sub24 = _fusion(sub4, medium, "conv_sub4", "conv3_1_sub2_proj", "sub24_sum")
    sub24 = Resize("align_corners", name="sub24_sum_interp")(sub24, high)
    x = _fusion(sub24, high, "conv_sub2", "conv3_sub1_proj", "sub12_sum")
    x = Resize("align_corners", name="sub12_sum_interp")(x, quarter)
    logits = conv(x, num_classes, 1, use_bias=True, name="conv6_cls")
    if not auxiliary:
        return logits
    return {
        "logits": logits,
        "sub24": conv(sub24, num_classes, 1, use_bias=True, name="sub24_out"),
        "sub4": conv(sub4, num_classes, 1, use_bias=True, name="sub4_out"),
    }


def _low_branch(x: KerasTensor, width: int) -> dict[str, KerasTensor]:
    """``conv3_1`` at stride 8 of the halved image, ``conv5_4_k1`` at 16."""
    style = dataclasses.replace(CAFFE, stem=(width, width, 2 * width))
    x = stem(x, style)
    features = {}
    for block, count in enumerate(RESNET_50, 1):
        for unit in range(1, count + 1):
            x = bottleneck(
                x,
                width * 2 ** (block - 1),
                block=block,
                unit=unit,
                stride=2 if (block, unit) == (2, 1) else 1,
                dilation={3: 2, 4: 4}.get(block, 1),
                style=style,
            )
            if (block, unit) == (2, 1):
                features["conv3_1"] = x
                x = subsample(x, "conv3_1_sub4")
    pooled = [
        Resize("align_corners", name=f"conv5_3_pool{size}_interp")(
            AdaptiveAveragePooling(size, name=f"conv5_3_pool{size}")(x), x
        )
        for size in BINS
    ]
    x = kl.Add(name="conv5_3_sum")([x, *pooled])
    features["conv5_4_k1"] = _conv_bn(x, 8 * width, 1, name="conv5_4_k1")
    return features


def _fusion(coarse: KerasTensor, fine: KerasTensor, *names: str) -> KerasTensor:
    """Cascade feature fusion (Figure 3) of features that are of one size already."""
    coarse = _conv_bn(coarse, _FUSED, 3, dilation=2, activation=False, name=names[0])
    fine = _conv_bn(fine, _FUSED, 1, activation=False, name=names[1])
    x = kl.Add(name=names[2])([fine, coarse])
    return kl.ReLU(name=f"{names[2]}.relu")(x)


def _conv_bn(x: KerasTensor, filters: int, kernel_size: int, *, name: str, **options: Any) -> Any:
    """``name``, ``name.bn`` and ``name.relu``, with the options of ``conv_bn_relu``."""
    names = name, f"{name}.bn"
    return conv_bn_relu(x, filters, kernel_size, names=names, style=CAFFE, **options)


# Not conv5_4 nor the projections, such as conv3_1_sub2_proj, which belong to the fusions.
_ICNET_BACKBONE = tuple(
    f"conv{block}_{unit}_{part}"
    for block in range(1, 6)
    for unit in range(1, 7)
    for part in ("1x1", "3x3")
)

VARIANTS = {
    "icnet_resnet50": Variant(
        builder=icnet,
        normalization=RESNET_CAFFE,
        resize="align_corners",
        backbone=_ICNET_BACKBONE,
        classifier=("conv6_cls", "sub24_out", "sub4_out"),
        parameters=6_699_987,
        multiply_adds={(1025, 2049): 29.81e9},
        mean_iou="67.7 Cityscapes val; 69.5 Cityscapes test",
        source="arXiv:1704.08545; github.com/hszhao/ICNet",
    ),
}
