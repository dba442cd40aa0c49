"""The fully connected CRF behind DeepLab v1 and v2, as post-processing.

Mean-field inference with two Gaussian kernels (Krähenbühl and Koltun, arXiv:1210.5644,
Equations 3 and 4), filtered on the permutohedral lattice (Adams, Baek and Davis,
Eurographics 2010, Section 3). Needs SciPy (extra ``crf``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kseg.errors import KsegError

Filter = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DenseCRF:
    """Refines logits along the edges of the image.

    The defaults lie in the ranges that DeepLab v2 searched (arXiv:1606.00915, Section
    4.1). The best values differ by model: search them on some images with labels.

    Attributes:
        appearance_weight, appearance_xy, appearance_rgb: of the kernel over place and
            colour: its weight, and its standard deviations in pixels and in 0..255.
        smoothness_weight, smoothness_xy: of the kernel over place alone: its weight, and
            its standard deviation in pixels.
        iterations: of the mean field; 0 is the softmax of the logits.
    """

    appearance_weight: float = 4.0
    appearance_xy: float = 70.0
    appearance_rgb: float = 4.0
    smoothness_weight: float = 3.0
    smoothness_xy: float = 3.0
    iterations: int = 10

    def __call__(self, image: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Refined log-probabilities (H, W, C), float32.

        Args:
            image: (H, W, 3) RGB 0..255.
            logits: (H, W, C) float.

        Raises:
            KsegError: SciPy is not installed, or the sizes differ.
        """
        if image.shape[:2] != logits.shape[:2]:
            raise KsegError(f"crf: image {image.shape[:2]} and logits {logits.shape[:2]} differ")
        places = np.indices(image.shape[:2]).reshape(2, -1).T.astype(np.float64)
        colours = image.reshape(-1, 3).astype(np.float64)
        kernels = (
            (
                self.appearance_weight,
                np.hstack([places / self.appearance_xy, colours / self.appearance_rgb]),
            ),
            (self.smoothness_weight, places / self.smoothness_xy),
        )
        filters = [(weight, normalized(lattice_filter(x))) for weight, x in kernels]
        return mean_field(logits, filters, self.iterations)


def mean_field(
    logits: np.ndarray, filters: list[tuple[float, Filter]], iterations: int
) -> np.ndarray:
    """Log-probabilities (H, W, C) after the iterations of Algorithm 1, with the Potts model.

    Args:
        logits: (H, W, C), minus the unary energies.
        filters: weight and filter of every kernel, on (H * W, C).
    """
    unary = logits.reshape(-1, logits.shape[-1]).astype(np.float32)
    result = _log_softmax(unary)
    for _ in range(iterations):
        probabilities = np.exp(result)
        # The Potts model adds a cost to every other label. Up to a constant that is the same
        # as a reward for the label itself.
        reward = sum(weight * apply(probabilities) for weight, apply in filters)
        result = _log_softmax(unary + reward)
    return result.reshape(logits.shape).astype(np.float32)


def normalized(apply: Filter) -> Filter:
    """The filter with its kernel divided by the square roots of its sums at both places."""

    @functools.cache
    def scale(count: int) -> np.ndarray:
        return 1 / np.sqrt(apply(np.ones((count, 1), np.float32)) + 1e-20)

    return lambda values: scale(len(values)) * apply(scale(len(values)) * values)


def lattice_filter(features: np.ndarray) -> Filter:
    """Gaussian filter of values (n, C) at places ``features`` (n, d), of standard deviation 1.

    Splatting, blurring along the lattice's d + 1 directions and slicing are sparse
    matrices, made once. The lattice's kernel is close to ``exp(-|x - y|**2 / 2)`` times a
    factor, which ``normalized`` removes.

    Raises:
        KsegError: SciPy is not installed, or the places are too far apart.
    """
    try:
        from scipy import sparse
    except ImportError:
        raise KsegError("crf: needs SciPy; install kseg[crf]") from None
    count, dimensions = features.shape
    keys, weights = _simplices(features)
    vertices, columns = _unique(keys.reshape(-1, dimensions + 1))
    rows = np.repeat(np.arange(count), dimensions + 1)
    slicing = sparse.csr_array(
        (weights.ravel().astype(np.float32), (rows, columns)), (count, len(vertices))
    )
    splatting = slicing.T.tocsr()
    blurs = []
    for axis in range(dimensions + 1):
        step = np.ones(dimensions + 1, np.int64)
        step[axis] = -dimensions
        forward = _neighbours(vertices, step)
        blurs.append(sparse.eye_array(len(vertices), dtype=np.float32) + forward + forward.T)

    def apply(values: np.ndarray) -> np.ndarray:
        values = splatting @ values.astype(np.float32)
        for blur in blurs:
            values = blur @ values
        return slicing @ values

    return apply


def _simplices(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, d + 1, d + 1) int64 of every point's simplex, and barycentric weights."""
    count, d = features.shape
    # Onto the plane of sum 0, scaled so that a blur of 1/2, 1, 1/2 has standard deviation 1.
    axes = np.arange(1, d + 1)
    scaled = features * (d + 1) * np.sqrt(2 / 3) / np.sqrt(axes * (axes + 1))
    sums = np.zeros((count, d + 1))
    sums[:, :d] = np.cumsum(scaled[:, ::-1], 1)[:, ::-1]
    elevated = sums.copy()
    elevated[:, 1:] -= axes * scaled

    # The nearest point whose coordinates are multiples of d + 1, then moved onto the plane.
    nearest = np.rint(elevated / (d + 1)).astype(np.int64)
    rest = elevated - nearest * (d + 1)
    order = np.argsort(-rest, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(d + 1)[None], 1)
    rank += nearest.sum(1, keepdims=True)
    low, high = rank < 0, rank > d
    nearest += low
    nearest -= high
    rank += (d + 1) * low
    rank -= (d + 1) * high

    share = (elevated - nearest * (d + 1)) / (d + 1)
    weights = np.zeros((count, d + 2))
    points = np.arange(count)[:, None]
    # Every rank occurs once for a point, so no element is written twice.
    weights[points, d - rank] += share
    weights[points, d + 1 - rank] -= share
    weights[:, 0] += 1 + weights[:, d + 1]

    color = np.arange(d + 1)[:, None]
    canonical = np.where(np.arange(d + 1) <= d - color, color, color - (d + 1))
    vertices = nearest[:, None] * (d + 1) + canonical[:, rank].transpose(1, 0, 2)
    return vertices, weights[:, : d + 1]


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, sorted, and the index among them of every row."""
    _, first, inverse = np.unique(_numbers(keys, keys), return_index=True, return_inverse=True)
    return keys[first], inverse


def _neighbours(vertices: np.ndarray, step: np.ndarray) -> Any:
    """Sparse (n, n): 1/2 where the second vertex is one step from the first."""
    from scipy import sparse

    places = _numbers(vertices, vertices)
    wanted = _numbers(vertices + step, vertices)
    found = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
    rows = np.flatnonzero(places[found] == wanted)
    halves = np.full(len(rows), 0.5, np.float32)
    return sparse.csr_array((halves, (rows, found[rows])), (len(places), len(places)))


def _numbers(keys: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """One integer for each row, different for different rows.

    That holds for rows within a step of the range of ``frame``. The last coordinate is left
    out: it follows from the others, since their sum is zero.
    """
    low = frame[:, :-1].min(0) - frame.shape[1]
    spans = frame[:, :-1].max(0) + frame.shape[1] - low + 1
    strides = np.cumprod([1, *spans[:-1].tolist()], dtype=object)
    if int(strides[-1]) * int(spans[-1]) >= 2**62:
        raise KsegError("crf: the image is too large for its deviations; raise them")
    return ((keys[:, :-1] - low) * strides.astype(np.int64)).sum(1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))
