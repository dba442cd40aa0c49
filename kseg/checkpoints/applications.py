"""MobileNetV2 under the names of TF-Slim, of keras.applications and of its ImageNet .tflite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kseg.errors import KsegError

_MOBILENET_V2 = re.compile(
    r"(?:(?P<stem_norm>bn_)?Conv1"
    r"|(?:expanded_conv|block(?P<block>_\d+))_(?P<part>expand|depthwise|project)(?P<norm>_BN)?)"
    r"/(?P<variable>\w+)"
)
# A .weights.h5 file numbers a layer's variables, an older .h5 file names them.
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_KERNELS = ("0", "kernel", "depthwise_kernel")
# Of the file that TensorFlow's Model Garden made: blocks count from 1, and the first and last
# convolutions are numbered among them.
_GARDEN_SCOPES = (
    (re.compile(r"MobileNetV2/Conv2d_0_0/"), "MobilenetV2/Conv/"),
    (re.compile(r"MobileNetV2/Conv2d_18_1/"), "MobilenetV2/Conv_1/"),
    (re.compile(r"MobileNetV2/top/Conv2d_1x1_output/"), "MobilenetV2/Logits/"),
    (re.compile(r"MobileNetV2/expanded_conv_1/"), "MobilenetV2/expanded_conv/"),
)
_GARDEN_BLOCK = re.compile(r"MobileNetV2/expanded_conv_(\d+)/")
# TF-Slim's scopes in keras.applications.
_KERAS_SCOPES = (
    (re.compile(r"MobilenetV2/Conv/"), "encoder/Conv1/"),
    (re.compile(r"MobilenetV2/Conv_1/"), "encoder/Conv_1/"),
    (re.compile(r"MobilenetV2/expanded_conv/(\w+)/"), r"encoder/expanded_conv_\1/"),
    (re.compile(r"MobilenetV2/expanded_conv_(\d+)/(\w+)/"), r"encoder/block_\1_\2/"),
)
_RESNETS = ("conv1_conv/", "conv1_pad/", "conv2_block1_1_conv/")


def in_tf_slim_names(tensors: Mapping[str, Any], backbone: tuple[str, ...]) -> dict[str, Any]:
    """Tensors with other names of the same network under TF-Slim's; others stay as they are.

    Args:
        tensors: from ``read``.
        backbone: the prefixes of the row; only MobileNetV2 is the same network in all.

    Raises:
        KsegError: keras.applications' ResNet for TF-Slim's ResNet-101.
    """
    if backbone == ("resnet_v1_101.",) and any(name.startswith(_RESNETS) for name in tensors):
        raise KsegError(
            "keras.applications' ResNet is not DeepLab's: it has one 7x7 convolution as stem "
            "and strides in other units; take TF-Slim's resnet_v1_101_beta"
        )
    if backbone != ("MobilenetV2.",):
        return dict(tensors)
    return {_mobilenet_v2(_of_garden(name)): tensor for name, tensor in tensors.items()}


def in_keras_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """MobileNetV2's tensors with TF-Slim's names, or of its .tflite, as of the encoder of Keras."""
    renamed = {}
    for name, tensor in tensors.items():
        renamed[_replaced(_of_garden(name), _KERAS_SCOPES)] = tensor
    return renamed


def _of_garden(name: str) -> str:
    name = _replaced(name, _GARDEN_SCOPES)
    return _GARDEN_BLOCK.sub(lambda m: f"MobilenetV2/expanded_conv_{int(m[1]) - 1}/", name)


def _replaced(name: str, scopes: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """The name with the scope that it begins with replaced."""
    for pattern, scope in scopes:
        if match := pattern.match(name):
            return match.expand(scope) + name[match.end() :]
    return name


def _mobilenet_v2(name: str) -> str:
    match = _MOBILENET_V2.fullmatch(name)
    if match is None:
        return name
    scope, variable = "MobilenetV2/Conv", match["variable"]
    if match["part"]:
        scope = f"MobilenetV2/expanded_conv{match['block'] or ''}/{match['part']}"
    if match["stem_norm"] or match["norm"]:
        return f"{scope}/BatchNorm/{_NORM[int(variable)] if variable in '0123' else variable}"
    kernel = "depthwise_weights" if match["part"] == "depthwise" else "weights"
    return f"{scope}/{kernel if variable in _KERNELS else variable}"
