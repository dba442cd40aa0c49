"""Rewrites of what networks of kseg avoid and a wrapped model may have.

Each leaves the function as it is, and takes away an operator that the LiteRT GPU accelerator
refuses or computes wrongly (docs/adding-networks.md), or one that 8 bits hold badly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import KerasTensor
from keras import layers as kl

from kseg.layers import Normalize, Resize
from kseg.tflite.rewrite import (
    Calls,
    called,
    constant_padding,
    depthwise,
    factors,
    is_exactly,
    is_relu,
    readers_of,
    scaled,
    walk,
)

if TYPE_CHECKING:
    # Imported where it converts: a process that only runs a file goes without.
    import tensorflow as tf


def for_accelerator(graph: keras.Model) -> keras.Model:
    """The graph by all rewrites of this module, in their order.

    Args:
        graph: a flat functional model of static size for inference; its layers are shared
            with the result.
    """
    for rewrite in (
        reverse_channels_by_convolution,
        normalise_by_layer,
        split_separable_convolutions,
        split_grouped_convolutions,
        subsample_before_convolutions,
        pool_padding_by_convolutions,
        pool_same_for_padding,
        resize_by_layer,
        dense_by_convolutions,
        fold_into_transposed_convolutions,
        leak_behind_transposed_convolutions,
        convolve_before_resizing,
    ):
        graph = rewrite(graph)
    return graph


def reverse_channels_by_convolution(graph: keras.Model) -> keras.Model:
    """``x[..., ::-1]``, as from RGB to BGR, as a 1x1 convolution that permutes."""

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if type(layer).__name__ != "GetItem" or not _reverses_channels(*args):
            return layer(*args)
        channels = args[0].shape[-1]
        permute = kl.Conv2D(channels, 1, use_bias=False, name=layer.name)
        return called(permute, args[0], [np.eye(channels)[::-1][None, None]])

    return walk(graph, replace)


def _reverses_channels(x: KerasTensor, key: Any) -> bool:
    """Whether ``x[key]`` is (N, H, W, C) with the channels the other way round and no more."""
    if not isinstance(key, tuple) or len(x.shape) != 4 or not key:
        return False
    *others, last = key
    all_of_it = (Ellipsis, slice(None))
    return (
        last == slice(None, None, -1)
        and all(part in all_of_it for part in others)
        and (len(key) == 4 or Ellipsis in others)
    )


def normalise_by_layer(graph: keras.Model) -> keras.Model:
    """Rescaling and Normalization of the image as kseg's, which int8 holds without loss."""

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if not isinstance(layer, kl.Rescaling | kl.Normalization) or not _is_image(args[0]):
            return layer(*args)
        if isinstance(layer, kl.Rescaling):
            scale = np.broadcast_to(np.asarray(layer.scale, np.float64), 3)
            shift = np.broadcast_to(np.asarray(layer.offset, np.float64), 3)
        else:
            # What the layer does to 0 and to 1, however its statistics were given.
            ends = np.stack([np.zeros((1, 1, 3)), np.ones((1, 1, 3))]).astype(np.float32)
            values = np.asarray(layer(ends), np.float64)
            if values.shape != ends.shape:
                return layer(*args)  # statistics for every pixel
            shift, one = values[:, 0, 0]
            scale = one - shift
        if not (scale > 0).all():
            return layer(*args)
        return Normalize((-shift / scale).tolist(), (1 / scale).tolist(), name=layer.name)(args[0])

    return walk(graph, replace)


def _is_image(x: KerasTensor) -> bool:
    return len(x.shape) == 4 and x.shape[-1] == 3


def split_separable_convolutions(graph: keras.Model) -> keras.Model:
    """Every SeparableConv2D as the two convolutions that it is."""

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if not isinstance(layer, kl.SeparableConv2D):
            return layer(*args)
        spatial, pointwise, *bias = layer.get_weights()
        first = kl.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            depth_multiplier=layer.depth_multiplier,
            use_bias=False,
            name=f"{layer.name}.spatial",
        )
        last = kl.Conv2D(
            layer.filters,
            1,
            use_bias=bool(bias),
            activation=layer.activation,
            name=layer.name,
        )
        return called(last, called(first, args[0], [spatial]), [pointwise, *bias])

    return walk(graph, split)


def split_grouped_convolutions(graph: keras.Model) -> keras.Model:
    """Every Conv2D in groups as one convolution a group, or as a depthwise one."""

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if not is_exactly(layer, kl.Conv2D) or layer.groups == 1:
            return layer(*args)
        (x,) = args
        kernel, *bias = layer.get_weights()
        config = {**layer.get_config(), "groups": 1}
        inside, outside = kernel.shape[2], layer.filters // layer.groups
        if inside == 1:
            for key in ("filters", "groups", "kernel_initializer", "kernel_regularizer"):
                config.pop(key)
            config.pop("kernel_constraint")
            whole = kl.DepthwiseConv2D(**config, depth_multiplier=outside)
            shape = (*kernel.shape[:2], layer.groups, outside)
            return called(whole, x, [kernel.reshape(shape), *bias])
        pieces = []
        for i in range(layer.groups):
            part = type(layer).from_config(
                {**config, "filters": outside, "name": f"{layer.name}.{i}"}
            )
            ends = slice(i * outside, (i + 1) * outside)
            weights = [kernel[..., ends], *(b[ends] for b in bias)]
            pieces.append(called(part, x[..., i * inside : (i + 1) * inside], weights))
        return kl.Concatenate(name=layer.name)(pieces)

    return walk(graph, split)


def subsample_before_convolutions(graph: keras.Model) -> keras.Model:
    """Every 1x1 convolution with a stride as one of stride 1 of every n-th pixel."""

    def split(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if (
            not is_exactly(layer, kl.Conv2D)
            or layer.kernel_size != (1, 1)
            or layer.strides == (1, 1)
        ):
            return layer(*args)
        x = kl.MaxPooling2D(1, strides=layer.strides, name=f"{layer.name}.subsample")(args[0])
        plain = type(layer).from_config({**layer.get_config(), "strides": 1})
        return called(plain, x, layer.get_weights())

    return walk(graph, split)


def pool_padding_by_convolutions(graph: keras.Model) -> keras.Model:
    """Every average pooling of a padded image as a depthwise convolution, padding counted."""

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        source, _ = calls.of(args[0])
        padded = isinstance(source, kl.ZeroPadding2D) or type(source).__name__ == "Pad"
        if not isinstance(layer, kl.AveragePooling2D) or not padded or layer.padding != "valid":
            return layer(*args)
        pool = kl.DepthwiseConv2D(
            layer.pool_size, strides=layer.strides, use_bias=False, trainable=False, name=layer.name
        )
        shape = (*layer.pool_size, args[0].shape[-1], 1)
        return called(pool, args[0], [np.full(shape, 1 / np.prod(layer.pool_size))])

    return walk(graph, replace)


def pool_same_for_padding(graph: keras.Model) -> keras.Model:
    """A max pooling of what is padded with the least number, by the pooling's own padding.

    Of an odd window and half of it around: the pooling of stride 1, and every n-th of it.
    """

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        source, inputs = calls.of(args[0])
        if not isinstance(layer, kl.MaxPooling2D) or layer.padding != "valid":
            return layer(*args)
        width, least = constant_padding(source, inputs)
        half = [(size // 2, size // 2) for size in layer.pool_size]
        if (
            width != [(0, 0), *half, (0, 0)]
            or any(size % 2 == 0 for size in layer.pool_size)
            or least is None
            or least > np.finfo(np.float16).min
        ):
            return layer(*args)
        x = kl.MaxPooling2D(layer.pool_size, 1, padding="same", name=f"{layer.name}.window")(
            inputs[0]
        )
        if tuple(layer.strides) == (1, 1):
            return x
        return kl.MaxPooling2D(1, strides=layer.strides, name=layer.name)(x)

    return walk(graph, replace)


@keras.saving.register_keras_serializable("kseg")
class ResizeNearest(kl.Layer):
    """Nearest-pixel resizing of (N, h, w, C) to a fixed size, half-pixel centres."""

    keeps_scale = True

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.image.resize(x, self.size, "nearest")

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], *self.size, x.shape[3]), x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


def resize_by_layer(graph: keras.Model) -> keras.Model:
    """UpSampling2D and Resizing, bilinear and nearest, as one operator each."""

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        x = args[0]
        if isinstance(layer, kl.UpSampling2D):
            size = (layer.size[0] * x.shape[1], layer.size[1] * x.shape[2])
        elif isinstance(layer, kl.Resizing) and not (
            layer.antialias or layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio
        ):
            size = (layer.height, layer.width)
        else:
            return layer(*args)
        if layer.interpolation not in ("bilinear", "nearest"):
            return layer(*args)
        if size == tuple(x.shape[1:3]):
            return x
        kind = Resize if layer.interpolation == "bilinear" else ResizeNearest
        return kind(size=size, name=layer.name)(x)

    return walk(graph, replace)


# On (N, 1, 1, C) they do what they do on (N, C).
_POINTWISE = (
    *(kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU),
    *(kl.Dropout, kl.Identity, kl.Add, kl.Multiply, kl.Subtract, kl.Average, kl.Maximum),
)
_VECTOR_SHAPES = ("Reshape", "ExpandDims", "GetItem")


def dense_by_convolutions(graph: keras.Model) -> keras.Model:
    """Dense on maps, on tokens and on what a global pooling gives, as 1x1 convolutions.

    Attention by global pooling, Dense, Reshape and Multiply keeps its two dimensions of one
    throughout; what is no part of such attention gets the vectors that it takes.
    """
    # What stands for (N, C), by its id; kept, since an id names one only while it lives.
    vectors: dict[int, KerasTensor] = {}

    def kept(y: KerasTensor) -> KerasTensor:
        vectors[id(y)] = y
        return y

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        tensors = [x for x in keras.tree.flatten(args) if isinstance(x, KerasTensor)]
        found = [x for x in tensors if id(x) in vectors]
        if isinstance(layer, kl.GlobalAveragePooling2D | kl.GlobalMaxPooling2D):
            config = {**layer.get_config(), "keepdims": True}
            y = type(layer).from_config(config)(args[0])
            return y if layer.keepdims else kept(y)
        if type(layer) is kl.Dense and len(args[0].shape) == 4:
            y = called(_as_convolution(layer), args[0], _as_kernel(layer))
            return kept(y) if found else y
        if type(layer) is kl.Dense and len(args[0].shape) == 3 and not found:
            # As a map of one row.
            length, channels = args[0].shape[1:]
            x = kl.Reshape((1, length, channels), name=f"{layer.name}.row")(args[0])
            y = called(_as_convolution(layer), x, _as_kernel(layer))
            return kl.Reshape((length, layer.units), name=f"{layer.name}.tokens")(y)
        if not found:
            return layer(*args)
        if len(found) == len(tensors):
            if isinstance(layer, kl.BatchNormalization):
                return kept(depthwise(args[0], *factors(layer), layer.name))
            softmax = getattr(layer, "activation", None) is keras.activations.softmax
            if isinstance(layer, _POINTWISE) and not softmax:
                return kept(layer(*args))
        flat = [kl.Flatten(name=f"{layer.name}.flat.{i}")(x) for i, x in enumerate(found)]
        by_id = dict(zip(map(id, found), flat, strict=True))
        inputs = keras.tree.map_structure(lambda x: by_id.get(id(x), x), args)
        y = layer(*inputs)
        if type(layer).__name__ in _VECTOR_SHAPES and len(found) == 1 == len(tensors):
            (x,) = found
            if tuple(y.shape) == tuple(x.shape):
                return kl.Identity(name=layer.name)(x)
        return y

    return walk(graph, replace)


def _as_convolution(layer: kl.Dense) -> kl.Conv2D:
    return kl.Conv2D(
        layer.units, 1, use_bias=layer.use_bias, activation=layer.activation, name=layer.name
    )


def _as_kernel(layer: kl.Dense) -> list[np.ndarray]:
    kernel, *bias = layer.get_weights()
    return [kernel[None, None], *bias]


def fold_into_transposed_convolutions(graph: keras.Model) -> keras.Model:
    """Every BatchNorm behind a transposed convolution in its kernel and bias."""
    readers = readers_of(graph)

    def fold(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        source, inputs = calls.of(args[0])
        if (
            isinstance(layer, kl.BatchNormalization)
            and is_exactly(source, kl.Conv2DTranspose)
            and source.activation is keras.activations.linear
            and len(readers[source.name]) == 1
        ):
            return scaled(source, inputs[0], *factors(layer))
        return layer(*args)

    return walk(graph, fold)


def leak_behind_transposed_convolutions(graph: keras.Model) -> keras.Model:
    """A ReLU behind a transposed convolution as a LeakyReLU of slope 0, a layer of its own.

    The operator with a ReLU in it is refused.
    """

    def replace(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        if is_exactly(layer, kl.Conv2DTranspose) and layer.activation is keras.activations.relu:
            linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
            x = called(linear, args[0], layer.get_weights())
            return kl.LeakyReLU(0.0, name=f"{layer.name}.relu")(x)
        source, _ = calls.of(args[0])
        if is_relu(layer) and isinstance(source, kl.Conv2DTranspose):
            x = args[0]
            if layer.get_config().get("max_value") == 6:
                return kl.ReLU(6, name=layer.name)(kl.LeakyReLU(0.0, name=f"{layer.name}.0")(x))
            return kl.LeakyReLU(0.0, name=layer.name)(x)
        return layer(*args)

    return walk(graph, replace)


def convolve_before_resizing(graph: keras.Model) -> keras.Model:
    """A 1x1 convolution without activation behind a bilinear resizing before it.

    The resizing's weights sum to 1, so that both orders are one function, and most
    classifiers have fewer channels than the features that they would see enlarged.
    """
    readers = readers_of(graph)

    def swap(layer: keras.Layer, args: tuple, calls: Calls) -> Any:
        source, inputs = calls.of(args[0])
        if (
            not is_exactly(layer, kl.Conv2D)
            or (layer.kernel_size, layer.strides) != ((1, 1), (1, 1))
            or layer.activation is not keras.activations.linear
            or not isinstance(source, Resize)
            or len(readers[source.name]) > 1
            or layer.filters > inputs[0].shape[-1]
            or _area(args[0]) <= _area(inputs[0])
        ):
            return layer(*args)
        resize = Resize.from_config(source.get_config())
        return resize(layer(inputs[0]), *inputs[1:])

    return walk(graph, swap)


def _area(x: KerasTensor) -> int:
    return int(np.prod(x.shape[1:3]))
