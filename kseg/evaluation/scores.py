"""All scores of a split, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np

from kseg.data import ClassTable
from kseg.evaluation.boundaries import BoundaryScores, boundary_report
from kseg.evaluation.categories import InstanceScores, category_iou
from kseg.evaluation.confusion import ConfusionMatrix, mean


class Scores:
    """What was counted so far; memory does not grow with the number of images but for names.

    Args:
        classes: of the data set.
        instances: whether instances are scored.
        boundaries: whether borders are scored.

    Raises:
        KsegError: as ``BoundaryScores``.
    """

    def __init__(self, classes: ClassTable, *, instances: bool, boundaries: bool) -> None:
        self._classes = classes
        self._matrix = ConfusionMatrix(classes.num_classes)
        self._instances = InstanceScores(classes) if instances else None
        self._edges = BoundaryScores(classes.num_classes) if boundaries else None
        self._image_iou: dict[str, float | None] = {}

    @property
    def images(self) -> int:
        """How many were added."""
        return len(self._image_iou)

    def add(
        self, name: str, label: np.ndarray, answer: np.ndarray, instances: np.ndarray | None
    ) -> None:
        """Adds an image.

        Args:
            name: unique among the images.
            label: (H, W) uint8 train ids, 255 ignored.
            answer: (H, W) uint8 train ids, those of no class 255.
            instances: (H, W) uint16 as ``InstanceScores`` takes them, None where they are
                not scored.

        Raises:
            KsegError: a size or value that does not fit.
        """
        alone = ConfusionMatrix(self._classes.num_classes)
        alone.update(label, answer)
        self._matrix.counts += alone.counts
        self._image_iou[name] = alone.mean_iou()
        if self._edges:
            self._edges.update(label, answer)
        if self._instances:
            self._instances.update(instances, answer)

    def merge(self, other: Scores) -> None:
        """Adds what another of the same kind has counted."""
        self._matrix.counts += other._matrix.counts
        self._image_iou |= other._image_iou
        if self._edges:
            self._edges.merge(other._edges)
        if self._instances:
            self._instances.weighted += other._instances.weighted

    def to_json(self) -> dict[str, Any]:
        """What ``restore`` takes; plain JSON, which keeps float64 exactly."""
        return {
            "confusion_matrix": self._matrix.counts.tolist(),
            "instances": self._instances and self._instances.weighted.tolist(),
            "bands": self._edges and self._edges.bands.tolist(),
            "f_scores": self._edges and self._edges.f_scores,
            "image_iou": self._image_iou,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the counts of another of the same kind.

        Raises:
            KeyError, TypeError, ValueError: another kind.
        """
        self._matrix.counts[:] = state["confusion_matrix"]
        self._image_iou = dict(state["image_iou"])
        if self._edges:
            self._edges.bands[:] = state["bands"]
            self._edges.f_scores = state["f_scores"]
        if self._instances:
            self._instances.weighted[:] = state["instances"]

    def report(self) -> dict[str, Any]:
        """The fields that ``evaluate`` documents, as plain JSON."""
        matrix, classes, instances = self._matrix, self._classes, self._instances
        more = {
            "category_iou": category_iou(matrix, classes) if classes.categories else None,
            "class_iiou": instances and instances.class_iou(matrix),
            "category_iiou": instances and instances.category_iou(matrix),
        }
        return {
            "mean_iou": matrix.mean_iou(),
            "class_iou": dict(zip(classes.names, matrix.iou(), strict=True)),
            **more,
            **{f"mean_{name}": by and mean(by.values()) for name, by in more.items()},
            **boundary_report(self._edges, classes.names),
            "pixel_accuracy": matrix.pixel_accuracy(),
            "image_iou": self._image_iou,
            "confusion_matrix": matrix.counts.tolist(),
        }
