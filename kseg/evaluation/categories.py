"""Cityscapes' scores beside the class IoU: of categories, and of instances of any size.

Equal to cityscapesScripts, evaluation/evalPixelLevelSemanticLabeling.py (arXiv:1604.01685,
Section 3.2), for predictions of train ids: the script's category iIoU also takes caravans
and trailers for vehicles, which no Predictor gives. Data sets whose class table has no
categories or instances have no such scores.
"""

from __future__ import annotations

import numpy as np

from kseg.data import ClassTable
from kseg.data.classes import IGNORE
from kseg.errors import KsegError
from kseg.evaluation.confusion import ByName, ConfusionMatrix, runs
from kseg.evaluation.sums import ExactSums


def category_iou(matrix: ConfusionMatrix, classes: ClassTable) -> ByName:
    """IoU by category, 0..1; the classes of a category count as one."""
    names, groups = _groups(classes)
    return dict(zip(names, matrix.grouped(groups).iou(), strict=True))


class InstanceScores:
    """Hits and misses, weighted by the class's average instance size over their instance's.

    So a small instance counts as much as a large one. False alarms belong to no instance
    and count as pixels.

    Args:
        classes: with categories and sizes of instances.

    Attributes:
        weighted: (3, num_classes) by class: hits, hits of its category, and both with the
            misses.
    """

    def __init__(self, classes: ClassTable) -> None:
        self._classes = classes
        self._sizes = classes.instance_sizes or ()
        self._names, self._groups = _groups(classes)
        self.weighted = ExactSums(3, classes.num_classes)

    def update(self, instances: np.ndarray, predictions: np.ndarray) -> None:
        """Adds one image.

        Args:
            instances: (H, W) uint16, file id * 1000 + number; 1000 and below is none.
            predictions: (H, W) uint8 classes; ``num_classes`` and above is no class.

        Raises:
            KsegError: an instance of a class that has none.
        """
        (ids, predicted), lengths = runs(instances, predictions)
        inside = ids > 1000
        ids, predicted, lengths = ids[inside], predicted[inside], lengths[inside]
        owners = self._classes.label_table()[np.arange(2**16) // 1000]
        groups = np.full(256, IGNORE, np.uint8)
        groups[: len(self._groups)] = self._groups
        wanted = owners[ids]
        counts = np.stack(
            [
                np.bincount(ids, lengths * hit, minlength=2**16)
                for hit in (predicted == wanted, groups[predicted] == groups[wanted], 1)
            ]
        )
        found = (counts[2].astype(bool) & (owners != IGNORE)).nonzero()[0]
        sizes = np.array([size or np.nan for size in self._sizes])
        # An id that the data set does not have, or of a class without instances.
        sizes = np.concatenate([sizes, np.full(256 - len(sizes), np.nan)])[owners[found]]
        if np.isnan(sizes).any():
            instance = found[np.isnan(sizes)][0]
            raise KsegError(
                f"instance {instance} is of id {instance // 1000}, which has no instances"
            )
        weights = sizes / counts[2, found]
        image = np.zeros((3, self._classes.num_classes))
        for total, count in zip(image, counts, strict=True):
            np.add.at(total, owners[found], count[found] * weights)
        self.weighted.add(image)

    def class_iou(self, matrix: ConfusionMatrix) -> ByName:
        """Instance-level IoU, 0..1, of the classes that have instances.

        Args:
            matrix: of the same images.
        """
        alarms = matrix.false_alarms()
        hits, _, pixels = self.weighted.values()
        return {
            name: _ratio(hits[i], pixels[i] + alarms[i])
            for i, name in enumerate(self._classes.names)
            if self._sizes[i] is not None
        }

    def category_iou(self, matrix: ConfusionMatrix) -> ByName:
        """Instance-level IoU, 0..1, of the categories whose classes all have instances.

        Args:
            matrix: of the same images.
        """
        alarms = matrix.grouped(self._groups).false_alarms()
        weighted, scores = self.weighted.values(), {}
        for group, name in enumerate(self._names):
            members = [i for i, g in enumerate(self._groups) if g == group]
            if all(self._sizes[i] is not None for i in members):
                _, hits, pixels = weighted[:, members].sum(1)
                scores[name] = _ratio(hits, pixels + alarms[group])
        return scores


def _groups(classes: ClassTable) -> tuple[list[str], list[int]]:
    """Names of the categories, and the place of every class's category among them."""
    categories = classes.categories or ()
    names = list(dict.fromkeys(categories))
    return names, [names.index(category) for category in categories]


def _ratio(hits: float, union: float) -> float | None:
    return float(hits / union) if union else None
