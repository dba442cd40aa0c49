"""Metrics for compile(): mean IoU from an integer confusion matrix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.card import whole_number
from kseg.data import IGNORE
from kseg.training.labels import checked, weights_of


@keras.saving.register_keras_serializable("kseg")
class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits (N, H, W, C) over the classes in labels or predictions.

    Counts in int64: float32 stops counting at 16,777,216 pixels. JAX without x64 has
    int32 at most, 2.1e9 pixels between two resets.

    ``sample_weight`` weights the pixels as in keras.metrics.MeanIoU: one an image, (N,), or one a
    pixel, (N, H, W) or (N, H, W, 1). ``fit`` passes it to ``weighted_metrics``. Weighted pixels
    are added in float64 (JAX without x64: float32).

    Labels of another shape, and a label that is neither a class nor ignored, are a KsegError; in a
    TensorFlow graph the step fails with the same text, and in a program that XLA has compiled
    (``jit_compile``, JAX), which cannot raise, the result is NaN.

    Args:
        num_classes: of the labels; predictions beyond them are never right.
        ignore_id: labels that do not count.
    """

    def __init__(
        self, num_classes: int, ignore_id: int = IGNORE, name: str = "mean_iou", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.num_classes = whole_number("num_classes", num_classes)
        self.ignore_id = ignore_id
        shape = (num_classes, num_classes + 1)
        self.confusion = self.add_variable(
            shape, initializer="zeros", dtype="int64", name="confusion"
        )
        # Of pixels that came with weights; NaN after a bad label that could not raise.
        wide = "float64" if keras.backend.backend() == "tensorflow" else "float32"
        self.weighted = self.add_variable(shape, initializer="zeros", dtype=wide, name="weighted")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        columns = self.num_classes + 1
        labels, bad = checked(y_true, y_pred, self.num_classes, self.ignore_id)
        added = None
        if sample_weight is not None:
            weights = weights_of(sample_weight, labels.shape, self.weighted.dtype)
            added = ops.reshape(ops.broadcast_to(weights, ops.shape(labels)), (-1,))
        labels = ops.reshape(labels, (-1,))
        predictions = ops.reshape(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), (-1,))
        predictions = ops.minimum(predictions, self.num_classes)
        # Ignored pixels fall into one cell more, which is dropped.
        spare = self.num_classes * columns
        cells = ops.where(labels == self.ignore_id, spare, labels * columns + predictions)
        if added is None:
            added = ops.ones_like(cells)
        counts = ops.segment_sum(added, cells, num_segments=spare + 1)[:-1]
        counts = ops.reshape(counts, (self.num_classes, columns))
        sums = self.confusion if sample_weight is None else self.weighted
        sums.assign_add(ops.cast(counts, sums.dtype))
        poison = ops.where(ops.any(bad), np.nan, 0.0)
        self.weighted.assign_add(ops.full(self.weighted.shape, poison, self.weighted.dtype))

    def result(self) -> Any:
        confusion = ops.cast(self.confusion, "float32") + ops.cast(self.weighted, "float32")
        hits = ops.diagonal(confusion)
        union = ops.sum(confusion, 1) + ops.sum(confusion[:, :-1], 0) - hits
        present = ops.cast(union > 0, "float32")
        iou = hits / ops.where(union > 0, union, 1)
        return ops.sum(iou) / ops.maximum(ops.sum(present), 1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_id": self.ignore_id,
        }
