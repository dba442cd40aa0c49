"""Files to batches: read, crop the source window, scale, flip, jitter, pad, batch.

Every random choice is a function of the seed, the pass over the data and the position in
it, so a run that resumes at step k sees what the undisturbed run would have seen.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from kseg.data import IGNORE, DataSet, open_dataset
from kseg.errors import KsegError
from kseg.training.records import Records, Window, open_records

# Rec. 601, the weights of the grey that saturation mixes with
_LUMA = (0.299, 0.587, 0.114)


def dataset(
    name: str,
    dir: str | Path | None,
    split: str,
    *,
    records: str | Path | None = None,
    crop: tuple[int, int] | None = None,
    batch_size: int = 8,
    augment: bool | None = None,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    jitter: float = 0.2,
    pad_value: Sequence[float] = (127.5, 127.5, 127.5),
    seed: int = 0,
    start_step: int | None = None,
) -> tf.data.Dataset:
    """Batches of images (N, H, W, 3) float32 RGB 0..255 and train ids (N, H, W) uint8.

    Args:
        name, dir, split: as for ``kseg.data.open_dataset``.
        records: folder that ``kseg prepare`` made of this split; it is read instead of
            ``dir``, with the same order and random choices.
        crop: (H, W) after scaling; needed to augment.
        batch_size: of all replicas together.
        augment: scale, crop, flip and jitter, in random order; None does so where
            ``crop`` is given. Otherwise whole images in the order of their names, the
            last batch smaller.
        scale: range of the random scale, uniform.
        flip: left-right, half of the time.
        jitter: brightness, contrast and saturation within a factor 1 +- jitter.
        pad_value: RGB around an image smaller than the window; the model's
            ``card.normalization.rgb_mean`` normalises to zero. Labels get 255.
        seed: of order and augmentation.
        start_step: None gives one pass an iteration, each pass in a new order, for
            ``fit(epochs=N)``. A number gives the endless stream from that step on.

    Raises:
        KsegError: what ``open_dataset`` or ``open_records`` raises, or a value out of
            range.
    """
    data = open_records(records, name, split) if records else open_dataset(name, dir, split)
    _check_batch_size(batch_size)
    if start_step is not None and start_step < 0:
        raise KsegError(f"start step is {start_step}; steps count from 0")
    if augment is None:
        augment = crop is not None
    if not augment:
        return whole_images(data).batch(batch_size).prefetch(2)
    examples = augmented(
        data,
        crop=crop,
        batch_size=batch_size,
        scale=scale,
        flip=flip,
        jitter=jitter,
        pad_value=pad_value,
        seed=seed,
        start_step=start_step,
    )
    return examples.batch(batch_size, drop_remainder=True).prefetch(2)


@contextlib.contextmanager
def reader_errors() -> Iterator[None]:
    """Within it, what a reader says of a file comes as the KsegError that it was."""
    try:
        yield
    except tf.errors.OpError as error:
        # It stands somewhere in TensorFlow's own text.
        if found := re.search(r"KsegError: (.+)", str(error)):
            raise KsegError(found[1]) from error
        raise


def whole_images(data: DataSet | Records, part: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Images (H, W, 3) float32 and labels (H, W) as they are, in order.

    Args:
        part: (rank, workers): every so many samples alone.
    """

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, window = _open(data, index)
        image, label = window([0, size[0]], [0, size[1]])
        return tf.cast(image, tf.float32), label

    return tf.data.Dataset.range(len(data)).shard(part[1], part[0]).map(example, tf.data.AUTOTUNE)


def check_augmentation(
    crop: tuple[int, int] | None, scale: tuple[float, float], jitter: float
) -> None:
    """Raises KsegError for the first value out of range."""
    if not isinstance(crop, Sequence) or min(crop) < 1:
        raise KsegError(f"crop is {crop}; training needs a height and a width above 0")
    if not 0 < scale[0] <= scale[1]:
        raise KsegError(f"scale is {scale}; it must be two positive numbers in order")
    if not 0 <= jitter < 1:
        raise KsegError(f"jitter is {jitter}; it must be at least 0 and below 1")


def augmented(
    data: DataSet | Records,
    *,
    crop: tuple[int, int] | None,
    batch_size: int,
    scale: tuple[float, float],
    flip: bool,
    jitter: float,
    pad_value: Sequence[float],
    seed: int,
    start_step: int | None,
    part: tuple[int, int] = (0, 1),
    skipped: dict[str, str] | None = None,
) -> tf.data.Dataset:
    """What ``dataset`` gives for training, of a data set at hand, one by one.

    Args:
        batch_size: examples that belong together; an epoch has whole batches alone.
        part: (rank, workers): a worker's equal share of every batch.
        skipped: takes the files that cannot be read, with the reason; the next sample
            stands in. None raises instead, and so do records, which `kseg prepare` mends.
    """
    check_augmentation(crop, scale, jitter)
    steps = steps_per_epoch(data, batch_size)

    rank, workers = part
    share = batch_size // workers

    def example(epoch: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, window = _open(data, _shuffled(data, seed, epoch, position), skipped)
        key = tf.random.fold_in(tf.random.fold_in([seed, 1], epoch), position)
        return _augment(size, window, key, crop, scale, flip, jitter, pad_value)

    count = steps * batch_size
    if start_step is None:
        # One number a pass: `rerandomize_each_iteration` gives the next one each time.
        passes = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
        positions = passes.flat_map(
            lambda epoch: tf.data.Dataset.range(count).map(lambda i: (epoch, i))
        ).apply(tf.data.experimental.assert_cardinality(count))
    else:
        stream = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
        positions = stream.map(lambda i: (i // count, i % count))
    if workers > 1:
        positions = positions.filter(lambda _, i: i % batch_size // share == rank)
    return positions.map(example, tf.data.AUTOTUNE)


def names_at(data: DataSet | Records, step: int, *, batch_size: int, seed: int) -> list[str]:
    """Names of the samples in the batch of a step of ``augmented``, counted from 0."""
    epoch, inside = divmod(step, steps_per_epoch(data, batch_size))
    positions = range(inside * batch_size, (inside + 1) * batch_size)
    places = [_shuffled(data, seed, tf.constant(epoch, tf.int64), i) for i in positions]
    return [data.names[int(place)] for place in places]


def steps_per_epoch(data: DataSet | Records, batch_size: int) -> int:
    """Whole batches in one pass over the data.

    Raises:
        KsegError: not even one.
    """
    _check_batch_size(batch_size)
    if len(data) < batch_size:
        raise KsegError(
            f"{data.name} {data.split} has {len(data)} images, fewer than the batch size "
            f"{batch_size}; lower the batch size"
        )
    return len(data) // batch_size


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise KsegError(f"batch size is {batch_size}; it must be at least 1")


def _shuffled(
    data: DataSet | Records, seed: int, epoch: tf.Tensor, position: tf.Tensor | int
) -> tf.Tensor:
    """Which sample has a place in an epoch's order."""
    order_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(
        tf.cast(position, tf.int64), order_seed, len(data) - 1
    )


def _open(
    data: DataSet | Records, index: tf.Tensor, skipped: dict[str, str] | None = None
) -> tuple[tf.Tensor, Window]:
    """(H, W) of a sample, and what gives a window of its image and label."""
    if isinstance(data, Records):
        return data.open(index)

    # The reader that evaluation uses, so that both see the same.
    def read(first: int) -> tuple[np.ndarray, np.ndarray]:
        for place in range(first, first + len(data)):
            sample = data.samples[place % len(data)]
            try:
                return data.labelled(sample)
            except KsegError as error:
                if skipped is None:
                    raise
                if sample.name not in skipped:
                    print(f"kseg: left out: {error}", file=sys.stderr)
                skipped[sample.name] = str(error)
        raise KsegError(f"{data.name} {data.split}: none of the {len(data)} samples can be read")

    image, label = tf.numpy_function(read, [index], [tf.uint8, tf.uint8], stateful=False)
    image.set_shape((None, None, 3))
    label.set_shape((None, None))

    def window(rows: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = slice(rows[0], rows[1]), slice(columns[0], columns[1])
        return image[place], label[place]

    return tf.shape(label), window


def _augment(
    extent: tf.Tensor,
    window: Window,
    key: tf.Tensor,
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: bool,
    jitter: float,
    pad_value: Sequence[float],
) -> tuple[tf.Tensor, tf.Tensor]:
    """A sample of (H, W) = ``extent`` to the crop's size: image float32, label uint8."""
    factor, row, column, mirror, *colour = tf.unstack(tf.random.stateless_uniform([7], key))
    factor = scale[0] + factor * (scale[1] - scale[0])
    # Only what the crop will show is read and scaled: the window is chosen in the source.
    rows, row_padding = _window(extent[0], crop[0], factor, row)
    columns, column_padding = _window(extent[1], crop[1], factor, column)
    image, label = window(rows, columns)
    size = [crop[0] - tf.reduce_sum(row_padding), crop[1] - tf.reduce_sum(column_padding)]
    image = tf.image.resize(image, size)
    label = _nearest(label, size)
    padding = [row_padding, column_padding]
    padded = tf.reduce_any(tf.stack(padding) > 0)
    image, label = tf.cond(
        padded,
        lambda: (
            tf.pad(image, [*padding, [0, 0]]),
            tf.pad(label, padding, constant_values=IGNORE),
        ),
        lambda: (image, label),
    )
    image = tf.ensure_shape(image, (*crop, 3))
    label = tf.ensure_shape(label, crop)
    if jitter:
        image = _jitter(image, 1 + jitter * (2 * tf.stack(colour) - 1))

    def around() -> tf.Tensor:
        # Rows of plain numbers: broadcasting over the channels takes seven times as long.
        inside = _inside(crop[0], row_padding)[:, None] & tf.repeat(
            _inside(crop[1], column_padding), 3
        )
        pixels = tf.reshape(image, [crop[0], -1])
        pixels = tf.where(inside, pixels, tf.tile(tf.constant(pad_value, tf.float32), [crop[1]]))
        return tf.reshape(pixels, image.shape)

    image = tf.cond(padded, around, lambda: image)
    if flip:
        # tf.reverse: a slice with a step of -1 takes ten times as long.
        image, label = tf.cond(
            mirror < 0.5,
            lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])),
            lambda: (image, label),
        )
    return image, label


def _inside(extent: int, padding: tf.Tensor) -> tf.Tensor:
    """(extent,) bool: not in the first or last places that ``padding`` counts."""
    places = tf.range(extent)
    return (places >= padding[0]) & (places < extent - padding[1])


def _nearest(label: tf.Tensor, size: Sequence[tf.Tensor]) -> tf.Tensor:
    """(h, w) to ``size`` by the pixel that holds the centre, as tf.image.resize does.

    Rows, then columns as rows of the transpose: copies of memory, four times as fast.
    """
    for wanted in size:
        have = tf.shape(label)[0]
        places = (2 * tf.range(wanted) + 1) * have // (2 * wanted)
        label = tf.transpose(tf.gather(label, places))
    return label


def _window(
    extent: tf.Tensor, crop: int, factor: tf.Tensor, where: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Along one axis: (first, last + 1) in the source, and the padding of the crop.

    The window of ``crop / factor`` source pixels lies anywhere inside the source; one
    larger than the source contains it anywhere.
    """
    length = tf.cast(tf.maximum(tf.round(crop / factor), 1.0), tf.int32)
    slack = extent - length
    span = tf.cast(tf.abs(slack), tf.float32) + 1
    start = tf.minimum(slack, 0) + tf.cast(tf.floor(where * span), tf.int32)
    source = tf.stack([tf.maximum(start, 0), tf.minimum(start + length, extent)])
    inside = tf.cast(source - start, tf.float32) / tf.cast(length, tf.float32)
    shown = tf.cast(tf.round(inside * crop), tf.int32)
    shown = tf.stack([shown[0], tf.maximum(shown[1], shown[0] + 1)])
    shown -= tf.maximum(shown[1] - crop, 0)
    return source, tf.stack([shown[0], crop - shown[1]])


def _jitter(image: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Saturation, contrast about the middle grey, and brightness: one 3x3 matrix."""
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
