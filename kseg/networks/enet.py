"""ENet, arXiv:1606.02147 (Paszke et al., 2016).

Layer names are those of github.com/davidtvs/PyTorch-ENet, whose sizes it follows too.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.card import UNIT_RANGE
from kseg.layers import (
    MatchSize,
    MaxUnpooling,
    PadChannels,
    SharedPReLU,
    batch_norm,
    conv,
    max_pool,
    transposed_conv,
)
from kseg.networks import Variant

_EPSILON = 1e-5

# Kind, kernel size and dilation of the bottlenecks of stages 2 and 3 (Table 1).
_STAGE = (
    ("regular", 3, 1),
    ("dilated", 3, 2),
    ("asymmetric", 5, 1),
    ("dilated", 3, 4),
    ("regular", 3, 1),
    ("dilated", 3, 8),
    ("asymmetric", 5, 1),
    ("dilated", 3, 16),
)


def enet(
    x: KerasTensor, num_classes: int, *, dropout: bool = True, upsampling: str = "transposed"
) -> KerasTensor:
    """ENet (Table 1): (N, H, W, 3) to logits (N, H, W, num_classes).

    At odd sizes the poolings round down and the decoder returns to the sizes of the
    encoder, as PyTorch does with ``output_size``: the row and column that pooling left
    out get zeros.

    Args:
        dropout: the reference's spatial dropout in training, 0.01 in stage 1 and 0.1
            behind it.
        upsampling: "transposed", the published transposed convolutions, or "resize", bilinear
            resizing and a 3x3 convolution in their place.
    """
    early, late = (0.01, 0.1) if dropout else (0.0, 0.0)
    image = x

    x = stage1 = _initial_block(image)
    x = _down(x, 64, early, "downsample1_0")
    for i in range(1, 5):
        x = _bottleneck(x, early, f"regular1_{i}")

    stage2 = x
    x = _down(x, 128, late, "downsample2_0")
    for i, (kind, kernel_size, dilation) in enumerate(_STAGE, start=1):
        x = _bottleneck(x, late, f"{kind}2_{i}", kernel_size, dilation)
    for i, (kind, kernel_size, dilation) in enumerate(_STAGE):
        x = _bottleneck(x, late, f"{kind}3_{i}", kernel_size, dilation)

    x = _up(x, stage2, late, upsampling, "upsample4_0")
    for i in (1, 2):
        x = _bottleneck(x, late, f"regular4_{i}", relu=True)
    x = _up(x, stage1, late, upsampling, "upsample5_0")
    x = _bottleneck(x, late, "regular5_1", relu=True)
    return transposed_conv(x, num_classes, 3, image, upsampling=upsampling, name="transposed_conv")


def _initial_block(x: KerasTensor) -> KerasTensor:
    name = "initial_block"
    main = conv(x, 13, 3, strides=2, name=f"{name}.main_branch")
    x = kl.Concatenate(name=f"{name}.concat")([main, max_pool(x, f"{name}.ext_branch")])
    x = batch_norm(x, epsilon=_EPSILON, name=f"{name}.batch_norm")
    return _activation(x, False, f"{name}.out_activation")


def _bottleneck(
    x: KerasTensor,
    rate: float,
    name: str,
    kernel_size: int = 3,
    dilation: int = 1,
    relu: bool = False,
) -> KerasTensor:
    """The regular, dilated and asymmetric bottleneck (Figure 2b)."""
    channels = x.shape[-1]
    y = _conv_bn_act(x, channels // 4, 1, relu=relu, name=f"{name}.ext_conv1")
    # The asymmetric one has a kernel of 5 in two steps.
    steps: list[int | tuple[int, int]] = [kernel_size]
    if kernel_size != 3:
        steps = [(kernel_size, 1), (1, kernel_size)]
    for i, step in enumerate(steps):
        y = _conv_bn_act(
            y,
            channels // 4,
            step,
            dilation=dilation,
            relu=relu,
            name=f"{name}.ext_conv2",
            index=3 * i,
        )
    y = _conv_bn_act(y, channels, 1, relu=relu, name=f"{name}.ext_conv3")
    return _sum(x, y, rate, relu, name)


def _down(x: KerasTensor, channels: int, rate: float, name: str) -> KerasTensor:
    """(N, H, W, C) to (N, floor(H/2), floor(W/2), channels)."""
    width = x.shape[-1] // 4
    main = kl.MaxPooling2D(2, name=f"{name}.main_max1")(x)
    main = PadChannels(channels, name=f"{name}.main_pad")(main)
    y = _conv_bn_act(x, width, 2, strides=2, name=f"{name}.ext_conv1")
    y = _conv_bn_act(y, width, 3, name=f"{name}.ext_conv2")
    y = _conv_bn_act(y, channels, 1, name=f"{name}.ext_conv3")
    return _sum(main, y, rate, False, name)


def _up(
    x: KerasTensor, pooled: KerasTensor, rate: float, upsampling: str, name: str
) -> KerasTensor:
    """To the shape of ``pooled``, whose maxima in the down block say where values go."""
    width, channels = x.shape[-1] // 4, pooled.shape[-1]
    main = _conv_bn(x, channels, 1, name=f"{name}.main_conv1")
    main = MaxUnpooling(name=f"{name}.main_unpool1")(main, pooled)
    main = MatchSize(name=f"{name}.main_unpool1.fit")(main, pooled)
    y = _conv_bn_act(x, width, 1, relu=True, name=f"{name}.ext_conv1")
    y = transposed_conv(y, width, 2, pooled, upsampling=upsampling, name=f"{name}.ext_tconv1")
    y = batch_norm(y, epsilon=_EPSILON, name=f"{name}.ext_tconv1_bnorm")
    # ReLU under another name: the converter would fuse it into the transposed convolution,
    # in a version of that operator that the GPU accelerator refuses.
    y = kl.LeakyReLU(0.0, name=f"{name}.ext_tconv1_activation")(y)
    y = _conv_bn(y, channels, 1, name=f"{name}.ext_conv2")
    return _sum(main, y, rate, True, name)


def _sum(main: KerasTensor, y: KerasTensor, rate: float, relu: bool, name: str) -> KerasTensor:
    if rate:
        y = kl.SpatialDropout2D(rate, name=f"{name}.ext_regul")(y)
    x = kl.Add(name=f"{name}.sum")([main, y])
    return _activation(x, relu, f"{name}.out_activation")


def _conv_bn(
    x: KerasTensor,
    filters: int,
    kernel_size: int | tuple[int, int],
    *,
    strides: int = 1,
    dilation: int = 1,
    name: str,
    index: int = 0,
) -> KerasTensor:
    """``name.index`` and the one behind: PyTorch numbers the members of a sequence."""
    x = conv(x, filters, kernel_size, strides=strides, dilation=dilation, name=f"{name}.{index}")
    return batch_norm(x, epsilon=_EPSILON, name=f"{name}.{index + 1}")


def _conv_bn_act(
    x: KerasTensor,
    filters: int,
    kernel_size: int | tuple[int, int],
    *,
    relu: bool = False,
    name: str,
    index: int = 0,
    **kwargs: int,
) -> KerasTensor:
    x = _conv_bn(x, filters, kernel_size, name=name, index=index, **kwargs)
    return _activation(x, relu, f"{name}.{index + 2}")


def _activation(x: KerasTensor, relu: bool, name: str) -> KerasTensor:
    """PReLU with one slope in the encoder, ReLU in the decoder."""
    return kl.ReLU(name=name)(x) if relu else SharedPReLU(name=name)(x)


VARIANTS = {
    "enet": Variant(
        builder=enet,
        normalization=UNIT_RANGE,
        backbone=(
            "initial_block.",
            "downsample",
            "regular1_",
            "regular2_",
            "regular3_",
            "dilated",
            "asymmetric",
        ),
        classifier=("transposed_conv",),
        least_size=7,  # three strides of 2, the last two of them rounded down
        parameters=351_660,
        multiply_adds={(512, 1024): 4.04e9, (360, 640): 1.77e9},
        mean_iou="58.3 Cityscapes test",
        source="arXiv:1606.02147; github.com/davidtvs/PyTorch-ENet",
    ),
}
