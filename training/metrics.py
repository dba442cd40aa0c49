"""Metrics for compile(): mean IoU from an integer confusion matrix."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kseg.data import IGNORE


@keras.saving.register_keras_serializable("kseg")
class MeanIoU(keras.metrics.Metric):
    """Mean IoU of logits (N, H, W, C) over the classes in labels or predictions.

    Counts in int64: float32 stops counting at 16,777,216 pixels. JAX without x64 has
    int32 at most, 2.1e9 pixels between two resets.

    Args:
        num_classes: of the labels; predictions beyond them are never right.
        ignore_id: labels that do not count.
    """

    def __init__(
        self, num_classes: int, ignore_id: int = IGNORE, name: str = "mean_iou", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.confusion = self.add_variable(
            (num_classes, num_classes + 1), initializer="zeros", dtype="int64", name="confusion"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        columns = self.num_classes + 1
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        predictions = ops.reshape(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), (-1,))
        predictions = ops.minimum(predictions, self.num_classes)
        # Ignored pixels fall into one cell more, which is dropped.
        spare = self.num_classes * columns
        cells = ops.where(labels == self.ignore_id, spare, labels * columns + predictions)
        counts = ops.segment_sum(ops.ones_like(cells), cells, num_segments=spare + 1)[:-1]
        counts = ops.reshape(counts, (self.num_classes, columns))
        self.confusion.assign_add(ops.cast(counts, self.confusion.dtype))

    def result(self) -> Any:
        confusion = ops.cast(self.confusion, "float32")
        hits = ops.diagonal(confusion)
        union = ops.sum(confusion, 1) + ops.sum(confusion[:, :-1], 0) - hits
        present = ops.cast(union > 0, "float32")
        iou = hits / ops.maximum(union, 1)
        return ops.sum(iou) / ops.maximum(ops.sum(present), 1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignore_id": self.ignore_id,
        }
