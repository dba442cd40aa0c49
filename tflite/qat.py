"""Quantisation-aware training of Keras 3 models, by tensorflow-model-optimization.

The inference graph, BatchNorms folded, goes over the bridge to tf_keras. There every
operator's output and every kernel is rounded to 8 bits in the forward pass (Jacob et al.,
arXiv:1712.05877, Section 3). Ranges are measured before the first step. The int8 file is
made of the trained weights and ranges, so that it computes what training saw.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from kseg.card import Card
from kseg.errors import KsegError
from kseg.files import atomic_write, check_output
from kseg.model import SegmentationModel, dtype_policy
from kseg.pixels import check_pixels
from kseg.tflite.bridge import Channels, KerasCall, check_training, to_tf_keras
from kseg.tflite.conversion import cpu_layers, finished
from kseg.tflite.export import ArgMax, export_graph, to_flatbuffer
from kseg.tflite.flatbuffer import least_weights, with_least_weights
from kseg.tflite.options import ExportOptions
from kseg.tflite.rewrite import (
    Pixels,
    is_relu,
    readers_of,
    round_image,
    split_for_quantisation,
)

# LOGISTIC has this range in the int8 operator, whatever is measured.
_SIGMOID = (0.0, 255 / 256)

# Their operators give their input's scale to their output, as others do (``_keeps_scale``).
_SAME_SCALE = (
    Channels,
    tf_keras.layers.AveragePooling2D,
    tf_keras.layers.Cropping2D,
    tf_keras.layers.MaxPooling2D,
    tf_keras.layers.ZeroPadding2D,
)
# Their operators have a ReLU of their own.
_WITH_RELU = (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D, tf_keras.layers.Add)


# Of a channel's largest weight, by the kernel's: far below a step of the output.
_LEAST = 2.0**-16

_SWAPPED = (keras.layers.DepthwiseConv2D, keras.layers.Conv2DTranspose)
_KERNELS = (keras.layers.Conv2D, *_SWAPPED)


@dtype_policy("float32")
def train_quantised(
    model: SegmentationModel,
    path: str | Path,
    *,
    batches: tf.data.Dataset,
    loss: Callable[[Any, Any], Any],
    steps: int,
    learning_rate: float = 1e-5,
    calibration_batches: int = 8,
    output: str = "logits",
    input_size: tuple[int, int] | None = None,
    input_type: str = "float",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Trains with the noise of 8 bits and writes the int8 .tflite file.

    Args:
        model: stays as it is.
        path: of the file, made whole or not at all.
        batches: images (N, H, W, 3) 0..255 and labels, at one static size; repeated as
            needed.
        loss: of (labels, logits) by pixel, its mean is minimised; keras.ops work.
        steps: of Adam; 0 writes the calibrated file.
        learning_rate: of the first step, falling to zero on a cosine.
        calibration_batches: how many of ``batches`` the ranges are measured on.
        output, input_size, input_type: of the file, as for ``convert``.
        progress: told steps done and in all.

    Raises:
        KsegError: a value out of range; batches of another form, or whose images are not
            RGB 0..255; or what ``convert`` raises.
    """
    options = ExportOptions(
        precision="int8", output=output, input_size=input_size, input_type=input_type
    )
    check_output(path, ".tflite")
    check_training(steps, 0, learning_rate)
    height, width = _image_size(batches)
    if height is None or width is None:
        raise KsegError("quantisation-aware training needs batches of one static size; set a crop")
    # First, since it may refuse the form.
    result, card = _split_graph(model, options.output, options.input_size, batch_size=1)
    if layers := cpu_layers(result):
        raise KsegError(
            f"{layers[0].name}: a {type(layers[0]).__name__} has no int8 form to train; "
            "convert to int8 keeps it in float32"
        )
    for operation in result.operations:
        if len(keras.tree.flatten(operation.output)) > 1:
            raise KsegError(
                f"{operation.name}: a {type(operation).__name__} gives several tensors, and only "
                "layers of one can be trained in 8 bits; write slices x[..., a:b] for ops.split, "
                "ops.mean and ops.var for ops.moments"
            )
    graph, _ = _split_graph(model, "logits", (height, width), batch_size=None, like=result)
    ranges = _Ranges(graph)
    ranges.measure(batches.take(calibration_batches))
    ranges.raise_dead_channels(graph)
    bridge = to_tf_keras(graph, ranges.trained)
    # Before training, since it may refuse a layer.
    rounded = to_tf_keras(result, ranges.fixed)

    def content() -> bytes:
        file = to_flatbuffer(rounded.model, quantised=True).with_input_type(options.dtype)
        return finished(file, card, result)

    if steps:
        if card.wrapped:
            # Its operators may be refused, too.
            content()
        bridge.fit(batches, loss, steps, learning_rate, progress)
    bridge.copy_to(graph)
    rounded.copy_from(graph)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content())


def _image_size(batches: tf.data.Dataset) -> tuple[int | None, int | None]:
    """(H, W) of the batches' images.

    Raises:
        KsegError: batches of something else than images (N, H, W, 3) and labels.
    """
    spec = batches.element_spec
    shape = getattr(spec[0], "shape", None) if isinstance(spec, tuple) and len(spec) == 2 else None
    if shape is None or shape.rank != 4 or shape[3] != 3:
        raise KsegError(
            f"batches are {spec}; they must be of images (N, H, W, 3) and labels: no dicts, no "
            "weights, the channels last"
        )
    height, width = shape[1:3]
    return height, width


def _split_graph(
    model: SegmentationModel,
    output: str,
    size: tuple[int, int] | None,
    batch_size: int | None,
    like: keras.Model | None = None,
) -> tuple[keras.Model, Card]:
    """The model in layers of which each is one int8 operator, and the file's card.

    Args:
        like: what this gave at another size; a mean is two layers where it is two there.
    """
    graph, card = export_graph(
        model, output, size, batch_size=batch_size, rewritten=False, like=like
    )
    return split_for_quantisation(round_image(graph)), card


class _Ranges:
    """The range of every tensor that is rounded, from measurement to the file.

    Training leaves them as they were measured: followed by a moving average they cost the
    published ESPNet for CamVid 0.4 points of mIoU more in 45 steps.

    Args:
        graph: of ``split_for_quantisation``.
    """

    def __init__(self, graph: keras.Model) -> None:
        self._float = to_tf_keras(graph).model
        readers = readers_of(graph)
        self._before_relu = {
            name for name, layers in readers.items() if len(layers) == 1 and is_relu(layers[0])
        }
        self._limits: dict[str, tuple[float, float]] = {}

    def measure(self, batches: tf.data.Dataset) -> None:
        """The means over images of the lowest and of the highest value.

        Those of all images, which the oddest one decides, cost an ESPNet 1.5 points more.

        Raises:
            KsegError: no batch, images that are not RGB 0..255, or values that are not finite.
        """
        layers = [layer for layer in self._float.layers if self._is_rounded(layer)]
        probe = tf_keras.Model(self._float.input, [layer.output for layer in layers])

        @tf.function
        def limits(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values = [
                tf.reshape(value, (tf.shape(value)[0], -1))
                for value in probe(images, training=False)
            ]
            return (
                tf.stack([tf.reduce_min(value, 1) for value in values], 1),
                tf.stack([tf.reduce_max(value, 1) for value in values], 1),
            )

        found = []
        for images, _ in batches:
            check_pixels(images.numpy(), "a batch of images")
            found.append(limits(images))
        if not found:
            raise KsegError("quantisation-aware training needs at least one batch of images")
        lows, highs = (np.concatenate(ends).mean(0) for ends in zip(*found, strict=True))
        for layer, low, high in zip(layers, lows, highs, strict=True):
            if not np.isfinite([low, high]).all():
                raise KsegError(
                    f"int8 cannot hold the output of layer {layer.name}, whose values are not "
                    "finite on these images; the weights are damaged or far too large"
                )
            # Zero is exact in every range, and no range is empty.
            self._limits[layer.name] = (min(float(low), 0.0), max(float(high), 1e-6))

    def raise_dead_channels(self, graph: keras.Model) -> None:
        """Raises a weight of channels that weight decay has left with a bias alone, or nothing.

        The inverse scale of such a kernel (1e-38 in a published ESPNet) is infinite, and its
        bias, in steps of input and kernel, no number of 32 bits.
        """
        for layer in graph.layers:
            if isinstance(layer, _KERNELS) and layer.use_bias:
                source = _first_source(layer)
                while source.name not in self._limits and not _is_image(source):
                    source = _first_source(source)
                low, high = self._limits.get(source.name, (0.0, 255.0))
                kernel, bias = layer.get_weights()
                axis = 2 if isinstance(layer, _SWAPPED) else 3
                largest = np.abs(np.moveaxis(kernel, axis, 0)).max((1, 2, 3))
                # Channels of zeros, as of a pruned model, stay so where they have no bias.
                floor = np.where(largest > 0, _LEAST * largest.max(), 0)
                least = np.maximum(least_weights(bias, low, high), floor)
                layer.set_weights([with_least_weights(kernel, axis, least), bias])

    def trained(self, layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        """Rounds kernel and output in training."""
        kernel = None
        if layer.trainable:
            kernel = next((k for k in ("depthwise_kernel", "kernel") if hasattr(layer, k)), None)
        rounded = self._is_rounded(layer)
        if not rounded and kernel is None:
            return layer
        quantizer = None
        if rounded:
            quantizer = tfmot.quantization.keras.quantizers.FixedQuantizer(
                8, *self._range(layer), narrow_range=False
            )
        free = None if kernel is None else (kernel, getattr(layer, kernel).numpy() != 0)
        return tfmot.quantization.keras.QuantizeWrapperV2(layer, _Rounded(free, quantizer))

    def fixed(self, layer: tf_keras.layers.Layer) -> Callable[[Any], Any]:
        """Rounds the output within its range; the converter rounds kernels.

        Raises:
            KsegError: a layer that was not there where the ranges were measured.
        """
        if not self._is_rounded(layer):
            return layer
        if not _is_sigmoid(layer) and layer.name not in self._limits:
            raise KsegError(
                f"{layer.name}: is in the file's graph and not in that of the batches' size; give "
                "input_size the batches' height and width"
            )
        low, high = self._range(layer)

        def call(x: Any) -> Any:
            return tf.quantization.fake_quant_with_min_max_vars(layer(x), low, high)

        return call

    def _range(self, layer: tf_keras.layers.Layer) -> tuple[float, float]:
        return _SIGMOID if _is_sigmoid(layer) else self._limits[layer.name]

    def _is_rounded(self, layer: tf_keras.layers.Layer) -> bool:
        if isinstance(layer, (tf_keras.layers.InputLayer, *_SAME_SCALE)):
            return False
        # Channel numbers have no scale.
        if isinstance(layer, KerasCall) and (
            _keeps_scale(layer.keras_class) or issubclass(layer.keras_class, ArgMax)
        ):
            return False
        # A transposed convolution is a Conv2D to tf_keras, but has no ReLU of its own.
        if isinstance(layer, tf_keras.layers.Conv2DTranspose):
            return True
        return not (layer.name in self._before_relu and isinstance(layer, _WITH_RELU))


def _keeps_scale(kind: type[keras.Operation]) -> bool:
    # A slice, ``x[..., :8]`` in a graph, whose class Keras keeps to itself.
    return getattr(kind, "keeps_scale", False) or kind.__name__ == "GetItem"


def _first_source(layer: keras.Layer) -> keras.Layer:
    """What made a layer's input; the first, of which others only give the size."""
    return keras.tree.flatten(layer.input)[0]._keras_history.operation


def _is_image(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.InputLayer | Pixels)


def _is_sigmoid(layer: tf_keras.layers.Layer) -> bool:
    return (
        isinstance(layer, tf_keras.layers.Activation)
        and layer.activation is tf_keras.activations.sigmoid
    )


class _Kernel(tfmot.quantization.keras.quantizers.LastValueQuantizer):
    """One scale a channel; zeros, as of a pruned model, stay zeros.

    Args:
        swapped: channels are on the last axis but one, as in depthwise and transposed kernels.
        free: what is no zero, of the kernel's shape, bool.
    """

    def __init__(self, swapped: bool, free: np.ndarray) -> None:
        super().__init__(8, per_axis=True, symmetric=True, narrow_range=True)
        self._axes = (0, 1, 3, 2) if swapped else (0, 1, 2, 3)
        self._free = free

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, tf.Variable]:
        return super().build([tensor_shape[axis] for axis in self._axes], name, layer)

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if not self._free.all():
            # No gradient reaches them either.
            inputs = tf.where(self._free, inputs, 0.0)
        rounded = super().__call__(tf.transpose(inputs, self._axes), training, weights, **kwargs)
        return tf.transpose(rounded, self._axes)


class _Rounded(tfmot.quantization.keras.QuantizeConfig):
    """What of a layer is rounded: its kernel, if it has one that trains, and its output.

    Args:
        kernel: its name, and which of its weights are no zeros.
        output: the quantizer, None where it is not rounded.
    """

    def __init__(self, kernel: tuple[str, np.ndarray] | None, output: Any) -> None:
        self._kernel, self._output = kernel, output

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if self._kernel is None:
            return []
        swapped = isinstance(
            layer, tf_keras.layers.DepthwiseConv2D | tf_keras.layers.Conv2DTranspose
        )
        name, free = self._kernel
        return [(getattr(layer, name), _Kernel(swapped, free))]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        if self._kernel is not None:
            (weight,) = quantize_weights
            setattr(layer, self._kernel[0], weight)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self._output is None else [self._output]

    def get_config(self) -> dict[str, Any]:
        return {}
