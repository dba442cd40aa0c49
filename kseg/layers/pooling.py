"""Poolings, in forms that the LiteRT GPU accelerator computes right."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops


@keras.saving.register_keras_serializable("kseg")
class PaddedAveragePooling(keras.layers.Layer):
    """Average pooling with half a window of zeros around, always over the whole window.

    PyTorch's ``AvgPool2d(size, stride=strides, padding=size // 2)``: (N, H, W, C) to
    (N, ceil(H/s), ceil(W/s), C). Written as a depthwise convolution with 1/size^2, because the
    LiteRT GPU accelerator merges padding into a pooling and then leaves it out of the count.

    Args:
        strides: at most half a window and one pixel.
        size: of the square window, odd.
    """

    def __init__(self, strides: int = 2, size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides, self.size = strides, size

    def call(self, x: KerasTensor) -> KerasTensor:
        # A constant: the converter would leave ops.full's BROADCAST_TO in the file.
        kernel = ops.convert_to_tensor(self._kernel(x.shape[-1]), dtype=x.dtype)
        x = ops.pad(x, ((0, 0), *self.padding(x.shape), (0, 0)))
        return ops.depthwise_conv(
            x, kernel, strides=self.strides, padding="valid", data_format="channels_last"
        )

    def as_convolutions(self, x: KerasTensor) -> KerasTensor:
        """As padding and a depthwise convolution, which does not train."""
        x = keras.layers.ZeroPadding2D(self.padding(x.shape), name=f"{self.name}.pad")(x)
        pool = keras.layers.DepthwiseConv2D(
            self.size, strides=self.strides, use_bias=False, trainable=False, name=self.name
        )
        y = pool(x)
        pool.set_weights([self._kernel(x.shape[-1])])
        return y

    def _kernel(self, channels: int) -> np.ndarray:
        return np.full((self.size, self.size, channels, 1), 1 / self.size**2)

    def padding(self, input_shape: tuple) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros above and below, left and right, that a window reaches.

        At stride 2 a window of 3 reaches none below an even height. A row there would make the
        padding the same as that of a convolution beside the pooling, which the converter shares
        then; a shared one is computed on its own, and takes longer than the pooling.
        """
        before = self.size // 2
        rows, columns = (
            # Behind an extent that is not known: what any needs at most.
            (before, before if extent is None else before - (extent - 1) % self.strides)
            for extent in input_shape[1:3]
        )
        return rows, columns

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        size = [None if n is None else -(-n // self.strides) for n in input_shape[1:3]]
        return (input_shape[0], *size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "strides": self.strides}
        # The graphs that were measured with windows of 3, and their files, do not state it.
        return config if self.size == 3 else {**config, "size": self.size}


@keras.saving.register_keras_serializable("kseg")
class ChannelSum(keras.layers.Layer):
    """(N, H, W, C) to (N, H, W, 1): the sum of the channels.

    Written as a 1x1 convolution with ones, which every runtime has in 8 bits.
    """

    def call(self, x: KerasTensor) -> KerasTensor:
        kernel = ops.convert_to_tensor(np.ones((1, 1, x.shape[-1], 1)), dtype=x.dtype)
        return ops.conv(x, kernel, data_format="channels_last")

    def as_convolutions(self, x: KerasTensor) -> KerasTensor:
        """As a convolution, which does not train."""
        total = keras.layers.Conv2D(1, 1, use_bias=False, trainable=False, name=self.name)
        y = total(x)
        total.set_weights([np.ones((1, 1, x.shape[-1], 1))])
        return y

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], 1)


def _cut(x: KerasTensor, axis: int, first: Any, last: Any) -> KerasTensor:
    """Rows (axis 1) or columns (axis 2) ``first`` to ``last``."""
    return x[:, first:last] if axis == 1 else x[:, :, first:last]


@keras.saving.register_keras_serializable("kseg")
class AdaptiveAveragePooling(keras.layers.Layer):
    """Means over a grid of ``size`` x ``size`` windows: (N, H, W, C) to (N, size, size, C).

    PyTorch's ``AdaptiveAvgPool2d``: the i-th of the windows reaches from floor(i H / size)
    to ceil((i + 1) H / size), so that they overlap where ``size`` does not divide H. Rows
    first and then columns, which needs 2 ``size`` slices for ``size`` squared windows.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, x: KerasTensor) -> KerasTensor:
        for axis in (1, 2):
            extent = ops.shape(x)[axis]
            means = []
            for i in range(self.size):
                first, last = i * extent // self.size, -(-(i + 1) * extent // self.size)
                means.append(ops.mean(_cut(x, axis, first, last), axis=axis, keepdims=True))
            x = ops.concatenate(means, axis=axis)
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("kseg")
class DilatedPooling(keras.layers.Layer):
    """Max or average pooling of stride 1 with a dilation, which Keras has not.

    (N, H, W, C) to the same shape with ``padding`` "same", whose windows are cut off at the
    borders; with "valid" to (size - 1) * dilation rows and columns less.

    Args:
        mode: "max", or "average" with "valid" alone.
        size: of the square window.
        dilation: pixels from one of the window to the next.
        padding: "valid" or "same".
    """

    def __init__(
        self, mode: str, size: int, dilation: int, padding: str = "valid", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if mode not in ("max", "average") or (mode, padding) == ("average", "same"):
            raise ValueError(f"there is no dilated {mode} pooling with padding {padding!r}")
        self.mode, self.size, self.dilation, self.padding = mode, size, dilation, padding

    def call(self, x: KerasTensor) -> KerasTensor:
        for axis in (1, 2):
            first, *others = self._members(x, axis)
            x = first
            for other in others:
                x = ops.maximum(x, other) if self.mode == "max" else x + other
        return x if self.mode == "max" else x * (1 / self.size**2)

    def _members(self, x: KerasTensor, axis: int) -> list[KerasTensor]:
        """The members of all windows along an axis, the first of each and so on."""
        if self.padding == "valid":
            places = [(i * self.dilation, self.size - 1 - i) for i in range(self.size)]
            return [_cut(x, axis, at, -left * self.dilation or None) for at, left in places]
        shifts = [(i - (self.size - 1) // 2) * self.dilation for i in range(self.size)]
        # Beyond the border the pixel itself, which changes no maximum.
        return [
            x
            if n == 0
            else ops.concatenate([_cut(x, axis, n, None), _cut(x, axis, -n, None)], axis)
            if n > 0
            else ops.concatenate([_cut(x, axis, None, -n), _cut(x, axis, None, n)], axis)
            for n in shifts
        ]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        lost = (self.size - 1) * self.dilation if self.padding == "valid" else 0
        size = [None if n is None else n - lost for n in input_shape[1:3]]
        return (input_shape[0], *size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(mode=self.mode, size=self.size, dilation=self.dilation, padding=self.padding)
        return config


@keras.saving.register_keras_serializable("kseg")
class MaxUnpooling(keras.layers.Layer):
    """``MaxUnpooling()(y, x)``: ``y`` where the 2x2 max pooling of ``x`` found its maxima.

    PyTorch's ``MaxUnpool2d(2)`` with the indices of ``MaxPool2d(2)`` on ``x``: ``y``
    (N, floor(H/2), floor(W/2), C) and ``x`` (N, H, W, C) give (N, 2 floor(H/2),
    2 floor(W/2), C). Of equal maxima the first in row-major order counts, as there: a
    plain comparison with the maximum would write ``y`` more than once wherever a window
    is constant.

    No indices, since TensorFlow Lite's GPU accelerator has none: the four positions of a
    window are compared in pairs, rows first, and put back by depth to space.
    """

    def call(self, y: KerasTensor, x: KerasTensor) -> KerasTensor:
        height, width = ops.shape(y)[1:3]
        windows = ops.space_to_depth(
            x[:, : 2 * height, : 2 * width], 2, data_format="channels_last"
        )
        channels = x.shape[-1]
        a, b, c, d = (windows[..., i * channels : (i + 1) * channels] for i in range(4))
        upper, lower = _split(y, ops.maximum(a, b) >= ops.maximum(c, d))
        positions = [*_split(upper, a >= b), *_split(lower, c >= d)]
        return ops.depth_to_space(
            ops.concatenate(positions, axis=-1), 2, data_format="channels_last"
        )

    def compute_output_shape(self, y_shape: tuple, x_shape: tuple) -> tuple:
        double = [None if n is None else 2 * n for n in y_shape[1:3]]
        return (y_shape[0], *double, y_shape[3])


def _split(x: KerasTensor, mask: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    """What is under the mask, and the rest; zeros elsewhere."""
    zeros = ops.zeros_like(x)
    return ops.where(mask, x, zeros), ops.where(mask, zeros, x)


def max_pool(x: KerasTensor, name: str) -> KerasTensor:
    """3x3 max pooling of stride 2, padded by one all around: (ceil(H/2), ceil(W/2)).

    PyTorch's ``MaxPool2d(3, stride=2, padding=1)``. Keras' "same" is symmetric at stride 1
    only, and zeros around would win over negative values.
    """
    x = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}.window")(x)
    return keras.layers.MaxPooling2D(1, strides=2, name=name)(x)


def ceil_max_pool(
    x: KerasTensor, size: int, *, strides: int = 2, dilation: int = 1, name: str
) -> KerasTensor:
    """Caffe's max pooling of stride 2 without padding, of features that are not negative.

    PyTorch's ``MaxPool2d(size, stride=2, ceil_mode=True)``: the last window is cut off where
    it reaches beyond the map, (N, H, W, C) to (N, floor(H/2), floor(W/2), C) with a size of 3,
    rounded up with one of 2. A window begins at its pixel; it is not centred on it.

    Args:
        size: of the square window, 2 or 3.
        strides: 2, or 1 for the dilated form, whose even rows and columns are those of stride 2.
        dilation: pixels from one of the window to the next, with a stride of 1.
    """
    # At stride 2 a size of 2 needs a row beyond an odd height only: that is Keras' "same".
    if size == 2 and strides == 2:
        return keras.layers.MaxPooling2D(2, strides=2, padding="same", name=name)(x)
    # A row of zeros, which win over no value. An odd height leaves it out at stride 2.
    rows = (0, dilation)
    x = keras.layers.ZeroPadding2D((rows, rows), name=f"{name}.pad")(x)
    if strides == 2:
        return keras.layers.MaxPooling2D(size, strides=2, name=name)(x)
    return DilatedPooling("max", size, dilation, name=name)(x)


def subsample(x: KerasTensor, name: str) -> KerasTensor:
    """Every second row and column from the first on, (N, ceil(H/2), ceil(W/2), C).

    In front of a 1x1 convolution it is that convolution with stride 2, which the GPU
    accelerator computes wrong in int8.
    """
    return keras.layers.MaxPooling2D(1, strides=2, name=f"{name}.subsample")(x)
