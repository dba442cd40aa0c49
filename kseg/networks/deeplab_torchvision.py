"""DeepLabv3, arXiv:1706.05587 (Chen et al.), as torchvision has it.

Layer names are torchvision's. Beside the authors' (``deeplab.py``) its pyramid has plain
convolutions, joins the pooled features last, and a 3x3 convolution stands behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.layers import Resize, batch_norm, conv
from kseg.networks import Head

RATES = (12, 24, 36)
FILTERS = 256


def deeplab_torchvision(
    features: Features,
    num_classes: int,
    *,
    output_stride: int = 8,
    atrous_rates: Sequence[int] | None = None,
    auxiliary: bool = False,
) -> KerasTensor | dict[str, KerasTensor]:
    """DeepLabv3 (Figure 5): features of (N, H, W, 3) to logits at the output stride.

    Args:
        output_stride: input pixels to one of the features', 8 as published, 16 or 32.
        atrous_rates: dilations of the pyramid's 3x3 branches; None for (12, 24, 36) x 8 /
            output_stride.
        auxiliary: besides "logits" also "aux", a head on the features at stride 16 (ResNet's
            fourth stage), published with a weight of 0.5 in the loss.
    """
    if atrous_rates is None:
        atrous_rates = [rate * 8 // output_stride for rate in RATES]
    if min(atrous_rates, default=1) < 1:
        raise ValueError(f"atrous_rates is {atrous_rates}; they must be positive")
    x = _pyramid(features.output, atrous_rates)
    x = conv(x, FILTERS, 3, name="classifier.1")
    x = _bn_relu(x, "classifier", 2)
    logits = conv(x, num_classes, 1, use_bias=True, name="classifier.4")
    if not auxiliary:
        return logits
    x = features.at(16)
    x = conv(x, x.shape[-1] // 4, 3, name="aux_classifier.0")
    x = _bn_relu(x, "aux_classifier", 1)
    x = kl.Dropout(0.1, name="aux_classifier.3")(x)
    return {
        "logits": logits,
        "aux": conv(x, num_classes, 1, use_bias=True, name="aux_classifier.4"),
    }


def _pyramid(x: KerasTensor, rates: Sequence[int]) -> KerasTensor:
    """Atrous spatial pyramid pooling (Section 3.3)."""
    name = "classifier.0.convs"
    branches = [_bn_relu(conv(x, FILTERS, 1, name=f"{name}.0.0"), f"{name}.0", 1)]
    for i, rate in enumerate(rates, 1):
        branch = conv(x, FILTERS, 3, dilation=rate, name=f"{name}.{i}.0")
        branches.append(_bn_relu(branch, f"{name}.{i}", 1))
    name = f"{name}.{len(rates) + 1}"
    pooled = kl.GlobalAveragePooling2D(keepdims=True, name=f"{name}.0")(x)
    pooled = _bn_relu(conv(pooled, FILTERS, 1, name=f"{name}.1"), name, 2)
    branches.append(Resize(name=f"{name}.resize")(pooled, x))
    x = kl.Concatenate(name="classifier.0.concat")(branches)
    name = "classifier.0.project"
    x = _bn_relu(conv(x, FILTERS, 1, name=f"{name}.0"), name, 1)
    return kl.Dropout(0.5, name=f"{name}.3")(x)


def _bn_relu(x: KerasTensor, name: str, first: int) -> KerasTensor:
    """``name.first`` and the one behind: PyTorch numbers the members of a sequence."""
    x = batch_norm(x, epsilon=1e-5, name=f"{name}.{first}")
    return kl.ReLU(name=f"{name}.{first + 1}")(x)


_DEEPLAB = Head(
    deeplab_torchvision,
    # As published.
    options={"output_stride": 8},
    classifier=("classifier.4", "aux_classifier.4"),
    # The head of the training.
    unused=("aux_classifier.",),
    source="arXiv:1706.05587, as in torchvision",
)

VARIANTS = {
    "deeplab_v3_resnet50": _DEEPLAB.on(
        ENCODERS["ResNet50PyTorch"],
        num_classes=21,
        dataset="voc",
        parameters=39_638_869,
        multiply_adds={(520, 520): 168.73e9, (513, 1025): 334.75e9},
        mean_iou="66.4 COCO val2017 with VOC's classes",
        source=_DEEPLAB.source,
    ),
}
