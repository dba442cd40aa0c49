"""keras.applications' weights for networks that are the same under TF-Slim's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
_RESNETS = ("conv1_conv/", "conv1_pad/", "conv2_block1_1_conv/")


def in_tf_slim_names(tensors: Mapping[str, Any], backbone: tuple[str, ...]) -> dict[str, Any]:
    """Tensors with keras.applications' names under TF-Slim's; others stay as they are.

    Args:
        tensors: from ``read``.
        backbone: the prefixes of the row; only MobileNetV2 is the same network in both.

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
    return {_mobilenet_v2(name): tensor for name, tensor in tensors.items()}


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
