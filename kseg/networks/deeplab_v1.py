"""DeepLab v1 with a large field of view, arXiv:1412.7062 (Chen et al., ICLR 2015).

Layer names are those of the authors' Caffe model. Its poolings round up, so that features have
its size where the image's is 8k+1 (321); at other sizes they have a row fewer.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import check_output_stride
from kseg.backbones.vgg import conv_relu, vgg16
from kseg.card import VGG_CAFFE
from kseg.layers import PaddedAveragePooling, conv
from kseg.networks import Variant


def deeplab_v1(x: KerasTensor, num_classes: int, *, output_stride: int = 8) -> KerasTensor:
    """DeepLab-LargeFOV (Section 4.1): (N, H, W, 3) to logits at the output stride.

    Against VGG16 the poolings are 3x3, fc6 is 3x3 with a dilation of 12 and 1024 filters,
    and a 3x3 average pooling stands before it. The published output is at stride 8.

    Args:
        output_stride: 8, 16 or 32; the dilation of fc6 shrinks with it.
    """
    check_output_stride(output_stride)
    x = vgg16(x, pool_size=3, output_stride=output_stride).output
    x = PaddedAveragePooling(strides=1, name="pool5a")(x)
    for name, kernel_size, dilation in (("fc6", 3, 12 * 8 // output_stride), ("fc7", 1, 1)):
        x = conv_relu(x, 1024, kernel_size, dilation=dilation, name=name)
        x = kl.Dropout(0.5, name=f"{name}.dropout")(x)
    return conv(x, num_classes, 1, use_bias=True, name="fc8")


VARIANTS = {
    "deeplab_v1_vgg16": Variant(
        builder=deeplab_v1,
        normalization=VGG_CAFFE,
        backbone=("conv",),
        classifier=("fc8",),
        num_classes=21,
        dataset="voc",
        parameters=20_505_429,
        multiply_adds={(321, 321): 50.93e9},
        mean_iou="62.25 VOC 2012 val",
        source="arXiv:1412.7062 (20.5 M parameters), DeepLab-LargeFOV without CRF",
    ),
}
