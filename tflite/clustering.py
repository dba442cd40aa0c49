"""Weight sharing in Keras 3 models, by tensorflow-model-optimization.

Every kernel gets a few values that its weights share (Han et al., arXiv:1510.00149, Section
3). The network trains in tf_keras (``kseg.tflite.bridge``), its weights choosing their values
anew at each step. Files keep their size until they are compressed, as an app's package is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from kseg.errors import KsegError
from kseg.model import SegmentationModel, dtype_policy
from kseg.tflite.bridge import check_training, has_dense_kernel, to_tf_keras, trained_copy

_START = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS


@dtype_policy("float32")
def cluster(
    model: SegmentationModel,
    *,
    batches: tf.data.Dataset,
    loss: Callable[[Any, Any], Any],
    steps: int,
    clusters: int,
    learning_rate: float = 1e-4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentationModel:
    """The model after ``steps`` of training, with at most ``clusters`` values a kernel.

    Depthwise kernels, and those of no more weights than that, stay free; those that have
    no more values already stay as they are. Zeros of a pruned model stay zeros.

    Args:
        model: stays as it is.
        batches, loss, steps, learning_rate, progress: as for ``kseg.tflite.bridge.Bridge.fit``.
        clusters: 3 to 256.

    Raises:
        KsegError: a value out of range, or what ``bridge.trained_copy`` raises.
    """
    if not 3 <= clusters <= 256:
        raise KsegError(f"clusters is {clusters}; it must be 3 to 256")
    check_training(steps, 1, learning_rate)
    card = model.card.for_inference()
    way = f"{clusters} values a kernel"
    wrappers: dict[str, tf_keras.layers.Layer] = {}

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if not has_dense_kernel(layer):
            return layer
        kernel = layer.kernel.numpy()
        if np.unique(kernel).size <= clusters:
            # Free weights would leave the zeros, or become more values.
            if kernel.size > clusters or not kernel.all():
                layer.trainable = False
            return layer
        wrappers[layer.name] = tfmot.clustering.keras.cluster_weights(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=_START,
            preserve_sparsity=not kernel.all(),
        )
        return wrappers[layer.name]

    def train(graph: keras.Model) -> None:
        bridge = to_tf_keras(graph, wrap)
        bridge.fit(batches, loss, steps, learning_rate, progress)
        for wrapper in wrappers.values():
            # The last step moved the weights behind the choice of their values.
            wrapper.update_clustered_weights_associations()
            wrapper.original_clusterable_weights["kernel"].assign(wrapper.layer.kernel)
        bridge.copy_to(graph)

    return trained_copy(model, card.replace(weights=f"{card.weights}; {way}"), train)
