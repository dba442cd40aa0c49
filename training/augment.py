"""Augmentation of one image and its label: scale, crop, rotation, padding, colour, mirror.

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

from kseg.card import check_type
from kseg.data import IGNORE
from kseg.errors import KsegError
from kseg.training.photometric import LUMA, MAGNITUDES, distort


class Choice(NamedTuple):
    """What one example will be.

    Attributes:
        rows, columns: (2,) int32, first and last + 1 of the window in the source.
        row_padding, column_padding: (2,) int32, what the crop has before and behind the
            scaled window.
        factors: (3,) float32, of brightness, contrast and saturation.
        mirrored: () bool, left and right exchanged.
        seed: (2,) integers, of what is drawn besides.
        rotation: (2, 3) float32, the row and column of the window that a row, a column and 1
            of the crop come from; None without rotation.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    row_padding: tf.Tensor
    column_padding: tf.Tensor
    factors: tf.Tensor
    mirrored: tf.Tensor
    seed: tf.Tensor
    rotation: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The settings of the augmentation.

    Attributes:
        crop: (H, W) of an example, after scaling.
        scale: range of the random scale, uniform.
        flip: mirror left and right, half of the time.
        jitter: brightness, contrast and saturation within a factor 1 +- jitter.
        pad_value: RGB around an image smaller than the window, or turned away from a corner;
            labels get 255.
        rotate: largest angle in degrees to either side, uniform, about the middle of the crop.
            The corners show what the image has there.
        randaugment: number and magnitude (0 to 30) of RandAugment's operations on colours.
        blur: largest standard deviation of a Gaussian in pixels of the crop, uniform from 0.
        noise: largest standard deviation of Gaussian noise in levels of 255, uniform from 0.
        jpeg: lowest quality of a compression, uniform up to 100; None for none.

    Raises:
        KsegError: a value out of range.
    """

    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool
    jitter: float
    pad_value: Sequence[float]
    rotate: float = 0.0
    randaugment: tuple[int, int] | None = None
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None

    def __post_init__(self) -> None:
        crop, scale, jitter = self.crop, self.scale, self.jitter
        if not isinstance(crop, Sequence) or len(crop) != 2 or min(crop) < 1:
            raise KsegError(f"crop is {crop}; training needs a height and a width above 0")
        check_type("flip", self.flip, bool)
        is_range = isinstance(scale, Sequence) and len(scale) == 2
        if not is_range or not 0 < scale[0] <= scale[1] < math.inf:
            raise KsegError(f"scale is {scale}; it must be two positive numbers in order")
        if not 0 <= jitter < 1:
            raise KsegError(f"jitter is {jitter}; it must be at least 0 and below 1")
        if not 0 <= self.rotate <= 180:
            raise KsegError(f"rotate is {self.rotate}; it must be 0 to 180 degrees")
        for name, largest in (("blur", 20), ("noise", 255)):
            if not 0 <= getattr(self, name) <= largest:
                raise KsegError(f"{name} is {getattr(self, name)}; it must be 0 to {largest}")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise KsegError(f"jpeg is {self.jpeg}; it must be a quality of 1 to 100")
        if (chosen := self.randaugment) is not None and not (
            len(chosen) == 2 and chosen[0] >= 1 and 0 <= chosen[1] <= MAGNITUDES
        ):
            raise KsegError(
                f"randaugment is {chosen}; it must be a number of operations, at least 1, and a "
                f"magnitude of 0 to {MAGNITUDES}"
            )

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
        windows = [
            window_of(*axis)
            for axis in zip(
                *(tf.unstack(size), self.crop, (factor, factor), (row, column), middles),
                strict=True,
            )
        ]
        rotation = None
        if self.rotate:
            part = tf.random.stateless_uniform([], tf.random.fold_in(seed, 4))
            angle = (2 * part - 1) * math.radians(self.rotate)
            (rows, columns), rotation = rotated_window(size, self.crop, windows, angle)
            row_padding = column_padding = tf.zeros([2], tf.int32)
        else:
            (rows, row_padding), (columns, column_padding) = (
                visible_part(*axis)
                for axis in zip(tf.unstack(size), self.crop, windows, strict=True)
            )
        return Choice(
            rows=rows,
            columns=columns,
            row_padding=row_padding,
            column_padding=column_padding,
            factors=1 + self.jitter * (2 * tf.stack(colour) - 1),
            mirrored=mirror < 0.5,
            seed=seed,
            rotation=rotation,
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
        if choice.rotation is not None:
            image, label, inside = rotated(image, label, choice.rotation, self.crop)
            image = tf.ensure_shape(self._distorted(image, choice.seed), (*self.crop, 3))
            if self.jitter:
                image = jitter_colours(image, choice.factors)
            # After the colours, which would change the value.
            background = tf.broadcast_to(tf.constant(self.pad_value, tf.float32), image.shape)
            return self._mirrored(choose_pixels(inside, image, background), label, choice)
        padding = [choice.row_padding, choice.column_padding]
        padded = tf.reduce_any(tf.stack(padding) > 0)
        size = [extent - tf.reduce_sum(pad) for extent, pad in zip(self.crop, padding, strict=True)]
        image = self._distorted(tf.image.resize(image, size), choice.seed)
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
        return self._mirrored(image, label, choice)

    def _distorted(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return distort(
            image,
            seed,
            randaugment=self.randaugment,
            blur=self.blur,
            noise=self.noise,
            jpeg=self.jpeg,
        )

    def _mirrored(
        self, image: tf.Tensor, label: tf.Tensor, choice: Choice
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if not self.flip:
            return image, label
        # tf.reverse: a slice with a step of -1 takes ten times as long.
        return tf.cond(
            choice.mirrored,
            lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])),
            lambda: (image, label),
        )


def window_of(
    extent: tf.Tensor,
    crop: int,
    factor: tf.Tensor,
    where: tf.Tensor,
    middle: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The window of the source that a crop shows, along one axis, in or around the source.

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
        Its first pixel and its length, () int32 each.
    """
    length = tf.cast(tf.maximum(tf.round(crop / factor), 1.0), tf.int32)
    slack = extent - length
    span = tf.cast(tf.abs(slack), tf.float32) + 1
    start = tf.minimum(slack, 0) + tf.cast(tf.floor(where * span), tf.int32)
    if middle is not None:
        first, last = tf.minimum(slack, 0), tf.maximum(slack, 0)
        centred = tf.clip_by_value(middle - length // 2, first, last)
        start = tf.where(middle < 0, start, centred)
    return start, length


def visible_part(
    extent: tf.Tensor, crop: int, window: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """What of a window lies in the source, along one axis.

    Args:
        extent: () int32, pixels of the source.
        crop: pixels of the crop.
        window: of ``window_of``.

    Returns:
        (2,) int32, first and last + 1 in the source; (2,) int32, the padding of the crop.
    """
    start, length = window
    source = tf.stack([tf.maximum(start, 0), tf.minimum(start + length, extent)])
    inside = tf.cast(source - start, tf.float32) / tf.cast(length, tf.float32)
    shown = tf.cast(tf.round(inside * crop), tf.int32)
    shown = tf.stack([shown[0], tf.maximum(shown[1], shown[0] + 1)])
    shown -= tf.maximum(shown[1] - crop, 0)
    return source, tf.stack([shown[0], crop - shown[1]])


def rotated_window(
    size: tf.Tensor,
    crop: tuple[int, int],
    windows: Sequence[tuple[tf.Tensor, tf.Tensor]],
    angle: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """What of the source a crop shows that is turned about the middle of its window.

    Args:
        size: (2,) int32, (H, W) of the source.
        crop: (H, W) of the crop.
        windows: of ``window_of``, of rows and columns.
        angle: () float32 in radians, by which the image is turned counter-clockwise.

    Returns:
        Rows and columns to read, (2,) int32 each, first and last + 1; and ``Choice.rotation``.
    """
    sine, cosine = tf.sin(angle), tf.cos(angle)
    turn = tf.stack([tf.stack([cosine, sine]), tf.stack([-sine, cosine])])
    starts, lengths = (tf.cast(tf.stack(part), tf.float32) for part in zip(*windows, strict=True))
    step = lengths / tf.constant(crop, tf.float32)
    matrix = step[:, None] * turn
    half = tf.constant(crop, tf.float32) / 2
    middle = starts + lengths / 2
    reach = tf.linalg.matvec(tf.abs(matrix), half)
    # A pixel more for the neighbours that are mixed in.
    first = tf.clip_by_value(tf.cast(tf.floor(middle - reach), tf.int32) - 1, 0, size - 1)
    last = tf.cast(tf.math.ceil(middle + reach), tf.int32) + 1
    last = tf.clip_by_value(last, first + 1, size)
    # Between centres of pixels.
    offset = middle - 0.5 - tf.cast(first, tf.float32) - tf.linalg.matvec(matrix, half - 0.5)
    return tf.unstack(tf.stack([first, last], 1)), tf.concat([matrix, offset[:, None]], 1)


def rotated(
    image: tf.Tensor, label: tf.Tensor, rotation: tf.Tensor, crop: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A crop of a window, the image bilinear, the label by the pixel that holds the place.

    Args:
        image: (h, w, 3) uint8.
        label: (h, w) uint8.
        rotation: of ``Choice``.
        crop: (H, W).

    Returns:
        Image (H, W, 3) float32, beyond the window its nearest pixels; label (H, W) uint8, there
        255; (H, W) bool, inside the window.
    """
    (a, b, c), (d, e, f) = (tf.unstack(row) for row in tf.unstack(rotation))
    down, along = (tf.range(extent, dtype=tf.float32) for extent in crop)
    rows = tf.cast(tf.floor((a * down + (c + 0.5))[:, None] + b * along), tf.int32)
    columns = tf.cast(tf.floor((d * down + (f + 0.5))[:, None] + e * along), tf.int32)
    height, width = tf.unstack(tf.shape(label))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = tf.where(inside, rows * width + columns, 0)
    label = tf.where(inside, tf.gather(tf.reshape(label, [-1]), places), tf.cast(IGNORE, tf.uint8))
    image = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        # x before y
        transforms=tf.stack([e, d, f, b, a, c, 0.0, 0.0])[None],
        output_shape=crop,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    return tf.ensure_shape(image, (*crop, 3)), tf.ensure_shape(label, crop), inside


def choose_pixels(mask: tf.Tensor, image: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """(H, W, 3) float32: of the one where (H, W) bool is true, of the other elsewhere."""
    # Rows of plain numbers: broadcasting over the channels takes seven times as long.
    rows = [mask.shape[0], -1]
    wide = tf.repeat(mask, 3, axis=1)
    return tf.reshape(tf.where(wide, tf.reshape(image, rows), tf.reshape(other, rows)), image.shape)


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
    grey = tf.tile(tf.constant(LUMA)[:, None], [1, 3])
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
