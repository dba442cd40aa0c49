"""DDRNet, arXiv:2101.06085 (Hong et al.).

Layer names are those of the authors' PyTorch code, github.com/ydhongHIT/DDRNet.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones.dual_resolution import (
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
from kseg.networks import Variant

_PYRAMID = 128


def ddrnet(
    x: KerasTensor,
    num_classes: int,
    *,
    width: int = 32,
    head_width: int = 64,
    auxiliary: bool = False,
) -> KerasTensor | dict[str, KerasTensor]:
    """DDRNet-23 (Section III-D): (N, H, W, 3) to logits (N, ceil(H/8), ceil(W/8), num_classes).

    Two branches, at 1/8 and down to 1/64, exchange their features twice; the coarse one ends in
    the pyramid DAPPM, and their sum goes into the head.

    Args:
        width: channels of the stem, 32 in DDRNet-23-slim and 64 in DDRNet-23.
        head_width: of the heads' 3x3 convolutions, 64 there and 128.
        auxiliary: besides "logits" also "seghead_extra", a head on the fine branch after the
            first exchange, published with a weight of 0.4 in the loss (Section III-E).
    """
    check_widths(width=width, head_width=head_width)
    x = trunk(x, width)

    low = basic_layer(x, 4 * width, 2, stride=2, name="layer3")
    high = basic_layer(x, 2 * width, 2, name="layer3_")
    low, high = _exchange(low, high, 3)
    exchanged = high
    low = basic_layer(relu(low, "down3.relu"), 8 * width, 2, stride=2, name="layer4")
    high = basic_layer(relu(high, "compression3.relu"), 2 * width, 2, name="layer4_")
    low, high = _exchange(low, high, 4)
    low = bottleneck(relu(low, "down4.relu"), 8 * width, stride=2, name="layer5.0")
    high = bottleneck(relu(high, "compression4.relu"), 2 * width, name="layer5_.0")
    x = upsample(_dappm(low, high.shape[-1]), high, "spp")
    x = kl.Add(name="fused")([x, high])
    logits = segmentation_head(x, head_width, num_classes, name="final_layer")
    if not auxiliary:
        return logits
    extra = segmentation_head(exchanged, head_width, num_classes, name="seghead_extra")
    return {"logits": logits, "seghead_extra": extra}


def _exchange(low: KerasTensor, high: KerasTensor, stage: int) -> tuple[KerasTensor, KerasTensor]:
    """Each branch with the features that the other has had before (Section III-B)."""
    name, first = f"down{stage}", 0
    down = relu(high, f"layer{stage}_.relu")
    if stage == 4:
        # From 1/8 to 1/32 in two steps.
        down = relu(conv_bn(down, low.shape[-1] // 2, 3, strides=2, name=name), f"{name}.2")
        first = 3
    down = conv_bn(down, low.shape[-1], 3, strides=2, first=first, name=name)
    name = f"compression{stage}"
    up = conv_bn(relu(low, f"layer{stage}.relu"), high.shape[-1], 1, name=name)
    return (
        kl.Add(name=f"down{stage}.sum")([low, down]),
        kl.Add(name=f"{name}.sum")([high, upsample(up, high, name)]),
    )


def _dappm(x: KerasTensor, filters: int) -> KerasTensor:
    """Deep aggregation pyramid pooling (Section III-C): each scale is added to the one before."""
    first, *pooled = pyramid_scales(x, _PYRAMID, "spp")
    features = [first]
    for i, scale in enumerate(pooled, 1):
        name = f"spp.process{i}"
        y = kl.Add(name=f"{name}.sum")([upsample(scale, first, f"spp.scale{i}"), features[-1]])
        features.append(bn_relu_conv(y, _PYRAMID, 3, names=(f"{name}.0", f"{name}.2")))
    return pyramid_end(x, features, filters, "spp")


_DDRNET = Variant(
    builder=ddrnet,
    normalization=IMAGENET,
    # As the authors' ImageNet network has them.
    backbone=("conv1.", "layer", "compression", "down"),
    classifier=("final_layer.conv2", "seghead_extra.conv2"),
    # The head of the training, and what else the ImageNet network has.
    unused=("seghead_extra.", "down5.", "last_layer.", "linear."),
    source="arXiv:2101.06085; github.com/ydhongHIT/DDRNet",
)

VARIANTS = {
    "ddrnet_23_slim": _DDRNET.replace(
        parameters=5_695_987,
        multiply_adds={(1024, 2048): 36.28e9, (720, 960): 12.01e9},
        mean_iou="77.8 Cityscapes val; 77.4 Cityscapes test",
    ),
}
