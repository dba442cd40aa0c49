"""Scores along the borders of the labels: IoU in bands of growing width, and boundary F.

Need SciPy (extra ``boundaries``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kseg.data import IGNORE
from kseg.errors import KsegError
from kseg.evaluation.confusion import ConfusionMatrix, mean
from kseg.evaluation.sums import ExactSums

WIDTHS = 40
"""The widest band, in pixels."""

TOLERANCE = 0.0075
"""How far a boundary may be off, as a share of the image's diagonal (Csurka et al.)."""


class BoundaryScores:
    """Counts along borders, summed over images.

    The trimap of DeepLabv3+ (arXiv:1802.02611, Section 4.4) is the band around void
    labels, which PASCAL VOC has along every border. Here it is the band around every
    border between labels, void or not: the same on VOC, and defined on other data sets.

    The boundary F-score is that of Csurka et al. (BMVC 2013, Section 2.2).

    Args:
        num_classes: of the data set.

    Attributes:
        bands: (40, num_classes, num_classes + 1) int64, a confusion matrix by the pixels'
            distance from a border.
        f_scores: sum of the images' F-scores by class.
        f_images: (num_classes,) int64, images that have one.

    Raises:
        KsegError: SciPy is not installed.
    """

    def __init__(self, num_classes: int) -> None:
        try:
            import scipy.ndimage
            import scipy.spatial
        except ImportError:
            raise KsegError("boundaries: need SciPy; install kseg[boundaries]") from None
        self._distance = scipy.ndimage.distance_transform_edt
        self._tree = scipy.spatial.cKDTree
        self.bands = np.zeros((WIDTHS, num_classes, num_classes + 1), np.int64)
        self.f_scores = ExactSums(num_classes)
        self.f_images = np.zeros(num_classes, np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds one image.

        Args:
            labels: (H, W) uint8 train ids, 255 ignored.
            predictions: (H, W) uint8 classes; ``num_classes`` and above is no class.
        """
        classes = len(self.f_images)
        predictions = np.minimum(predictions, classes)
        self._add_bands(labels, predictions)
        scored = labels != IGNORE
        edges = [_edges(ids, scored) for ids in (labels, predictions)]
        wanted, found = (
            [np.argwhere(edge & (ids == c)) for c in range(classes)]
            for edge, ids in zip(edges, (labels, predictions), strict=True)
        )
        tolerance = TOLERANCE * np.hypot(*labels.shape)
        scores = np.zeros(classes)
        for c, (a, b) in enumerate(zip(wanted, found, strict=True)):
            if len(a) or len(b):
                scores[c] = self._f_score(a, b, tolerance)
                self.f_images[c] += 1
        self.f_scores.add(scores)

    def merge(self, other: BoundaryScores) -> None:
        """Adds the counts of another with the same number of classes."""
        self.bands += other.bands
        self.f_scores.merge(other.f_scores)
        self.f_images += other.f_images

    def trimap_iou(self) -> list[float | None]:
        """Mean IoU of the pixels in the bands of 1 to 40 pixels' width, narrowest first.

        Band 1 is the pixels with a neighbour (of four) of another label; band w is those
        within w - 1 pixels of them.
        """
        scores = []
        matrix = ConfusionMatrix(self.bands.shape[1])
        for counts in self.bands:
            matrix.counts += counts
            scores.append(matrix.mean_iou())
        return scores

    def boundary_f(self) -> list[float | None]:
        """Boundary F-score by class, 0..1: the mean over the images where it has a boundary.

        In an image it is 2 P R / (P + R), with P the share of the prediction's boundary
        pixels that lie within the tolerance of the label's, and R the other way round.
        Borders to void do not count. None for a class without a boundary in any image.
        """
        sums = zip(self.f_scores.values().tolist(), self.f_images.tolist(), strict=True)
        return [total / images if images else None for total, images in sums]

    def _add_bands(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        border = _edges(labels, np.ones(labels.shape, bool))
        if not border.any():
            return
        band = np.ceil(self._distance(~border)).astype(np.intp)
        near = (band < WIDTHS) & (labels != IGNORE)
        place = (band[near], labels[near], predictions[near])
        flat = np.ravel_multi_index(place, self.bands.shape)
        self.bands += np.bincount(flat, minlength=self.bands.size).reshape(self.bands.shape)

    def _f_score(self, wanted: np.ndarray, found: np.ndarray, tolerance: float) -> float:
        """F-score of two sets of pixels (n, 2), of which one may be empty."""
        if not (len(wanted) and len(found)):
            return 0.0
        # SciPy leaves out a point at the bound itself; the tolerance includes it.
        bound = np.nextafter(tolerance, np.inf)
        precision, recall = (
            np.isfinite(self._tree(to).query(points, distance_upper_bound=bound)[0]).mean()
            for points, to in ((found, wanted), (wanted, found))
        )
        total = precision + recall
        return float(2 * precision * recall / total) if total else 0.0


def boundary_figures(scores: BoundaryScores | None, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of ``kseg.evaluation.Scores``, None where boundaries were not scored."""
    by_class = scores and dict(zip(names, scores.boundary_f(), strict=True))
    return {
        "trimap_iou": scores and scores.trimap_iou(),
        "boundary_f": by_class,
        "mean_boundary_f": by_class and mean(by_class.values()),
    }


def _edges(ids: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a neighbour (of four) of another id, both of them scored."""
    edges = np.zeros(ids.shape, bool)
    # Rows, then columns: writing to the transpose writes to ``edges``.
    for a, inside, view in ((ids, scored, edges), (ids.T, scored.T, edges.T)):
        differ = (a[1:] != a[:-1]) & inside[1:] & inside[:-1]
        view[1:] |= differ
        view[:-1] |= differ
    return edges
