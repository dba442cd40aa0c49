"""PIDNet, arXiv:2206.02066 (Xu et al., CVPR 2023).

Layer names are those of the authors' PyTorch code, github.com/XuJiacong/PIDNet.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones.dual_resolution import (
    basic_block,
    basic_layer,
    bn_relu_conv,
    bottleneck,
    check_widths,
    conv_bn,
    pyramid_end,
    pyramid_scales,
    relu,
    segmentation_head,
    trunk,
    upsample,
)
from kseg.card import IMAGENET
from kseg.layers import ChannelSum
from kseg.networks import Variant

_PYRAMID = 96


def pidnet(
    x: KerasTensor,
    num_classes: int,
    *,
    width: int = 32,
    head_width: int = 128,
    auxiliary: bool = False,
) -> KerasTensor | dict[str, KerasTensor]:
    """PIDNet-S (Figure 4): (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    Three branches, named after the terms of a controller: P keeps the details at 1/8, I goes down
    to 1/64 for the context, and D finds boundaries at 1/8. Where D sees one, the output follows P,
    elsewhere I.

    Args:
        width: channels of the stem.
        head_width: of the head's 3x3 convolution.
        auxiliary: besides "logits" also "seghead_p", a head on P, and "seghead_d" on D, whose one
            channel is the logit of a boundary (Section 3.1).
    """
    check_widths(width=width, head_width=head_width)
    x = trunk(x, width)

    p = basic_layer(x, 2 * width, 2, name="layer3_")
    d = basic_block(x, width, name="layer3_d")
    i = relu(basic_layer(x, 4 * width, 3, stride=2, name="layer3"), "layer3.relu")
    p = relu(_pag(p, conv_bn(i, 2 * width, 1, name="compression3"), width, "pag3"), "pag3.relu")
    d = relu(_with_differences(d, i, "diff3"), "diff3.relu")
    details = p

    i = relu(basic_layer(i, 8 * width, 3, stride=2, name="layer4"), "layer4.relu")
    p = basic_layer(p, 2 * width, 2, name="layer4_")
    d = bottleneck(d, width, name="layer4_d.0")
    p = relu(_pag(p, conv_bn(i, 2 * width, 1, name="compression4"), width, "pag4"), "pag4.relu")
    d = relu(_with_differences(d, i, "diff4"), "diff4.relu")
    boundaries = d

    p = bottleneck(p, 2 * width, name="layer5_.0")
    d = bottleneck(d, 2 * width, name="layer5_d.0")
    i = bottleneck(i, 8 * width, stride=2, name="layer5.0")
    i = bottleneck(i, 8 * width, name="layer5.1")
    i = upsample(_pappm(i, 4 * width), p, "spp")
    x = _light_bag(p, i, d)
    logits = segmentation_head(x, head_width, num_classes, name="final_layer")
    if not auxiliary:
        return logits
    # These see what the ReLU behind their features gives: the reference's works in place.
    return {
        "logits": logits,
        "seghead_p": segmentation_head(details, head_width, num_classes, name="seghead_p"),
        "seghead_d": segmentation_head(boundaries, width, 1, name="seghead_d"),
    }


def _with_differences(d: KerasTensor, i: KerasTensor, name: str) -> KerasTensor:
    """D and what a 3x3 convolution finds in I."""
    x = conv_bn(i, d.shape[-1], 3, name=name)
    return kl.Add(name=f"{name}.sum")([d, upsample(x, d, name)])


def _pag(x: KerasTensor, y: KerasTensor, filters: int, name: str) -> KerasTensor:
    """Pixel-attention-guided fusion (Section 3.2): ``y`` where it agrees with ``x``.

    (1 - s) x + s y is x + s (y - x), two products and sums less.
    """
    agreement = kl.Multiply(name=f"{name}.product")(
        [
            conv_bn(x, filters, 1, name=f"{name}.f_x"),
            # Resized after the convolution: there are fewer pixels before.
            upsample(conv_bn(y, filters, 1, name=f"{name}.f_y"), x, f"{name}.f_y"),
        ]
    )
    gate = kl.Activation("sigmoid", name=f"{name}.gate")(ChannelSum(name=f"{name}.sum")(agreement))
    change = kl.Subtract(name=f"{name}.difference")([upsample(y, x, name), x])
    change = kl.Multiply(name=f"{name}.change")([change, gate])
    return kl.Add(name=name)([x, change])


def _pappm(x: KerasTensor, filters: int) -> KerasTensor:
    """Parallel aggregation pyramid pooling (Section 3.3).

    The four scales' 3x3 convolution in four groups is a convolution for each: the GPU
    accelerator computes groups wrong, and each keeps its own scale in int8.
    """
    first, *pooled = pyramid_scales(x, _PYRAMID, "spp")
    processed = []
    for i, scale in enumerate(pooled):
        name = f"spp.scale{i + 1}"
        y = kl.Add(name=f"{name}.sum")([upsample(scale, first, name), first])
        names = f"spp.scale_process.0.group{i}", f"spp.scale_process.2.group{i}"
        processed.append(bn_relu_conv(y, _PYRAMID, 3, names=names))
    return pyramid_end(x, [first, *processed], filters, "spp")


def _light_bag(p: KerasTensor, i: KerasTensor, d: KerasTensor) -> KerasTensor:
    """Boundary-attention-guided fusion (Section 3.4, Light-Bag): P at boundaries, I elsewhere.

    conv_p((1 - a) I + P) + conv_i(I + a P) with a the sigmoid of D.
    """
    gate = kl.Activation("sigmoid", name="dfm.gate")(d)
    inside = kl.Multiply(name="dfm.gated_i")([gate, i])
    inside = kl.Subtract(name="dfm.difference")([i, inside])
    inside = kl.Add(name="dfm.sum_p")([inside, p])
    border = kl.Multiply(name="dfm.gated_p")([gate, p])
    border = kl.Add(name="dfm.sum_i")([i, border])
    inside = conv_bn(inside, p.shape[-1], 1, name="dfm.conv_p")
    border = conv_bn(border, p.shape[-1], 1, name="dfm.conv_i")
    return kl.Add(name="dfm")([inside, border])


_PIDNET = Variant(
    builder=pidnet,
    normalization=IMAGENET,
    # Of the logits alone: inside the network the reference does not align corners.
    resize="align_corners",
    backbone=("conv1.", "layer", "compression", "pag", "diff"),
    classifier=("final_layer.conv2", "seghead_p.conv2"),
    boundary="seghead_d",
    # The heads of the training.
    unused=("seghead_p.", "seghead_d."),
    source="arXiv:2206.02066; github.com/XuJiacong/PIDNet",
)

VARIANTS = {
    "pidnet_s": _PIDNET.replace(
        parameters=7_625_715,
        multiply_adds={(1024, 2048): 47.19e9, (720, 960): 15.63e9},
        mean_iou="78.8 Cityscapes val; 78.6 Cityscapes test",
    ),
}
