"""What networks share: the one resize, normalisation, padding and convolution helpers.

The helpers take and return NHWC tensors. Layer names are the published tensor names up
to the last dot, so that a checkpoint can be assigned by name. Every operation here maps
to TensorFlow Lite operators that the LiteRT GPU accelerator computes right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

RESIZE_CONVENTIONS = ("half_pixel", "align_corners")


def _register(cls: type) -> type:
    return keras.saving.register_keras_serializable("kseg")(cls)


@_register
class Normalize(keras.layers.Layer):
    """RGB values 0..255, (N, H, W, 3) of any dtype, to what the network was trained on.

    Gives ``(x - mean) / std`` in float32, channels first reordered to ``channel_order``;
    ``mean`` and ``std`` are in that order. It computes in float32 under every policy:
    bfloat16 cannot hold 0..255 with a fraction.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channel_order: str = "RGB", **kwargs
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

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(mean=self.mean, std=self.std, channel_order=self.channel_order)
        config.pop("dtype", None)
        return config


@_register
class Resize(keras.layers.Layer):
    """Bilinear resizing of (N, h, w, C), the only one in kseg's graphs.

    Called as ``Resize(...)(x, like)`` it gives ``x`` at the height and width of ``like``;
    with ``size=(H, W)`` it takes ``x`` alone. No antialiasing. The dtype is kept.

    Args:
        convention: "half_pixel" (PyTorch's align_corners=False) or "align_corners",
            whichever the published weights were trained with.
        size: fixed output height and width.
    """

    def __init__(
        self, convention: str = "half_pixel", size: tuple[int, int] | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        if convention not in RESIZE_CONVENTIONS:
            raise ValueError(
                f"resize convention is {convention!r}, not one of {RESIZE_CONVENTIONS}"
            )
        self.convention = convention
        self.size = None if size is None else tuple(size)

    def call(self, x: KerasTensor, like: KerasTensor | None = None) -> KerasTensor:
        wanted = self.size or tuple(like.shape[1:3])
        if wanted == tuple(x.shape[1:3]) and None not in wanted:
            return x
        height, width = ops.shape(like)[1:3] if None in wanted else wanted
        if keras.backend.backend() == "tensorflow":
            # keras.ops takes no size that is known only at run time.
            import tensorflow as tf

            if self.convention == "align_corners":
                y = tf.compat.v1.image.resize_bilinear(x, (height, width), align_corners=True)
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
        height, width = self.size or like_shape[1:3]
        return (x_shape[0], height, width, x_shape[3])

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


@_register
class PaddedAveragePooling(keras.layers.Layer):
    """3x3 average pooling, one row and column of zeros around, always over 9.

    PyTorch's ``AvgPool2d(3, stride=strides, padding=1)``: (N, H, W, C) to (N, ceil(H/s),
    ceil(W/s), C). Written as a depthwise convolution with 1/9, because the LiteRT GPU
    accelerator merges padding into a pooling and then leaves it out of the count.
    """

    def __init__(self, strides: int = 2, **kwargs) -> None:
        super().__init__(**kwargs)
        self.strides = strides

    def call(self, x: KerasTensor) -> KerasTensor:
        # A constant: the converter would leave ops.full's BROADCAST_TO in the file.
        kernel = ops.convert_to_tensor(np.full((3, 3, x.shape[-1], 1), 1 / 9), dtype=x.dtype)
        x = ops.pad(x, ((0, 0), *self.padding(x.shape), (0, 0)))
        return ops.depthwise_conv(
            x, kernel, strides=self.strides, padding="valid", data_format="channels_last"
        )

    def padding(self, input_shape: tuple) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros above and below, left and right, that a window reaches.

        At stride 2 none reaches below an even height. A row there would make the padding
        the same as that of a convolution beside the pooling, which the converter shares
        then; a shared one is computed on its own, and takes longer than the pooling.
        """
        return tuple(
            (1, int(extent is None or (extent - 1) % self.strides == 0))
            for extent in input_shape[1:3]
        )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        size = [None if n is None else -(-n // self.strides) for n in input_shape[1:3]]
        return (input_shape[0], *size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}


def _cut(x: KerasTensor, axis: int, first: Any, last: Any) -> KerasTensor:
    """Rows (axis 1) or columns (axis 2) ``first`` to ``last``."""
    return x[:, first:last] if axis == 1 else x[:, :, first:last]


@_register
class AdaptiveAveragePooling(keras.layers.Layer):
    """Means over a grid of ``size`` x ``size`` windows: (N, H, W, C) to (N, size, size, C).

    PyTorch's ``AdaptiveAvgPool2d``: the i-th of the windows reaches from floor(i H / size)
    to ceil((i + 1) H / size), so that they overlap where ``size`` does not divide H. Rows
    first and then columns, which needs 2 ``size`` slices for ``size`` squared windows.
    """

    def __init__(self, size: int, **kwargs) -> None:
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


@_register
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
        self, mode: str, size: int, dilation: int, padding: str = "valid", **kwargs
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


@_register
class MatchSize(keras.layers.Layer):
    """``MatchSize()(x, like)``: ``x`` at the height and width of ``like``.

    Too many rows and columns are cut off at the bottom and right, up to one missing row
    and column is zeros there: what PyTorch's ``output_size`` does behind a stride of two,
    so that pixels stay where they are at sizes that the stride does not divide.
    """

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


@_register
class SharedPReLU(keras.layers.PReLU):
    """PReLU with one slope for all channels, 0.25 at the start as in PyTorch.

    It computes with one slope a channel: that is what the GPU accelerator takes.
    """

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("alpha_initializer", keras.initializers.Constant(0.25))
        super().__init__(**{**kwargs, "shared_axes": [1, 2, 3]})

    def call(self, inputs: KerasTensor) -> KerasTensor:
        slope = ops.broadcast_to(self.alpha, (1, 1, inputs.shape[-1]))
        # In the form that the converter knows as one PRELU.
        return ops.relu(inputs) + -slope * ops.relu(-inputs)


@_register
class PadChannels(keras.layers.Layer):
    """(N, H, W, C) to (N, H, W, channels): zeros behind the last channel."""

    def __init__(self, channels: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, x: KerasTensor) -> KerasTensor:
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:3], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


@_register
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


@_register
class GroupedPointwiseConv(keras.layers.Layer):
    """``Conv2D(filters, 1, groups=groups)``, with its kernel (1, 1, C / groups, filters).

    Computed as one 1x1 convolution a group, on slices: the LiteRT GPU accelerator
    computes grouped convolutions wrong. Of the other right forms, one convolution with a
    block-diagonal kernel takes twice the time on a CPU and ``groups`` times the weights in
    the file; a batched matrix product is as fast as this, but noise once in int8.
    """

    def __init__(self, filters: int, groups: int, use_bias: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.filters, self.groups, self.use_bias = filters, groups, use_bias

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        if channels % self.groups or self.filters % self.groups:
            raise ValueError(
                f"groups is {self.groups}; it must divide {channels} channels "
                f"and {self.filters} filters"
            )
        self.kernel = self.add_weight(
            shape=(1, 1, channels // self.groups, self.filters),
            initializer="he_normal",
            name="kernel",
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x: KerasTensor) -> KerasTensor:
        inputs, outputs = x.shape[-1] // self.groups, self.filters // self.groups
        parts = []
        for i in range(self.groups):
            filters = slice(i * outputs, (i + 1) * outputs)
            part = ops.conv(
                x[..., i * inputs : (i + 1) * inputs],
                self.kernel[..., filters],
                data_format="channels_last",
            )
            parts.append(part if self.bias is None else part + self.bias[filters])
        return ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(filters=self.filters, groups=self.groups, use_bias=self.use_bias)
        return config


@_register
class ChannelShuffle(keras.layers.Layer):
    """ShuffleNet's channel shuffle (arXiv:1707.01083, Section 3.1) of (N, H, W, C).

    The j-th channel of group i becomes channel ``j * groups + i``. Height and width are one
    axis meanwhile: the GPU accelerator takes no tensors of five dimensions. It refuses a
    gather too, which is also slower on a CPU, as is a 1x1 convolution that permutes.
    """

    def __init__(self, groups: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, x: KerasTensor) -> KerasTensor:
        _, height, width, channels = shape = ops.shape(x)
        area = -1 if None in x.shape[1:3] else height * width
        batch = -1 if x.shape[0] is None and area != -1 else shape[0]
        x = ops.reshape(x, (batch, area, self.groups, channels // self.groups))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2)), (batch, height, width, channels))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}


def pad(
    x: KerasTensor, amount: int | tuple[tuple[int, int], tuple[int, int]], name: str
) -> KerasTensor:
    """Zeros around height and width."""
    return keras.layers.ZeroPadding2D(amount, name=f"{name}.pad")(x)


def _padded(
    x: KerasTensor,
    kernel_size: int | tuple[int, int],
    strides: int,
    dilation: int,
    padding: str | int,
    name: str,
) -> tuple[KerasTensor, str]:
    """The tensor and Keras' padding mode that give an odd kernel the asked-for padding.

    Keras' "same" is symmetric at stride 1 only. A 2x2 kernel at stride 2 gets no padding.
    """
    if isinstance(padding, int):
        return pad(x, padding, name), "valid"
    size = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    if padding == "same" or strides == 1 or size == (1, 1):
        return x, "same"
    rows, columns = (dilation * (k - 1) // 2 for k in size)
    if not rows and not columns:
        return x, "valid"
    return pad(x, ((rows, rows), (columns, columns)), name), "valid"


def conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int | tuple[int, int],
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str | int = "symmetric",
    use_bias: bool = False,
    name: str,
    **kwargs,
) -> KerasTensor:
    """A convolution with an output of ceil(size / strides).

    ``padding`` is "symmetric", PyTorch's ``dilation * (kernel - 1) / 2`` on each side, or
    "same", TensorFlow's; they differ at stride 2 and even sizes. A number is that many
    rows and columns of zeros on each side, whatever size comes out.
    """
    x, padding = _padded(x, kernel_size, strides, dilation, padding, name)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
        **kwargs,
    )(x)


def depthwise_conv(
    x: KerasTensor,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str | int = "symmetric",
    use_bias: bool = False,
    name: str,
) -> KerasTensor:
    """A depthwise convolution, padded as in ``conv``."""
    x, padding = _padded(x, kernel_size, strides, dilation, padding, name)
    return keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding=padding,
        use_bias=use_bias,
        depthwise_initializer="he_normal",
        name=name,
    )(x)


def transposed_conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    like: KerasTensor,
    *,
    use_bias: bool = False,
    name: str,
) -> KerasTensor:
    """A transposed convolution of stride 2 to the height and width of ``like``.

    PyTorch's ``ConvTranspose2d(kernel_size, stride=2, padding=(kernel_size - 1) // 2)``
    with that ``output_size``, kernels of 2 and 3. What the padding takes is cut off at
    the top and left; Keras' "same" would cut the other end.
    """
    x = keras.layers.Conv2DTranspose(
        filters,
        kernel_size,
        strides=2,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    cut = (kernel_size - 1) // 2
    if cut:
        x = keras.layers.Cropping2D(((cut, 0), (cut, 0)), name=f"{name}.crop")(x)
    return MatchSize(name=f"{name}.fit")(x, like)


def max_pool(x: KerasTensor, name: str) -> KerasTensor:
    """3x3 max pooling of stride 2, padded by one all around: (ceil(H/2), ceil(W/2)).

    PyTorch's ``MaxPool2d(3, stride=2, padding=1)``. Keras' "same" is symmetric at stride 1
    only, and zeros around would win over negative values.
    """
    x = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}.window")(x)
    return keras.layers.MaxPooling2D(1, strides=2, name=name)(x)


def batch_norm(x: KerasTensor, *, epsilon: float, momentum: float = 0.9, name: str) -> KerasTensor:
    """Batch normalisation; 0.9 is PyTorch's default momentum (0.1 there)."""
    return keras.layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name=name)(x)


def prelu(x: KerasTensor, name: str) -> KerasTensor:
    """PReLU with one slope a channel, 0.25 at the start as in PyTorch."""
    return keras.layers.PReLU(
        shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.25), name=name
    )(x)


def subsample(x: KerasTensor, name: str) -> KerasTensor:
    """Every second row and column from the first on, (N, ceil(H/2), ceil(W/2), C).

    In front of a 1x1 convolution it is that convolution with stride 2, which the GPU
    accelerator computes wrong in int8.
    """
    return keras.layers.MaxPooling2D(1, strides=2, name=f"{name}.subsample")(x)


def atrous_units(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """Stride and dilation of successive units, as DeepLab chooses them in every backbone.

    Where the product of the strides has reached ``output_stride`` a unit's stride is
    replaced by 1, and the units after it (not that unit) run at a dilation multiplied by
    it: at every ``output_stride`` the features agree where their grids meet.

    Raises:
        ValueError: the strides do not lead to ``output_stride``.
    """
    units, reached, dilation = [], 1, 1
    for stride in strides:
        if reached == output_stride:
            units.append((1, dilation))
            dilation *= stride
        else:
            units.append((stride, 1))
            reached *= stride
    if reached != output_stride:
        raise ValueError(f"output_stride is {output_stride}; strides {strides} do not lead to it")
    return units


def slim_conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    activation: bool = True,
    epsilon: float,
    momentum: float,
    name: str,
) -> KerasTensor:
    """Convolution, BatchNorm and ReLU under TF-Slim's names."""
    x = conv(
        x, filters, kernel_size, strides=strides, dilation=dilation, padding=padding, name=name
    )
    return _slim_norm(x, activation, epsilon, momentum, name)


def slim_separable_conv(
    x: KerasTensor,
    filters: int,
    kernel_size: int = 3,
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    activation: bool = True,
    epsilon: float,
    momentum: float,
    name: str,
) -> KerasTensor:
    """A depthwise and a 1x1 convolution, each with BatchNorm and ReLU, as TF-Slim names them."""
    depthwise = f"{name}_depthwise"
    x = depthwise_conv(
        x, kernel_size, strides=strides, dilation=dilation, padding=padding, name=depthwise
    )
    x = _slim_norm(x, activation, epsilon, momentum, depthwise)
    return slim_conv(
        x,
        filters,
        1,
        activation=activation,
        epsilon=epsilon,
        momentum=momentum,
        name=f"{name}_pointwise",
    )


def _slim_norm(
    x: KerasTensor, activation: bool, epsilon: float, momentum: float, name: str
) -> KerasTensor:
    x = batch_norm(x, epsilon=epsilon, momentum=momentum, name=f"{name}.BatchNorm")
    return keras.layers.ReLU(name=f"{name}.relu")(x) if activation else x


def bn_prelu(x: KerasTensor, *, epsilon: float, name: str) -> KerasTensor:
    """``name.bn`` and ``name.act``."""
    return prelu(batch_norm(x, epsilon=epsilon, name=f"{name}.bn"), f"{name}.act")


def conv_bn_prelu(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    epsilon: float,
    name: str,
) -> KerasTensor:
    """``name.conv``, ``name.bn`` and ``name.act``."""
    x = conv(x, filters, kernel_size, strides=strides, name=f"{name}.conv")
    return bn_prelu(x, epsilon=epsilon, name=name)


def concat_bn_prelu(features: list[KerasTensor], *, epsilon: float, name: str) -> KerasTensor:
    """``name.concat``, ``name.bn`` and ``name.act``."""
    x = keras.layers.Concatenate(name=f"{name}.concat")(features)
    return bn_prelu(x, epsilon=epsilon, name=name)
