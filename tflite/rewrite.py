"""Rewrites of an inference graph that leave its function as it is.

Each goes over the graph on its own: it looks at what the one before it has made, such as
the branches of a concatenation, and a walk takes little beside the conversion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import keras
import numpy as np
from keras import layers as kl

from kseg.layers import Normalize

if TYPE_CHECKING:
    # Imported where it converts: a process that only runs a file goes without.
    import tensorflow as tf


class Calls:
    """Which layer gave a tensor, and from what."""

    def __init__(self) -> None:
        # The tensors are kept, since an id names one only while it lives.
        self._by_id: dict[int, tuple[Any, keras.Layer, tuple]] = {}

    def add(self, result: Any, layer: keras.Layer, args: tuple) -> None:
        self._by_id[id(result)] = (result, layer, args)

    def of(self, tensor: Any) -> tuple[keras.Layer | None, tuple]:
        """The layer, None for an input of the graph, and its arguments."""
        return self._by_id.get(id(tensor), (None, None, ()))[1:]


def is_exactly(layer: Any, *kinds: type) -> TypeGuard[keras.Layer]:
    """Whether it is of one of Keras' classes themselves.

    A subclass may compute something else of the same weights, as with standardised kernels.
    """
    return type(layer) in kinds


def is_image(tensor: Any) -> bool:
    """Whether it is a graph's input."""
    return isinstance(tensor, keras.KerasTensor) and isinstance(
        tensor._keras_history.operation, kl.InputLayer
    )


@keras.saving.register_keras_serializable("kseg")
class SlicedConv2D(kl.Conv2D):
    """A Conv2D of stride 1, summed over slices of its input of ``channels`` each."""

    def __init__(self, *args: Any, channels: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.channels = channels

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        parts = [
            keras.ops.conv(
                x[..., part],
                self.kernel[:, :, part],
                padding=self.padding,
                data_format="channels_last",
            )
            for part in _slices(x.shape[-1], self.channels)
        ]
        total = sum(parts[1:], parts[0])
        return self.activation(total + self.bias if self.use_bias else total)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


def _slices(extent: int, size: int) -> list[slice]:
    """Parts of ``size``, the last up to the end; the GPU accelerator refuses one beyond it."""
    return [slice(first, min(first + size, extent)) for first in range(0, extent, size)]


# Input by output channels of a 3x3 convolution that the GPU accelerator computes right.
_WIDEST = 512 * 512


def split_wide_convolutions(graph: keras.Model) -> keras.Model:
    """Every large plain 3x3 convolution as a sum over slices of its input.

    From some size of the picture on the LiteRT GPU accelerator computes these by
    Winograd's transform, with kernels four times as large, and gives zeros for 1024
    channels to 512.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function, as far as float32 goes.
    """

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        channels = _slice_of(layer, args[0])
        if channels is None:
            return layer(*args)
        sliced = SlicedConv2D.from_config({**layer.get_config(), "channels": channels})
        return called(sliced, args[0], layer.get_weights())

    return walk(graph, split)


def _slice_of(layer: keras.Layer, x: keras.KerasTensor) -> int | None:
    """How many channels of ``x`` are a slice; None where the convolution is not to be split."""
    if (
        not is_exactly(layer, kl.Conv2D)
        or (layer.kernel_size, layer.strides, layer.dilation_rate) != ((3, 3), (1, 1), (1, 1))
        or x.shape[-1] * layer.filters <= _WIDEST
    ):
        return None
    return max(_WIDEST // layer.filters, 1)


def normalise_by_convolution(graph: keras.Model) -> keras.Model:
    """The normalisation as a 1x1 convolution.

    A difference and a product of three channels use a vector unit badly: they took 17 % of
    an int8 LiteSeg's time on a CPU and 4 % of its float32's. A weight a channel, which 8 bits
    hold exactly, takes their roundings besides.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function, as far as float32 goes.
    """

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        is_normalisation = isinstance(layer, Normalize)
        return layer.as_convolutions(*args) if is_normalisation else layer(*args)

    return walk(graph, replace)


def fold_batch_norms(graph: keras.Model) -> keras.Model:
    """Every BatchNorm that no convolution takes up, in a form that int8 can hold.

    The converter folds a BatchNorm behind a convolution; another becomes a product and a
    sum with one scale for all channels each. Here it becomes a 1x1 depthwise convolution
    with bias, which is the same function and has a scale a channel. Behind a
    concatenation it moves into the branches: where features and the pooled image meet
    (CGNet, ESPNet), one scale for both would leave the features a handful of steps. A
    branch that is a convolution takes the factors into its kernel and bias.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function, as far as float32 goes.
    """
    readers = readers_of(graph)

    def fold(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        before, joined = calls.of(args[0])
        # The converter also folds into what a subclass makes its kernel.
        convolves = isinstance(before, kl.Conv2D | kl.DepthwiseConv2D)
        if not is_map_norm(layer) or (convolves and _is_linear(before)):
            return layer(*args)
        factor, shift = factors(layer)
        if (
            not isinstance(before, kl.Concatenate)
            or before.axis not in (-1, 3)
            or len(readers[before.name]) > 1
        ):
            return depthwise(args[0], factor, shift, f"{layer.name}.depthwise")
        ends = np.cumsum([branch.shape[-1] for branch in joined[0]])[:-1]
        parts = zip(joined[0], np.split(factor, ends), np.split(shift, ends), strict=True)
        branches = []
        for i, (branch, factor, shift) in enumerate(parts):
            source, inputs = calls.of(branch)
            if is_linear_convolution(source) and len(readers[source.name]) == 1:
                branches.append(scaled(source, inputs[0], factor, shift))
            else:
                branches.append(depthwise(branch, factor, shift, f"{layer.name}.branch{i}"))
        return before(branches)

    return walk(graph, fold)


def relu_into_branches(graph: keras.Model) -> keras.Model:
    """Every ReLU behind a concatenation in its branches, where convolutions take it up.

    As an operator of its own it takes time, in int8 as much as a ShuffleNet besides:
    XNNPACK does not run it between the scales of a concatenation and of its positive part.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function.
    """
    readers = readers_of(graph)

    def move(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        before, joined = calls.of(args[0])
        if (
            not is_relu(layer)
            or not isinstance(before, kl.Concatenate)
            or len(readers[before.name]) > 1
        ):
            return layer(*args)
        branches = []
        for i, branch in enumerate(joined[0]):
            config = {**layer.get_config(), "name": f"{layer.name}.branch{i}"}
            branches.append(type(layer).from_config(config)(branch))
        return before(branches)

    return walk(graph, move)


def pad_before_max_pooling(graph: keras.Model) -> keras.Model:
    """Every max pooling of values with zeros around, with an operator between both.

    The LiteRT GPU accelerator merges the padding into the pooling, whose own padding wins over no
    value, whereas zeros win over negative ones: 13 % of the range of the logits of ResNet50V2's
    DeepLabv3. A 1x1 depthwise convolution with ones keeps them apart. Behind a ReLU, where zeros
    win over nothing either, all stays.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function.
    """

    def separate(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        x = args[0]
        if not isinstance(layer, kl.MaxPooling2D):
            return layer(*args)
        source, inputs = calls.of(x)
        _, value = constant_padding(source, inputs)
        zeros = isinstance(source, kl.ZeroPadding2D) or value == 0
        if not zeros or _is_never_negative(inputs[0], calls):
            return layer(*args)
        apart = kl.DepthwiseConv2D(1, use_bias=False, trainable=False, name=f"{layer.name}.padded")
        return layer(called(apart, x, [np.ones((1, 1, x.shape[-1], 1))]))

    # A walk through hundreds of layers takes its time.
    pools = any(isinstance(layer, kl.MaxPooling2D) for layer in graph.layers)
    return walk(graph, separate) if pools else graph


def _is_never_negative(x: keras.KerasTensor, calls: Calls) -> bool:
    """Whether a ReLU or a sigmoid gave it, or what such gave was only moved or pooled."""
    layer, args = calls.of(x)
    if isinstance(layer, kl.Concatenate):
        return all(_is_never_negative(branch, calls) for branch in args[0])
    if isinstance(layer, kl.MaxPooling2D | kl.AveragePooling2D | kl.ZeroPadding2D | kl.Dropout):
        return _is_never_negative(args[0], calls)
    if isinstance(layer, kl.ReLU):
        return not layer.get_config()["negative_slope"]
    activation = getattr(layer, "activation", None)
    return activation in (
        keras.activations.relu,
        keras.activations.relu6,
        keras.activations.sigmoid,
    )


def constant_padding(
    source: keras.Operation | None, inputs: tuple
) -> tuple[list[tuple[int, int]], float | None]:
    """Widths by axis and the value of ``keras.ops.pad``; of something else nothing."""
    if type(source).__name__ != "Pad" or getattr(source, "mode", None) != "constant":
        return [], None
    values = [x for x in inputs[1:] if x is not None]
    widths = np.asarray(getattr(source, "pad_width", ())).tolist()
    return [(first, last) for first, last in widths], float(values[0]) if values else 0.0


@keras.saving.register_keras_serializable("kseg")
class AxisMean(kl.Layer):
    """Means over rows (axis 1) or columns (axis 2), of (N, H, W, C) to one of them."""

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        # The axis as a vector: some delegates read no scalar there.
        return keras.ops.mean(x, axis=(self.axis,), keepdims=True)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[: self.axis], 1, *input_shape[self.axis + 1 :])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


# Values up to 64, so many of them, add up to a quarter of half precision's largest number.
_SUMMED = 256


def average_by_axes(graph: keras.Model, like: keras.Model | None = None) -> keras.Model:
    """Every mean of more than 256 pixels as one over columns and one over rows.

    Some GPU drivers add up in half precision (github.com/google-ai-edge/LiteRT/issues/9249),
    which ends at 65,504: the sums of CGNet's global means reach 270,000 at 1024x2048, those
    of a row of theirs 3,000. Besides, one over so many pixels is below half precision's
    normal numbers. Rows are of one length, so that the mean of their means is that of all
    pixels, at any size; windows, cut off at the border or not, are products of both axes.

    Args:
        graph: a functional model of static size for inference; its layers are shared with
            the result.
        like: what this made of the same model at another size; the means that are two there
            become two, and no others.

    Returns:
        A model of the same function, as far as float32 goes.
    """
    names = None if like is None else {layer.name for layer in like.layers}

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        x = args[0]
        columns = f"{layer.name}.columns"

        def is_split(area: tuple[int, int]) -> bool:
            return _is_large(area) if names is None else columns in names

        if _is_global_mean(layer, x) and is_split(x.shape[1:3]):
            y = AxisMean(1, name=layer.name)(AxisMean(2, name=columns)(x))
            return y if layer.keepdims else kl.Flatten(name=f"{layer.name}.flat")(y)
        if isinstance(layer, kl.AveragePooling2D) and is_split(layer.pool_size):
            for name, axis in ((columns, 1), (layer.name, 0)):
                config = {**layer.get_config(), "name": name}
                for key in ("pool_size", "strides"):
                    config[key] = tuple(n if i == axis else 1 for i, n in enumerate(config[key]))
                x = type(layer).from_config(config)(x)
            return x
        return layer(*args)

    return walk(graph, split)


def _is_global_mean(layer: keras.Operation, x: Any) -> bool:
    """Whether it is a mean over height and width: Keras' layer, or ``keras.ops.mean``."""
    if isinstance(layer, kl.GlobalAveragePooling2D):
        return True
    if type(layer).__name__ != "Mean" or len(x.shape) != 4:
        return False
    axes = np.ravel(range(4) if layer.axis is None else layer.axis) % 4
    return sorted(axes.tolist()) == [1, 2]


def _is_large(area: tuple[int, int]) -> bool:
    """Whether a sum over (height, width) is to be one over each; in a line it is one already."""
    return min(area) > 1 and int(np.prod(area)) > _SUMMED


def is_relu(layer: keras.Layer) -> bool:
    """Whether convolutions' operators have it: ReLU and ReLU6."""
    config = layer.get_config()
    if isinstance(layer, kl.ReLU):
        bent = config["negative_slope"] or config["threshold"]
        return config["max_value"] in (None, 6) and not bent
    return isinstance(layer, kl.Activation) and config["activation"] == "relu"


_CONVOLUTIONS = (kl.Conv2D, kl.Conv2DTranspose, kl.DepthwiseConv2D)


def split_for_quantisation(graph: keras.Model) -> keras.Model:
    """The graph in layers of which each is one int8 operator, for training with its noise.

    BatchNorms become part of their convolutions or 1x1 depthwise convolutions, layers of
    kseg that compute as convolutions (normalisation, padded pooling) these, which do not
    train. An activation inside a convolution becomes a layer, save ReLU, which the
    operators have. Dropout goes. What ``split_wide_convolutions`` splits is a sum of
    convolutions here.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function, as far as float32 goes.
    """
    readers = readers_of(graph)

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        x = args[0]
        if isinstance(layer, kl.Dropout | kl.SpatialDropout2D):
            source, _ = calls.of(x)
            if source is not None:
                # Its readers read what it read.
                others = [reader for reader in readers[source.name] if reader is not layer]
                readers[source.name] = others + readers[layer.name]
            return x
        if hasattr(layer, "as_convolutions"):
            return layer.as_convolutions(x)
        if is_map_norm(layer):
            factor, shift = factors(layer)
            source, inputs = calls.of(x)
            if is_linear_convolution(source) and len(readers[source.name]) == 1:
                return scaled(source, inputs[0], factor, shift)
            return depthwise(x, factor, shift, f"{layer.name}.depthwise")
        if is_exactly(layer, *_CONVOLUTIONS) and not _is_linear(layer):
            activation = layer.get_config()["activation"]
            if activation != "relu":
                linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
                x = called(linear, x, layer.get_weights())
                kind = activation if isinstance(activation, str) else "activation"
                return activation_layer(x, activation, f"{layer.name}.{kind}")
        if isinstance(layer, kl.Activation):
            return activation_layer(x, layer.get_config()["activation"], layer.name)
        return layer(*args)

    # After BatchNorms have become part of them.
    return walk(walk(graph, split), _sum_of_convolutions)


def _sum_of_convolutions(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
    """A wide convolution in layers of which each is one operator."""
    x = args[0]
    channels = _slice_of(layer, x)
    if channels is None:
        return layer(*args)
    kernel, *bias = layer.get_weights()
    config = {**layer.get_config(), "activation": "linear"}
    total = None
    for i, own in enumerate(_slices(x.shape[-1], channels)):
        # The last has the bias.
        last = own.stop == x.shape[-1]
        part = {**config, "name": f"{layer.name}.{i}", "use_bias": last and bool(bias)}
        weights = [kernel[:, :, own], *(bias if last else ())]
        piece = called(type(layer).from_config(part), x[..., own], weights)
        total = piece if total is None else kl.Add(name=f"{layer.name}.sum.{i}")([total, piece])
    activation = layer.get_config()["activation"]
    return total if activation == "linear" else activation_layer(total, activation, layer.name)


def round_image(graph: keras.Model) -> keras.Model:
    """The graph behind ``Pixels``, whatever reads the image.

    Args:
        graph: a functional model for inference; its layers are shared with the result.

    Returns:
        A model of the same function on whole numbers 0..255.
    """
    rounded: dict[str, keras.KerasTensor] = {}

    def pixels(value: Any) -> Any:
        if not is_image(value):
            return value
        if value.name not in rounded:
            rounded[value.name] = Pixels(name=f"{value.name}.pixels")(value)
        return rounded[value.name]

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        return layer(*keras.tree.map_structure(pixels, args))

    return walk(graph, replace)


@keras.saving.register_keras_serializable("kseg")
class Pixels(kl.Layer):
    """0..255 rounded to whole numbers, as an int8 input of scale 1 does it."""

    keeps_scale = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_vars(x, 0.0, 255.0)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, x.dtype)


def readers_of(graph: keras.Model) -> dict[str, list[keras.Layer]]:
    """The layers that read each layer's output, by its name."""
    readers: dict[str, list[keras.Layer]] = defaultdict(list)

    def note(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        for tensor in keras.tree.flatten(args):
            source, _ = calls.of(tensor)
            if source is not None:
                readers[source.name].append(layer)
        return layer(*args)

    walk(graph, note)
    return readers


def walk(graph: keras.Model, call: Callable[[keras.Layer, tuple, Calls], Any]) -> keras.Model:
    """The graph again, every layer called by ``call``; its layers are kept.

    Args:
        graph: a functional model.
        call: takes a layer, its arguments and the calls so far; gives the tensor, or several.
    """
    calls = Calls()

    def record(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # Tensors come by position (``flatten``); "training" and "mask" are all there is else.
        result = call(layer, args, calls)
        for tensor in keras.tree.flatten(result):
            # A layer that is left out gives what another gave.
            if calls.of(tensor)[0] is None:
                calls.add(tensor, layer, args)
        return result

    return keras.models.clone_model(graph, clone_function=lambda layer: layer, call_function=record)


def factors(layer: kl.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """(C,) each of ``x * factor + shift``, float64."""
    mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
    factor = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        factor = factor * np.asarray(layer.gamma)
    shift = -mean * factor
    return factor, shift + np.asarray(layer.beta) if layer.center else shift


def is_map_norm(layer: keras.Layer) -> TypeGuard[kl.BatchNormalization]:
    """Whether it is a BatchNorm of the channels of (N, H, W, C)."""
    if not isinstance(layer, kl.BatchNormalization):
        return False
    return layer.input_spec.ndim == 4 and layer.axis in (-1, 3)


def is_linear_convolution(layer: keras.Layer | None) -> TypeGuard[keras.Layer]:
    """Whether it is a convolution that takes up a BatchNorm behind it."""
    return is_exactly(layer, kl.Conv2D, kl.DepthwiseConv2D) and _is_linear(layer)


def _is_linear(layer: keras.Layer) -> bool:
    return layer.activation is keras.activations.linear


def activation_layer(
    x: keras.KerasTensor, activation: str | dict[str, Any], name: str
) -> keras.KerasTensor:
    """The activation as a layer; of silu two, as which it can be quantised.

    Args:
        activation: as a layer's configuration has it, a dict where the user registered it.
    """
    if activation == "silu":
        gate = kl.Activation("sigmoid", name=f"{name}.gate")(x)
        return kl.Multiply(name=name)([x, gate])
    return kl.Activation(activation, name=name)(x)


def scaled(
    source: keras.Layer, x: keras.KerasTensor, factor: np.ndarray, shift: np.ndarray
) -> keras.KerasTensor:
    """The convolution of ``x`` with the factors in its kernel and bias."""
    kernel, *bias = source.get_weights()
    # A depthwise kernel ends in (channels, 1), a transposed one in (channels, inputs).
    inner = isinstance(source, kl.DepthwiseConv2D | kl.Conv2DTranspose)
    kernel = kernel * factor.reshape((-1, 1) if inner else -1)
    if bias:
        shift = shift + factor * bias[0]
    layer = type(source).from_config({**source.get_config(), "use_bias": True})
    return called(layer, x, [kernel, shift])


def depthwise(
    x: keras.KerasTensor, factor: np.ndarray, shift: np.ndarray, name: str
) -> keras.KerasTensor:
    """``x * factor + shift``."""
    layer = kl.DepthwiseConv2D(1, use_bias=True, name=name)
    return called(layer, x, [factor.reshape(1, 1, -1, 1), shift])


def called(
    layer: keras.Layer, x: keras.KerasTensor, weights: list[np.ndarray]
) -> keras.KerasTensor:
    """What a new layer gives with these weights."""
    y = layer(x)
    layer.set_weights(weights)
    return y
