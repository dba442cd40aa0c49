"""Examples that show a class on purpose: class, image and pixel are drawn one after the other.

Class-uniform sampling as Rota Bulò et al. (arXiv:1712.02616) and Zhu et al. (arXiv:1812.01593)
have it: the class first, each that occurs in the split as likely, so that a rare one is drawn as
often as a frequent one; then an image that has it, each as likely. The papers' crops show the
class somewhere, Zhu et al.'s one of the centroids of its areas. Here they are centred on a pixel
of the class, each in the image as likely, as far as the image reaches.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from kseg.errors import KsegError


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSampler:
    """Which examples show a class on purpose, and which class and image each one shows.

    Attributes:
        share: of the examples, 0 to 1.
        phase: 0 to 1, where the share begins; 0 and 0.5 with a share of 0.5 each take other
            examples.
        classes: (K,) int32, ids of the classes that may be drawn.
        ends: (K,) int64, where the images of each class end in ``images``.
        images: numbers of the images that have the first class, then of those that have the
            second, and so on; int64.
    """

    share: float
    phase: float
    classes: np.ndarray
    ends: np.ndarray
    images: np.ndarray

    def takes(self, position: tf.Tensor) -> tf.Tensor:
        """() bool: whether the example at a position of an epoch is one of the share.

        As evenly as the share allows: of 0.5 every second one, as many in every batch.
        """
        place = tf.cast(position, tf.float64)
        before, behind = place * self.share + self.phase, (place + 1) * self.share + self.phase
        return tf.floor(behind) > tf.floor(before)

    def has(self, label: tf.Tensor) -> tf.Tensor:
        """Of a label's shape, bool: where it is one of the classes."""
        table = np.isin(np.arange(256), self.classes)
        return tf.gather(tf.constant(table), tf.cast(label, tf.int32))

    def draw(self, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A class, an image that has it, and which of its pixels.

        Args:
            seed: (2,) integers; the same seed gives the same answer.

        Returns:
            The class, () int32; the image, () int64; for ``find_pixel``, () float64.
        """
        # float64: an image has more pixels than float32 has numbers below 1.
        kind, image, pixel = tf.unstack(tf.random.stateless_uniform([3], seed, dtype=tf.float64))
        place = tf.cast(kind * len(self.classes), tf.int32)
        sizes = np.diff(self.ends, prepend=0)
        offset = tf.cast(image * tf.gather(tf.constant(sizes, tf.float64), place), tf.int64)
        first = tf.gather(tf.constant(self.ends - sizes), place)
        chosen = tf.gather(tf.constant(self.images), first + offset)
        return tf.gather(tf.constant(self.classes), place), chosen, pixel


def class_sampler(counts: np.ndarray, num_classes: int, share: float) -> ClassSampler:
    """Draws from all classes that occur.

    Args:
        counts: (N, 256) int64, ``sample_pixels`` of the data.
        num_classes: of the data; ids from there on are ignored.
        share: of the examples, 0 to 1.

    Raises:
        KsegError: none occurs.
    """
    return _sampler(counts, np.flatnonzero(counts[:, :num_classes].any(0)), share, 0.0)


def rare_sampler(counts: np.ndarray, num_classes: int, share: float) -> ClassSampler:
    """As ``class_sampler``, from the rarer half of the classes that occur, by their pixels.

    Of an odd number the middle one is not among them.

    Raises:
        KsegError: fewer than two occur.
    """
    pixels = counts[:, :num_classes].sum(0)
    found = np.flatnonzero(pixels)
    rare = np.sort(found[np.argsort(pixels[found], kind="stable")][: len(found) // 2])
    return _sampler(counts, rare, share, 0.5)


def _sampler(counts: np.ndarray, classes: np.ndarray, share: float, phase: float) -> ClassSampler:
    if not len(classes):
        raise KsegError(
            "classes are to be drawn, and the labels have too few; look at them with "
            "`kseg check-data`"
        )
    has = counts[:, classes].T > 0
    return ClassSampler(
        share, phase, classes.astype(np.int32), has.sum(1).cumsum(), np.nonzero(has)[1]
    )


def find_pixel(label: tf.Tensor, kind: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """(2,) int32: row and column of one of a class' pixels; -1 where it has none.

    Args:
        label: (H, W) uint8.
        kind: () int32, the class.
        where: () float64 in [0, 1), from the first of its pixels to the last, row by row.
    """
    mask = tf.cast(tf.equal(label, tf.cast(kind, tf.uint8)), tf.int32)
    ends = tf.cumsum(tf.reduce_sum(mask, 1))
    rank = tf.cast(where * tf.cast(ends[-1], tf.float64), tf.int32)

    def found() -> tf.Tensor:
        row = tf.searchsorted(ends, [rank], side="right")[0]
        columns = tf.cumsum(mask[row])
        rest = rank - (ends[row] - columns[-1])
        return tf.stack([row, tf.searchsorted(columns, [rest], side="right")[0]])

    return tf.cond(ends[-1] > 0, found, lambda: tf.constant([-1, -1]))
