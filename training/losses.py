"""Losses: functions over keras.ops, and the class that compile() takes.

Every function gives one value a pixel, zero where the label is ignored. The mean over
all pixels, ignored ones included, is what is minimised: a mean over the valid pixels of
a replica alone would weight replicas wrongly under data parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.data import IGNORE
from kseg.errors import KsegError


def cross_entropy(
    labels: Any,
    logits: Any,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_id: int = IGNORE,
) -> Any:
    """Weighted cross-entropy (N, H, W) of labels (N, H, W) and logits (N, H, W, C)."""
    labels = ops.cast(labels, "int32")
    valid = ops.not_equal(labels, ignore_id)
    labels = ops.where(valid, labels, 0)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    weights = ops.cast(valid, losses.dtype)
    if class_weights is not None:
        table = ops.convert_to_tensor(np.asarray(class_weights), dtype=losses.dtype)
        weights = weights * ops.take(table, labels)
    return losses * weights


@keras.saving.register_keras_serializable("kseg")
class CrossEntropy(keras.losses.Loss):
    """``cross_entropy`` averaged over the batch, for ``compile(loss=...)``.

    Args:
        class_weights: one a class; None weights all alike.
        ignore_id: labels that do not count.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ignore_id: int = IGNORE,
        name: str = "cross_entropy",
        **kwargs,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]
        self.ignore_id = ignore_id

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return cross_entropy(
            y_true, y_pred, class_weights=self.class_weights, ignore_id=self.ignore_id
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "ignore_id": self.ignore_id,
        }


def class_weights(pixels: Sequence[int], c: float = 1.10) -> list[float]:
    """``1 / ln(c + p)`` with p the share of each class among the labelled pixels.

    ENet's formula (arXiv:1606.02147, Section 5.2) with its c = 1.02; CGNet and ESPNet
    take 1.10.

    Args:
        pixels: how many each class has, of ``DataSet.class_pixels``.
        c: above 1; the closer, the more rare classes weigh.

    Raises:
        KsegError: c is not above 1, or there is no labelled pixel.
    """
    if not c > 1:
        raise KsegError(f"class weights have c = {c}; it must be above 1")
    total = sum(int(n) for n in pixels)
    if not total:
        raise KsegError("class weights need labelled pixels; every label is ignored")
    return [1 / float(np.log(c + int(n) / total)) for n in pixels]
