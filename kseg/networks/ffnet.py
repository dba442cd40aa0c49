"""FFNet, arXiv:2206.08236 (Mehta et al., CVPR workshop 2022), its networks for phones.

Layer names are those of the authors' PyTorch code, github.com/Qualcomm-AI-research/FFNet.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.card import IMAGENET
from kseg.layers import NearestResize, batch_norm, conv, subsample
from kseg.networks import Variant

_WIDTHS = (64, 128, 192, 320)
_ADAPTED = (64, 128, 128, 256)


def ffnet(
    x: KerasTensor, num_classes: int, *, blocks: tuple[int, int, int, int], first_stride: int = 2
) -> KerasTensor:
    """FFNet with stem, up-head and head B (Figure 2): (N, H, W, 3) to logits at 1/8.

    The features of four layers, at 1/8 to 1/64, are added from the coarsest on, and joined at
    1/8; all of their resizing is to the nearest.

    Args:
        blocks: of the four layers, two convolutions each.
        first_stride: of the first layer. 2 is the published "dBBB" for images of 1024x2048; 1
            the published "BBB" for those of 512x1024: features at 1/4 to 1/32, logits at 1/4.
    """
    if len(blocks) != 4 or min(blocks) < 1:
        raise ValueError(f"blocks is {blocks}; it must be four numbers of at least 1")
    if first_stride not in (1, 2):
        raise ValueError(f"first_stride is {first_stride}, not 1 or 2")
    name = "backbone_model"
    for i, filters in enumerate((32, 64)):
        names = f"{name}.conv{i}", f"{name}.bn{i}"
        x = _conv_bn_relu(x, filters, 3, strides=2, names=names)
    features = []
    for layer, (filters, count) in enumerate(zip(_WIDTHS, blocks, strict=True), 1):
        stride = first_stride if layer == 1 else 2
        for i in range(count):
            x = _basic_block(x, filters, stride if i == 0 else 1, f"{name}.layer{layer}.{i}")
        features.append(x)

    joined = _up_head(features)
    name = "head.layers.3.last_layer"
    x = _conv_bn_relu(joined, 256, 3, use_bias=True, names=(f"{name}.0", f"{name}.1"))
    return conv(x, num_classes, 3, use_bias=True, name=f"{name}.3")


def _basic_block(x: KerasTensor, filters: int, stride: int, name: str) -> KerasTensor:
    """Two 3x3 convolutions and the sum with their input."""
    shortcut = x
    x = _conv_bn_relu(x, filters, 3, strides=stride, names=(f"{name}.conv1", f"{name}.bn1"))
    x = conv(x, filters, 3, name=f"{name}.conv2")
    x = _bn(x, f"{name}.bn2")
    if stride > 1:
        shortcut = subsample(shortcut, f"{name}.shortcut")
    if stride > 1 or shortcut.shape[-1] != filters:
        shortcut = conv(shortcut, filters, 1, name=f"{name}.downsample.0")
        shortcut = _bn(shortcut, f"{name}.downsample.1")
    x = kl.Add(name=f"{name}.sum")([shortcut, x])
    return kl.ReLU(name=f"{name}.relu")(x)


def _up_head(features: list[KerasTensor]) -> KerasTensor:
    """The features of the four layers, finest first, in one tensor of the finest's size."""
    adapted = []
    for i, (x, filters) in enumerate(zip(features, _ADAPTED, strict=True)):
        name = f"head.layers.0.adapter_conv.{i}.layers"
        adapted.append(_conv_bn_relu(x, filters, 1, names=(f"{name}.0", f"{name}.1")))

    def fam(x: KerasTensor, filters: int, kernel_size: int, part: str) -> KerasTensor:
        name = f"head.layers.1.fam_{part}.layers"
        return _conv_bn_relu(x, filters, kernel_size, names=(f"{name}.0", f"{name}.1"))

    # The numbers in the names are the strides where the first layer has none.
    finest, *finer, x = adapted
    smooth = []
    steps = ((32, 32, 128), (16, 64, 128), (8, 96, 64))
    for (part, filters, passed), like in zip(steps, (*finer[::-1], finest), strict=True):
        smooth.append(fam(x, filters, 3, f"{part}_sm"))
        x = NearestResize(name=f"fam_{part}.resize")(fam(x, passed, 1, f"{part}_up"), like)
        x = kl.Add(name=f"fam_{part}.sum")([x, like])
    x = fam(x, 96, 3, "4")
    resized = [
        NearestResize(name=f"fam_{part}_sm.resize")(y, x)
        for (part, *_), y in zip(steps, smooth, strict=True)
    ]
    return kl.Concatenate(name="head.layers.1.concat")([x, *resized[::-1]])


def _conv_bn_relu(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    use_bias: bool = False,
    names: tuple[str, str],
) -> KerasTensor:
    x = conv(x, filters, kernel_size, strides=strides, use_bias=use_bias, name=names[0])
    return kl.ReLU(name=f"{names[1]}.relu")(_bn(x, names[1]))


def _bn(x: KerasTensor, name: str) -> KerasTensor:
    return batch_norm(x, epsilon=1e-5, name=name)


_FFNET = Variant(
    builder=ffnet,
    normalization=IMAGENET,
    backbone=("backbone_model.",),
    classifier=("head.layers.3.last_layer.3",),
    source="arXiv:2206.08236; github.com/Qualcomm-AI-research/FFNet",
)

VARIANTS = {
    "ffnet_40s": _FFNET.replace(
        options={"blocks": (4, 5, 6, 4)},
        parameters=13_911_283,
        multiply_adds={(1024, 2048): 62.37e9, (512, 1024): 15.59e9},
        mean_iou="79.2 Cityscapes val",
    ),
    "ffnet_78s": _FFNET.replace(
        options={"blocks": (6, 12, 12, 8)},
        parameters=27_491_059,
        multiply_adds={(1024, 2048): 96.04e9, (512, 1024): 24.01e9},
        mean_iou="81.3 Cityscapes val",
    ),
}
