"""CGNet, arXiv:1811.08201 (Wu et al., TIP 2021).

Layer names are those of the authors' PyTorch code.
"""

from __future__ import annotations

from functools import partial

from keras import KerasTensor
from keras import layers as kl

from kseg import layers
from kseg.card import Normalization
from kseg.layers import PaddedAveragePooling, conv, depthwise_conv
from kseg.networks import Variant

_bn_prelu = partial(layers.bn_prelu, epsilon=1e-3)
_conv_bn_prelu = partial(layers.conv_bn_prelu, epsilon=1e-3)
_concat_bn_prelu = partial(layers.concat_bn_prelu, epsilon=1e-3)


def cgnet(
    x: KerasTensor,
    num_classes: int,
    *,
    m: int = 3,
    n: int = 21,
    residual: str = "global",
    surrounding_context: bool = True,
    global_context: bool = True,
    input_injection: bool = True,
) -> KerasTensor:
    """CGNet (Section III-C): (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    Args:
        m: blocks of stage 2, the down block counted.
        n: blocks of stage 3, the down block counted.
        residual: "global" adds the input after the global context, "local" before it,
            "none" not at all (Figure 3).
        surrounding_context: False gives the surrounding extractor the dilation 1, so that
            it sees no more than the local one; the parameters stay.
        global_context: the channel attention behind every block.
        input_injection: the pooled image beside the features of stages 1 and 2.
    """
    if residual not in ("global", "local", "none"):
        raise ValueError(f"residual is {residual!r}, not global, local or none")
    if min(m, n) < 2:
        raise ValueError(f"m is {m} and n is {n}; both stages need at least 2 blocks")

    def block(
        x: KerasTensor,
        channels: int,
        *,
        dilation: int,
        reduction: int,
        name: str,
        down: bool = False,
    ) -> KerasTensor:
        return _context_guided_block(
            x,
            channels,
            dilation=dilation if surrounding_context else 1,
            reduction=reduction if global_context else None,
            residual="none" if down else residual,
            down=down,
            name=name,
        )

    image_2 = PaddedAveragePooling(name="sample1")(x)
    image_4 = PaddedAveragePooling(name="sample2")(image_2)
    images = ([image_2], [image_4]) if input_injection else ([], [])

    for i, strides in enumerate((2, 1, 1)):
        x = _conv_bn_prelu(x, 32, 3, strides=strides, name=f"level1_{i}")
    x = _concat_bn_prelu([x, *images[0]], name="b1")

    x = down = block(x, 64, dilation=2, reduction=8, name="level2_0", down=True)
    for i in range(m - 1):
        x = block(x, 64, dilation=2, reduction=8, name=f"level2.{i}")
    x = _concat_bn_prelu([x, down, *images[1]], name="bn_prelu_2")

    x = down = block(x, 128, dilation=4, reduction=16, name="level3_0", down=True)
    for i in range(n - 1):
        x = block(x, 128, dilation=4, reduction=16, name=f"level3.{i}")
    x = _concat_bn_prelu([down, x], name="bn_prelu_3")

    return conv(x, num_classes, 1, name="classifier.0.conv")


def _context_guided_block(
    x: KerasTensor,
    channels: int,
    *,
    dilation: int,
    reduction: int | None,
    residual: str,
    down: bool,
    name: str,
) -> KerasTensor:
    """Local and surrounding features, joined, then weighted by the global context."""
    inputs = x
    # The reference calls the down block's 3x3 convolution conv1x1 too.
    x = _conv_bn_prelu(
        x,
        channels if down else channels // 2,
        3 if down else 1,
        strides=2 if down else 1,
        name=f"{name}.conv1x1",
    )
    local = depthwise_conv(x, 3, name=f"{name}.F_loc.conv")
    surrounding = depthwise_conv(x, 3, dilation=dilation, name=f"{name}.F_sur.conv")
    x = kl.Concatenate(name=f"{name}.concat")([local, surrounding])
    if down:
        x = _bn_prelu(x, name=name)
        x = conv(x, channels, 1, name=f"{name}.reduce.conv")
    else:
        x = _bn_prelu(x, name=f"{name}.bn_prelu")
    if residual == "local":
        x = kl.Add(name=f"{name}.local_sum")([inputs, x])
    if reduction is not None:
        x = _global_context(x, channels, reduction, f"{name}.F_glo")
    if residual == "global":
        x = kl.Add(name=f"{name}.sum")([inputs, x])
    return x


def _global_context(x: KerasTensor, channels: int, reduction: int, name: str) -> KerasTensor:
    # 1x1 convolutions for the two linear layers: the int8 GPU path breaks on Dense here.
    weight = kl.GlobalAveragePooling2D(keepdims=True, name=f"{name}.pool")(x)
    for index, filters, activation in (
        (0, channels // reduction, "relu"),
        (2, channels, "sigmoid"),
    ):
        weight = kl.Conv2D(filters, 1, activation=activation, name=f"{name}.fc.{index}")(weight)
    return kl.Multiply(name=f"{name}.scale")([x, weight])


# Its statistics were taken in BGR order and are applied to RGB (fixtures, CGNet's code).
_CGNET_INPUT = Normalization((72.39239876, 82.90891754, 73.15835921), (1.0, 1.0, 1.0))
# Of CamVid's training images, of which the published file for CamVid says nothing.
_CGNET_CAMVID_INPUT = Normalization(
    (105.65775299072266, 103.329833984375, 99.62540435791016), (1.0, 1.0, 1.0)
)
_CGNET = Variant(
    builder=cgnet,
    normalization=_CGNET_INPUT,
    backbone=("level", "b1", "bn_prelu_"),
    classifier=("classifier.",),
    source="arXiv:1811.08201; github.com/wutianyiRosun/CGNet",
)

VARIANTS = {
    "cgnet_m3n21": _CGNET.replace(
        options={"m": 3, "n": 21},
        parameters=496_306,
        multiply_adds={(512, 1024): 6.76e9, (360, 480): 2.23e9, (1024, 2048): 27.05e9},
        mean_iou="64.8 Cityscapes test",
    ),
    "cgnet_m3n15": _CGNET.replace(
        options={"m": 3, "n": 15},
        parameters=423_682,
        multiply_adds={(512, 1024): 6.30e9, (360, 480): 2.08e9, (1024, 2048): 25.21e9},
        mean_iou="59.7 Cityscapes val",
    ),
    "cgnet_camvid": _CGNET.replace(
        normalization=_CGNET_CAMVID_INPUT,
        options={"m": 3, "n": 21},
        num_classes=11,
        dataset="camvid",
        parameters=494_258,
        multiply_adds={(360, 480): 2.22e9},  # counted here
        mean_iou="65.6 CamVid test",
    ),
}
