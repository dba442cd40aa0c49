"""ERFNet, Romera et al., IEEE Transactions on Intelligent Transportation Systems 2018.

Layer names are those of the authors' PyTorch code.
"""

from __future__ import annotations

import functools

from keras import KerasTensor
from keras import layers as kl

from kseg.card import UNIT_RANGE
from kseg.layers import batch_norm, conv, transposed_conv
from kseg.networks import Variant

_EPSILON = 1e-3


def erfnet(
    x: KerasTensor, num_classes: int, *, dropout: bool = True, upsampling: str = "transposed"
) -> KerasTensor:
    """ERFNet (Table I): (N, H, W, 3) to logits (N, H, W, num_classes).

    At odd sizes, which the reference does not take, the poolings round up as the
    convolutions beside them do, and the decoder returns to the sizes of the encoder.

    Args:
        dropout: the spatial dropout of the encoder's blocks in training, 0.03 at stride 4
            and 0.3 at stride 8.
        upsampling: "transposed", the published transposed convolutions, or "resize", bilinear
            resizing and a 3x3 convolution in their place.
    """
    up = functools.partial(transposed_conv, upsampling=upsampling)
    early, late = (0.03, 0.3) if dropout else (0.0, 0.0)
    image = x
    x = half = _down(image, 16, "encoder.initial_block")
    x = quarter = _down(x, 64, "encoder.layers.0")
    for i in range(1, 6):
        x = _block(x, 1, early, f"encoder.layers.{i}")
    x = _down(x, 128, "encoder.layers.6")
    for i, dilation in enumerate((2, 4, 8, 16, 2, 4, 8, 16), start=7):
        x = _block(x, dilation, late, f"encoder.layers.{i}")

    for i, like in ((0, quarter), (3, half)):
        name = f"decoder.layers.{i}"
        x = up(x, like.shape[-1], 3, like, use_bias=True, name=f"{name}.conv")
        x = _bn_relu(x, f"{name}.bn", name)
        for j in (i + 1, i + 2):
            x = _block(x, 1, 0.0, f"decoder.layers.{j}")
    return up(x, num_classes, 2, image, use_bias=True, name="decoder.output_conv")


def _down(x: KerasTensor, channels: int, name: str) -> KerasTensor:
    """The downsampler (Section III-B): convolution and pooling side by side."""
    y = conv(x, channels - x.shape[-1], 3, strides=2, use_bias=True, name=f"{name}.conv")
    # "same" adds nothing at even sizes.
    x = kl.MaxPooling2D(2, padding="same", name=f"{name}.pool")(x)
    return _bn_relu(kl.Concatenate(name=f"{name}.concat")([y, x]), f"{name}.bn", name)


def _block(x: KerasTensor, dilation: int, rate: float, name: str) -> KerasTensor:
    """Non-bottleneck-1D (Figure 2c): two 3x3 convolutions, each as 3x1 and 1x3."""
    y = x
    for i, d in ((1, 1), (2, dilation)):
        y = _conv(y, (3, 1), d, f"{name}.conv3x1_{i}")
        y = kl.ReLU(name=f"{name}.conv3x1_{i}.relu")(y)
        y = _conv(y, (1, 3), d, f"{name}.conv1x3_{i}")
        y = batch_norm(y, epsilon=_EPSILON, name=f"{name}.bn{i}")
        if i == 1:
            y = kl.ReLU(name=f"{name}.bn1.relu")(y)
    if rate:
        y = kl.SpatialDropout2D(rate, name=f"{name}.dropout")(y)
    x = kl.Add(name=f"{name}.sum")([x, y])
    return kl.ReLU(name=f"{name}.relu")(x)


def _conv(x: KerasTensor, kernel: tuple[int, int], dilation: int, name: str) -> KerasTensor:
    return conv(x, x.shape[-1], kernel, dilation=dilation, use_bias=True, name=name)


def _bn_relu(x: KerasTensor, bn_name: str, name: str) -> KerasTensor:
    x = batch_norm(x, epsilon=_EPSILON, name=bn_name)
    return kl.ReLU(name=f"{name}.relu")(x)


VARIANTS = {
    "erfnet": Variant(
        builder=erfnet,
        normalization=UNIT_RANGE,
        backbone=("encoder.",),
        classifier=("decoder.output_conv",),
        # The encoder's own head, of its separate training.
        unused=("encoder.output_conv.",),
        num_classes=20,
        void_channels=(19,),
        parameters=2_064_256,
        multiply_adds={(512, 1024): 26.61e9},
        mean_iou="69.8 Cityscapes test; 72.1 val",
        source="Romera et al., T-ITS 2018; github.com/Eromera/erfnet_pytorch",
    ),
}
