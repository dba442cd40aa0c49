"""ESPNet, arXiv:1803.06815 (Mehta et al., ECCV 2018).

Layer names are those of the authors' PyTorch code.
"""

from __future__ import annotations

import functools
from functools import partial

from keras import KerasTensor
from keras import layers as kl

from kseg import layers
from kseg.card import Normalization
from kseg.layers import PaddedAveragePooling, batch_norm, conv, transposed_conv
from kseg.networks import Variant

_EPSILON = 1e-3
_DILATIONS = (1, 2, 4, 8, 16)

_bn_prelu = partial(layers.bn_prelu, epsilon=_EPSILON)
_conv_bn_prelu = partial(layers.conv_bn_prelu, epsilon=_EPSILON)
_concat_bn_prelu = partial(layers.concat_bn_prelu, epsilon=_EPSILON)


def espnet_c(x: KerasTensor, num_classes: int, *, p: int = 2, q: int = 8) -> KerasTensor:
    """ESPNet-C (Figure 4c): (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    Args:
        p: ESP blocks at stride 4, the paper's alpha2.
        q: ESP blocks at stride 8, the paper's alpha3.
    """
    *_, x = _encoder(x, p, q, "")
    return conv(x, num_classes, 1, name="classifier.conv")


def espnet(
    x: KerasTensor,
    num_classes: int,
    *,
    p: int = 2,
    q: int = 8,
    skip: str = "level1",
    upsampling: str = "transposed",
) -> KerasTensor:
    """ESPNet (Figure 4d): (N, H, W, 3) to logits (N, H, W, num_classes).

    Args:
        p: ESP blocks at stride 4, the paper's alpha2.
        q: ESP blocks at stride 8, the paper's alpha3.
        skip: what the decoder takes at stride 2: "level1", the first convolution, as in
            the published Cityscapes weights, or "b1", that and the pooled image, as in
            the CamVid weights.
        upsampling: "transposed", the published transposed convolutions, or "resize", bilinear
            resizing and a 3x3 convolution in their place.
    """
    up = functools.partial(transposed_conv, upsampling=upsampling)
    if skip not in ("level1", "b1"):
        raise ValueError(f"skip is {skip!r}, not level1 or b1")
    image = x
    level1, b1, b2, b3 = _encoder(image, p, q, "encoder.")

    x = conv(b3, num_classes, 1, name="encoder.classifier.conv")
    x = batch_norm(x, epsilon=_EPSILON, name="br")
    x = up(x, num_classes, 2, b2, name="up_l3.0")
    level3 = conv(b2, num_classes, 1, name="level3_C.conv")
    x = _concat_bn_prelu([level3, x], name="combine_l2_l3.0")
    x = _esp(x, num_classes, residual=False, name="combine_l2_l3.1")
    x = up(x, num_classes, 2, level1, name="up_l2.0")
    x = _bn_prelu(x, name="up_l2.1")
    x = kl.Concatenate(name="conv.concat")([x, level1 if skip == "level1" else b1])
    x = _conv_bn_prelu(x, num_classes, 3, name="conv")
    return up(x, num_classes, 2, image, name="classifier")


def _encoder(x: KerasTensor, p: int, q: int, prefix: str) -> tuple[KerasTensor, ...]:
    """The first convolution and what is joined at strides 2, 4 and 8."""
    for option, blocks in (("p", p), ("q", q)):
        if blocks < 1:
            raise ValueError(f"{option} is {blocks}; a stage needs at least 1 block")
    image_2 = PaddedAveragePooling(name=f"{prefix}sample1")(x)
    image_4 = PaddedAveragePooling(name=f"{prefix}sample2")(image_2)

    level1 = _conv_bn_prelu(x, 16, 3, strides=2, name=f"{prefix}level1")
    x = b1 = _concat_bn_prelu([level1, image_2], name=f"{prefix}b1")

    x = down = _esp_down(x, 64, name=f"{prefix}level2_0")
    for i in range(p):
        x = _esp(x, 64, name=f"{prefix}level2.{i}")
    x = b2 = _concat_bn_prelu([x, down, image_4], name=f"{prefix}b2")

    x = down = _esp_down(x, 128, name=f"{prefix}level3_0")
    for i in range(q):
        x = _esp(x, 128, name=f"{prefix}level3.{i}")
    b3 = _concat_bn_prelu([down, x], name=f"{prefix}b3")
    return level1, b1, b2, b3


def _esp_down(x: KerasTensor, channels: int, *, name: str) -> KerasTensor:
    """The strided ESP module: halves height and width, without a sum with its input."""
    return _bn_prelu(_pyramid(x, channels, 3, 2, name), name=name)


def _esp(x: KerasTensor, channels: int, *, residual: bool = True, name: str) -> KerasTensor:
    """The ESP module (Figure 1): reduce, split, transform, merge."""
    y = _pyramid(x, channels, 1, 1, name)
    if residual:
        y = kl.Add(name=f"{name}.sum")([x, y])
    return _bn_prelu(y, name=f"{name}.bn")


def _pyramid(
    x: KerasTensor, channels: int, kernel_size: int, strides: int, name: str
) -> KerasTensor:
    """Dilated convolutions side by side, summed up hierarchically (HFF) and joined.

    The branch without dilation takes the channels that five equal ones would leave over,
    and stays out of the sums.
    """
    width = channels // len(_DILATIONS)
    if width < 1:
        raise ValueError(f"num_classes is {channels}; ESPNet's decoder needs at least 5")
    x = conv(x, width, kernel_size, strides=strides, name=f"{name}.c1.conv")
    first, total, *rest = (
        conv(
            x,
            channels - 4 * width if dilation == 1 else width,
            3,
            dilation=dilation,
            name=f"{name}.d{dilation}.conv",
        )
        for dilation in _DILATIONS
    )
    merged = [first, total]
    for dilation, branch in zip(_DILATIONS[2:], rest, strict=True):
        total = kl.Add(name=f"{name}.sum{dilation}")([total, branch])
        merged.append(total)
    return kl.Concatenate(name=f"{name}.concat")(merged)


# (x - mean) / std / 255 on OpenCV's BGR: the published code divides once more.
_ESPNET_INPUT = Normalization(
    mean=(72.3923111, 82.90893555, 73.15840149),
    std=(255 * 45.3192215, 255 * 46.15289307, 255 * 44.91483307),
    channel_order="BGR",
)
# Published without its statistics, which the authors' training takes of its own images: means
# over CamVid's 367 of the images' means and deviations, as Cityscapes' above are made.
_ESPNET_CAMVID_INPUT = Normalization(
    mean=(110.25683, 108.36230, 104.99074),
    std=(255 * 72.06399, 255 * 72.65216, 255 * 69.85317),
    channel_order="BGR",
)
_ESPNET = Variant(
    builder=espnet,
    normalization=_ESPNET_INPUT,
    backbone=("encoder.level", "encoder.b"),
    # The decoder computes in class channels from its first layer on.
    classifier=(
        "encoder.classifier.",
        "br",
        "up_l3.",
        "level3_C.",
        "combine_l2_l3.",
        "up_l2.",
        "conv.",
        "classifier",
    ),
    num_classes=20,
    void_channels=(19,),
    source="arXiv:1803.06815; github.com/sacmehta/ESPNet",
)

VARIANTS = {
    "espnet_c": _ESPNET.replace(
        builder=espnet_c,
        options={"p": 2, "q": 8},
        backbone=("level", "b"),
        classifier=("classifier.",),
        parameters=349_449,
        multiply_adds={(512, 1024): 3.47e9},
    ),
    "espnet": _ESPNET.replace(
        options={"p": 2, "q": 8},
        parameters=364_569,
        multiply_adds={(512, 1024): 4.71e9},
        mean_iou="60.34 Cityscapes test",
    ),
    "espnet_camvid": _ESPNET.replace(
        normalization=_ESPNET_CAMVID_INPUT,
        options={"p": 2, "q": 8, "skip": "b1"},
        num_classes=12,
        dataset="camvid",
        void_channels=(11,),
        parameters=354_517,
        multiply_adds={(360, 480): 1.34e9},  # counted here
        mean_iou="55.64 CamVid test",
    ),
}
