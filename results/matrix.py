"""Every row of the zoo in every precision, measured: ``results/zoo.csv``.

``make matrix``, or ``python results/matrix.py [MODEL...]`` for rows to be measured anew. A
row is written when it is done, so the command can be killed and started again; a row is
done again when its graph or the versions in ``results/zoo.json`` change, and a group of
columns that a row lacks is measured alone. It needs a Vulkan driver, see ``kseg check-gpu
--help``.

Weights are random with a set seed; BatchNorm has the statistics of drawn streets, moved a
little, so that activations are of a trained network's size and no layer is the identity.
Columns, beside the names:

    parameters, multiply_adds   counted here, at the published classes and size
    published_*                 of the row in kseg.zoo
    operators                   kinds in the fp32 file
    P_bytes                     size of the file in precision P
    P_keras                     CPU against Keras: largest difference by the logits' range
    P_gpu, P_gpu_db             GPU accelerator against CPU: the same, and signal to noise
    P_gpu_same                  share of pixels that have the same class on both
    onnx_bytes                  size of the .onnx file
    onnx_keras                  ONNX Runtime against Keras, as P_keras
    measured                    groups of columns that are: "tflite", "onnx"
    graph                       digest of layers, their names, shapes and connections
    note                        why a file does not belong on the GPU, or may seem not to
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kseg
import kseg.tflite
from kseg.cost import multiply_adds
from kseg.data.streets import draw_scene
from kseg.environment import environment
from kseg.files import whole
from kseg.tflite.convert import PRECISIONS, convert_each
from kseg.tflite.flatbuffer import operators
from kseg.tflite.gpu import Agreement, NoAccelerator, compare
from kseg.tflite.gpu_worker import REFUSED
from kseg.zoo import VARIANTS

RESULTS = Path(__file__).parent
TABLE, ENVIRONMENT = RESULTS / "zoo.csv", RESULTS / "zoo.json"

# Small, since a software GPU is slow; odd, since borders are where runtimes differ. LiteRT
# waits 120 s for a result: networks with more multiply-adds than that allows get the smaller.
SIZE, SMALL_SIZE = (129, 257), (65, 129)
MOST = 30e9

COLUMNS = (
    "model",
    "classes",
    "parameters",
    "published_parameters",
    "size",
    "multiply_adds",
    "published_multiply_adds",
    "file_size",
    "operators",
    *(
        f"{precision}_{figure}"
        for precision in PRECISIONS
        for figure in ("bytes", "keras", "gpu", "gpu_db", "gpu_same")
    ),
    "onnx_bytes",
    "onnx_keras",
    "measured",
    "graph",
    "note",
)

# By group of columns: the packages that its figures depend on. All others are of "tflite".
GROUPS = {
    "tflite": ("ai-edge-litert", "litert-quantizer"),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
}
COMMON_PACKAGES = ("kseg", "python", "keras", "tensorflow", "numpy")

# Of layers: values that do not change what is computed in inference.
_INCIDENTAL = ("initializer", "regularizer", "constraint", "dtype", "trainable", "momentum")


def digest(model: keras.Model) -> str:
    """16 hexadecimal digits for a model's graph, whatever its weights."""

    def essence(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if not k.endswith(_INCIDENTAL)}
            return {key: essence(item) for key, item in kept.items()}
        return [essence(item) for item in value] if isinstance(value, list | tuple) else value

    config = model.get_config()
    graph = {key: config[key] for key in ("layers", "input_layers", "output_layers")}
    text = json.dumps(essence(graph), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def graph_of(name: str) -> str:
    """The digest of a row without arguments."""
    return digest(kseg.create_model(name))


def read_rows() -> dict[str, dict[str, str]]:
    """The rows of ``results/zoo.csv`` by model; none where it is absent."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        # Tables of before there were groups.
        row.setdefault("measured", "tflite")
    return rows


def rows_of_these_versions() -> dict[str, dict[str, str]]:
    """``read_rows`` without what other versions have measured."""
    if not ENVIRONMENT.exists():
        return {}
    there, here = json.loads(ENVIRONMENT.read_text())["versions"], _environment()["versions"]
    current = {
        group
        for group, packages in GROUPS.items()
        if all(there.get(name) == here.get(name) for name in (*COMMON_PACKAGES, *packages))
    }
    rows = read_rows()
    for row in rows.values():
        row["measured"] = " ".join(x for x in row["measured"].split() if x in current)
    # A group that is measured alone goes beside the .tflite files' columns.
    return {name: row for name, row in rows.items() if "tflite" in row["measured"]}


def write_rows(rows: dict[str, dict[str, Any]]) -> None:
    """Writes the rows that the zoo still has, by name, and what they were measured with."""
    with whole(TABLE) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in kseg.list_models() if name in rows)
    with whole(ENVIRONMENT) as path:
        path.write_text(json.dumps(_environment(), indent=1) + "\n")


def _environment() -> dict[str, Any]:
    return environment(*GROUPS["onnx"])


def missing(row: dict[str, Any] | None, graph: str) -> list[str]:
    """The groups of columns to measure for a model whose digest is ``graph`` now.

    Args:
        row: of the model, None where there is none.
        graph: digest of the model.
    """
    if row is None or row["graph"] != graph:
        return list(GROUPS)
    return [group for group in GROUPS if group not in row["measured"].split()]


def file_size(name: str) -> tuple[int, int]:
    """The size that a row's files are made for."""
    model = kseg.create_model(name, input_shape=(*SIZE, 3))
    return SIZE if multiply_adds(model) <= MOST else SMALL_SIZE


def like_trained(model: keras.Model) -> None:
    """BatchNorm statistics of drawn streets; then no parameter of it is left at its start.

    Args:
        model: of a fixed input size.
    """
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
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


def photograph(size: tuple[int, int]) -> np.ndarray:
    """A street (H, W, 3) uint8 with a camera's noise.

    In its flat colours ENet's max pooling has ties, which rounding decides: one logit in
    fifty then differs by 0.3 % of the range on this runtime or that.
    """
    image = draw_scene(0, *size).image
    noise = np.random.default_rng(0).integers(-3, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def measure(
    name: str, groups: Sequence[str] = tuple(GROUPS), row: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: of the model.
        groups: of columns, to be measured.
        row: has the other groups' columns.

    Raises:
        NoAccelerator: nothing can be said of the GPU here.
        KsegError: the accelerator fails, of which a quieter machine may know better.
    """
    variant = VARIANTS[name]
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    frame = file_size(name)
    size, published = next(iter(variant.multiply_adds.items()), (frame, 0))
    classes = variant.num_classes
    counted = kseg.create_model(name, num_classes=classes, input_shape=(*size, 3))
    row = dict(row or {})
    # The note on the .onnx file is the last.
    on_tflite, _, on_onnx = row.get("note", "").partition("onnx: ")
    notes = {"tflite": on_tflite.removesuffix("; "), "onnx": on_onnx and f"onnx: {on_onnx}"}
    kept = {*row.get("measured", "").split(), *groups}
    row |= {
        "model": name,
        "classes": classes,
        "parameters": sum(math.prod(w.shape) for w in counted.trainable_weights),
        "published_parameters": variant.parameters,
        "size": "{}x{}".format(*size),
        "multiply_adds": multiply_adds(counted),
        "published_multiply_adds": f"{published:.4g}",
        "file_size": "{}x{}".format(*frame),
        "measured": " ".join(group for group in GROUPS if group in kept),
        "graph": graph_of(name),
    }
    # FCN's weights take half a gigabyte a copy.
    del counted
    # Also for a group alone made after the other, so that the weights are the same.
    model = kseg.create_model(name, num_classes=classes, input_shape=(*frame, 3))
    like_trained(model)
    image = photograph(frame)
    want = model.predict_on_batch(image[None].astype(np.float32))[0]
    with tempfile.TemporaryDirectory() as folder:
        measures = {"tflite": _measure_tflite, "onnx": _measure_onnx}
        for group in groups:
            notes[group] = measures[group](row, model, Path(folder), image, want)
    row["note"] = "; ".join(filter(None, notes.values()))
    return row


def _measure_tflite(
    row: dict[str, Any], model: keras.Model, folder: Path, image: np.ndarray, want: np.ndarray
) -> str:
    """Fills in the columns of every precision, ``want`` being Keras' logits; gives a note."""
    files = {precision: folder / f"{precision}.tflite" for precision in PRECISIONS}
    notes = []
    try:
        convert_each(
            model,
            files,
            input_size=image.shape[:2],
            calibration=[draw_scene(seed, *image.shape[:2]).image for seed in range(20, 24)],
        )
    except kseg.KsegError as error:
        notes.append(f"does not convert: {error}")
    for precision, file in files.items():
        if file.exists():
            notes += _measure_file(row, precision, file, image, want)
    return "; ".join(notes)


def _measure_onnx(
    row: dict[str, Any], model: keras.Model, folder: Path, image: np.ndarray, want: np.ndarray
) -> str:
    """Fills in the columns of the .onnx file; gives a note where there is none."""
    file = folder / "x.onnx"
    try:
        kseg.tflite.convert(model, file, input_size=want.shape[:2])
    except kseg.KsegError as error:
        row["onnx_bytes"] = row["onnx_keras"] = ""
        return f"onnx: {str(error).removeprefix(f'{file}: ')}"
    row["onnx_bytes"] = file.stat().st_size
    row["onnx_keras"] = f"{_cost(kseg.tflite.OnnxPredictor(file)(image), want):.2g}"
    return ""


def _cost(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference by the logits' range."""
    return float(np.abs(got - want).max() / np.ptp(want))


def _measure_file(
    row: dict[str, Any], precision: str, file: Path, image: np.ndarray, want: np.ndarray
) -> list[str]:
    """Fills in what a file's columns are, ``want`` being Keras' logits; gives a note on it."""
    row[f"{precision}_bytes"] = file.stat().st_size
    if precision == "fp32":
        row["operators"] = " ".join(sorted(operators(file.read_bytes())))
    got = kseg.tflite.TFLitePredictor(file)(image)
    cost = _cost(got, want)
    row[f"{precision}_keras"] = f"{cost:.2g}"
    try:
        result = compare(file, [image])
    except kseg.KsegError as error:
        if REFUSED not in str(error):
            raise
        return [f"{precision}: {REFUSED}"]
    row[f"{precision}_gpu"] = f"{result.difference:.2g}"
    row[f"{precision}_gpu_db"] = f"{result.decibels:.1f}"
    row[f"{precision}_gpu_same"] = f"{result.same_class:.4f}"
    return [] if result.agrees else [f"{precision}: {_reason(result, cost)}"]


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
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise kseg.KsegError("its process was killed, as where memory ends") from None


def main(names: list[str]) -> int:
    """Measures what is missing, or all of the rows that are named; 1 if some could not be."""
    rows = rows_of_these_versions()
    lacking = {name: list(GROUPS) for name in names} or {
        name: missing(rows.get(name), graph_of(name)) for name in kseg.list_models()
    }
    todo = {name: groups for name, groups in lacking.items() if groups}
    failed = 0
    for number, (name, groups) in enumerate(todo.items(), 1):
        begin = time.monotonic()
        try:
            row = rows.get(name) if groups != list(GROUPS) else None
            for group in groups:
                rows[name] = row = apart(measure, name, [group], row)
                write_rows(rows)
        except NoAccelerator as error:
            print(f"matrix: {error}", file=sys.stderr)
            return 1
        except kseg.KsegError as error:
            print(f"matrix: {name}: {error}", file=sys.stderr)
            failed += 1
            continue
        seconds = time.monotonic() - begin
        note = rows[name]["note"] or "agrees in every precision"
        print(
            f"{number}/{len(todo)} {name} ({', '.join(groups)}): {seconds:.0f} s; {note}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
