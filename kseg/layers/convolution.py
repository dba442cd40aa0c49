"""Convolutions as the published codes pad, name and normalise them, and their activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import KerasTensor, ops

from kseg.layers.resize import MatchSize, Resize

# By tensor layout and weight name: see ``published_tensors`` in ``kseg.layers``.
PublishedTensors = Mapping[str, Mapping[str, tuple[str, tuple[int, ...] | None]]]


@keras.saving.register_keras_serializable("kseg")
class CenterIdentity(keras.initializers.Initializer):
    """Kernels (kh, kw, C, C) of odd sizes with which a convolution returns its input.

    The identity initialisation of arXiv:1511.07122, Section 3, equation 4.
    """

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        rows, columns, inputs, outputs = shape
        kernel = np.zeros(shape)
        kernel[rows // 2, columns // 2] = np.eye(inputs, outputs)
        return ops.convert_to_tensor(kernel, dtype)


@keras.saving.register_keras_serializable("kseg")
class SharedPReLU(keras.layers.PReLU):
    """PReLU with one slope for all channels, 0.25 at the start as in PyTorch.

    It computes with one slope a channel: that is what the GPU accelerator takes.
    """

    published_tensors: ClassVar[PublishedTensors] = {"pytorch": {"alpha": ("weight", None)}}

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("alpha_initializer", keras.initializers.Constant(0.25))
        super().__init__(**{**kwargs, "shared_axes": [1, 2, 3]})

    def call(self, inputs: KerasTensor) -> KerasTensor:
        return self.call_with_weights(inputs, self.alpha)

    @staticmethod
    def call_with_weights(x: KerasTensor, slope: Any) -> KerasTensor:
        """The layer's function, its weight an argument."""
        slope = ops.broadcast_to(slope, (1, 1, x.shape[-1]))
        # In the form that the converter knows as one PRELU.
        return ops.relu(x) + -slope * ops.relu(-x)


@keras.saving.register_keras_serializable("kseg")
class PadChannels(keras.layers.Layer):
    """(N, H, W, C) to (N, H, W, channels): zeros behind the last channel."""

    keeps_scale = True

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, x: KerasTensor) -> KerasTensor:
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:3], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable("kseg")
class GroupedPointwiseConv(keras.layers.Layer):
    """``Conv2D(filters, 1, groups=groups)``, with its kernel (1, 1, C / groups, filters).

    Computed as one 1x1 convolution a group, on slices: the LiteRT GPU accelerator
    computes grouped convolutions wrong. Of the other right forms, one convolution with a
    block-diagonal kernel takes twice the time on a CPU and ``groups`` times the weights in
    the file; a batched matrix product is as fast as this, but noise once in int8.
    """

    published_tensors: ClassVar[PublishedTensors] = {
        "pytorch": {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)}
    }

    def __init__(self, filters: int, groups: int, use_bias: bool = True, **kwargs: Any) -> None:
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

    def split_weights(self) -> list[list[np.ndarray]]:
        """The weights of each group: a kernel (1, 1, C / groups, filters / groups), a bias."""
        pieces = (np.split(weight, self.groups, -1) for weight in self.get_weights())
        return list(map(list, zip(*pieces, strict=True)))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(filters=self.filters, groups=self.groups, use_bias=self.use_bias)
        return config


@keras.saving.register_keras_serializable("kseg")
class ChannelShuffle(keras.layers.Layer):
    """ShuffleNet's channel shuffle (arXiv:1707.01083, Section 3.1) of (N, H, W, C).

    The j-th channel of group i becomes channel ``j * groups + i``. Height and width are one
    axis meanwhile: the GPU accelerator takes no tensors of five dimensions. It refuses a
    gather too, which is also slower on a CPU, as is a 1x1 convolution that permutes.
    """

    keeps_scale = True

    def __init__(self, groups: int, **kwargs: Any) -> None:
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
    **kwargs: Any,
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
    upsampling: str = "transposed",
    use_bias: bool = False,
    name: str,
) -> KerasTensor:
    """A transposed convolution of stride 2 to the height and width of ``like``.

    PyTorch's ``ConvTranspose2d(kernel_size, stride=2, padding=(kernel_size - 1) // 2)``
    with that ``output_size``, kernels of 2 and 3. What the padding takes is cut off at
    the top and left; Keras' "same" would cut the other end.

    With ``upsampling`` "resize" in place of "transposed" it is a bilinear resizing and a 3x3
    convolution, whose output has no checkerboards (Odena et al., "Deconvolution and
    Checkerboard Artifacts", Distill 2016).
    """
    if upsampling not in ("transposed", "resize"):
        raise ValueError(f"upsampling is {upsampling!r}, not transposed or resize")
    if upsampling == "resize":
        x = Resize(name=f"{name}.resize")(x, like)
        return conv(x, filters, 3, use_bias=use_bias, name=name)
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


def batch_norm(x: KerasTensor, *, epsilon: float, momentum: float = 0.9, name: str) -> KerasTensor:
    """Batch normalisation; 0.9 is PyTorch's default momentum (0.1 there)."""
    return keras.layers.BatchNormalization(epsilon=epsilon, momentum=momentum, name=name)(x)


def prelu(x: KerasTensor, name: str) -> KerasTensor:
    """PReLU with one slope a channel, 0.25 at the start as in PyTorch."""
    return keras.layers.PReLU(
        shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.25), name=name
    )(x)


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
