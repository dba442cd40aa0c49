"""Resizing of numpy arrays, by the two conventions that networks and scores use."""

from __future__ import annotations

import numpy as np


def is_turned(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one of two sizes (H, W) lies and the other stands, so that resizing distorts."""
    return (size[0] - size[1]) * (other[0] - other[1]) < 0


def resize_bilinear(
    array: np.ndarray, size: tuple[int, int], convention: str = "half_pixel"
) -> np.ndarray:
    """(h, w, C) to (H, W, C) float32, bilinear without antialiasing.

    Args:
        array: image or logits.
        size: (H, W).
        convention: "half_pixel" or "align_corners".
    """
    array = np.asarray(array, np.float32)
    for axis in (0, 1):
        if array.shape[axis] != size[axis]:
            low, high, weight = _taps(array.shape[axis], size[axis], convention)
            weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            first = array.take(low, axis=axis)
            difference = array.take(high, axis=axis)
            difference -= first
            difference *= weight
            array = np.add(first, difference, out=first)
    return array


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) to (H, W), the nearest pixel by half-pixel centres."""
    rows, columns = (
        np.minimum(((np.arange(size[axis]) + 0.5) * n / size[axis]).astype(int), n - 1)
        for axis, n in enumerate(array.shape[:2])
    )
    return array[rows][:, columns]


def _taps(extent: int, size: int, convention: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every output position: the two inputs and the weight of the second."""
    position = np.arange(size, dtype=np.float64)
    if convention == "align_corners":
        position *= (extent - 1) / max(size - 1, 1)
    else:
        position = np.clip((position + 0.5) * extent / size - 0.5, 0, extent - 1)
    low = np.minimum(position.astype(int), extent - 1)
    high = np.minimum(low + 1, extent - 1)
    return low, high, (position - low).astype(np.float32)
