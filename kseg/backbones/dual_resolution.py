"""Blocks of networks with branches at several resolutions: DDRNet and PIDNet.

arXiv:2101.06085 (Hong et al.) and arXiv:2206.02066 (Xu et al., CVPR 2023). The authors' code
of both has the same blocks under the same names, which the layers have here.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.layers import PaddedAveragePooling, Resize, batch_norm, conv, subsample


def trunk(x: KerasTensor, width: int) -> KerasTensor:
    """What the branches have in common: stride 8, ``2 * width`` channels.

    Two 3x3 convolutions with biases, BatchNorm and ReLU, and two layers of basic blocks.
    """
    for i in (0, 3):
        x = conv(x, width, 3, strides=2, use_bias=True, name=f"conv1.{i}")
        x = relu(bn(x, f"conv1.{i + 1}"), f"conv1.{i + 2}")
    x = relu(basic_layer(x, width, 2, name="layer1"), "layer1.relu")
    return relu(basic_layer(x, 2 * width, 2, stride=2, name="layer2"), "layer2.relu")


def check_widths(**widths: int) -> None:
    """Raises ValueError for an option that counts channels and is below 1."""
    for name, value in widths.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def basic_layer(
    x: KerasTensor, filters: int, count: int, *, stride: int = 1, name: str
) -> KerasTensor:
    """``count`` basic blocks, at least two. The last has no ReLU: what reads it has one."""
    for i in range(count):
        first, last = i == 0, i == count - 1
        block = f"{name}.{i}"
        x = basic_block(x, filters, stride=stride if first else 1, activation=not last, name=block)
    return x


def basic_block(
    x: KerasTensor, filters: int, *, stride: int = 1, activation: bool = False, name: str
) -> KerasTensor:
    """Two 3x3 convolutions and the sum with their input."""
    shortcut = _shortcut(x, filters, stride, name)
    x = conv(x, filters, 3, strides=stride, name=f"{name}.conv1")
    x = relu(bn(x, f"{name}.bn1"), f"{name}.relu1")
    x = bn(conv(x, filters, 3, name=f"{name}.conv2"), f"{name}.bn2")
    x = kl.Add(name=f"{name}.sum")([x, shortcut])
    return relu(x, f"{name}.relu") if activation else x


def bottleneck(x: KerasTensor, filters: int, *, stride: int = 1, name: str) -> KerasTensor:
    """1x1, 3x3 and 1x1 convolutions to twice ``filters``, summed with their input; no last ReLU."""
    shortcut = _shortcut(x, 2 * filters, stride, name)
    x = relu(bn(conv(x, filters, 1, name=f"{name}.conv1"), f"{name}.bn1"), f"{name}.relu1")
    x = conv(x, filters, 3, strides=stride, name=f"{name}.conv2")
    x = relu(bn(x, f"{name}.bn2"), f"{name}.relu2")
    x = bn(conv(x, 2 * filters, 1, name=f"{name}.conv3"), f"{name}.bn3")
    return kl.Add(name=f"{name}.sum")([x, shortcut])


def _shortcut(x: KerasTensor, filters: int, stride: int, name: str) -> KerasTensor:
    """The input, or its 1x1 convolution where the block changes width or size."""
    if stride == 1 and x.shape[-1] == filters:
        return x
    if stride == 2:
        x = subsample(x, f"{name}.downsample")
    return conv_bn(x, filters, 1, name=f"{name}.downsample")


def pyramid_scales(x: KerasTensor, filters: int, name: str) -> list[KerasTensor]:
    """What DAPPM and PAPPM begin with: the features, and their poolings at four scales.

    Each is pooling, BatchNorm, ReLU and a 1x1 convolution, in this order. The first is at the
    size of ``x``, without a pooling; three follow with windows of 5, 9 and 17 pixels at strides
    2, 4 and 8; the last is the mean, at 1x1.
    """
    scales = [bn_relu_conv(x, filters, 1, names=(f"{name}.scale0.0", f"{name}.scale0.2"))]
    for i in range(1, 5):
        scale = f"{name}.scale{i}"
        if i < 4:
            pool = PaddedAveragePooling(2**i, 2 ** (i + 1) + 1, name=f"{scale}.0")
        else:
            pool = kl.GlobalAveragePooling2D(keepdims=True, name=f"{scale}.0")
        scales.append(bn_relu_conv(pool(x), filters, 1, names=(f"{scale}.1", f"{scale}.3")))
    return scales


def pyramid_end(x: KerasTensor, scales: list[KerasTensor], filters: int, name: str) -> KerasTensor:
    """What DAPPM and PAPPM end with: the scales in one, summed with a 1x1 convolution of ``x``."""
    y = kl.Concatenate(name=f"{name}.concat")(scales)
    y = bn_relu_conv(y, filters, 1, names=(f"{name}.compression.0", f"{name}.compression.2"))
    shortcut = bn_relu_conv(x, filters, 1, names=(f"{name}.shortcut.0", f"{name}.shortcut.2"))
    return kl.Add(name=f"{name}.sum")([y, shortcut])


def segmentation_head(x: KerasTensor, filters: int, num_classes: int, *, name: str) -> KerasTensor:
    """BatchNorm, ReLU and a 3x3 convolution, BatchNorm, ReLU and a 1x1 one with bias."""
    x = bn_relu_conv(x, filters, 3, names=(f"{name}.bn1", f"{name}.conv1"))
    x = relu(bn(x, f"{name}.bn2"), f"{name}.relu2")
    return conv(x, num_classes, 1, use_bias=True, name=f"{name}.conv2")


def bn_relu_conv(
    x: KerasTensor, filters: int, kernel_size: int, *, names: tuple[str, str]
) -> KerasTensor:
    """BatchNorm and convolution by these names, and ReLU between them."""
    x = relu(bn(x, names[0]), f"{names[0]}.relu")
    return conv(x, filters, kernel_size, name=names[1])


def conv_bn(
    x: KerasTensor, filters: int, kernel_size: int, *, strides: int = 1, first: int = 0, name: str
) -> KerasTensor:
    """``name.0`` and ``name.1``, or from another number on."""
    x = conv(x, filters, kernel_size, strides=strides, name=f"{name}.{first}")
    return bn(x, f"{name}.{first + 1}")


def upsample(x: KerasTensor, like: KerasTensor, name: str) -> KerasTensor:
    """``x`` at the size of ``like``. The authors' code computes that size as a floor of a fraction
    of the image's, which is another one where the stride does not divide it."""
    return Resize(name=f"{name}.resize")(x, like)


def bn(x: KerasTensor, name: str) -> KerasTensor:
    """BatchNorm with PyTorch's epsilon."""
    return batch_norm(x, epsilon=1e-5, name=name)


def relu(x: KerasTensor, name: str) -> KerasTensor:
    """ReLU by this name."""
    return kl.ReLU(name=name)(x)
