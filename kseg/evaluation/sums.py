"""Sums that are the same in any order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


class ExactSums:
    """Sums of float64 without rounding errors: parts that are added later give the same bits.

    A sum is kept as floats that do not overlap (Shewchuk, Discrete & Computational Geometry
    18, 1997, Section 2.4), two or three of them as a rule.

    Args:
        shape: of the array of sums.
    """

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._sums: list[list[float]] = [[] for _ in range(math.prod(shape))]

    def add(self, values: np.ndarray) -> None:
        """Adds finite values, float64 of the same shape."""
        for parts, value in zip(self._sums, values.ravel().tolist(), strict=True):
            _add(parts, value)

    def merge(self, other: ExactSums) -> None:
        """Adds sums of the same shape."""
        for parts, more in zip(self._sums, other._sums, strict=True):
            for value in more:
                _add(parts, value)

    def values(self) -> np.ndarray:
        """The sums, each rounded once to float64."""
        return np.array([math.fsum(parts) for parts in self._sums]).reshape(self._shape)

    def to_json(self) -> list[list[float]]:
        """What ``restore`` takes; plain JSON, which keeps float64 exactly."""
        return self._sums

    def restore(self, sums: Sequence[Sequence[float]]) -> None:
        """Takes over what ``to_json`` gave.

        Raises:
            TypeError, ValueError: of another shape, or values that are not finite.
        """
        restored = [list(map(float, parts)) for parts in sums]
        if len(restored) != len(self._sums) or not all(
            map(math.isfinite, itertools.chain(*restored))
        ):
            raise ValueError(f"no sums of the shape {self._shape}")
        self._sums = restored


def _add(parts: list[float], value: float) -> None:
    """Adds a value to a sum, so that nothing is lost; zeros are left out."""
    kept = 0
    for part in parts:
        if abs(value) < abs(part):
            value, part = part, value
        total = value + part
        if rest := part - (total - value):
            parts[kept] = rest
            kept += 1
        value = total
    parts[kept:] = [value] if value else []
