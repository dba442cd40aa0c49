"""DeepLab on a deformable ResNet-101, arXiv:1703.06211 (Dai et al., ICCV 2017).

Layer names are those of the authors' MXNet code, github.com/msracver/Deformable-ConvNets.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import check_output_stride
from kseg.backbones.resnet import MXNET, RESNET_101, resnet
from kseg.card import Normalization
from kseg.layers import conv
from kseg.networks import Variant

_UNITS = sum(RESNET_101)


def deeplab_deformable(
    x: KerasTensor, num_classes: int, *, output_stride: int = 16, deformable_units: int = 3
) -> KerasTensor:
    """DeepLab (Section 4.1): (N, H, W, 3) to logits at the output stride.

    The offsets are zero at the start: the network begins as the plain one, whose weights fit
    it. A 1x1 convolution makes 1024 channels of the features, another the logits; the authors'
    bilinear transposed convolution is the resizing here.

    Args:
        output_stride: 8, 16 as published, or 32.
        deformable_units: how many units, from the last one on, have deformable 3x3
            convolutions (Table 1). 3 as published, the last block; 0 is the plain network.
    """
    check_output_stride(output_stride)
    if not 0 <= deformable_units <= _UNITS:
        raise ValueError(f"deformable_units is {deformable_units}; it must be 0 to {_UNITS}")
    x = resnet(
        x,
        RESNET_101,
        style=MXNET,
        output_stride=output_stride,
        deformable_units=deformable_units,
    ).output
    x = conv(x, 1024, 1, use_bias=True, name="fc6")
    x = kl.ReLU(name="relu_fc6")(x)
    return conv(x, num_classes, 1, use_bias=True, name="score")


VARIANTS = {
    "deeplab_resnet101_deformable": Variant(
        builder=deeplab_deformable,
        normalization=Normalization((123.15, 115.90, 103.06), (1.0, 1.0, 1.0)),
        backbone=("conv1", "bn", "res"),
        classifier=("score",),
        parameters=44_866_697,  # counted here, as is what follows
        multiply_adds={(513, 513): 53.44e9, (1024, 2048): 427.50e9},
        mean_iou="75.2 Cityscapes val; 75.9 VOC 2012 val",
        source="arXiv:1703.06211; github.com/msracver/Deformable-ConvNets",
    ),
}
