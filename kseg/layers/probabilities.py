"""Logits of probabilities."""

from __future__ import annotations

import keras
from keras import KerasTensor, ops

# float32's own logarithm of less is minus infinity.
_LEAST = 1e-30


@keras.saving.register_keras_serializable("kseg")
class LogProbabilities(keras.layers.Layer):
    """The natural logarithm of probabilities 0..1, which are logits with the same softmax."""

    def call(self, x: KerasTensor) -> KerasTensor:
        return ops.log(ops.maximum(x, _LEAST))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)
