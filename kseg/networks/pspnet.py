"""PSPNet, arXiv:1612.01105 (Zhao et al., CVPR 2017).

Layer names are those of the authors' PyTorch code, github.com/hszhao/semseg.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones.resnet import DEEP_STEM, RESNET_50, resnet
from kseg.card import IMAGENET
from kseg.layers import AdaptiveAveragePooling, Resize, batch_norm, conv
from kseg.networks import Variant
from kseg.networks.deeplab import check_output_stride

BINS = (1, 2, 3, 6)


def pspnet(
    x: KerasTensor,
    num_classes: int,
    *,
    output_stride: int = 8,
    bins: Sequence[int] = BINS,
    auxiliary: bool = False,
) -> KerasTensor | dict[str, KerasTensor]:
    """PSPNet on ResNet-50 (Figure 3): (N, H, W, 3) to logits at the output stride.

    Args:
        output_stride: 8, as published, 16 or 32.
        bins: sizes of the pyramid's grids (Section 3.2).
        auxiliary: besides "logits" also "aux", a head on the fourth stage's features,
            published with a weight of 0.4 in the loss (Section 3.3).
    """
    check_output_stride(output_stride)
    if min(bins, default=0) < 1:
        raise ValueError(f"bins is {bins}; they must be positive, at least one")
    features = resnet(x, RESNET_50, style=DEEP_STEM, output_stride=output_stride)
    x = _pyramid(features.output, bins)
    x = conv(x, 512, 3, name="cls.0")
    logits = _head(x, num_classes, "cls")
    if not auxiliary:
        return logits
    x = conv(features.high_level, 256, 3, name="aux.0")
    return {"logits": logits, "aux": _head(x, num_classes, "aux")}


def _pyramid(x: KerasTensor, bins: Sequence[int]) -> KerasTensor:
    """The pyramid pooling module: means over grids beside the features."""
    branches = [x]
    for i, size in enumerate(bins):
        name = f"ppm.features.{i}"
        pooled = AdaptiveAveragePooling(size, name=f"{name}.0")(x)
        pooled = conv(pooled, x.shape[-1] // len(bins), 1, name=f"{name}.1")
        pooled = _bn_relu(pooled, name, 2)
        branches.append(Resize("align_corners", name=f"{name}.resize")(pooled, x))
    return kl.Concatenate(name="ppm.concat")(branches)


def _head(x: KerasTensor, num_classes: int, name: str) -> KerasTensor:
    """What follows the first convolution of a head."""
    x = _bn_relu(x, name, 1)
    x = kl.SpatialDropout2D(0.1, name=f"{name}.3")(x)
    return conv(x, num_classes, 1, use_bias=True, name=f"{name}.4")


def _bn_relu(x: KerasTensor, name: str, first: int) -> KerasTensor:
    """``name.first`` and the one behind: PyTorch numbers the members of a sequence."""
    x = batch_norm(x, epsilon=1e-5, name=f"{name}.{first}")
    return kl.ReLU(name=f"{name}.{first + 1}")(x)


VARIANTS = {
    "pspnet_resnet50": Variant(
        builder=pspnet,
        normalization=IMAGENET,
        resize="align_corners",
        backbone=("layer",),
        classifier=("cls.4", "aux.4"),
        features="block4.unit_3.relu",
        # The head of the training.
        unused=("aux.",),
        parameters=46_715_347,
        multiply_adds={(713, 713): 363.78e9},
        mean_iou="77.30 Cityscapes val",
        source="arXiv:1612.01105; github.com/hszhao/semseg",
    ),
}
