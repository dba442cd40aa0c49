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
        classes: (K,) int32, ids of the classes that may be drawn.
        ends: (K,) int64, where the images of each class end in ``images``.
        images: numbers of the images that have the first class, then of those that have the
            second, and so on; int64.
    """

    share: float
    classes: np.ndarray
    ends: np.ndarray
    images: np.ndarray

    def takes(self, position: tf.Tensor) -> tf.Tensor:
        """() bool: whether the example at a position of an epoch is one of the share.

        As evenly as the share allows: of 0.5 every second one, as many in every batch.
        """
        place = tf.cast(position, tf.float64)
        return tf.floor((place + 1) * self.share) > tf.floor(place * self.share)

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
    """A sampler of the classes that occur at all.

    Args:
        counts: (N, 256) int64, ``label_counts`` of the data.
        num_classes: of the data; ids from there on are ignored.
        share: of the examples, 0 to 1.

    Raises:
        KsegError: none occurs.
    """
    has = counts[:, :num_classes].T > 0
    classes = np.flatnonzero(has.any(1)).astype(np.int32)
    if not len(classes):
        raise KsegError(
            "class_uniform draws classes, and no label has one; look at the labels with "
            "`kseg check-data`"
        )
    return ClassSampler(share, classes, has[classes].sum(1).cumsum(), np.nonzero(has[classes])[1])


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
