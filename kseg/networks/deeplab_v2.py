"""DeepLab v2, arXiv:1606.00915 (Chen et al., TPAMI 2017).

Layer names are those of github.com/kazuto1011/deeplab-pytorch, whose files have the
weights of the authors' Caffe model. Their stem's pooling rounds up, so that features have the
reference's size where the image's is 8k+1 (321, 513); at other sizes they have a row fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import check_output_stride
from kseg.backbones.resnet import RESNET_101, STRIDE_FIRST, resnet
from kseg.card import VGG_CAFFE
from kseg.layers import conv
from kseg.networks import Variant

RATES = (6, 12, 18, 24)


def deeplab_v2(
    x: KerasTensor,
    num_classes: int,
    *,
    output_stride: int = 8,
    atrous_rates: Sequence[int] | None = None,
) -> KerasTensor:
    """DeepLab-ASPP on ResNet-101 (Section 3.2): (N, H, W, 3) to logits at the output stride.

    The scores of the branches of the pyramid are summed (Figure 7b; with ResNet each
    branch is its 3x3 convolution alone).

    Args:
        output_stride: 8, as published, 16 or 32.
        atrous_rates: dilations of the branches, None for (6, 12, 18, 24) x 8 /
            output_stride.
    """
    check_output_stride(output_stride)
    if atrous_rates is None:
        atrous_rates = [rate * 8 // output_stride for rate in RATES]
    if min(atrous_rates, default=0) < 1:
        raise ValueError(f"atrous_rates is {atrous_rates}; they must be positive, at least one")
    x = resnet(x, RESNET_101, style=STRIDE_FIRST, output_stride=output_stride).output
    branches = [
        conv(x, num_classes, 3, dilation=rate, use_bias=True, name=f"aspp.c{i}")
        for i, rate in enumerate(atrous_rates)
    ]
    return kl.Add(name="aspp.sum")(branches) if len(branches) > 1 else branches[0]


VARIANTS = {
    "deeplab_v2_resnet101": Variant(
        builder=deeplab_v2,
        normalization=VGG_CAFFE,
        backbone=("layer",),
        classifier=("aspp.",),
        num_classes=21,
        dataset="voc",
        parameters=44_048_532,
        multiply_adds={(321, 321): 75.14e9},
        mean_iou="76.35 VOC 2012 val",
        source="arXiv:1606.00915, without CRF; github.com/kazuto1011/deeplab-pytorch",
    ),
}
