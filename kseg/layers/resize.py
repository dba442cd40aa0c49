"""Images and features at another size: normalisation, resizing, odd sizes matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

RESIZE_CONVENTIONS = ("half_pixel", "align_corners")

# Half precision's smallest normal number.
_LEAST_NORMAL = 2.0**-14


@keras.saving.register_keras_serializable("kseg")
class Normalize(keras.layers.Layer):
    """RGB values 0..255, (N, H, W, 3) of any dtype, to what the network was trained on.

    Gives ``(x - mean) / std`` in float32, channels first reordered to ``channel_order``;
    ``mean`` and ``std`` are in that order. It computes in float32 under every policy:
    bfloat16 cannot hold 0..255 with a fraction.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channel_order: str = "RGB", **kwargs: Any
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order is {channel_order!r}, not RGB or BGR")
        self.mean, self.std, self.channel_order = list(mean), list(std), channel_order
        self.trainable = False

    def call(self, x: KerasTensor) -> KerasTensor:
        x = ops.cast(x, "float32")
        if self.channel_order == "BGR":
            # A product with a permutation, since the GPU accelerator has no reversal.
            kernel = np.eye(3, dtype="float32")[::-1].reshape(1, 1, 3, 3)
            x = ops.conv(x, ops.convert_to_tensor(kernel), data_format="channels_last")
        if any(self.mean):
            x = x - np.asarray(self.mean, "float32")
        if any(s != 1 for s in self.std):
            x = x * (1 / np.asarray(self.std, "float64")).astype("float32")
        return x

    def as_convolutions(self, x: KerasTensor) -> KerasTensor:
        """As a 1x1 convolution, which does not train.

        Weights below half precision's normal numbers (ESPNet's: it divides by 255 besides)
        are zeros on a GPU that flushes such numbers, and every image the same. They come in
        two factors then, as large as each other, of which one is a power of two and rounds
        nothing: the converter would take up a product, but no convolution.
        """
        if x.dtype != "float32":
            x = ops.cast(x, "float32")
        std = np.asarray(self.std, np.float64)
        order = slice(None, None, -1) if self.channel_order == "BGR" else slice(None)
        kernel = np.eye(3)[order] / std
        shift = -np.asarray(self.mean) / std
        small = 1 / std < _LEAST_NORMAL
        factor = np.where(small, 2.0 ** np.round(np.log2(std) / 2), 1.0)
        conv = keras.layers.Conv2D(3, 1, trainable=False, name=self.name)
        x = conv(x)
        conv.set_weights([kernel[None, None] * factor, shift * factor])
        if not small.any():
            return x
        scale = keras.layers.DepthwiseConv2D(
            1, use_bias=False, trainable=False, name=f"{self.name}.scale"
        )
        x = scale(x)
        scale.set_weights([(1 / factor).reshape(1, 1, 3, 1)])
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(mean=self.mean, std=self.std, channel_order=self.channel_order)
        config.pop("dtype", None)
        return config


@keras.saving.register_keras_serializable("kseg")
class Resize(keras.layers.Layer):
    """Bilinear resizing of (N, h, w, C).

    Called as ``Resize(...)(x, like)`` it gives ``x`` at the height and width of ``like``;
    with ``size=(H, W)`` it takes ``x`` alone. No antialiasing. The dtype is kept.

    Args:
        convention: "half_pixel" (PyTorch's align_corners=False) or "align_corners",
            whichever the published weights were trained with.
        size: fixed output height and width.
    """

    keeps_scale = True

    def __init__(
        self, convention: str = "half_pixel", size: tuple[int, int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if convention not in RESIZE_CONVENTIONS:
            raise ValueError(
                f"resize convention is {convention!r}, not one of {RESIZE_CONVENTIONS}"
            )
        self.convention = convention
        self.size = None if size is None else tuple(size)

    def _wanted(self, like_shape: tuple | None) -> tuple:
        """The output's height and width, None where known only at run time."""
        if self.size is not None:
            return self.size
        if like_shape is None:
            raise ValueError(f"{self.name}: give it size, or a tensor of the wanted size besides")
        return tuple(like_shape[1:3])

    def call(self, x: KerasTensor, like: KerasTensor | None = None) -> KerasTensor:
        wanted = self._wanted(None if like is None else like.shape)
        if wanted == tuple(x.shape[1:3]) and None not in wanted:
            return x
        height, width = ops.shape(like)[1:3] if None in wanted else wanted
        if keras.backend.backend() == "tensorflow":
            # keras.ops takes no size that is known only at run time.
            import tensorflow as tf

            if self.convention == "align_corners":
                # tf.compat.v1.image.resize_bilinear, but for its warning.
                y = tf.raw_ops.ResizeBilinear(images=x, size=(height, width), align_corners=True)
            else:
                y = tf.image.resize(x, (height, width), "bilinear", antialias=False)
        elif self.convention == "align_corners":
            y = align_corners_resize(x, height, width)
        else:
            y = ops.image.resize(
                x, (height, width), "bilinear", antialias=False, data_format="channels_last"
            )
        return ops.cast(y, x.dtype)

    def compute_output_shape(self, x_shape: tuple, like_shape: tuple | None = None) -> tuple:
        return (x_shape[0], *self._wanted(like_shape), x_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "convention": self.convention, "size": self.size}


def align_corners_resize(x: KerasTensor, height: int, width: int) -> KerasTensor:
    """Bilinear with corners aligned in keras.ops alone: sizes must be static."""
    for axis, size in ((1, height), (2, width)):
        extent = x.shape[axis]
        # One output row or column reads the first one, as TensorFlow's kernel does.
        step = (extent - 1) / (size - 1) if size > 1 else 0.0
        position = np.arange(size, dtype="float32") * np.float32(step)
        low = np.minimum(position.astype("int32"), extent - 1)
        high = np.minimum(low + 1, extent - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        weight = ops.cast((position - low).reshape(shape), x.dtype)
        first, second = ops.take(x, low, axis=axis), ops.take(x, high, axis=axis)
        x = first + (second - first) * weight
    return x


@keras.saving.register_keras_serializable("kseg")
class NearestResize(keras.layers.Layer):
    """``NearestResize()(x, like)``: (N, h, w, C) at the height and width of ``like``.

    Row i of H is row ``floor(i * (h / H))`` of h, in float32 as PyTorch's "nearest" computes it.
    Keras' has half-pixel centres, and other rows where h does not divide H. The dtype is kept.
    """

    keeps_scale = True

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        wanted = tuple(like.shape[1:3])
        if wanted == tuple(x.shape[1:3]) and None not in wanted:
            return x
        if keras.backend.backend() == "tensorflow":
            # keras.ops takes no size that is known only at run time.
            import tensorflow as tf

            return tf.raw_ops.ResizeNearestNeighbor(images=x, size=ops.shape(like)[1:3])
        for axis, size in zip((1, 2), wanted, strict=True):
            scale = np.float32(x.shape[axis] / size)
            rows = np.floor(np.arange(size, dtype="float32") * scale).astype("int32")
            x = ops.take(x, np.minimum(rows, x.shape[axis] - 1), axis=axis)
        return x

    def compute_output_shape(self, x_shape: tuple, like_shape: tuple) -> tuple:
        return (x_shape[0], *like_shape[1:3], x_shape[3])


@keras.saving.register_keras_serializable("kseg")
class MatchSize(keras.layers.Layer):
    """``MatchSize()(x, like)``: ``x`` at the height and width of ``like``.

    Too many rows and columns are cut off at the bottom and right, up to one missing row
    and column is zeros there: what PyTorch's ``output_size`` does behind a stride of two
    without a bias (with one, PyTorch has the bias there), so that pixels stay where they are
    at sizes that the stride does not divide.
    """

    keeps_scale = True

    def call(self, x: KerasTensor, like: KerasTensor) -> KerasTensor:
        wanted, given = tuple(like.shape[1:3]), tuple(x.shape[1:3])
        if wanted == given and None not in wanted:
            return x
        # An unknown size may lack one: what is too many then is cut off again.
        below, right = (
            int(w is None or g is None or g < w) for w, g in zip(wanted, given, strict=True)
        )
        if below or right:
            x = ops.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
        height, width = ops.shape(like)[1:3]
        return x[:, :height, :width]

    def compute_output_shape(self, x_shape: tuple, like_shape: tuple) -> tuple:
        return (x_shape[0], *like_shape[1:3], x_shape[3])
