"""Every head on every encoder that it fits, run as Keras, on the CPU and on the GPU accelerator.

``make matrix``, or ``python benchmarks/pairs.py [PAIR...]`` for pairs to be measured anew, such as
``unet.ResNet50V2``. Rows are written as they come, so the command can be killed and started
again. A pair that is there stays until the versions beside the table change: a changed graph is
not noticed, since it takes an hour to build them all. It needs a Vulkan driver, see
``kseg check-gpu --help``.

An encoder is what takes the time: hundreds of layers, of which Keras and TensorFlow make four
graphs for one file. So the heads that want an encoder at the same output stride stand on it
together, in one model and one file, whose logits are those of one head behind the other; the
differences are of each head's own. ``tests/test_results.py`` compares such a model with those of
``create_model("HEAD.ENCODER")``. Where the file cannot be made or run, the pairs get files of
their own. Each encoder has its turn at one stride, then at the next: a table that is not yet whole
has all encoders and all heads.

``results/pairs.csv``, a row a pair, in fp32 for images of ``size``, which no stride divides:

    parameters     trainable, at 19 classes
    output_stride  of the encoder, as the head wants it
    strides        the encoder's last features at this stride against those at twice it, where the
                   grids meet: largest difference by the largest feature. Empty at 32, and where
                   there is no choice. It is large by what was published: SEResNet50 has means
                   over all pixels; ResNet50C and torchvision's MobileNetV3 also dilate the block
                   that loses its stride; poolings of VGG16Caffe are not dilated.
    keras          CPU against Keras: largest difference by the logits' range
    gpu            GPU accelerator against CPU: the same
    note           why a file does not belong on the GPU, or may seem not to

Weights are random with a set seed, as those of ``benchmarks/matrix.py``, with its small residual
branches in every encoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import table
from keras import KerasTensor
from table import RESULTS

import kseg
import kseg.tflite
from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.environment import environment
from kseg.graph import ordered_nodes
from kseg.layers import Resize
from kseg.model import copy_weights, normalize
from kseg.networks import Variant
from kseg.tflite.conversion import cpu_layers
from kseg.tflite.gpu import GpuPredictor, NoAccelerator, differences
from kseg.tflite.gpu_worker import REFUSED
from kseg.zoo import HEADS, VARIANTS, backbone_stride, new_card
from matrix import SMALL_BRANCHES, Worker, photograph, run_each, with_random_weights

TABLE = RESULTS / "pairs.csv"
SIZE = (65, 129)
COLUMNS = ("model", "parameters", "size", "output_stride", "strides", "keras", "gpu", "note")
CLASSES = 19
# As check-gpu has it (``kseg.tflite.gpu.Agreement``).
AGREES = 1e-3
# Heads that begin with dilated convolutions of the encoder's last features.
_DILATED = ("deeplab_v3", "deeplab_v3_plus", "liteseg")
# Where the grids of two strides meet, if not at SIZE: its first convolutions have no padding.
_MEET = {"Xception": (71, 135)}
# Its name among the rows of the zoo.
_TOGETHER = "pairs"


def list_pairs() -> list[str]:
    """Every HEAD.ENCODER that fits, encoder by encoder."""
    return [
        f"{head}.{encoder}"
        for encoder in kseg.list_encoders()
        for head in kseg.list_heads()
        if HEADS[head].fits(ENCODERS[encoder])
    ]


def stride_of(pair: str) -> int:
    """The output stride at which a head wants its encoder."""
    encoder = ENCODERS[pair.partition(".")[2]]
    return backbone_stride(new_card(pair)) or max(encoder.channels)


def by_turns(names: Sequence[str]) -> list[list[str]]:
    """Pairs in groups of one encoder and stride: an encoder's first, then those of the next.

    The first encoder begins with its first stride, the second with its second and so on; small
    encoders come first.
    """
    encoders: dict[str, dict[int, list[str]]] = {}
    for name in names:
        groups = encoders.setdefault(name.partition(".")[2], defaultdict(list))
        groups[stride_of(name)].append(name)
    turns = []
    small_first = sorted(encoders, key=lambda encoder: ENCODERS[encoder].parameters)
    for number, groups in enumerate(encoders[encoder] for encoder in small_first):
        ordered = [group for _, group in sorted(groups.items())]
        first = number % len(ordered)
        turns.append(ordered[first:] + ordered[:first])
    return [group for turn in itertools.zip_longest(*turns) for group in turn if group]


class Together:
    """Heads on one encoder.

    Args:
        pairs: of the encoder, at one output stride.

    Attributes:
        row: what builds them, for the zoo: the logits of one pair behind those of another.
        logits: of the pairs, of the model that was built last.
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        self._pairs = pairs
        self._encoder = ENCODERS[pairs[0].partition(".")[2]]
        self.row = Variant(
            builder=self._build,
            normalization=self._encoder.normalization,
            least_size=self._encoder.least_size,
        )
        self.logits: list[KerasTensor] = []

    def _build(self, x: KerasTensor, num_classes: int) -> KerasTensor:
        made: list[Features] = []

        def once(x: KerasTensor, **options: Any) -> Features:
            if not made:
                made.append(self._encoder.function(x, **options))
            return made[-1]

        kind = inspect.Parameter.KEYWORD_ONLY
        options = self._encoder.options().items()
        once.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind, default=value) for name, value in options]
        )
        encoder = dataclasses.replace(self._encoder, function=once)
        self.logits, apart = [], None
        for pair in self._pairs:
            head = pair.partition(".")[0]
            row = HEADS[head].on(encoder)
            if head in _DILATED and made:
                # TensorFlow joins the beginnings of equal dilations of one tensor, and its
                # converter then makes no operator of them. Equal poolings of one tensor it joins
                # as well, so each is of the one before.
                before = made[0].output if apart is None else apart
                apart = keras.layers.MaxPooling2D(1, name=f"{head}.apart")(before)
                made.append(made[0]._replace(output=apart))
            logits = row.builder(x, num_classes // len(self._pairs), **row.options)
            self._name(pair, logits, made[-1])
            del made[1:]
            resized = Resize(row.resize, name=f"{head}.resized", dtype="float32")(logits, x)
            self.logits.append(resized)
        if len(self.logits) == 1:
            return self.logits[0]
        return keras.layers.Concatenate(name="together")(self.logits)

    def _name(self, pair: str, logits: KerasTensor, features: Features) -> None:
        """Puts the head's name before its layers', which may be those of another head.

        Raises:
            KsegError: the encoder has a layer of that name, so that weights would not find theirs.
        """
        levels = [features.output, *features.levels().values()]
        own = {operation.name for operation, _ in ordered_nodes(levels)}
        nodes = ordered_nodes([logits], frozenset(map(id, levels)))
        new = {id(operation): operation for operation, _ in nodes}
        if meeting := sorted(own & {each.name for each in new.values() if each.weights}):
            raise kseg.KsegError(f"{pair}: head and encoder both have layers {', '.join(meeting)}")
        for each in new.values():
            each.name = f"{pair.partition('.')[0]}.{each.name}"


@contextlib.contextmanager
def as_row(row: Variant) -> Iterator[str]:
    """A row of the zoo for a while; gives its name."""
    VARIANTS[_TOGETHER] = row
    try:
        yield _TOGETHER
    finally:
        del VARIANTS[_TOGETHER]


def compare_strides(name: str, model: keras.Model, stride: int) -> str:
    """The column ``strides``.

    Args:
        name: of the encoder.
        model: which it is in, with its weights.
        stride: of the model's features.
    """
    encoder, size = ENCODERS[name], _MEET.get(name, SIZE)
    if 2 * stride not in encoder.output_strides():
        return ""
    inputs = keras.Input((*size, 3))
    x = normalize(inputs, encoder.normalization)
    image = photograph(size)[None].astype(np.float32)
    found = []
    for output_stride in (stride, 2 * stride):
        of_stride = keras.Model(inputs, encoder.function(x, output_stride=output_stride).output)
        copy_weights(model, of_stride)
        found.append(np.asarray(of_stride(image, training=False)))
    fine, coarse = found
    return f"{np.abs(fine[:, ::2, ::2] - coarse).max() / np.abs(coarse).max():.2g}"


def parameters(logits: KerasTensor) -> int:
    """Trainable ones of the layers that logits come from."""
    layers = {id(layer): layer for layer, _ in ordered_nodes([logits])}
    weights = [w for layer in layers.values() for w in getattr(layer, "trainable_weights", ())]
    return sum(math.prod(weight.shape) for weight in weights)


def measure(pairs: Sequence[str]) -> list[table.Row]:
    """The rows of pairs of one encoder and output stride.

    Raises:
        NoAccelerator: nothing can be said of the GPU here.
        KsegError: a file cannot be made, or the accelerator fails, or refuses several pairs.
    """
    stride, encoder = stride_of(pairs[0]), pairs[0].partition(".")[2]
    together = Together(pairs)
    image = photograph(SIZE)
    with as_row(together.row) as name, tempfile.TemporaryDirectory() as folder:
        classes = CLASSES * len(pairs)
        options: dict[str, Any] = dict(num_classes=classes, input_shape=(*SIZE, 3))
        model = with_random_weights(name, branches=SMALL_BRANCHES, **options)
        counts = [parameters(logits) for logits in together.logits]
        want = np.asarray(model(image[None].astype(np.float32), training=False))[0]
        strides = compare_strides(encoder, model, stride)
        file = Path(folder) / "x.tflite"
        kseg.tflite.convert(model, file, input_size=SIZE)
        got = kseg.tflite.TFLitePredictor(file)(image)
        gpu, note = None, ""
        if layers := cpu_layers(model):
            kinds = sorted({type(layer).__name__ for layer in layers})
            note = f"for the CPU: no GPU delegate runs {', '.join(kinds)}"
        else:
            try:
                with GpuPredictor(file) as predictor:
                    gpu = predictor(image)
            except kseg.KsegError as error:
                if REFUSED not in str(error) or len(pairs) > 1:
                    raise
                note = REFUSED
    rows = []
    for number, (pair, count) in enumerate(zip(pairs, counts, strict=True)):
        own = slice(number * CLASSES, (number + 1) * CLASSES)
        row = {
            "model": pair,
            "parameters": count,
            "size": "{}x{}".format(*SIZE),
            "output_stride": stride,
            "strides": strides,
            "keras": f"{differences(want[..., own], got[..., own], False)[0]:.2g}",
            "note": note,
        }
        if gpu is not None:
            difference, _, same = differences(got[..., own], gpu[..., own], False)
            row["gpu"] = f"{difference:.2g}"
            if difference > AGREES:
                row["note"] = (
                    f"same class on {same:.1%} of the pixels, difference {difference:.1%} of the "
                    "range: keep it on the CPU"
                )
        rows.append(row)
    return rows


def measure_each(worker: Callable[..., Any], pairs: Sequence[str]) -> Iterator[list[table.Row]]:
    """The rows of pairs, together if that can be done, else one by one.

    Raises:
        NoAccelerator: as ``measure``.
        KsegError: some of them cannot be measured; after those that can.
    """
    try:
        yield worker(measure, pairs)
        return
    except NoAccelerator:
        raise
    except kseg.KsegError as error:
        if len(pairs) == 1:
            raise
        print(f"pairs: {', '.join(pairs)}: {error}; one by one", file=sys.stderr)
    failures = []
    for pair in pairs:
        try:
            yield worker(measure, [pair])
        except NoAccelerator:
            raise
        except kseg.KsegError as error:
            failures.append(f"{pair}: {error}")
    if failures:
        raise kseg.KsegError("; ".join(failures))


def main(names: list[str]) -> int:
    """Measures what is missing, or all of the pairs that are named; 1 if some could not be."""
    every, facts = list_pairs(), environment()
    if unknown := [name for name in names if name not in every]:
        print(f"pairs: no such pair: {', '.join(unknown)}", file=sys.stderr)
        return 1
    there = {row["model"] for row in table.read_current(TABLE, facts)}
    worker = Worker()

    def fill(pairs: list[str]) -> list[table.Row]:
        found = []
        for rows in measure_each(worker, pairs):
            table.replace(TABLE, COLUMNS, rows, facts, every)
            found += rows
        return found

    todo = by_turns(names or [name for name in every if name not in there])
    jobs = [(", ".join(group), functools.partial(fill, group)) for group in todo]
    try:
        return run_each("pairs", jobs)
    finally:
        worker.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
