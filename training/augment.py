"""Augmentation of one image and its label: scale, crop, padding, colour, mirror.

Two steps, both functions of their arguments alone. ``Augmentation.choose`` turns a seed into
a window of the source; the caller reads that window and no more; ``Augmentation.apply``
makes an example of the crop's size of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from kseg.data import IGNORE
from kseg.errors import KsegError

# Rec. 601: the weights of the grey that saturation mixes with.
_LUMA = (0.299, 0.587, 0.114)


class Choice(NamedTuple):
    """What one example will be.

    Attributes:
        rows, columns: (2,) int32, first and last + 1 of the window in the source.
        row_padding, column_padding: (2,) int32, what the crop has before and behind the
            scaled window.
        factors: (3,) float32, of brightness, contrast and saturation.
        mirrored: () bool, left and right exchanged.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    row_padding: tf.Tensor
    column_padding: tf.Tensor
    factors: tf.Tensor
    mirrored: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The settings of the augmentation.

    Attributes:
        crop: (H, W) of an example, after scaling.
        scale: range of the random scale, uniform.
        flip: mirror left and right, half of the time.
        jitter: brightness, contrast and saturation within a factor 1 +- jitter.
        pad_value: RGB around an image smaller than the window; labels get 255.

    Raises:
        KsegError: a value out of range.
    """

    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool
    jitter: float
    pad_value: Sequence[float]

    def __post_init__(self) -> None:
        crop, scale, jitter = self.crop, self.scale, self.jitter
        if not isinstance(crop, Sequence) or len(crop) != 2 or min(crop) < 1:
            raise KsegError(f"crop is {crop}; training needs a height and a width above 0")
        if not 0 < scale[0] <= scale[1] < math.inf:
            raise KsegError(f"scale is {scale}; it must be two positive numbers in order")
        if not 0 <= jitter < 1:
            raise KsegError(f"jitter is {jitter}; it must be at least 0 and below 1")

    def choose(self, size: tf.Tensor, seed: tf.Tensor, centre: tf.Tensor | None = None) -> Choice:
        """The random choices of one example.

        Args:
            size: (2,) int32, (H, W) of the source.
            seed: (2,) integers; the same seed gives the same choice.
            centre: (2,) int32, row and column of the pixel that the crop is centred on, as far
                as the source reaches; -1 or None for a crop anywhere. Scale, mirror and colours
                are the same in either case.
        """
        middles = (None, None) if centre is None else tf.unstack(centre)
        factor, row, column, mirror, *colour = tf.unstack(tf.random.stateless_uniform([7], seed))
        factor = self.scale[0] + factor * (self.scale[1] - self.scale[0])
        rows, row_padding = source_window(size[0], self.crop[0], factor, row, middles[0])
        columns, column_padding = source_window(size[1], self.crop[1], factor, column, middles[1])
        return Choice(
            rows=rows,
            columns=columns,
            row_padding=row_padding,
            column_padding=column_padding,
            factors=1 + self.jitter * (2 * tf.stack(colour) - 1),
            mirrored=mirror < 0.5,
        )

    def apply(
        self, image: tf.Tensor, label: tf.Tensor, choice: Choice
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """An example of the crop's size.

        Args:
            image: (h, w, 3) uint8, the chosen window of the source.
            label: (h, w) uint8, the same window.
            choice: of ``choose``.

        Returns:
            Image (H, W, 3) float32 in 0..255 and label (H, W) uint8.
        """
        padding = [choice.row_padding, choice.column_padding]
        padded = tf.reduce_any(tf.stack(padding) > 0)
        size = [extent - tf.reduce_sum(pad) for extent, pad in zip(self.crop, padding, strict=True)]
        image = tf.image.resize(image, size)
        label = resize_label(label, size)
        image, label = tf.cond(
            padded,
            lambda: (
                tf.pad(image, [*padding, [0, 0]]),
                tf.pad(label, padding, constant_values=IGNORE),
            ),
            lambda: (image, label),
        )
        image = tf.ensure_shape(image, (*self.crop, 3))
        label = tf.ensure_shape(label, self.crop)
        if self.jitter:
            image = jitter_colours(image, choice.factors)
        # After the jitter, which would change the value.
        image = tf.cond(padded, lambda: fill_padding(image, padding, self.pad_value), lambda: image)
        if self.flip:
            # tf.reverse: a slice with a step of -1 takes ten times as long.
            image, label = tf.cond(
                choice.mirrored,
                lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])),
                lambda: (image, label),
            )
        return image, label


def source_window(
    extent: tf.Tensor,
    crop: int,
    factor: tf.Tensor,
    where: tf.Tensor,
    middle: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The window of the source that a crop shows, along one axis.

    The window of ``crop / factor`` source pixels lies anywhere inside the source; one
    larger than the source contains it anywhere.

    Args:
        extent: () int32, pixels of the source.
        crop: pixels of the crop.
        factor: () float32, the scale.
        where: () float32 in [0, 1), from the first place of the window to the last.
        middle: () int32, the pixel in the middle of the window instead, if that is a place of
            the window, else the nearest place; -1 or None to go by ``where``.

    Returns:
        (2,) int32, first and last + 1 in the source; (2,) int32, the padding of the crop.
    """
    length = tf.cast(tf.maximum(tf.round(crop / factor), 1.0), tf.int32)
    slack = extent - length
    span = tf.cast(tf.abs(slack), tf.float32) + 1
    start = tf.minimum(slack, 0) + tf.cast(tf.floor(where * span), tf.int32)
    if middle is not None:
        first, last = tf.minimum(slack, 0), tf.maximum(slack, 0)
        centred = tf.clip_by_value(middle - length // 2, first, last)
        start = tf.where(middle < 0, start, centred)
    source = tf.stack([tf.maximum(start, 0), tf.minimum(start + length, extent)])
    inside = tf.cast(source - start, tf.float32) / tf.cast(length, tf.float32)
    shown = tf.cast(tf.round(inside * crop), tf.int32)
    shown = tf.stack([shown[0], tf.maximum(shown[1], shown[0] + 1)])
    shown -= tf.maximum(shown[1] - crop, 0)
    return source, tf.stack([shown[0], crop - shown[1]])


def resize_label(label: tf.Tensor, size: Sequence[tf.Tensor]) -> tf.Tensor:
    """(h, w) to ``size`` by the pixel that holds the centre, as tf.image.resize does.

    Rows, then columns as rows of the transpose: copies of memory, four times as fast.
    """
    for wanted in size:
        have = tf.shape(label)[0]
        places = (2 * tf.range(wanted) + 1) * have // (2 * wanted)
        label = tf.transpose(tf.gather(label, places))
    return label


def jitter_colours(image: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Saturation, contrast about the middle grey, and brightness, cut off at 0 and 255.

    The three together are one 3x3 matrix and an offset.

    Args:
        image: (H, W, 3) float32 in 0..255, of known size.
        factors: (3,) float32, of brightness, contrast and saturation; 1 changes nothing.
    """
    brightness, contrast, saturation = tf.unstack(factors)
    grey = tf.tile(tf.constant(_LUMA)[:, None], [1, 3])
    matrix = brightness * contrast * (saturation * tf.eye(3) + (1 - saturation) * grey)
    offset = brightness * (1 - contrast) * 127.5
    # Four pixels a row of the product: a matrix of 3x3 is too small to be fast.
    group = math.gcd(math.prod(image.shape[:2]), 4)
    blocks = tf.tensordot(tf.eye(group), matrix, 0)
    blocks = tf.reshape(tf.transpose(blocks, [0, 2, 1, 3]), [3 * group, 3 * group])
    pixels = tf.matmul(tf.reshape(image, [-1, 3 * group]), blocks)
    pixels = tf.raw_ops.ClipByValue(t=pixels + offset, clip_value_min=0.0, clip_value_max=255.0)
    return tf.reshape(pixels, image.shape)


def fill_padding(
    image: tf.Tensor, padding: Sequence[tf.Tensor], value: Sequence[float]
) -> tf.Tensor:
    """(H, W, 3) float32 with an RGB value in the rows and columns that ``padding`` counts."""
    height, width = image.shape[:2]
    # Rows of plain numbers: broadcasting over the channels takes seven times as long.
    inside = _inside(height, padding[0])[:, None] & tf.repeat(_inside(width, padding[1]), 3)
    pixels = tf.reshape(image, [height, -1])
    pixels = tf.where(inside, pixels, tf.tile(tf.constant(value, tf.float32), [width]))
    return tf.reshape(pixels, image.shape)


def _inside(extent: int, padding: tf.Tensor) -> tf.Tensor:
    """(extent,) bool: not in the first or last places that ``padding`` counts."""
    places = tf.range(extent)
    return (places >= padding[0]) & (places < extent - padding[1])
