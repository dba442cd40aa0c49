"""Every row of the zoo, counted, run on the GPU accelerator and on ONNX Runtime.

``make matrix``, or ``python benchmarks/matrix.py [MODEL...]`` for models to be measured anew.
Rows are written model by model, so the command can be killed and started again; a model is
measured again when its graph or the versions beside a table change. It needs a Vulkan
driver, see ``kseg check-gpu --help``. Every row has the digest of the model's layers, their
names, shapes and connections, as ``graph``.

``results/zoo.csv``, a row a model:

    parameters, multiply_adds   counted here, at the published classes and ``size``
    published_*                 of the row in kseg.zoo

``results/gpu.csv``, a row a model and precision, made for images of ``size``:

    bytes       of the .tflite file
    keras       CPU against Keras: largest difference by the logits' range
    gpu         GPU accelerator against CPU: the same; decibels: signal to noise
    same_class  share of pixels that have the same class on both
    operators   kinds, of fp32's file
    note        why a file does not belong on the GPU, or may seem not to

``results/onnx.csv``, a row a model:

    bytes       of the .onnx file
    keras       ONNX Runtime against Keras
    note        why there is no file

Weights are random with a set seed; BatchNorm has the statistics of drawn streets, moved a
little, so that activations are of a trained network's size and no layer is the identity. In
DeepLabv3 and v3+ on ResNet-101 the residual branches are a quarter of what they are added to, as
training makes them small: else float32's own roundings grow through 33 units to 2e-4 of the range
(1.3e-4 at 65x129, and 5e-6 with a quarter).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import table
from table import RESULTS

import kseg
import kseg.tflite
from kseg.cost import multiply_adds
from kseg.environment import environment
from kseg.streets import draw_scene
from kseg.tflite import convert_each
from kseg.tflite.conversion import cpu_layers
from kseg.tflite.flatbuffer import operators
from kseg.tflite.gpu import Agreement, NoAccelerator, compare
from kseg.tflite.gpu_worker import REFUSED
from kseg.tflite.options import PRECISIONS
from kseg.zoo import VARIANTS

# Small, since a software GPU is slow; odd, since borders are where runtimes differ. LiteRT
# waits 120 s for a result: networks with more multiply-adds than that allows on a machine with
# other work get the smaller.
SIZE, SMALL_SIZE = (129, 257), (65, 129)
MOST = 20e9

# Rows through whose 33 units float32's own roundings grow to 2e-4 of the logits' range where every
# residual branch is as large as what it is added to. Trained ones are smaller.
_DEEP = ("deeplab_v3_plus_resnet101", "deeplab_v3_resnet101")
SMALL_BRANCHES = 0.25

# Of one process, since conversions leave memory behind.
_TASKS = 8

# Of layers: values that do not change what is computed in inference.
_INCIDENTAL = ("initializer", "regularizer", "constraint", "dtype", "trainable", "momentum")


def digest(model: keras.Model) -> str:
    """16 hexadecimal digits for a model's graph, whatever its weights."""

    def essence(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if not k.endswith(_INCIDENTAL)}
            # A layer may move to another file of the package.
            if str(kept.get("module")).startswith("kseg.layers."):
                kept["module"] = "kseg.layers"
            return {key: essence(item) for key, item in kept.items()}
        return [essence(item) for item in value] if isinstance(value, list | tuple) else value

    config = model.get_config()
    graph = {key: config[key] for key in ("layers", "input_layers", "output_layers")}
    text = json.dumps(essence(graph), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def graph_of(name: str) -> str:
    """The digest of a row without arguments."""
    return digest(kseg.create_model(name))


def file_size(name: str) -> tuple[int, int]:
    """The size that a row's files are made for."""
    model = kseg.create_model(name, input_shape=(*SIZE, 3))
    return SIZE if multiply_adds(model) <= MOST else SMALL_SIZE


def like_trained(model: keras.Model, branches: float = 1.0) -> None:
    """BatchNorm statistics of drawn streets; then no parameter of it is left at its start.

    Args:
        model: of a fixed input size.
        branches: what the last BatchNorm of a residual branch multiplies by.
    """
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for layer in model.layers if branches != 1 else ():
        if isinstance(layer, keras.layers.Add):
            sources = [_before_gates(tensor) for tensor in layer.input]
            ends = [x for x in sources if isinstance(x, keras.layers.BatchNormalization)]
            # A shortcut with a BatchNorm keeps what the sum is about.
            for norm in ends[-1:]:
                norm.gamma.assign(branches * norm.gamma)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    images = np.stack([draw_scene(seed, *model.input_shape[1:3]).image for seed in range(10, 14)])
    model(images.astype(np.float32), training=True)
    rng = np.random.default_rng(7)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for weight in norm.weights:
            weight.assign(weight + 0.1 * np.abs(rng.standard_normal(weight.shape)))


def _before_gates(tensor: keras.KerasTensor) -> keras.Operation:
    """What gives a tensor, or what its channels' factors are for, as in squeeze-and-excitation."""
    operation = tensor._keras_history.operation
    if isinstance(operation, keras.layers.Multiply):
        return _before_gates(operation.input[0])
    return operation


def photograph(size: tuple[int, int]) -> np.ndarray:
    """A street (H, W, 3) uint8 with a camera's noise.

    In its flat colours ENet's max pooling has ties, which rounding decides: one logit in
    fifty then differs by 0.3 % of the range on this runtime or that.
    """
    image = draw_scene(0, *size).image
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


class Subject(NamedTuple):
    """A model to be measured, and what it makes of an image.

    Attributes:
        model: of a fixed input size.
        image: (H, W, 3) uint8.
        want: (H, W, classes), Keras' logits of the image.
    """

    model: keras.Model
    image: np.ndarray
    want: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]

    def cost(self, got: np.ndarray) -> float:
        """Largest difference of logits by their range."""
        return float(np.abs(got - self.want).max() / np.ptp(self.want))


def with_random_weights(
    name: str, *, branches: float | None = None, **options: Any
) -> kseg.SegmentationModel:
    """A network, always with the same weights, its statistics like those of a trained one.

    Args:
        name: of its row.
        branches: as of ``like_trained``; None is what the row has in the tables.
        **options: of ``create_model``.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = kseg.create_model(name, **options)
    if branches is None:
        branches = SMALL_BRANCHES if name in _DEEP else 1.0
    like_trained(model, branches)
    return model


def subject(name: str) -> Subject:
    """The model of a row with weights that are the same for every table."""
    size = file_size(name)
    classes = VARIANTS[name].num_classes
    model = with_random_weights(name, num_classes=classes, input_shape=(*size, 3))
    image = photograph(size)
    want = model.predict_on_batch(image[None].astype(np.float32))[0]
    return Subject(model, image, want)


def count(name: str) -> list[table.Row]:
    """The row of ``zoo.csv``."""
    variant = VARIANTS[name]
    # The size of the files takes building a network.
    size, published = next(iter(variant.multiply_adds.items()), None) or (file_size(name), 0)
    classes = variant.num_classes
    model = kseg.create_model(name, num_classes=classes, input_shape=(*size, 3))
    row = {
        "classes": classes,
        "parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
        "published_parameters": variant.parameters,
        "size": "{}x{}".format(*size),
        "multiply_adds": multiply_adds(model),
        "published_multiply_adds": f"{published:.4g}",
    }
    return [row]


def run_on_gpu(name: str) -> list[table.Row]:
    """The rows of ``gpu.csv``.

    Raises:
        NoAccelerator: nothing can be said of the GPU here.
        KsegError: a file cannot be made, or the accelerator fails, of which a quieter
            machine may know better.
    """
    given = subject(name)
    scenes = [draw_scene(seed, *given.size).image for seed in range(20, 24)]
    with tempfile.TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.tflite" for precision in PRECISIONS}
        convert_each(given.model, files, input_size=given.size, calibration=scenes)
        return [run_file(given, precision, file) for precision, file in files.items()]


def run_file(given: Subject, precision: str, file: Path) -> table.Row:
    """What the CPU and the GPU accelerator make of a file."""
    cost = given.cost(kseg.tflite.TFLitePredictor(file)(given.image))
    row = {
        "precision": precision,
        "size": "{}x{}".format(*given.size),
        "bytes": file.stat().st_size,
        "keras": f"{cost:.2g}",
    }
    if precision == "fp32":
        row["operators"] = " ".join(sorted(operators(file.read_bytes())))
    if layers := cpu_layers(given.model):
        kinds = sorted({type(layer).__name__ for layer in layers})
        return {**row, "note": f"for the CPU: no GPU delegate runs {', '.join(kinds)}"}
    try:
        result = compare(file, [given.image])
    except kseg.KsegError as error:
        if REFUSED not in str(error):
            raise
        return {**row, "note": REFUSED}
    return {
        **row,
        "gpu": f"{result.difference:.2g}",
        "decibels": f"{result.decibels:.1f}",
        "same_class": f"{result.same_class:.4f}",
        "note": "" if result.agrees else _reason(result, cost),
    }


def run_on_onnx(name: str) -> list[table.Row]:
    """The row of ``onnx.csv``."""
    given = subject(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.onnx"
        try:
            kseg.tflite.convert(given.model, file, input_size=given.size)
        except kseg.KsegError as error:
            return [{"note": str(error).removeprefix(f"{file}: ")}]
        cost = given.cost(kseg.tflite.OnnxPredictor(file)(given.image))
        row = {
            "size": "{}x{}".format(*given.size),
            "bytes": file.stat().st_size,
            "keras": f"{cost:.2g}",
        }
    return [row]


def _reason(result: Agreement, cost: float) -> str:
    """Why CPU and GPU differ; ``cost`` is the CPU's difference from Keras."""
    found = (
        f"same class on {result.same_class:.1%} of the pixels, "
        f"difference {result.difference:.1%} of the range"
    )
    if result.quantised and result.difference <= cost:
        return f"{found}: roundings, within what quantisation costs on the CPU ({cost:.1%})"
    return f"{found}: keep it on the CPU"


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call in a process of its own: a conversion of FCN leaves gigabytes behind."""
    with contextlib.closing(Worker()) as worker:
        return worker(function, *arguments)


class Worker:
    """Calls in another process, which may be killed: a new one takes the next call.

    Its start and its imports take more time than many a call does.
    """

    def __init__(self) -> None:
        self._pool = self._start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function gives.

        Raises:
            KsegError: the process was killed.
        """
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self._pool = self._start()
            raise kseg.KsegError("its process was killed, as where memory ends") from None

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, max_tasks_per_child=_TASKS)


# What is measured, and a call that puts its rows into a table.
Job = tuple[str, Callable[[], list[table.Row]]]


class Table(NamedTuple):
    """One of the tables.

    Attributes:
        measure: gives a model's rows, without model and graph.
        columns: besides ``model`` and ``graph``.
        packages: that matter besides those of every table.
    """

    measure: Callable[[str], list[table.Row]]
    columns: tuple[str, ...]
    packages: tuple[str, ...] = ()

    def all_columns(self) -> tuple[str, ...]:
        return "model", *self.columns, "graph"

    def environment(self) -> dict[str, Any]:
        return environment(*self.packages)


TABLES = {
    "zoo": Table(
        count,
        (
            *("classes", "parameters", "published_parameters"),
            *("size", "multiply_adds", "published_multiply_adds"),
        ),
    ),
    "gpu": Table(
        run_on_gpu,
        (
            *("precision", "size", "bytes", "keras", "gpu", "decibels", "same_class"),
            *("operators", "note"),
        ),
    ),
    "onnx": Table(
        run_on_onnx, ("size", "bytes", "keras", "note"), ("onnx", "onnxruntime", "tf2onnx")
    ),
}


def measured(name: str, graph: str) -> list[str]:
    """The tables that have a model with this digest, by the versions that are here."""
    found = []
    for title, kind in TABLES.items():
        rows = table.read_current(RESULTS / f"{title}.csv", kind.environment())
        if any((row["model"], row["graph"]) == (name, graph) for row in rows):
            found.append(title)
    return found


def main(names: list[str]) -> int:
    """Measures what is missing, or all of the models that are named; 1 if some could not be."""
    return run_each("matrix", _jobs(names))


def _jobs(names: list[str]) -> Iterator[Job]:
    for name in names or kseg.list_models():
        graph = graph_of(name)
        there = [] if names else measured(name, graph)
        for title, kind in TABLES.items():
            if title not in there:
                yield f"{title}: {name}", functools.partial(_fill, title, kind, name, graph)


def _fill(title: str, kind: Table, name: str, graph: str) -> list[table.Row]:
    """Measures a model for one of the tables and puts its rows there."""
    rows = [{"model": name, "graph": graph, **row} for row in apart(kind.measure, name)]
    table.replace(RESULTS / f"{title}.csv", kind.all_columns(), rows, kind.environment())
    return rows


def run_each(program: str, jobs: Iterable[Job]) -> int:
    """Runs every job and says what it took; 1 if one could not be done.

    What fails is said, and the next is run; without an accelerator none is.
    """
    failed = 0
    for title, job in jobs:
        begin = time.monotonic()
        try:
            rows = job()
        except NoAccelerator as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 1
        except kseg.KsegError as error:
            print(f"{program}: {title}: {error}", file=sys.stderr)
            failed += 1
            continue
        seconds = time.monotonic() - begin
        notes = "; ".join(row["note"] for row in rows if row.get("note"))
        print(f"{title}: {seconds:.0f} s; {notes or 'nothing to note'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
