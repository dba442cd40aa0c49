"""Weights that a file cannot hold: those that are no numbers, and what half precision loses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import keras
import numpy as np

from kseg.errors import KsegError, KsegWarning
from kseg.model import leaf_layers
from kseg.tflite.flatbuffer import Flatbuffer, constants

_HALF = np.finfo(np.float16)
# Share of a kernel, by its norm, that half precision may lose without a word: its rounding
# alone is below 2^-11.
_LOSS = 0.01


def check_finite(graph: keras.Model, name: str) -> None:
    """Raises KsegError where a weight is infinite or no number, or makes a BatchNorm so.

    Args:
        graph: any model.
        name: of it, for the message.
    """
    for layer in leaf_layers(graph):
        finite = all(np.isfinite(weight).all() for weight in layer.get_weights())
        if finite and isinstance(layer, keras.layers.BatchNormalization):
            finite = bool((np.asarray(layer.moving_variance) + layer.epsilon > 0).all())
        if not finite:
            raise KsegError(
                f"{name}: the weights of layer {layer.name} are not finite; take an earlier "
                "checkpoint, or train again at a lower learning rate"
            )


def check_half(
    half: Flatbuffer, exact: Callable[[], Flatbuffer], graph: keras.Model, name: str
) -> None:
    """Looks whether the weights survive half precision.

    Args:
        half: a graph's .tflite model with weights in half precision.
        exact: makes the same in float32; called only if there is a doubt.
        graph: whose layers are named.
        name: of the model, for the message.

    Raises:
        KsegError: a weight beyond the largest number of half precision, 65504.

    Warns:
        KsegWarning: a layer of which the numbers are too small for it.
    """
    if not any(map(_is_doubtful, constants(half.content, np.float16).values())):
        return
    lost = []
    for tensor, values in constants(exact().content, np.float32).items():
        largest = float(np.abs(values).max(initial=0))
        if largest > _HALF.max:
            raise KsegError(
                f"{name}: the largest weight of layer {_layer(tensor, graph)} is {largest:.4g}, "
                f"beyond half precision's {_HALF.max:.0f}; use precision fp32, w8 or int8"
            )
        change = np.linalg.norm(values - values.astype(np.float16).astype(np.float32))
        if values.ndim > 1 and change > _LOSS * np.linalg.norm(values):
            lost.append(f"{_layer(tensor, graph)} (largest weight {largest:.2g})")
    if lost:
        warnings.warn(
            f"{name}: half precision loses small weights of {', '.join(lost[:5])}"
            f"{' and others' if len(lost) > 5 else ''}; compare the file with fp32",
            KsegWarning,
            stacklevel=2,
        )


def _is_doubtful(values: np.ndarray) -> bool:
    """Whether half precision's values are at its end, or a kernel's all below its normal ones."""
    largest = np.abs(values).max(initial=0)
    return bool(largest >= _HALF.max or (values.ndim > 1 and largest < _HALF.smallest_normal))


def _layer(tensor: str, graph: keras.Model) -> str:
    """The layer whose constant a tensor is, by its name; else the tensor's own name."""
    known = {layer.name for layer in graph.layers}
    for scope in re.split("[/;]", tensor):
        for name in (re.sub(r"_\d+$", "", scope), scope):
            if name in known:
                return name
    return tensor
