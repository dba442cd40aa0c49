"""Every head on every encoder that it fits, run as Keras, on the CPU and on the GPU accelerator.

``make matrix``, or ``python benchmarks/pairs.py [PAIR...]`` for pairs to be measured anew, such as
``unet.ResNet50V2``. Rows are written pair by pair, so the command can be killed and started
again. A pair that is there stays until the versions beside the table change: a changed graph is
not noticed, since it takes an hour to build them all. It needs a Vulkan driver, see
``kseg check-gpu --help``.

``results/pairs.csv``, a row a pair, in fp32 for images of ``size``, which no stride divides:

    parameters   trainable, at 19 classes
    strides      the encoder's last features at an output stride of 8 against those at 16, at 16
                 against 32, where the grids meet: largest difference by the largest feature;
                 empty where there is no choice. Not of the pair, but of its encoder. A mean over
                 all pixels makes it as large as that of SEResNet50.
    bytes        of the .tflite file
    keras        CPU against Keras: largest difference by the logits' range
    gpu          GPU accelerator against CPU: the same
    note         why a file does not belong on the GPU, or may seem not to

Weights are random with a set seed, as those of ``benchmarks/matrix.py``.
"""

from __future__ import annotations

import functools
import math
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import table
from table import RESULTS

import kseg
import kseg.tflite
from kseg.backbones.encoders import ENCODERS
from kseg.environment import environment
from kseg.zoo import HEADS
from matrix import (
    Subject,
    apart,
    like_trained,
    photograph,
    run_each,
    run_file,
    with_random_weights,
)

SIZE = (65, 129)
COLUMNS = ("model", "parameters", "size", "strides", "bytes", "keras", "gpu", "note")


def list_pairs() -> list[str]:
    """Every HEAD.ENCODER that fits, encoder by encoder."""
    return [
        f"{head}.{encoder}"
        for encoder in kseg.list_encoders()
        for head in kseg.list_heads()
        if HEADS[head].fits(ENCODERS[encoder])
    ]


def compare_strides(name: str) -> str:
    """The column ``strides`` of an encoder."""
    encoder = ENCODERS[name]
    image = np.float32(np.random.default_rng(0).normal(size=(1, 129, 193, 3)))
    worst, weights, coarse = 0.0, None, None
    strides = encoder.output_strides()
    if len(strides) == 1:
        return ""
    for output_stride in sorted(strides, reverse=True):
        inputs = keras.Input((*image.shape[1:3], 3))
        model = keras.Model(inputs, encoder.function(inputs, output_stride=output_stride).output)
        if weights is None:
            like_trained(model)
            weights = model.get_weights()
        model.set_weights(weights)
        features = np.asarray(model(image, training=False))
        if coarse is not None:
            difference = np.abs(features[:, ::2, ::2] - coarse).max()
            worst = max(worst, float(difference / np.abs(coarse).max()))
        coarse = features
    return f"{worst:.2g}"


def measure(name: str) -> table.Row:
    """The row of a pair, but for ``strides``.

    Raises:
        NoAccelerator: nothing can be said of the GPU here.
        KsegError: a file cannot be made, or the accelerator fails.
    """
    model = with_random_weights(name, input_shape=(*SIZE, 3))
    image = photograph(SIZE)
    given = Subject(model, image, model.predict_on_batch(image[None].astype(np.float32))[0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.tflite"
        kseg.tflite.convert(model, file, input_size=SIZE)
        row = run_file(given, "fp32", file)
    parameters = sum(math.prod(w.shape) for w in model.trainable_weights)
    return {"model": name, "parameters": parameters, **{k: row[k] for k in COLUMNS if k in row}}


def main(names: list[str]) -> int:
    """Measures what is missing, or all of the pairs that are named; 1 if some could not be."""
    every, path, facts = list_pairs(), RESULTS / "pairs.csv", environment()
    if unknown := [name for name in names if name not in every]:
        print(f"pairs: no such pair: {', '.join(unknown)}", file=sys.stderr)
        return 1
    there = {row["model"]: row for row in table.read_current(path, facts)}
    strides = {name.partition(".")[2]: row["strides"] for name, row in there.items()}

    def fill(name: str) -> list[table.Row]:
        encoder = name.partition(".")[2]
        if encoder not in strides or name in names:
            strides[encoder] = apart(compare_strides, encoder)
        row = {**apart(measure, name), "strides": strides[encoder]}
        table.replace(path, COLUMNS, [row], facts, every)
        return [row]

    todo = names or [name for name in every if name not in there]
    return run_each("pairs", [(name, functools.partial(fill, name)) for name in todo])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
