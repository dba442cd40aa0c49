"""VGG16 (arXiv:1409.1556, Table 1, column D) without its fully connected layers.

Layer names are those of the Caffe model.
"""

from __future__ import annotations

import functools

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.card import VGG_CAFFE
from kseg.layers import atrous_units, conv, max_pool

# Channels and convolutions of the stages; a max pooling of stride 2 ends each.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(
    x: KerasTensor, *, pool_size: int = 2, output_stride: int = 32, keep_poolings: bool = True
) -> Features:
    """(N, H, W, 3) to 512 channels at the output stride; sizes are rounded up.

    ``low_level``, ``mid_level`` and ``high_level`` are what the second, third and fourth
    pooling give, of 128, 256 and 512 channels; ``stem`` is that of the first, 64.

    Args:
        pool_size: 2, or 3 as in DeepLab, where windows are centred on a pixel.
        output_stride: 8, 16 or 32. A pooling beyond it has stride 1, and convolutions
            behind it are dilated; the poolings are not, as published (arXiv:1412.7062,
            Section 3.1).
        keep_poolings: whether a pooling of stride 1 stays. Dilation8 has none
            (arXiv:1511.07122, Section 4).
    """
    pooled = []
    units = atrous_units([2] * len(STAGES), output_stride)
    dilation = 1
    for number, ((channels, convs), unit) in enumerate(zip(STAGES, units, strict=True), 1):
        for i in range(1, convs + 1):
            x = conv_relu(x, channels, 3, dilation=dilation, name=f"conv{number}_{i}")
        stride, pool_dilation = unit
        if stride > 1 or keep_poolings:
            x = _pool(x, pool_size, stride, f"pool{number}")
        pooled.append(x)
        dilation = pool_dilation * 2 // stride
    stem, low, mid, high, _ = pooled
    return Features(x, low, mid, high, stem=stem)


def conv_relu(
    x: KerasTensor, filters: int, kernel_size: int, *, dilation: int = 1, name: str
) -> KerasTensor:
    """``name``, a convolution with bias, and ``name.relu``."""
    x = conv(x, filters, kernel_size, dilation=dilation, use_bias=True, name=name)
    return kl.ReLU(name=f"{name}.relu")(x)


def _pool(x: KerasTensor, pool_size: int, stride: int, name: str) -> KerasTensor:
    if pool_size == 3 and stride == 2:
        return max_pool(x, name)
    return kl.MaxPooling2D(pool_size, strides=stride, padding="same", name=name)(x)


ENCODERS = {
    "VGG16Caffe": Encoder(
        functools.partial(vgg16, pool_size=2, keep_poolings=True),
        VGG_CAFFE,
        prefixes=tuple(f"conv{number}_" for number in range(1, len(STAGES) + 1)),
        parameters=14_714_688,
        channels={2: 64, 4: 128, 8: 256, 16: 512, 32: 512},
        unused=("fc6.", "fc7.", "fc8."),
        imagenet="a file in the Caffe model's names",
        source="arXiv:1409.1556, as in FCN",
    )
}
