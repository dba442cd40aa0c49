"""BatchNorm's moving statistics where a run is too short for its networks' momentum.

DeepLab's BatchNorm has momentum 0.9997, MobileNetV2's 0.997: after 1,000 steps three quarters of
the statistics of the former are still the initial ones, with which the network is scored.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.errors import KsegError
from kseg.model import leaf_layers

# What a published momentum may leave of the initial statistics at the end of a run; the papers'
# 30,000 steps leave 1.2e-4.
_LEFT = 2e-4
# What a run that is too short for that may leave. The variance begins at 1, and that of a layer's
# inputs may be a ten thousandth of it.
_LEFT_OF_SHORT_RUNS = 1e-6
# PyTorch's default, an average over about ten batches: what is no higher is left alone.
_USUAL = 0.9


def momentum_for(momentum: float, steps: int) -> float:
    """A BatchNorm momentum for a run of so many steps; the given one where that is long enough.

    Long enough is a run that leaves at most 2e-4 of the initial statistics: 28,400 steps for
    0.9997, 2,840 for 0.997, 850 for Keras' default 0.99. A shorter run gets the momentum that
    leaves a millionth after its first fifth, or 0.9 where that is more; below 131 steps, the one
    that leaves a millionth at the end. No momentum is raised, and none up to 0.9 is changed.
    """
    if momentum <= _USUAL or momentum**steps <= _LEFT:
        return momentum
    at_the_end, after_a_fifth = (_LEFT_OF_SHORT_RUNS ** (n / steps) for n in (1, 5))
    return min(momentum, max(min(_USUAL, at_the_end), after_a_fifth))


def shorten_momentum(model: keras.Model, steps: int) -> dict[float, float]:
    """Gives every trainable BatchNorm the momentum of ``momentum_for``.

    Returns:
        The momenta that changed, and what they are now.
    """
    changed = {}
    for layer in batch_norms(model):
        momentum = momentum_for(layer.momentum, steps)
        if layer.trainable and momentum != layer.momentum:
            changed[layer.momentum] = momentum
            layer.momentum = momentum
    return changed


def recompute_batch_norm(
    model: keras.Model, batches: Iterable[Any], *, max_batches: int | None = None
) -> int:
    """Sets the moving statistics of every trainable BatchNorm to those of the given images.

    The mean and the variance of a layer's inputs over all pixels of all batches, while the
    layers before it normalise with the statistics of each batch, as in training ("precise
    BatchNorm", arXiv:2105.07576, Section 3). Everything else, such as dropout, is as in inference;
    no other weight and no random state changes. Call it after ``fit`` and before a score or
    ``save``; with a moving average of the weights, once these are the model's.

    Args:
        model: what to change; frozen BatchNorm stays as it is.
        batches: of training images as the model takes them, alone or first in a tuple with
            labels, such as ``kseg.training.dataset`` gives; a few dozen are enough. As large as
            in training.
        max_batches: to take at most, for an endless stream.

    Returns:
        How many layers have new statistics.

    Raises:
        KsegError: no batch, or statistics that are not finite; nothing is changed then.
    """
    layers = list({id(n): n for n in batch_norms(model) if n.trainable}.values())
    if not layers:
        return 0
    before = {id(layer): _statistics(layer) for layer in layers}
    sums = {id(layer): _Sums(len(before[id(layer)][0])) for layer in layers}
    count = 0
    try:
        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(_measured(layer, sums[id(layer)]))
            for batch in itertools.islice(batches, max_batches):
                images = batch[0] if isinstance(batch, tuple | list) else batch
                model(images, training=False)
                count += 1
        if not count:
            raise KsegError("batches is empty; give some batches of training images")
        for layer in layers:
            if not sums[id(layer)].pixels:
                continue  # not part of the graph
            mean, variance = sums[id(layer)].moments()
            if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
                raise KsegError(
                    f"the inputs of {layer.name} are not finite; the model's weights are damaged"
                )
            _assign(layer, mean, variance)
    except BaseException:
        for layer in layers:
            _assign(layer, *before[id(layer)])
        raise
    return len(layers)


class _Sums:
    """Sums over pixels, in float64."""

    def __init__(self, channels: int) -> None:
        self.pixels = 0
        self.means, self.squares = np.zeros((2, channels))

    def add(self, pixels: int, mean: np.ndarray, variance: np.ndarray) -> None:
        """Of a batch."""
        mean = mean.astype(np.float64)
        self.pixels += pixels
        self.means += pixels * mean
        self.squares += pixels * (variance + mean**2)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance over all batches."""
        mean = self.means / self.pixels
        return mean, np.maximum(self.squares / self.pixels - mean**2, 0)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Of a model and of those inside it."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in leaf_layers(model) if isinstance(layer, kind)]


@contextlib.contextmanager
def _measured(layer: keras.layers.BatchNormalization, sums: _Sums) -> Iterator[None]:
    """Within it the layer normalises with each batch's statistics and adds them up."""
    call, momentum = layer.call, layer.momentum

    def measuring(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # Nothing of the moving statistics, even if they are no numbers, is in the next ones.
        _assign(layer, *np.zeros((2, *layer.moving_mean.shape)))
        outputs = call(inputs, training=True, mask=mask)
        shape = ops.shape(inputs)
        sums.add(int(np.prod(shape)) // int(shape[layer.axis]), *_statistics(layer))
        return outputs

    layer.momentum, layer.call = 0.0, measuring
    try:
        yield
    finally:
        layer.momentum = momentum
        del layer.call  # the class's own again


def _statistics(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = map(ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
    return np.array(mean), np.array(variance)


def _assign(layer: keras.layers.BatchNormalization, mean: np.ndarray, variance: np.ndarray) -> None:
    layer.moving_mean.assign(mean.astype("float32"))
    layer.moving_variance.assign(variance.astype("float32"))
