"""Magnitude pruning of Keras 3 models, by tensorflow-model-optimization.

The network trains in tf_keras (``kseg.tflite.bridge``) while the smallest weights of its
convolutions become zero and stay so: gradually, by the cubic schedule of Zhu and Gupta
(arXiv:1710.01878, Section 3), or two of every four at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from kseg.errors import KsegError
from kseg.model import SegmentationModel, dtype_policy
from kseg.tflite.bridge import check_training, has_dense_kernel, to_tf_keras, trained_copy

STRUCTURES = {"2:4": (2, 4)}


@dtype_policy("float32")
def prune(
    model: SegmentationModel,
    *,
    batches: tf.data.Dataset,
    loss: Callable[[Any, Any], Any],
    steps: int,
    sparsity: float | None = None,
    structure: str | None = None,
    learning_rate: float = 1e-4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentationModel:
    """The model after ``steps`` of training, with zeros in its convolutions' kernels.

    Depthwise kernels, a small share of all weights, stay dense.

    Args:
        model: stays as it is.
        batches: images (N, H, W, 3) 0..255 and labels; repeated as needed.
        loss: of (labels, logits) by pixel, its mean is minimised; keras.ops work.
        steps: at least 4; the last quarter trains with the final zeros.
        sparsity: share of zeros in every kernel, above 0 and below 1.
        structure: "2:4" instead: two zeros in every four consecutive input channels.
        learning_rate: of Adam's first step, falling to zero on a cosine.
        progress: told steps done and in all.

    Raises:
        KsegError: a value out of range, or what ``bridge.trained_copy`` raises.
    """
    if (sparsity is None) == (structure is None):
        raise KsegError("pruning takes either sparsity or structure")
    if structure is not None and structure not in STRUCTURES:
        raise KsegError(f"structure is {structure!r}; it must be one of {', '.join(STRUCTURES)}")
    if sparsity is not None and not 0 < sparsity < 1:
        raise KsegError(f"sparsity is {sparsity}; it must be above 0 and below 1")
    check_training(steps, 4, learning_rate)
    schedule = _schedule(steps, sparsity or 0.5)
    pattern = None if structure is None else STRUCTURES[structure]
    card = model.card.for_inference()
    way = f"{structure} of weights pruned" if structure else f"{sparsity:.0%} of weights pruned"

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if not has_dense_kernel(layer):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(
            layer, pruning_schedule=schedule, sparsity_m_by_n=pattern
        )

    def train(graph: keras.Model) -> None:
        bridge = to_tf_keras(graph, wrap)
        # It applies the zeros once more behind the last step.
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
        bridge.fit(batches, loss, steps, learning_rate, progress, callbacks)
        bridge.copy_to(graph)

    return trained_copy(model, card.replace(weights=f"{card.weights}; {way}"), train)


def _schedule(steps: int, sparsity: float) -> tfmot.sparsity.keras.PolynomialDecay:
    """From no zeros to all after three quarters of the steps, in twenty stages or so."""
    last = steps * 3 // 4
    every = max(1, last // 20)
    return tfmot.sparsity.keras.PolynomialDecay(
        0.0, sparsity, 0, last - last % every, frequency=every
    )
