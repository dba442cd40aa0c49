"""Weights in half the bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_HALF = np.finfo(np.float16)


def with_half_kernels(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Float32 tensors, with the kernels in float16 where that keeps their precision.

    A float16 is within 2^-11 of a weight of 2^-14 to 65504, relatively, and within 2^-25 of a
    smaller one. A kernel stays float32 if its largest weight is outside that range; in the others
    no weight is off by more than 2^-11 of the largest. What has one dimension stays float32:
    biases, slopes, and BatchNorm's scales and statistics. There are few of them, and variances
    may be of any size (CGNet's reach 85,080).

    Args:
        tensors: by name.
    """
    return {
        name: tensor.astype(np.float16) if tensor.ndim > 1 and _fits(tensor) else tensor
        for name, tensor in tensors.items()
    }


def _fits(kernel: np.ndarray) -> bool:
    """Whether the largest weight is a normal number of float16."""
    return bool(_HALF.smallest_normal <= np.abs(kernel).max() <= _HALF.max)
