"""Images a second that reach the network, by three ways: ``results/input.csv``.

``python benchmarks/input.py`` takes about four minutes on two cores. Frames of 1024 x 2048
(drawn streets, in Cityscapes' layout), crop 512 x 1024, scale 0.5 to 2, flip, jitter of
brightness, contrast and saturation, batches of 4. The ways:

    whole image     PNG files, decoded, scaled, then cropped; jitter by tf.image
    kseg, files     ``kseg.training.dataset`` on the same files
    kseg, records   the same on what ``kseg prepare`` made of them

Each number of threads is a process of its own, since TensorFlow's threads are set once. In
it the ways take turns, several times over. Columns, beside the way and the threads:

    images_per_second   by the median time of an image
    slowest, fastest    by the longest and the shortest
    times_whole_image   images_per_second by that of the first way
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import table
import tensorflow as tf
from table import RESULTS

import kseg.training
from kseg.data import IGNORE, DataSet, open_dataset
from kseg.environment import environment
from kseg.streets import write_streets
from kseg.training.records import prepare

TABLE = RESULTS / "input.csv"

SIZE, CROP = (1024, 2048), (512, 1024)
SCALE, JITTER, BATCH = (0.5, 2.0), 0.2, 4
FRAMES, ROUNDS, BATCHES = 10, 7, 4
THREADS = (1, 2)
COLUMNS = (
    "way",
    "threads",
    "images_per_second",
    "slowest",
    "fastest",
    "times_whole_image",
)


def whole_image_way(data: DataSet, crop: tuple[int, int], batch_size: int) -> tf.data.Dataset:
    """What a pipeline in plain tf.data does: everything on the whole image, then a crop."""
    files = tf.data.Dataset.from_tensor_slices(
        ([str(s.image) for s in data.samples], [str(s.label) for s in data.samples])
    )

    def example(image_file: tf.Tensor, label_file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_png(tf.io.read_file(image_file), channels=3)
        # Taken for train ids, into which others turn the files beforehand.
        label = tf.io.decode_png(tf.io.read_file(label_file), channels=1)
        factor = tf.random.uniform([], *SCALE)
        size = tf.cast(tf.round(factor * tf.cast(tf.shape(image)[:2], tf.float32)), tf.int32)
        image = tf.image.resize(image, size)
        label = tf.image.resize(label, size, "nearest")
        missing = tf.maximum(crop - size, 0)
        padding = [[0, missing[0]], [0, missing[1]], [0, 0]]
        image = tf.pad(image, padding, constant_values=127.5)
        label = tf.pad(label, padding, constant_values=IGNORE)
        slack = tf.shape(image)[:2] - crop
        top = tf.random.uniform([], 0, slack[0] + 1, tf.int32)
        left = tf.random.uniform([], 0, slack[1] + 1, tf.int32)
        image = tf.image.crop_to_bounding_box(image, top, left, *crop)
        label = tf.image.crop_to_bounding_box(label, top, left, *crop)
        if tf.random.uniform([]) < 0.5:
            image, label = tf.image.flip_left_right(image), tf.image.flip_left_right(label)
        image = tf.image.random_brightness(image, 255 * JITTER)
        image = tf.image.random_contrast(image, 1 - JITTER, 1 + JITTER)
        image = tf.image.random_saturation(image / 255, 1 - JITTER, 1 + JITTER) * 255
        return tf.clip_by_value(image, 0.0, 255.0), label[..., 0]

    shuffled = files.repeat().shuffle(len(data))
    return (
        shuffled.map(example, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(2)
    )


def draw(folder: Path, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> None:
    """The frames, ``folder/streets``, and what ``kseg prepare`` makes of them."""
    write_streets(folder / "streets", frames, size=size)
    prepare(open_dataset("streets", folder / "streets", "train"), folder / "records", workers=1)


def measure_apart(
    folder: Path, threads: int, crop: tuple[int, int] = CROP, batch_size: int = BATCH
) -> dict[str, list[float]]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, "--measure", folder, "--threads", threads]
    command += ["--crop", *crop, "--batch-size", batch_size]
    result = subprocess.run(map(str, command), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def measure(
    folder: Path, threads: int, crop: tuple[int, int], batch_size: int
) -> dict[str, list[float]]:
    """Seconds an image, one for every round, by way."""
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    where = dict(name="streets", dir=folder / "streets", split="train")
    kseg_way = dict(crop=crop, batch_size=batch_size, scale=SCALE, jitter=JITTER, start_step=0)
    ways = {
        "whole image": whole_image_way(
            open_dataset("streets", folder / "streets", "train"), crop, batch_size
        ),
        "kseg, files": kseg.training.dataset(**where, **kseg_way),
        "kseg, records": kseg.training.dataset(**where, **kseg_way, records=folder / "records"),
    }
    return by_turns(ways, threads, batch_size, batches=BATCHES, rounds=ROUNDS)


def by_turns(
    ways: dict[str, tf.data.Dataset], threads: int, batch_size: int, *, batches: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds an image of each way, one for every round, in which the ways take turns."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, examples in ways.items():
            # A new iterator each time: between its turns a way does no work in advance.
            stream = iter(examples.with_options(options))
            next(stream)
            begin = time.perf_counter()
            for _ in range(batches):
                next(stream)
            seconds[way].append((time.perf_counter() - begin) / (batch_size * batches))
            del stream
    return seconds


def main() -> int:
    """Draws, prepares, measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--crop", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.threads, tuple(args.crop), args.batch_size)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder)
        for threads in THREADS:
            seconds = measure_apart(folder, threads)
            slowest_way = statistics.median(seconds["whole image"])
            for way, values in seconds.items():
                median = statistics.median(values)
                row = (way, threads, 1 / median, 1 / max(values), 1 / min(values))
                cells = [*row[:2], *(f"{x:.1f}" for x in (*row[2:], slowest_way / median))]
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
                print(*cells, sep="  ", flush=True)
    table.write(TABLE, COLUMNS, rows, environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
