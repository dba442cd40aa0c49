"""Deformable convolution, arXiv:1703.06211 (Dai et al.) and arXiv:1811.11168 (Zhu et al.)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from kseg.layers.convolution import PublishedTensors


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@keras.saving.register_keras_serializable("kseg")
class DeformableConv2D(keras.layers.Layer):
    """``DeformableConv2D(...)(x, offset, modulation)``: a convolution that samples anywhere.

    ``x`` (N, H, W, C) is sampled at ``row * stride - padding + i * dilation + dy`` for a tap in
    row i of the kernel, columns alike: bilinearly between four pixels, of which each is zero
    outside the image. The output is (N, h, w, filters) as of a plain convolution, which it is
    with offsets of zero.

    ``offset`` (N, h, w, 2 G K), with G offset groups and K taps of the kernel, row by row, has
    dy in channel ``2 (g K + k)`` and dx in the next one, in pixels of ``x``. Group g moves the
    g-th of G equal parts of x's channels. ``modulation`` (N, h, w, G K), of the second version, is
    a factor on each sample, 1 where it is left out: torchvision's mask, which to Keras is
    something else.

    No GPU delegate runs it: reading pixels at computed places is a gather, which they have not.
    A .tflite file of it runs on the CPU, an .onnx file wherever ONNX Runtime does.

    Args:
        filters: channels of the output.
        kernel_size, strides, dilation_rate: a number or (rows, columns).
        padding: zeros on each side, a number or (rows, columns), or "symmetric", which is
            ``dilation * (kernel - 1) / 2`` of an odd kernel.
        groups: of the kernel, (kh, kw, C / groups, filters).
        offset_groups: G.
        use_bias: whether there is one.

    Raises:
        ValueError: channels that the groups do not divide, or offsets or a modulation of
            another shape.
    """

    published_tensors: ClassVar[PublishedTensors] = {
        "pytorch": {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)}
    }
    cpu_operators = frozenset(["FLOOR", "FULLY_CONNECTED", "GATHER", "LESS", "MINIMUM", "SELECT"])

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        strides: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "symmetric",
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.groups, self.offset_groups = filters, groups, offset_groups
        self.kernel_size, self.strides = _pair(kernel_size), _pair(strides)
        self.dilation_rate, self.use_bias = _pair(dilation_rate), use_bias
        if isinstance(padding, str):
            if padding != "symmetric":
                raise ValueError(f'padding is {padding!r}; it must be "symmetric" or numbers')
            sides = zip(self.kernel_size, self.dilation_rate, strict=True)
            rows, columns = (rate * (size - 1) // 2 for size, rate in sides)
            padding = rows, columns
        self.padding = _pair(padding)

    def build(
        self, x_shape: tuple, offset_shape: tuple, modulation_shape: tuple | None = None
    ) -> None:
        channels = x_shape[-1]
        for name, groups, divided in (
            ("groups", self.groups, (channels, self.filters)),
            ("offset_groups", self.offset_groups, (channels,)),
        ):
            if any(n % groups for n in divided):
                raise ValueError(f"{name} is {groups}; it must divide {divided} channels")
        samples = self.offset_groups * math.prod(self.kernel_size)
        size = self._output_size(x_shape)
        for name, shape, depth in (
            ("offset", offset_shape, 2 * samples),
            ("modulation", modulation_shape, samples),
        ):
            if shape is None:
                continue
            pairs = zip(shape[1:], (*size, depth), strict=True)
            if any(None not in pair and pair[0] != pair[1] for pair in pairs):
                raise ValueError(
                    f"{self.name}: {name} is {tuple(shape[1:])} (h, w, channels); "
                    f"it must be {(*size, depth)}"
                )
        self.kernel = self.add_weight(
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer="he_normal",
            name="kernel",
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(
        self, x: KerasTensor, offset: KerasTensor, modulation: KerasTensor | None = None
    ) -> KerasTensor:
        inputs = [x, offset] if modulation is None else [x, offset, modulation]
        return self.call_with_weights(
            inputs, *(w for w in (self.kernel, self.bias) if w is not None)
        )

    def call_with_weights(
        self, inputs: list[KerasTensor], kernel: Any, bias: Any | None = None
    ) -> KerasTensor:
        """The layer's function of x, offset and modulation, its weights arguments."""
        x, offset, *modulation = inputs
        batch, height, width, _ = ops.shape(offset)
        channels, taps = x.shape[-1], math.prod(self.kernel_size)
        samples = self._samples(x, offset)
        if modulation:
            samples = samples * ops.reshape(modulation[0], (-1, 1))
        # (N h w, G, K, C / G) to (N h w, K, C): groups are of consecutive channels.
        area, parts = batch * height * width, channels // self.offset_groups
        samples = ops.reshape(samples, (area, self.offset_groups, taps, parts))
        samples = ops.reshape(ops.transpose(samples, (0, 2, 1, 3)), (area, taps, channels))
        wide, filters = channels // self.groups, self.filters // self.groups
        products = []
        for i in range(self.groups):
            part = ops.reshape(samples[..., i * wide : (i + 1) * wide], (area, taps * wide))
            own = ops.reshape(kernel[..., i * filters : (i + 1) * filters], (taps * wide, filters))
            products.append(ops.matmul(part, own))
        y = products[0] if len(products) == 1 else ops.concatenate(products, axis=-1)
        y = ops.reshape(y, (batch, height, width, self.filters))
        return y if bias is None else y + bias

    def _samples(self, x: KerasTensor, offset: KerasTensor) -> KerasTensor:
        """(N h w G K, C / G): x at every place."""
        batch, height, width, channels = ops.shape(x)
        rows, columns = self._places(offset, (height, width))
        # A row and column of zeros around. Whatever lies farther out is zero as well, so that
        # places may be cut off there; none needs more than a pixel beyond that which it is at.
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        table = ops.reshape(x, (-1, channels // self.offset_groups))
        top, left = ops.floor(rows), ops.floor(columns)
        top, left = ops.minimum(top, height - 1), ops.minimum(left, width - 1)
        down, right = rows - top, columns - left
        image = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
        taps = math.prod(self.kernel_size)
        group = ops.repeat(ops.arange(self.offset_groups, dtype="int32"), taps)
        first = (image * (height + 2) + ops.cast(top, "int32") + 1) * (width + 2)
        first = (first + ops.cast(left, "int32") + 1) * self.offset_groups + group
        total = 0.0
        for row, weight in ((0, 1 - down), (1, down)):
            for column, factor in ((0, 1 - right), (1, right)):
                index = first + (row * (width + 2) + column) * self.offset_groups
                pixels = ops.take(table, ops.reshape(index, (-1,)), axis=0)
                share = ops.cast(ops.reshape(weight * factor, (-1, 1)), x.dtype)
                total = total + share * pixels
        return total

    def _places(self, offset: KerasTensor, size: tuple) -> list[KerasTensor]:
        """Rows and columns in x, each (N, h, w, G K), from -1 to its height or width."""
        # Half precision would not tell neighbouring pixels from each other.
        dtype = keras.backend.standardize_dtype(offset.dtype)
        dtype = dtype if dtype == "float64" else "float32"
        offset = ops.cast(offset, dtype)
        kernel_rows, kernel_columns = self.kernel_size
        places = []
        for axis, extent in enumerate(size):
            count = ops.shape(offset)[axis + 1]
            tap = ops.arange(self.kernel_size[axis], dtype=dtype) * self.dilation_rate[axis]
            taps = ops.repeat(tap, kernel_columns) if axis == 0 else ops.tile(tap, kernel_rows)
            taps = ops.tile(taps, self.offset_groups) - self.padding[axis]
            start = ops.arange(count, dtype=dtype) * self.strides[axis]
            start = ops.reshape(start, (-1, 1, 1) if axis == 0 else (-1, 1))
            limit = ops.cast(extent, dtype)
            places.append(ops.clip(start + taps + offset[..., axis::2], -1.0, limit))
        return places

    def _output_size(self, x_shape: tuple) -> tuple[int | None, int | None]:
        sides = zip(
            x_shape[1:3],
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation_rate,
            strict=True,
        )
        rows, columns = (
            None if n is None else (n + 2 * padding - rate * (size - 1) - 1) // stride + 1
            for n, size, stride, padding, rate in sides
        )
        return rows, columns

    def compute_output_shape(
        self, x_shape: tuple, offset_shape: tuple, modulation_shape: tuple | None = None
    ) -> tuple:
        return (x_shape[0], *self._output_size(x_shape), self.filters)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            offset_groups=self.offset_groups,
            use_bias=self.use_bias,
        )
        return config
