"""Changes of an image's colours and sharpness, which leave its label as it is.

All are functions of the image and a seed. Images are (H, W, 3) float32 in 0..255, of any size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

# Rec. 601: the weights of the grey that saturation mixes with.
LUMA = (0.299, 0.587, 0.114)

MAGNITUDES = 30
"""RandAugment's largest magnitude (arXiv:1909.13719, Section 4)."""

# How far a standard deviation reaches; the weights beyond are a thousandth of a level's.
_REACH = 3


def distort(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    randaugment: tuple[int, int] | None = None,
    blur: float = 0.0,
    noise: float = 0.0,
    jpeg: int | None = None,
) -> tf.Tensor:
    """What ``Augmentation`` has of these settings, in this order.

    Args:
        image: (H, W, 3) float32 in 0..255.
        seed: (2,) integers; the same seed gives the same image.
        randaugment, blur, noise, jpeg: as for ``Augmentation``.
    """
    amounts = tf.random.stateless_uniform([3], tf.random.fold_in(seed, 1))
    if randaugment is not None:
        image = randomly_augmented(image, tf.random.fold_in(seed, 2), *randaugment)
    if blur:
        image = blurred(image, blur * amounts[0], math.ceil(_REACH * blur))
    if noise:
        values = tf.random.stateless_normal(tf.shape(image), tf.random.fold_in(seed, 3))
        image = _cut(image + noise * amounts[1] * values)
    if jpeg is not None:
        quality = jpeg + tf.cast(amounts[2] * (101 - jpeg), tf.int32)
        image = compressed(image, quality)
    return image


def blurred(image: tf.Tensor, sigma: tf.Tensor, reach: int) -> tf.Tensor:
    """By a Gaussian; beyond the border lies the nearest pixel.

    Args:
        image: (H, W, 3) float32.
        sigma: () float32, standard deviation in pixels; 0 changes nothing.
        reach: pixels to either side that count.
    """
    distances = tf.range(-reach, reach + 1, dtype=tf.float32)
    # The least sigma that float32 can divide by leaves the middle alone.
    weights = tf.exp(-0.5 * tf.square(distances / tf.maximum(sigma, 1e-3)))
    weights = tf.unstack(weights / tf.reduce_sum(weights))
    for axis in (0, 1):
        extent = tf.shape(image)[axis]
        places = tf.clip_by_value(tf.range(-reach, extent + reach), 0, extent - 1)
        padded = tf.gather(image, places, axis=axis)
        begin, size = [0, 0, 0], tf.unstack(tf.shape(image))
        shifted = []
        for shift in range(2 * reach + 1):
            begin[axis] = shift
            shifted.append(tf.slice(padded, begin, size))
        # Pixels of either side have the same weight.
        pairs = zip(shifted[:reach], reversed(shifted[reach + 1 :]), weights, strict=False)
        image = weights[reach] * shifted[reach]
        for before, behind, weight in pairs:
            image += weight * (before + behind)
    return image


def compressed(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """After JPEG of a quality of 1 to 100, with libjpeg's halved resolution of the colours."""
    levels = tf.cast(tf.round(image), tf.uint8)
    levels = tf.image.adjust_jpeg_quality(levels, quality, dct_method="INTEGER_ACCURATE")
    return tf.cast(levels, tf.float32)


def randomly_augmented(image: tf.Tensor, seed: tf.Tensor, count: int, magnitude: int) -> tf.Tensor:
    """RandAugment's operations on colours (arXiv:1909.13719, Section 3), one after the other.

    Each is drawn from all ``OPERATIONS``, so that one may come twice; where it can go up and
    down, each is as likely.

    Args:
        image: (H, W, 3) float32 in 0..255.
        seed: (2,) integers.
        count: of the operations.
        magnitude: 0 to 30.
    """
    draws = tf.random.stateless_uniform([count, 2], seed)
    for kind, sign in (tf.unstack(draw) for draw in tf.unstack(draws)):
        signed = tf.where(sign < 0.5, -1.0, 1.0) * (magnitude / MAGNITUDES)
        image = tf.switch_case(
            tf.cast(kind * len(OPERATIONS), tf.int32),
            [functools.partial(change, image, signed) for change in OPERATIONS.values()],
        )
    return image


def _identity(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    return image


def _auto_contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Every channel stretched to 0..255; one of a single value stays."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    flat = high <= low
    scale = tf.where(flat, 1.0, 255 / tf.where(flat, 1.0, high - low))
    return _cut((image - tf.where(flat, 0.0, low)) * scale)


def _equalize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """The histogram of every channel made even, as Pillow's ImageOps.equalize does it."""
    levels = tf.cast(tf.round(image), tf.int32) + 256 * tf.range(3)
    counts = tf.math.bincount(tf.reshape(levels, [-1]), minlength=768, maxlength=768)
    counts = tf.reshape(counts, [3, 256])
    last = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), 1)
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, last, batch_dims=1)) // 255
    even = step // 2
    table = (even[:, None] + tf.cumsum(counts, 1, exclusive=True)) // tf.maximum(step, 1)[:, None]
    table = tf.where(step[:, None] > 0, tf.minimum(table, 255), tf.range(256))
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.float32), levels)


def _solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Levels from 256 down to 0 on are inverted."""
    return tf.where(tf.round(image) >= 256 * (1 - tf.abs(strength)), 255 - image, image)


def _posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """8 down to 4 bits are left."""
    step = 2 ** tf.round(4 * tf.abs(strength))
    return tf.floor(tf.round(image) / step) * step


def _saturation(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    return _mixed(_grey(image), image, strength)


def _contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    return _mixed(tf.reduce_mean(_grey(image)), image, strength)


def _brightness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    return _mixed(tf.constant(0.0), image, strength)


def _sharpness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Away from the mean of 3x3 pixels, the middle one five times; the border stays."""
    height, width = tf.unstack(tf.shape(image)[:2])

    def sharpened() -> tf.Tensor:
        rows = image[:-2] + image[1:-1] + image[2:]
        smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]) / 13
        change = tf.pad(image[1:-1, 1:-1] - smooth, [[1, 1], [1, 1], [0, 0]])
        return _cut(image + 0.9 * strength * change)

    return tf.cond((height > 2) & (width > 2), sharpened, lambda: image)


OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "saturation": _saturation,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
"""(H, W, 3) float32 and a strength of -1 to 1 to an image: RandAugment's, without geometry.

Ranges are those of AutoAugment (arXiv:1805.09501, Table 6), from no change at 0 on.
"""


def _mixed(base: tf.Tensor, image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """From the base by 0.1 to 1.9 of the way to the image, 1 at strength 0."""
    return _cut(base + (1 + 0.9 * strength) * (image - base))


def _grey(image: tf.Tensor) -> tf.Tensor:
    return tf.tensordot(image, tf.constant(LUMA), 1)[..., None]


def _cut(image: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ClipByValue(t=image, clip_value_min=0.0, clip_value_max=255.0)
