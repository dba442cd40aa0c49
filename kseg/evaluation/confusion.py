"""The confusion matrix and the scores that come from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kseg.data import IGNORE
from kseg.errors import KsegError

ByName = dict[str, float | None]
"""A score of each class or category by its official name; None where it is undefined."""


class ConfusionMatrix:
    """Counts of pixels by label (rows) and prediction (columns), int64.

    The last column counts predictions of "no class": a miss for the label's class, no
    false alarm for any.

    Args:
        num_classes: of the data set.

    Attributes:
        counts: (num_classes, num_classes + 1) int64.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds one image.

        Args:
            labels: train ids of any shape and any type of whole numbers, 255 ignored.
            predictions: classes of the same shape; ``num_classes`` to 255 is no class.

        Raises:
            KsegError: shapes differ, a label is neither a class nor 255, or a prediction is
                no number from 0 to 255.
        """
        if labels.shape != predictions.shape:
            raise KsegError(f"labels {labels.shape} and predictions {predictions.shape} differ")
        if not labels.size:
            return
        classes, columns = self.num_classes, self.num_classes + 1
        (labels, predictions), pixels = runs(labels, predictions)
        for name, ids in (("labels", labels), ("predictions", predictions)):
            if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > IGNORE:
                raise KsegError(
                    f"{name} are of {ids.dtype}, {ids.min()} to {ids.max()}; ids are whole numbers "
                    f"from 0 to {IGNORE}, which is ignored"
                )
        pairs = np.bincount(
            labels.astype(np.intp) * columns + np.minimum(predictions, classes),
            pixels,
            minlength=256 * columns,
        )
        # Sums of whole numbers in float64, exact below 2**53 pixels an image.
        pairs = pairs.astype(np.int64).reshape(256, columns)
        if pairs[classes:IGNORE].any():
            bad = (np.flatnonzero(pairs[classes:IGNORE].any(1)) + classes).tolist()
            raise KsegError(f"labels have train ids {bad}, not below {classes} and not 255")
        self.counts += pairs[:classes]

    def iou(self) -> list[float | None]:
        """IoU by class, 0..1: 0 if it is predicted but absent, None if it is neither."""
        hits = self.counts.diagonal()
        union = self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits
        return [int(h) / int(u) if u else None for h, u in zip(hits, union, strict=True)]

    def mean_iou(self) -> float | None:
        """Mean over the classes that occur in labels or predictions, None without any."""
        return mean(self.iou())

    def grouped(self, groups: Sequence[int]) -> ConfusionMatrix:
        """The matrix of groups of classes; ``groups`` has the group's number for each class."""
        result = ConfusionMatrix(max(groups) + 1)
        places = np.array([*groups, result.num_classes])
        np.add.at(result.counts, (places[:-1, None], places[None]), self.counts)
        return result

    def false_alarms(self) -> np.ndarray:
        """(num_classes,) int64: pixels of other classes that are predicted as the class."""
        return self.counts[:, :-1].sum(0) - self.counts.diagonal()

    def pixel_accuracy(self) -> float | None:
        """Right pixels among those with a label, None without any."""
        total = int(self.counts.sum())
        return int(self.counts.diagonal().sum()) / total if total else None


def runs(*maps: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Runs of pixels, row after row, that have one value in every map.

    Label maps change at borders only, so that counting runs is many times faster than
    counting pixels.

    Args:
        *maps: of the same shape, not empty.

    Returns:
        For each map the runs' values (n,), and the runs' lengths in pixels (n,) int64.
    """
    flat = [values.ravel() for values in maps]
    changes = np.zeros(flat[0].size - 1, bool)
    for values in flat:
        changes |= values[1:] != values[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return [values[starts] for values in flat], np.diff(starts, append=flat[0].size)


def mean(scores: Iterable[float | None]) -> float | None:
    """Mean of the scores that are not None; None without any."""
    present = [score for score in scores if score is not None]
    return sum(present) / len(present) if present else None
