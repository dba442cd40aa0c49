"""U-Net, arXiv:1505.04597 (Ronneberger, Fischer, Brox, MICCAI 2015)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.card import UNIT_RANGE
from kseg.layers import Resize, batch_norm, conv, transposed_conv
from kseg.networks import Head, Variant

FILTERS = (64, 128, 256, 512, 1024)


def unet(
    x: KerasTensor,
    num_classes: int,
    *,
    filters: int = FILTERS[0],
    dropout: float = 0.5,
    upsampling: str = "transposed",
) -> KerasTensor:
    """U-Net (Figure 1): (N, H, W, 3) to logits (N, H, W, num_classes).

    The paper's convolutions have no padding, so that its output is 184 pixels smaller
    than its input, and it crops what the skips bring. Here they are padded: the same
    weights, and logits at the input's size. Poolings round down; what they leave out at
    odd sizes the upsampling fills with zeros.

    Args:
        filters: channels at full resolution, 64 in the paper; they double four times.
        dropout: at the end of the contracting path (Section 3.1), its last two levels.
        upsampling: "transposed", the published transposed convolutions, or "resize", bilinear
            resizing and a 3x3 convolution in their place.
    """
    if filters < 1:
        raise ValueError(f"filters is {filters}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be in 0..1, 1 excluded")
    widths = [filters * 2**i for i in range(len(FILTERS))]
    up = functools.partial(transposed_conv, upsampling=upsampling)
    skips = []
    for i, width in enumerate(widths):
        if i:
            x = kl.MaxPooling2D(2, name=f"down{i}.pool")(x)
        x = _double_conv(x, width, f"down{i}")
        if i >= 3:
            x = kl.Dropout(dropout, name=f"down{i}.dropout")(x)
        skips.append(x)
    for i in (3, 2, 1, 0):
        x = up(x, widths[i], 2, skips[i], use_bias=True, name=f"up{i}.upconv")
        x = kl.Concatenate(name=f"up{i}.concat")([skips[i], x])
        x = _double_conv(x, widths[i], f"up{i}")
    return conv(x, num_classes, 1, use_bias=True, name="classifier")


def unet_decoder(
    features: Features,
    num_classes: int,
    *,
    output_stride: int = 32,
    filters: Sequence[int] = (256, 128, 64, 32),
) -> KerasTensor:
    """U-Net's expanding path on an encoder: features of (N, H, W, 3) to logits.

    They are at the stride of the encoder's finest features, 2 or 4. Every step resizes to the
    next finer features, joins them, and has two 3x3 convolutions with BatchNorm, which the
    paper's network has not: an encoder with ImageNet weights needs it.

    Args:
        output_stride: of the encoder's last features; coarser ones are not used.
        filters: channels of the steps to strides 16, 8, 4 and 2. A stride that the encoder
            does not have has no step.
    """
    if len(filters) != 4 or min(filters) < 1:
        raise ValueError(f"filters is {filters}; it must be four positive integers")
    x = features.output
    levels = features.levels()
    for stride, width in zip((16, 8, 4, 2), filters, strict=True):
        if stride < output_stride and stride in levels:
            name = f"up{stride}"
            x = Resize(name=f"{name}.resize")(x, levels[stride])
            x = kl.Concatenate(name=f"{name}.concat")([levels[stride], x])
            x = _double_conv(x, width, name, normalize=True)
    return conv(x, num_classes, 1, use_bias=True, name="classifier")


def _double_conv(
    x: KerasTensor, filters: int, name: str, *, normalize: bool = False
) -> KerasTensor:
    for i in (1, 2):
        x = conv(x, filters, 3, use_bias=not normalize, name=f"{name}.conv{i}")
        if normalize:
            x = batch_norm(x, epsilon=1e-5, name=f"{name}.bn{i}")
        x = kl.ReLU(name=f"{name}.relu{i}")(x)
    return x


VARIANTS = {
    "unet": Variant(
        builder=unet,
        normalization=UNIT_RANGE,
        backbone=("down",),
        classifier=("classifier",),
        least_size=16,  # four poolings, rounded down
        num_classes=2,
        dataset="isbi",
        parameters=31_031_810,
        multiply_adds={(512, 512): 192.69e9},
        mean_iou="92.03 PhC-U373; 77.56 DIC-HeLa",
        source="arXiv:1505.04597",
    ),
}

HEADS = {
    "unet": Head(
        unet_decoder,
        classifier=("classifier",),
        source="arXiv:1505.04597, the expanding path with BatchNorm",
    )
}
