"""Files to batches: read, crop the source window, scale, flip, jitter, pad, batch.

Every random choice is a function of the seed, the pass over the data and the position in
it, so a run that resumes at step k sees what the undisturbed run would have seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kseg.data import DataSet, open_dataset
from kseg.errors import KsegError, first_line
from kseg.progress import note
from kseg.training.augment import Augmentation, choose_pixels
from kseg.training.class_uniform import ClassSampler, class_sampler, find_pixel, rare_sampler
from kseg.training.config import check_share
from kseg.training.records import Records, compare_with_source, open_records

ReadWindow = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(first, last + 1) of rows and of columns to a window of an image, (h, w, 3) uint8."""


class Opened(NamedTuple):
    """A sample whose image is not decoded before its window is known, where that is cheaper.

    Attributes:
        size: (2,) int32, H and W.
        label: (H, W) uint8.
        read_window: of the image.
    """

    size: tf.Tensor
    label: tf.Tensor
    read_window: ReadWindow


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
    rotate: float = 0.0,
    randaugment: tuple[int, int] | None = None,
    blur: float = 0.0,
    noise: float = 0.0,
    jpeg: int | None = None,
    class_uniform: float = 0.0,
    class_mix: float = 0.0,
    pad_value: Sequence[float] = (127.5, 127.5, 127.5),
    seed: int = 0,
    start_step: int | None = None,
) -> tf.data.Dataset:
    """Batches of images (N, H, W, 3) float32 RGB 0..255 and train ids (N, H, W) uint8.

    Args:
        name, dir, split: as for ``kseg.data.open_dataset``.
        records: folder that ``kseg prepare`` made of this split; it is read instead of
            ``dir``, with the same order and random choices. A ``dir`` is compared with it.
        crop: (H, W) after scaling; needed to augment.
        batch_size: of all replicas together.
        augment: scale, crop, flip and jitter, in random order; None does so where
            ``crop`` is given. Otherwise whole images in the order of their names, the
            last batch smaller.
        scale: range of the random scale, uniform.
        flip: left-right, half of the time.
        jitter: brightness, contrast and saturation within a factor 1 +- jitter.
        rotate, randaugment, blur, noise, jpeg: as for
            ``kseg.training.augment.Augmentation``.
        class_uniform: share of the examples whose crop is centred on a pixel of a class, each
            class as likely, in an image that has it (``kseg.training.class_uniform``); the
            labels are read once for it, if there is no count in ``records``. The others are
            those of 0.
        class_mix: share of the examples that get the rare classes of another example, with
            its labels, in their places (as ClassMix, arXiv:2007.07936, pastes half of the
            classes of one image; here of a labelled one). Rare is the half of the classes that
            occur with the fewest pixels; the other example is drawn and centred as by
            ``class_uniform``, of these classes alone.
        pad_value: RGB around an image smaller than the window; the model's
            ``card.normalization.rgb_mean`` normalises to zero. Labels get 255.
        seed: of order and augmentation.
        start_step: None gives one pass an iteration, each pass in a new order, for
            ``fit(epochs=N)``. A number gives the endless stream from that step on.

    Raises:
        KsegError: what ``open_dataset`` or ``open_records`` raises, or a value out of
            range.
    """
    data: DataSet | Records
    if records:
        data = open_records(records, name, split)
        if dir is not None:
            compare_with_source(data, dir)
    else:
        data = open_dataset(name, dir, split)
    _check_batch_size(batch_size)
    if start_step is not None and start_step < 0:
        raise KsegError(f"start step is {start_step}; steps count from 0")
    if augment is None:
        augment = crop is not None
    if not augment:
        return whole_images(data).batch(batch_size).prefetch(2)
    if crop is None:
        raise KsegError("crop is None; augmentation needs a height and a width above 0")
    augmentation = Augmentation(
        crop,
        scale,
        flip,
        jitter,
        pad_value,
        rotate=rotate,
        randaugment=randaugment,
        blur=blur,
        noise=noise,
        jpeg=jpeg,
    )
    for setting, share in (("class_uniform", class_uniform), ("class_mix", class_mix)):
        check_share(setting, share)
    samplers = Samplers()
    if class_uniform or class_mix:
        counts = data.sample_pixels()
        samplers = open_samplers(counts, data.classes.num_classes, class_uniform, class_mix)
    examples = augmented(
        data,
        augmentation,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        samplers=samplers,
    )
    return examples.batch(batch_size, drop_remainder=True).prefetch(2)


@dataclasses.dataclass(frozen=True)
class Samplers:
    """What draws examples that show a class on purpose.

    Attributes:
        uniform: examples in place of those of the order.
        mix: examples whose classes are pasted into others.
    """

    uniform: ClassSampler | None = None
    mix: ClassSampler | None = None


def open_samplers(
    counts: np.ndarray, num_classes: int, class_uniform: float, class_mix: float
) -> Samplers:
    """The samplers of two shares, where they are not 0.

    Args:
        counts: (N, 256) int64, ``sample_pixels`` of the data.
        num_classes: of the data.
        class_uniform, class_mix: shares, as for ``dataset``.

    Raises:
        KsegError: too few classes occur.
    """
    return Samplers(
        class_sampler(counts, num_classes, class_uniform) if class_uniform else None,
        rare_sampler(counts, num_classes, class_mix) if class_mix else None,
    )


@contextlib.contextmanager
def reader_errors(data: DataSet | Records | None = None) -> Iterator[None]:
    """Within it, a KsegError that was raised or asserted inside TensorFlow comes out as one.

    Args:
        data: what is read; an image of records that TensorFlow cannot decode is named.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # TensorFlow wraps its text into its own.
        if found := re.search(r"KsegError: (.+)", str(error)):
            # An assertion has its values in brackets.
            raise KsegError(found[1].replace("] [", " ").removesuffix("]")) from error
        if isinstance(data, Records) and isinstance(error, tf.errors.InvalidArgumentError):
            _check_decodable(data)
        raise


def _check_decodable(data: Records) -> None:
    """Raises KsegError for the first record that TensorFlow cannot decode.

    TensorFlow does not say which one it was.
    """
    for place, name in enumerate(data.names):
        content = _parsed(data.read(place))
        try:
            _decode_image(content["image"], [0, 0, *data.sizes[place]])
            tf.io.decode_png(content["label"], channels=1)
        except tf.errors.InvalidArgumentError as error:
            shard = data.shards[data.places[place][0]]
            raise KsegError(
                f"{shard}: TensorFlow cannot decode {name!r} ({_reason(error)}); save that image "
                "anew and run `kseg prepare` again"
            ) from error


def _reason(error: tf.errors.OpError) -> str:
    """What an operator says, without the node's name."""
    return re.sub(r"^\{\{.*?\}\} *|\[Op:.*", "", first_line(error)).strip()


def readable(data: DataSet, skipped: dict[str, str]) -> DataSet:
    """The samples that can be read, in order; each is read once.

    Args:
        skipped: takes the others, with the reason, as "SPLIT/NAME".

    Raises:
        KsegError: none can be read.
    """
    kept = []
    for sample in data.samples:
        try:
            data.labelled(sample)
        except KsegError as error:
            note(f"kseg: left out: {error}")
            skipped[f"{data.split}/{sample.name}"] = str(error)
        else:
            kept.append(sample)
    if not kept:
        raise _none_readable(data)
    return dataclasses.replace(data, samples=tuple(kept))


def _none_readable(data: DataSet) -> KsegError:
    return KsegError(f"{data.name} {data.split}: none of the {len(data)} samples can be read")


def whole_images(data: DataSet | Records, part: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Images (H, W, 3) float32 and labels (H, W) as they are, in order.

    Args:
        part: (rank, workers): a worker's share, every ``workers``-th sample.
    """

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, label, read_window = _open(data, index)
        image = read_window([0, size[0]], [0, size[1]])
        return tf.cast(image, tf.float32), label

    return tf.data.Dataset.range(len(data)).shard(part[1], part[0]).map(example, tf.data.AUTOTUNE)


def augmented(
    data: DataSet | Records,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    start_step: int | None,
    part: tuple[int, int] = (0, 1),
    skipped: dict[str, str] | None = None,
    samplers: Samplers | None = None,
) -> tf.data.Dataset:
    """Examples for training, one by one: image (H, W, 3) float32 and label (H, W) uint8.

    Args:
        data: the samples.
        augmentation: what is done to each.
        batch_size: examples that belong together; an epoch has whole batches alone.
        seed: of order and augmentation.
        start_step: as for ``dataset``.
        part: (rank, workers): a worker's equal share of every batch.
        skipped: takes the files that cannot be read, with the reason; the next sample
            takes the place. None raises instead, and so do records, which `kseg prepare`
            repairs.
        samplers: of examples that show a class on purpose; None for none.

    Raises:
        KsegError: fewer samples than ``batch_size``.
    """
    steps = steps_per_epoch(data, batch_size)
    rank, workers = part
    share = batch_size // workers
    samplers = samplers or Samplers()

    def shown(
        index: tf.Tensor, key: tf.Tensor, target: tuple[tf.Tensor, tf.Tensor] | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        size, label, read_window = _open(data, index, skipped)
        centre = None
        if target is not None:
            # A sample that was skipped may have left its place to one without the class.
            centre = tf.cond(
                target[0] >= 0,
                lambda: find_pixel(label, *target),
                lambda: tf.constant([-1, -1]),
            )
        choice = augmentation.choose(size, key, centre)
        rows, columns = choice.rows, choice.columns
        label = label[rows[0] : rows[1], columns[0] : columns[1]]
        return augmentation.apply(read_window(rows, columns), label, choice)

    def example(epoch: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index, target = _sample(data, seed, epoch, position, samplers.uniform)
        image, label = shown(index, _key(seed, _WINDOW, epoch, position), target)
        mix = samplers.mix
        if mix is None:
            return image, label

        def mixed() -> tuple[tf.Tensor, tf.Tensor]:
            kind, index, pixel = mix.draw(_key(seed, _DONOR, epoch, position))
            key = _key(seed, _DONOR_WINDOW, epoch, position)
            other, other_label = shown(index, key, (kind, pixel))
            pasted = mix.has(other_label)
            return choose_pixels(pasted, other, image), tf.where(pasted, other_label, label)

        return tf.cond(mix.takes(position), mixed, lambda: (image, label))

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


def names_at(
    data: DataSet | Records,
    step: int,
    *,
    batch_size: int,
    seed: int,
    samplers: Samplers | None = None,
) -> list[str]:
    """Names of the samples in a batch of ``augmented``; steps count from 0.

    Those that only lend pixels come last.
    """
    samplers = samplers or Samplers()
    epoch, inside = divmod(step, steps_per_epoch(data, batch_size))
    positions = range(inside * batch_size, (inside + 1) * batch_size)
    pass_ = tf.constant(epoch, tf.int64)
    places = [_sample(data, seed, pass_, i, samplers.uniform)[0] for i in positions]
    if (mix := samplers.mix) is not None:
        taken = [i for i in positions if mix.takes(i)]
        places += [mix.draw(_key(seed, _DONOR, pass_, i))[1] for i in taken]
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


def _sample(
    data: DataSet | Records,
    seed: int,
    epoch: tf.Tensor,
    position: tf.Tensor | int,
    sampler: ClassSampler | None,
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor] | None]:
    """Which sample a position of an epoch shows, as () int64.

    With a sampler also the class that it is to show, -1 for any, and which of its pixels, for
    ``find_pixel``.
    """
    position = tf.cast(position, tf.int64)
    order_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
    place = tf.random.experimental.index_shuffle(position, order_seed, len(data) - 1)
    if sampler is None:
        return place, None
    kind, image, pixel = sampler.draw(_key(seed, _CLASS, epoch, position))
    drawn = sampler.takes(position)
    return tf.where(drawn, image, place), (tf.where(drawn, kind, -1), pixel)


# What an example's random choices are for.
_WINDOW, _CLASS, _DONOR, _DONOR_WINDOW = range(1, 5)


def _key(seed: int, purpose: int, epoch: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    """The seed of one example's random choices; another one for another purpose."""
    # Of one type: another one of the same value makes another seed.
    position = tf.cast(position, tf.int64)
    return tf.random.fold_in(tf.random.fold_in([seed, purpose], epoch), position)


def _open(
    data: DataSet | Records, index: tf.Tensor, skipped: dict[str, str] | None = None
) -> Opened:
    if isinstance(data, Records):
        return _open_record(data, index)
    return _open_files(data, index, skipped)


def _open_files(data: DataSet, index: tf.Tensor, skipped: dict[str, str] | None) -> Opened:
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
                    note(f"kseg: left out: {error}")
                skipped[sample.name] = str(error)
        raise _none_readable(data)

    image, label = tf.numpy_function(read, [index], [tf.uint8, tf.uint8], stateful=False)
    image.set_shape((None, None, 3))
    label.set_shape((None, None))

    def read_window(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        return image[rows[0] : rows[1], columns[0] : columns[1]]

    return Opened(tf.shape(label), label, read_window)


def _open_record(data: Records, index: tf.Tensor) -> Opened:
    def read(i: np.ndarray) -> np.ndarray:
        return np.array(data.read(int(i)), object)

    record = tf.ensure_shape(tf.numpy_function(read, [index], tf.string, stateful=False), ())
    content = _parsed(record)
    size = tf.gather(tf.constant(data.sizes), index)

    label = tf.reshape(tf.io.decode_png(content["label"], channels=1), size)

    def read_window(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        place = [rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]]
        return _decode_image(content["image"], place)

    return Opened(size, label, read_window)


def _parsed(record: tf.Tensor | bytes) -> dict[str, tf.Tensor]:
    kind = tf.io.FixedLenFeature([], tf.string)
    return tf.io.parse_single_example(record, {"image": kind, "label": kind})


def _decode_image(jpeg: tf.Tensor, place: Sequence[tf.Tensor | int]) -> tf.Tensor:
    """(h, w, 3) uint8 of a JPEG's window: first row, first column, h and w."""
    return tf.io.decode_and_crop_jpeg(jpeg, place, channels=3, dct_method="INTEGER_ACCURATE")
