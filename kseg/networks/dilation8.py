"""Dilation8, arXiv:1511.07122 (Yu and Koltun, ICLR 2016).

Layer names are those of the authors' Caffe models for Cityscapes and CamVid.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.vgg import conv_relu, vgg16
from kseg.card import Normalization
from kseg.layers import CenterIdentity, conv
from kseg.networks import Head, Variant

# Names and dilations of the module's 3x3 convolutions (Table 1).
_CONTEXT = {
    "ctx_conv1_1": 1,
    "ctx_conv1_2": 1,
    "ctx_conv2_1": 2,
    "ctx_conv3_1": 4,
    "ctx_conv4_1": 8,
    "ctx_conv5_1": 16,
    "ctx_fc1": 1,
}


def dilation8_vgg16(x: KerasTensor, num_classes: int) -> KerasTensor:
    """Front end and context module: (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    The front end (Section 4) is VGG16 without its last two poolings; conv5 has a dilation of 2,
    fc6 is a 7x7 convolution with one of 4.

    The reference mirrors the image's border, 186 pixels on each side, and has no padding in the
    front end. Here its convolutions are padded with zeros. Logits lie on the same grid, and are
    the same farther than that from the border.
    """
    features = vgg16(x, output_stride=8, keep_poolings=False)
    x = features.output
    for name, kernel_size, dilation in (("fc6", 7, 4), ("fc7", 1, 1)):
        x = conv_relu(x, 4096, kernel_size, dilation=dilation, name=name)
        x = kl.Dropout(0.5, name=f"{name}.dropout")(x)
    return dilation8(features._replace(output=x), num_classes)


def dilation8(features: Features, num_classes: int) -> KerasTensor:
    """The basic context module (Section 3, Table 1) on scores of the last features.

    Seven 3x3 convolutions, dilated by 1, 1, 2, 4, 8, 16 and 1, and one 1x1 between maps of
    ``num_classes`` channels see 67x67 of them. Each begins as the identity (Section 3), so that
    the module gives the scores that come in where they are positive, and zero elsewhere: all
    but the last end with ReLU. Padded with zeros, as published.

    Args:
        features: of a backbone; published with an output stride of 8.
        num_classes: channels of the logits.
    """
    x = conv(features.output, num_classes, 1, use_bias=True, name="final")
    for name, dilation in _CONTEXT.items():
        x = _identity_conv(x, 3, dilation, name)
        x = kl.ReLU(name=f"{name}.relu")(x)
    return _identity_conv(x, 1, 1, "ctx_final")


def _identity_conv(x: KerasTensor, kernel_size: int, dilation: int, name: str) -> KerasTensor:
    return kl.Conv2D(
        x.shape[-1],
        kernel_size,
        dilation_rate=dilation,
        padding="same",
        kernel_initializer=CenterIdentity(),
        name=name,
    )(x)


VARIANTS = {
    "dilation8_vgg16": Variant(
        builder=dilation8_vgg16,
        # CamVid's mean, of their datasets/camvid.json.
        normalization=Normalization(
            (110.70313206, 108.77808759, 105.41212523), (1.0, 1.0, 1.0), "BGR"
        ),
        backbone=("conv",),
        classifier=("final", "ctx_"),
        # CamVid's, in the order of that file and not of kseg's table: building, tree, sky, car,
        # sign, road, pedestrian, fence, pole, pavement, bicyclist. Importing asks for them.
        num_classes=11,
        dataset="",
        parameters=134_313_443,  # counted here, as is what follows
        multiply_adds={(480, 640): 693.47e9},
        mean_iou="65.3 CamVid test",
        source="arXiv:1511.07122 (Appendix C); github.com/fyu/dilation",
    ),
}

HEADS = {
    "dilation8": Head(
        dilation8,
        # As published.
        options={"output_stride": 8},
        classifier=("final", "ctx_"),
        source="arXiv:1511.07122, the context module",
    )
}
