"""What all scores of a split are computed from, counted image by image."""

from __future__ import annotations

from typing import Any

import numpy as np

from kseg.data import IGNORE, ClassTable, LabelCounts, label_doubts
from kseg.evaluation.boundaries import BoundaryScores, boundary_figures
from kseg.evaluation.categories import InstanceScores, category_iou
from kseg.evaluation.confusion import ConfusionMatrix, mean


class Counts:
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
        self._boundaries = BoundaryScores(classes.num_classes) if boundaries else None
        self._image_iou: dict[str, float | None] = {}
        self._labels = LabelCounts()

    @property
    def images(self) -> int:
        """How many were added."""
        return len(self._image_iou)

    @property
    def names(self) -> list[str]:
        """Of the images, in the order in which they were added."""
        return list(self._image_iou)

    def add(
        self, name: str, label: np.ndarray, prediction: np.ndarray, instances: np.ndarray | None
    ) -> None:
        """Adds an image.

        Args:
            name: unique among the images.
            label: (H, W) uint8 train ids, 255 ignored.
            prediction: (H, W) uint8 train ids, 255 for no class.
            instances: (H, W) uint16 as ``InstanceScores`` takes them, None where they are
                not scored.

        Raises:
            KsegError: a size or value that does not fit.
        """
        image = ConfusionMatrix(self._classes.num_classes)
        image.update(label, prediction)
        self._matrix.counts += image.counts
        self._image_iou[name] = image.mean_iou()
        pixels = np.zeros(256, np.int64)
        pixels[: self._classes.num_classes] = image.counts.sum(1)
        pixels[IGNORE] = label.size - pixels.sum()
        self._labels += LabelCounts.of(pixels)
        if self._boundaries:
            self._boundaries.update(label, prediction)
        if self._instances and instances is not None:
            self._instances.update(instances, prediction)

    def merge(self, other: Counts) -> None:
        """Adds the counts of another with the same classes and the same kinds of scores."""
        self._matrix.counts += other._matrix.counts
        self._image_iou |= other._image_iou
        self._labels += other._labels
        if self._boundaries and other._boundaries:
            self._boundaries.merge(other._boundaries)
        if self._instances and other._instances:
            self._instances.weighted.merge(other._instances.weighted)

    def to_json(self) -> dict[str, Any]:
        """What ``restore`` takes; plain JSON, which keeps float64 exactly."""
        return {
            "confusion_matrix": self._matrix.counts.tolist(),
            "instance_sums": self._instances and self._instances.weighted.to_json(),
            "bands": self._boundaries and self._boundaries.bands.tolist(),
            "f_sums": self._boundaries and self._boundaries.f_scores.to_json(),
            "f_images": self._boundaries and self._boundaries.f_images.tolist(),
            "image_iou": self._image_iou,
            "ignored": int(self._labels.pixels[IGNORE]),
            "masks": [self._labels.masks, self._labels.edged],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over the counts that ``to_json`` gave.

        Raises:
            KeyError, OverflowError, TypeError, ValueError: of other classes or other kinds of
                scores.
        """
        self._matrix.counts[:] = state["confusion_matrix"]
        self._image_iou = dict(state["image_iou"])
        pixels = np.zeros(256, np.int64)
        pixels[: self._classes.num_classes] = self._matrix.counts.sum(1)
        pixels[IGNORE] = state.get("ignored", 0)
        self._labels = LabelCounts(pixels, *map(int, state.get("masks", (0, 0))))
        if self._boundaries:
            self._boundaries.bands[:] = state["bands"]
            self._boundaries.f_scores.restore(state["f_sums"])
            self._boundaries.f_images[:] = state["f_images"]
        if self._instances:
            self._instances.weighted.restore(state["instance_sums"])

    def doubts(self) -> list[str]:
        """What ``label_doubts`` says of the labels."""
        return label_doubts(self._classes, self._labels)

    def figures(self) -> dict[str, Any]:
        """The measured fields of ``kseg.evaluation.Scores``, in its order."""
        matrix, classes, instances = self._matrix, self._classes, self._instances
        groups = {
            "category_iou": category_iou(matrix, classes) if classes.categories else None,
            "class_iiou": instances and instances.class_iou(matrix),
            "category_iiou": instances and instances.category_iou(matrix),
        }
        return {
            "mean_iou": matrix.mean_iou(),
            "class_iou": dict(zip(classes.names, matrix.iou(), strict=True)),
            **groups,
            **{f"mean_{name}": by and mean(by.values()) for name, by in groups.items()},
            **boundary_figures(self._boundaries, classes.names),
            "pixel_accuracy": matrix.pixel_accuracy(),
            "image_iou": self._image_iou,
            "confusion_matrix": matrix.counts.tolist(),
        }
