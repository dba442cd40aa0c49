"""Aligned Xception, arXiv:1802.02611 Section 3.3 (Chen et al., ECCV 2018).

Layer names are those of the TF-Slim code. Against Chollet's Xception it is deeper, every
max pooling is a strided separable convolution, and BatchNorm follows every depthwise
convolution too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features, grid_of_three
from kseg.card import SYMMETRIC_RANGE
from kseg.layers import atrous_units, slim_conv, slim_separable_conv, subsample

_conv = functools.partial(slim_conv, epsilon=1e-3, momentum=0.9997)
_separable_conv = functools.partial(slim_separable_conv, epsilon=1e-3, momentum=0.9997)

# By depth: (filters, stride) of the entry flow's blocks, and units of the middle flow.
_DEPTHS: dict[int, tuple[tuple[tuple[int, int], ...], int]] = {
    41: (((128, 2), (256, 2), (728, 2)), 8),
    65: (((128, 2), (256, 2), (728, 2)), 16),
    71: (((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 16),
}


def xception(
    x: KerasTensor,
    *,
    depth: int = 65,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
) -> Features:
    """(N, H, W, 3) to 2048 channels at the output stride.

    The low, middle and high levels are the second pointwise convolution, after BatchNorm and
    before any ReLU, of the last units that start at stride 4, 8 and 16 and end at the next;
    ``stem`` is the second convolution, 64 channels at stride 2.

    Args:
        depth: 41, 65 or 71.
        output_stride: 8, 16 or 32.
        multi_grid: dilations of the last unit's three convolutions, times its own; None for
            the published 1, 1, 1.
    """
    multi_grid = grid_of_three(multi_grid, (1, 1, 1))
    entry, middle = _DEPTHS[depth]
    # Name, filters of the three convolutions, stride, kind of the shortcut.
    units = [
        (f"entry_flow.block{i}.unit_1", (filters,) * 3, stride, "conv")
        for i, (filters, stride) in enumerate(entry, 1)
    ]
    units += [(f"middle_flow.block1.unit_{i}", (728,) * 3, 1, "sum") for i in range(1, middle + 1)]
    units += [
        ("exit_flow.block1.unit_1", (728, 1024, 1024), 2, "conv"),
        ("exit_flow.block2.unit_1", (1536, 1536, 2048), 1, "none"),
    ]
    strides = atrous_units([2, *(stride for _, _, stride, _ in units)], output_stride)[1:]

    prefix = f"xception_{depth}"
    x = _conv(x, 32, 3, strides=2, name=f"{prefix}.entry_flow.conv1_1")
    x = stem = _conv(x, 64, 3, name=f"{prefix}.entry_flow.conv1_2")
    levels = []
    for (name, filters, _, shortcut), (stride, dilation) in zip(units, strides, strict=True):
        x, second = _unit(
            x,
            filters,
            shortcut=shortcut,
            stride=stride,
            dilations=[dilation * (m if shortcut == "none" else 1) for m in multi_grid],
            name=f"{prefix}.{name}.xception_module",
        )
        levels.append(second)
    # The units whose own stride takes the features from 4 to 8 and from 8 to 16.
    low, mid = [i for i, (_, stride) in enumerate(entry) if stride == 2][1:]
    return Features(x, levels[low], levels[mid], high_level=levels[-2], stem=stem)


def _unit(
    x: KerasTensor,
    filters: tuple[int, int, int],
    *,
    shortcut: str,
    stride: int,
    dilations: list[int],
    name: str,
) -> tuple[KerasTensor, KerasTensor]:
    """Three separable convolutions and a shortcut; also gives the second one's output."""
    inputs, outputs = x, []
    # The last unit has its ReLU behind its convolutions, all others before.
    activation_behind = shortcut == "none"
    for i, (channels, dilation) in enumerate(zip(filters, dilations, strict=True), 1):
        conv_name = f"{name}.separable_conv{i}"
        if not activation_behind:
            x = kl.ReLU(name=f"{conv_name}.relu")(x)
        x = _separable_conv(
            x,
            channels,
            strides=stride if i == 3 else 1,
            dilation=dilation,
            activation=activation_behind,
            name=conv_name,
        )
        outputs.append(x)
    if shortcut == "conv":
        if stride == 2:
            inputs = subsample(inputs, f"{name}.shortcut")
        inputs = _conv(inputs, filters[-1], 1, activation=False, name=f"{name}.shortcut")
    if shortcut != "none":
        x = kl.Add(name=f"{name}.sum")([x, inputs])
    return x, outputs[1]


def _encoder(depth: int, parameters: int) -> Encoder:
    return Encoder(
        functools.partial(xception, depth=depth),
        SYMMETRIC_RANGE,
        prefixes=(f"xception_{depth}.",),
        parameters=parameters,
        channels={2: 64, 4: 256, 8: 728, 16: 1024, 32: 2048},
        tensors="tf_slim",
        unused=(f"xception_{depth}/logits/",),
        imagenet=f"DeepLab's TF-Slim checkpoint, xception_{depth}",
        source="arXiv:1802.02611, DeepLab's in TF-Slim",
    )


ENCODERS = {
    "Xception41": _encoder(41, 24_920_560),
    "Xception65": _encoder(65, 37_867_312),
    "Xception71": _encoder(71, 40_289_736),
}
