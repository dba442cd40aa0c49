"""PSPNet, arXiv:1612.01105 (Zhao et al., CVPR 2017).

Layer names are those of the authors' PyTorch code, github.com/hszhao/semseg.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.layers import AdaptiveAveragePooling, Resize, batch_norm, conv
from kseg.networks import Head

BINS = (1, 2, 3, 6)


def pspnet(
    features: Features,
    num_classes: int,
    *,
    bins: Sequence[int] = BINS,
    filters: int = 512,
    auxiliary: bool = False,
) -> KerasTensor | dict[str, KerasTensor]:
    """PSPNet (Figure 3): features of (N, H, W, 3) to logits at the output stride.

    Args:
        bins: sizes of the pyramid's grids (Section 3.2).
        filters: channels of the convolution behind the pyramid.
        auxiliary: besides "logits" also "aux", a head on the features at stride 16 (ResNet's
            fourth stage), published with a weight of 0.4 in the loss (Section 3.3).
    """
    if min(bins, default=0) < 1:
        raise ValueError(f"bins is {bins}; they must be positive, at least one")
    if filters < 1:
        raise ValueError(f"filters is {filters}; it must be at least 1")
    x = _pyramid(features.output, bins)
    x = conv(x, filters, 3, name="cls.0")
    logits = _head(x, num_classes, "cls")
    if not auxiliary:
        return logits
    x = conv(features.at(16), 256, 3, name="aux.0")
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


_PSPNET = Head(
    pspnet,
    # As published.
    options={"output_stride": 8},
    resize="align_corners",
    classifier=("cls.4", "aux.4"),
    # The head of the training.
    unused=("aux.",),
    source="arXiv:1612.01105; github.com/hszhao/semseg",
)

VARIANTS = {
    "pspnet_resnet50": _PSPNET.on(
        ENCODERS["ResNet50C"],
        parameters=46_715_347,
        multiply_adds={(713, 713): 363.78e9},
        mean_iou="77.30 Cityscapes val",
        source=_PSPNET.source,
    ),
}

HEADS = {"pspnet": _PSPNET}
