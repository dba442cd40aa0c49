"""Tiles of noise, the same in every process, and how to look them up."""

from __future__ import annotations

import functools

import numpy as np
from numpy import ndarray

_SIDE = 256


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@functools.cache
def grain() -> ndarray:
    """(256, 256) float32 in 0..1, independent from cell to cell."""
    return _generator(1).random((_SIDE, _SIDE), np.float32)


@functools.cache
def clouds() -> ndarray:
    """(256, 256) float32 in about -1..1, tileable, with detail at every scale."""
    return _octaves(2, 2, 0.62)


@functools.cache
def leaves() -> ndarray:
    """(256, 256) float32 in about -1..1, tileable, in clumps of about ten cells."""
    return _octaves(3, 5, 0.85)


@functools.cache
def normal() -> ndarray:
    """(2 ** 20,) float32 of a normal distribution."""
    return _generator(4).standard_normal(2**20, np.float32)


def _octaves(seed: int, first: int, keep: float) -> ndarray:
    """Noise of 2 ** first cells a side, and finer ones, each ``keep`` times as strong."""
    generator = _generator(seed)
    total = np.zeros((_SIDE, _SIDE), np.float32)
    for octave in range(first, 9):
        cells = 2**octave
        grid = generator.random((cells, cells), np.float32) * 2 - 1
        at = np.arange(_SIDE) * cells / _SIDE
        total += smooth(grid, at[None, :], at[:, None]) * keep ** (octave - first)
    return total / (2.2 * total.std())


def smooth(tile: ndarray, x: ndarray, y: ndarray) -> ndarray:
    """A square tile, repeated, at real coordinates, interpolated between its cells."""
    size = tile.shape[0]
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    left, top = x0.astype(np.int32) % size, y0.astype(np.int32) % size
    right, bottom = (left + 1) % size, (top + 1) % size
    upper = tile[top, left] * (1 - fx) + tile[top, right] * fx
    return upper * (1 - fy) + (tile[bottom, left] * (1 - fx) + tile[bottom, right] * fx) * fy


def nearest(tile: ndarray, x: ndarray, y: ndarray) -> ndarray:
    """A square tile with a side that is a power of two, repeated, at its nearest cells."""
    wrap = tile.shape[0] - 1
    row, column = y.astype(np.intp) & wrap, x.astype(np.intp) & wrap
    return tile.ravel().take(row * tile.shape[0] + column)


def patch(tile: ndarray, x: ndarray, y: ndarray) -> ndarray:
    """``nearest`` for (w,) columns and (h,) rows, which is faster."""
    wrap = tile.shape[0] - 1
    return tile.take(y.astype(np.intp) & wrap, 0).take(x.astype(np.intp) & wrap, 1)


def fraction(x: ndarray) -> ndarray:
    """``x`` beyond the next lower whole number, as ``x % 1`` but faster."""
    return x - np.floor(x)
