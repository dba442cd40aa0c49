"""What each augmentation costs an image on one thread: ``results/augmentation.csv``.

``python benchmarks/augmentation.py`` takes about five minutes. Records of drawn streets: frames of
1024 x 2048 for the crop 512 x 1024, Cityscapes' sizes, and of 360 x 480 for the crop 288 x 384,
CamVid's; scale 0.5 to 2, flip and jitter as by default, batches of 4. The settings take turns,
several times over. Columns, beside the crop and the setting:

    milliseconds    an image, by the median of the rounds
    times_default   by the median of the ratios to the default setting in the same round
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import table
import tensorflow as tf
from input import by_turns, draw
from table import RESULTS

import kseg.training
from kseg.environment import environment

TABLE = RESULTS / "augmentation.csv"

SIZES = {(1024, 2048): (512, 1024), (360, 480): (288, 384)}
FRAMES, BATCH, BATCHES, ROUNDS = 12, 4, 3, 11
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "rotate 10": dict(rotate=10.0),
    "randaugment 2 9": dict(randaugment=(2, 9)),
    "blur 1": dict(blur=1.0),
    "noise 10": dict(noise=10.0),
    "jpeg 50": dict(jpeg=50),
    "class-uniform 0.5": dict(class_uniform=0.5),
    "class-mix 0.5": dict(class_mix=0.5),
}
COLUMNS = ("crop", "setting", "milliseconds", "times_default")


def measure(records: Path, crop: tuple[int, int]) -> dict[str, list[float]]:
    """Seconds an image, one for every round, by setting."""
    ways = {
        name: kseg.training.dataset(
            "streets",
            None,
            "train",
            records=records,
            crop=crop,
            batch_size=BATCH,
            start_step=0,
            **setting,
        )
        for name, setting in SETTINGS.items()
    }
    return by_turns(ways, 1, BATCH, batches=BATCHES, rounds=ROUNDS)


def main() -> int:
    """Draws, prepares, measures and writes the table."""
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size, crop in SIZES.items():
            folder = Path(temporary) / str(size[0])
            draw(folder, size, FRAMES)
            seconds = measure(folder / "records", crop)
            for name, values in seconds.items():
                ratios = [a / b for a, b in zip(values, seconds["default"], strict=True)]
                cells = (
                    f"{crop[0]}x{crop[1]}",
                    name,
                    f"{1000 * statistics.median(values):.1f}",
                    f"{statistics.median(ratios):.2f}",
                )
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
                print(*cells, sep="  ", flush=True)
    table.write(TABLE, COLUMNS, rows, environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
