"""Keras 3 graphs of kseg in tf_keras, where tensorflow-model-optimization works.

That library (0.8.1) refuses Keras 3 models. The bridge calls a tf_keras layer for every
layer of a graph, copies the weights, and copies them back after training. A layer of
kseg runs in tf_keras as it is, by its ``call`` or, with weights, its
``call_with_weights`` (see ``kseg.layers``): on the TensorFlow backend keras.ops are
TensorFlow operators.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from keras import layers as kl

from kseg.card import Card
from kseg.errors import KsegError
from kseg.layers import GroupedPointwiseConv
from kseg.model import SegmentationModel
from kseg.tflite.flatten import flatten
from kseg.tflite.rewrite import Calls, is_exactly, is_image, walk
from kseg.tflite.weights import check_finite
from kseg.zoo import build

# What only matters before weights are there, or to a loss.
_LEFT_OUT = ("dtype", "_initializer", "_regularizer", "_constraint")

# Activations by their names in tf_keras.
_RENAMED = {"silu": "swish"}
# What tf_keras has under the same name, but computes otherwise: 0.2 x + 0.5 between 0 and 1.
_OTHER = ("hard_sigmoid",)

# Their activation is the last that they do.
_WITH_KERNELS = (
    *(kl.Conv2D, kl.Conv2DTranspose, kl.DepthwiseConv2D, kl.SeparableConv2D),
    *(kl.Dense, kl.EinsumDense),
)

Wrap = Callable[[tf_keras.layers.Layer], tf_keras.layers.Layer]


@dataclasses.dataclass(frozen=True)
class Bridge:
    """A graph in tf_keras.

    Attributes:
        model: from the image (N, H, W, 3) to the output of the Keras 3 model.
        weights: what each Keras 3 layer's weights have become, by its name: one list of
            variables, several where a convolution runs in parts.
    """

    model: tf_keras.Model
    weights: dict[str, list[list[tf.Variable]]]

    def fit(
        self,
        batches: tf.data.Dataset,
        loss: Callable[[Any, Any], Any],
        steps: int,
        learning_rate: float,
        progress: Callable[[int, int], None],
        callbacks: Sequence[tf_keras.callbacks.Callback] = (),
    ) -> None:
        """Trains by Adam, its rate falling to zero on a cosine.

        Args:
            batches: images (N, H, W, 3) 0..255 and labels; repeated as needed.
            loss: of (labels, logits) by pixel, its mean is minimised; keras.ops work.
            steps: at least 1.
            learning_rate: of the first step.
            progress: told steps done and in all.
            callbacks: of the optimisation library.

        Raises:
            KsegError: the loss became infinite or no number, or there is no batch.
        """
        if int(batches.cardinality()) == 0:
            raise KsegError("there is no batch to train on; lower the batch size")
        rate = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self.model.compile(tf_keras.optimizers.Adam(rate), loss=loss)
        report = tf_keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: progress(step + 1, steps)
        )
        history = self.model.fit(
            batches.repeat(), steps_per_epoch=steps, verbose=0, callbacks=[*callbacks, report]
        )
        (value,) = history.history["loss"]
        if not np.isfinite(value):
            raise KsegError(
                f"the loss is {value}, mean of {steps} steps; "
                f"try a learning rate below {learning_rate:g}"
            )

    def copy_to(self, target: keras.Model) -> None:
        """Copies the weights into the Keras 3 model that this was made of."""
        for layer in target.layers:
            if layer.weights:
                parts = [[v.numpy() for v in part] for part in self.weights[layer.name]]
                layer.set_weights(_joined(parts))

    def copy_from(self, source: keras.Model) -> None:
        """Copies the weights of a Keras 3 model that has these layers, and may have more."""
        for name, parts in self.weights.items():
            layer = source.get_layer(name)
            own = layer.split_weights() if hasattr(layer, "split_weights") else [_weights(layer)]
            for variables, values in zip(parts, own, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)


class KerasCall(tf_keras.layers.Layer):
    """A Keras 3 layer or operation without weights, called on TensorFlow tensors.

    Args:
        layer: what is called.
        args: its arguments in the Keras 3 graph; the inputs stand for the tensors there.

    Attributes:
        keras_class: the layer's class.
    """

    def __init__(self, layer: keras.Operation, args: tuple) -> None:
        super().__init__(name=_scope(layer))
        self.keras_class = type(layer)

        # A function, since tf_keras tries to track what is an attribute.
        def compute(inputs: Any) -> Any:
            tensors = iter(inputs if isinstance(inputs, list | tuple) else [inputs])
            return layer.call(
                *keras.tree.map_structure(lambda a: next(tensors) if _is_tensor(a) else a, args)
            )

        # keras.ops have no Python to be translated, and looking for it takes long.
        self._compute = tf.autograph.experimental.do_not_convert(compute)

    def call(self, inputs: Any) -> Any:
        return self._compute(inputs)


class Channels(tf_keras.layers.Layer):
    """Channels ``first`` to ``last`` of (N, H, W, C)."""

    def __init__(self, first: int, last: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._range = slice(first, last)

    def call(self, inputs: Any) -> Any:
        return inputs[..., self._range]


class KerasCompute(tf_keras.layers.Layer):
    """A layer of kseg with weights, called on TensorFlow tensors by its
    ``call_with_weights``.

    Args:
        layer: what is called; its weights' names and shapes are taken, not their values.
    """

    def __init__(self, layer: keras.Layer) -> None:
        super().__init__(name=_scope(layer), trainable=layer.trainable)
        self._compute = tf.autograph.experimental.do_not_convert(layer.call_with_weights)
        self._shapes = {weight.name: tuple(weight.shape) for weight in layer.weights}

    def build(self, input_shape: Any) -> None:
        self._values = [self.add_weight(name, shape) for name, shape in self._shapes.items()]
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return self._compute(inputs, *self._values)


def to_tf_keras(model: keras.Model, wrap: Wrap = lambda layer: layer) -> Bridge:
    """The same function with the same weights in tf_keras.

    Args:
        model: a functional Keras 3 model of one input and one output.
        wrap: gives what stands in a layer's place, such as a wrapper of
            tensorflow-model-optimization; every layer passes through it once.

    Raises:
        KsegError: a layer that tf_keras lacks, or an option of one, or weights that are not
            finite.
    """
    check_finite(model, model.name)
    tensors: dict[int, Any] = {}
    weights: dict[str, list[list[tf.Variable]]] = {}
    (source,) = model.inputs
    image = tf_keras.Input(batch_shape=source.shape, dtype=source.dtype, name=source.name)

    def call(layer: keras.Layer, args: tuple, _: Calls) -> Any:
        result = layer(*args)
        given = [
            image if is_image(t) else tensors[id(t)]
            for t in keras.tree.flatten(args)
            if _is_tensor(t)
        ]
        x = given[0] if len(given) == 1 else given
        if hasattr(layer, "split_weights"):
            parts, y = _call_in_parts(layer, x, wrap)
        else:
            activation = _other_activation(layer)
            made = _counterpart(layer, args, activation)
            parts = [_built(made, x, _weights(layer))]
            y = wrap(made)(x)
            if activation is not None:
                y = wrap(KerasCall(activation, (result,)))(y)
        outputs = zip(keras.tree.flatten(result), keras.tree.flatten(y), strict=True)
        tensors.update((id(tensor), value) for tensor, value in outputs)
        if _weights(layer):
            weights[layer.name] = parts
        return result

    twin = walk(model, call)
    return Bridge(tf_keras.Model(image, tensors[id(twin.outputs[0])]), weights)


def trained_copy(
    model: SegmentationModel, card: Card, train: Callable[[keras.Model], None]
) -> SegmentationModel:
    """A copy of a model for inference, after training.

    Args:
        model: stays as it is.
        card: of the copy.
        train: takes a graph without models or layers of layers inside, and changes its weights.

    Raises:
        KsegError: a wrapped model with a layer that it calls twice, whose weights would become
            two layers'.
    """
    result = build(card, weights_of=model)
    if not card.wrapped:
        train(result)
        return result
    # Its layers get other names in the graph, so that the copy itself stays apart.
    source = build(card, weights_of=model)
    graph = flatten(source)
    known = {id(weight) for weight in source.weights}
    for layer in graph.layers:
        if any(id(weight) not in known for weight in layer.weights):
            name = re.sub(r"\.[0-9]+$", "", layer.name)
            raise KsegError(
                f"{card.name}: calls {name} twice, and its weights would become two layers'; "
                "convert it with precision w8 or int8 for a smaller file"
            )
    train(graph)
    result.set_weights(source.get_weights())
    return result


def check_training(steps: int, least: int, learning_rate: float) -> None:
    """Raises KsegError for too few steps, or a learning rate that is not above 0."""
    if steps < least:
        raise KsegError(f"steps is {steps}; it must be at least {least}")
    if not learning_rate > 0:
        raise KsegError(f"learning_rate is {learning_rate}; it must be above 0")


def has_dense_kernel(layer: tf_keras.layers.Layer) -> bool:
    """Whether it is a convolution, transposed or not, of all channels at once.

    Depthwise kernels are a small share of all weights, and the network misses each of them.
    """
    kinds = tf_keras.layers.Conv2D, tf_keras.layers.Conv2DTranspose
    return isinstance(layer, kinds) and not isinstance(layer, tf_keras.layers.DepthwiseConv2D)


def _built(layer: tf_keras.layers.Layer, x: Any, weights: list[np.ndarray]) -> list[tf.Variable]:
    """The variables of a layer that is built for ``x``, a tensor or a list, with these values.

    Before a wrapper has the layer: some put tensors where the variables were.
    """
    if weights:
        with tf.name_scope(layer.name):
            layer.build([t.shape for t in x] if isinstance(x, list) else x.shape)
        if [weight.shape for weight in weights] != [tuple(v.shape) for v in layer.weights]:
            raise KsegError(
                f"{layer.name}: {type(layer).__name__} of tf_keras has other weights; "
                "write it in simpler layers, or as a layer of your own with call_with_weights"
            )
        layer.set_weights(weights)
    return list(layer.weights)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _weights(layer: keras.Operation) -> list[np.ndarray]:
    """Of a layer; an operation, such as ``x + 3`` in a graph, has none."""
    return layer.get_weights() if isinstance(layer, keras.Layer) else []


def _scope(layer: keras.Operation) -> str:
    """The layer's name in tf_keras, where none may begin with an underscore."""
    return f"layer{layer.name}" if layer.name.startswith("_") else layer.name


def _other_activation(layer: keras.Operation) -> keras.Layer | None:
    """The activation of a layer with a kernel, as a layer, where tf_keras does not know it."""
    if not is_exactly(layer, *_WITH_KERNELS) or _has_activation(layer):
        return None
    return kl.Activation(layer.activation, name=f"{layer.name}.activation")


def _counterpart(
    layer: keras.Operation, args: tuple, activation: keras.Layer | None
) -> tf_keras.layers.Layer:
    """What computes in tf_keras what the layer does, but for an activation that is apart."""
    kind = type(layer).__name__
    if hasattr(layer, "call_with_weights"):
        return KerasCompute(layer)
    known = getattr(tf_keras.layers, kind, None)
    own = keras.saving.get_registered_name(type(layer)) != kind
    if isinstance(layer, keras.Layer) and known is not None and not own:
        if activation is not None:
            return known(**{**_config(layer, known), "activation": None})
        if _has_activation(layer):
            return known(**_config(layer, known))
        if _weights(layer):
            raise KsegError(
                f"{layer.name}: tf_keras lacks the activation of this {kind}; "
                "make it a layer of its own behind it"
            )
    if _weights(layer):
        raise KsegError(f"{layer.name}: tf_keras has no {kind}; give it call_with_weights")
    return KerasCall(layer, args)


def _has_activation(layer: keras.Layer) -> bool:
    """Whether tf_keras knows the layer's activation, if it has one."""
    activation = layer.get_config().get("activation")
    if activation in (None, *_RENAMED):
        return True
    # A function of the user's is a dict.
    if not isinstance(activation, str) or activation in _OTHER:
        return False
    return hasattr(tf_keras.activations, activation)


def _config(layer: keras.Layer, kind: type) -> dict[str, Any]:
    """The layer's options for the constructor of ``kind``."""
    config = {k: v for k, v in layer.get_config().items() if not k.endswith(_LEFT_OUT)}
    config["name"] = _scope(layer)
    if kind is tf_keras.layers.LeakyReLU:
        config["alpha"] = config.pop("negative_slope")
    for name in _RENAMED:
        if config.get("activation") == name:
            config["activation"] = _RENAMED[name]
    known = {"name", "trainable"}
    for parent in inspect.getmro(kind):
        # It is not called: the names of its parameters are read.
        known.update(inspect.signature(parent.__init__).parameters)  # type: ignore[misc]
    defaults = inspect.signature(type(layer).__init__).parameters
    for key in [key for key in config if key not in known]:
        if key in defaults and config.pop(key) != defaults[key].default:
            raise KsegError(f"{layer.name}: {kind.__name__} of tf_keras has no option {key}")
    return config


def _call_in_parts(
    layer: GroupedPointwiseConv, x: Any, wrap: Wrap
) -> tuple[list[list[tf.Variable]], Any]:
    """A convolution of each group of channels, concatenated."""
    parts, results = [], []
    for i, weights in enumerate(layer.split_weights()):
        kernel = weights[0]
        first = i * kernel.shape[2]
        name = f"{_scope(layer)}.{i}"
        piece = wrap(Channels(first, first + kernel.shape[2], name=f"{name}.slice"))(x)
        part = tf_keras.layers.Conv2D(
            kernel.shape[3], 1, use_bias=layer.use_bias, name=name, trainable=layer.trainable
        )
        parts.append(_built(part, piece, weights))
        results.append(wrap(part)(piece))
    if len(results) == 1:
        return parts, results[0]
    return parts, wrap(tf_keras.layers.Concatenate(name=_scope(layer)))(results)


def _joined(parts: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The weights of a convolution in groups from its groups'."""
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(pieces, -1) for pieces in zip(*parts, strict=True)]
