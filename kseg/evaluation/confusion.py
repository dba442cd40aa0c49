"""The confusion matrix and the scores that come from it."""

from __future__ import annotations

import numpy as np

from kseg.data import IGNORE
from kseg.errors import KsegError


class ConfusionMatrix:
    """Counts of pixels by label (rows) and prediction (columns), int64.

    The last column counts predictions of "no class": a miss for the label's class, no
    false alarm for any.

    Args:
        num_classes: of the data set.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds one image.

        Args:
            labels: train ids of any shape, 255 ignored.
            predictions: classes of the same shape; ``num_classes`` and above is no class.

        Raises:
            KsegError: shapes differ, or a label is neither a class nor 255.
        """
        if labels.shape != predictions.shape:
            raise KsegError(f"labels {labels.shape} and predictions {predictions.shape} differ")
        classes, columns = self.num_classes, self.num_classes + 1
        table = np.full(256, classes, np.intp)
        table[:classes] = np.arange(classes)
        pairs = np.bincount(
            labels.ravel().astype(np.intp) * columns + table[predictions.ravel()],
            minlength=256 * columns,
        ).reshape(256, columns)
        if pairs[classes:IGNORE].any():
            bad = (pairs[classes:IGNORE].any(1).nonzero()[0] + classes).tolist()
            raise KsegError(f"labels have train ids {bad}, not below {classes} and not 255")
        self.counts += pairs[:classes]

    def iou(self) -> list[float | None]:
        """By class; 0 where it is predicted but absent, None where it is neither."""
        hits = self.counts.diagonal()
        union = self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits
        return [int(h) / int(u) if u else None for h, u in zip(hits, union, strict=True)]

    def mean_iou(self) -> float | None:
        """Over the classes that occur in labels or predictions, None without any."""
        present = [value for value in self.iou() if value is not None]
        return sum(present) / len(present) if present else None

    def pixel_accuracy(self) -> float | None:
        """Right pixels among those with a label, None without any."""
        total = int(self.counts.sum())
        return int(self.counts.diagonal().sum()) / total if total else None
