"""BatchNorm that a file has folded into its convolutions, given statistics again."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from kseg.errors import KsegError


def unfold_batch_norm(model: keras.Model, images: Iterable[np.ndarray]) -> int:
    """Measures the statistics that folding took away; the number of layers that have them now.

    A file whose BatchNorm is folded, such as a .tflite, leaves layers that only add a bias (see
    ``assign``). Their mean 0 and variance 1 are not those of what comes in: at the first step of
    training, by the statistics of its batch, the model would be another function, and the
    encoder's weights worth much less. Here each such layer gets the mean and the variance of its
    input on ``images``, and the factor and the bias with which it computes what it did before.

    Args:
        model: whose weights came from ``assign`` or ``create_model``.
        images: what the model takes, (H, W, 3) each, RGB 0..255 with preprocessing: some dozens
            of photographs, such as training images.

    Raises:
        KsegError: no layer with a folded BatchNorm, or no images.
    """
    layers = [layer for layer in model.layers if _is_folded(layer)]
    if not layers:
        raise KsegError("the model has no BatchNorm that was folded into its convolutions")
    inputs = keras.Model(model.inputs, [layer.input for layer in layers])
    sums = [np.zeros((2, layer.gamma.shape[0])) for layer in layers]
    counts = np.zeros(len(layers))
    for image in images:
        values = inputs(np.asarray(image, np.float32)[None], training=False)
        for i, value in enumerate(values):
            pixels = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
            sums[i] += pixels.sum(0), np.square(pixels).sum(0)
            counts[i] += len(pixels)
    if not counts.all():
        raise KsegError("images has none; some dozens of photographs are needed")
    for layer, (total, squares), count in zip(layers, sums, counts, strict=True):
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0)
        scale = np.sqrt(variance + layer.epsilon)
        layer.set_weights([scale, np.asarray(layer.beta) + mean, mean, variance])
    return len(layers)


def has_folded_batch_norm(model: keras.Model) -> bool:
    """Whether some BatchNorm of a model only adds a bias, as ``assign`` makes it of such a file."""
    return any(map(_is_folded, model.layers))


def _is_folded(layer: keras.Layer) -> bool:
    """Whether a layer is a BatchNorm that only adds its bias, as ``assign`` makes it."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    gamma, _, mean, variance = layer.get_weights()
    folded = np.full_like(variance, 1 - layer.epsilon)
    return bool(np.all(gamma == 1) and not np.any(mean) and np.array_equal(variance, folded))
