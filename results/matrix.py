"""Every row of the zoo in every precision, measured: ``results/zoo.csv``.

``make matrix``, or ``python results/matrix.py [MODEL...]`` for rows to be measured anew. A
row is written when it is done, so the command can be killed and started again; a row is
done again when its graph or the versions in ``results/zoo.json`` change. It needs a Vulkan
driver, see ``kseg check-gpu --help``.

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
    graph                       digest of layers, their names, shapes and connections
    note                        why a file does not belong on the GPU, or may seem not to
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import sys
import tempfile
import time
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
from kseg.zoo import VARIANTS

RESULTS = Path(__file__).parent
TABLE, ENVIRONMENT = RESULTS / "zoo.csv", RESULTS / "zoo.json"

# Small, since a software GPU is slow; odd, since borders are where runtimes differ.
SIZE = (129, 257)

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
    "graph",
    "note",
)

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
        return {row["model"]: row for row in csv.DictReader(file)}


def write_rows(rows: dict[str, dict[str, Any]]) -> None:
    """Writes the rows that the zoo still has, by name, and what they were measured with."""
    with whole(TABLE) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in kseg.list_models() if name in rows)
    with whole(ENVIRONMENT) as path:
        path.write_text(json.dumps(environment(), indent=1) + "\n")


def measured_with_these_versions() -> bool:
    """Whether the rows at hand are of the versions that are installed."""
    if not ENVIRONMENT.exists():
        return False
    return json.loads(ENVIRONMENT.read_text())["versions"] == environment()["versions"]


def like_trained(model: keras.Model) -> None:
    """BatchNorm statistics of drawn streets; then no parameter of it is left at its start."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    images = np.stack([draw_scene(seed, *SIZE).image for seed in range(10, 14)])
    model(images.astype(np.float32), training=True)
    rng = np.random.default_rng(7)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for weight in norm.weights:
            weight.assign(weight + 0.1 * np.abs(rng.standard_normal(weight.shape)))


def measure(name: str) -> dict[str, Any]:
    """A row of the table.

    Raises:
        NoAccelerator: nothing can be said of the GPU here.
    """
    variant = VARIANTS[name]
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    size, published = next(iter(variant.multiply_adds.items()), (SIZE, 0))
    classes = variant.num_classes
    counted = kseg.create_model(name, num_classes=classes, input_shape=(*size, 3))
    row: dict[str, Any] = {
        "model": name,
        "classes": classes,
        "parameters": sum(math.prod(w.shape) for w in counted.trainable_weights),
        "published_parameters": variant.parameters,
        "size": "{}x{}".format(*size),
        "multiply_adds": multiply_adds(counted),
        "published_multiply_adds": f"{published:.4g}",
        "file_size": "{}x{}".format(*SIZE),
        "graph": graph_of(name),
    }
    model = kseg.create_model(name, num_classes=classes, input_shape=(*SIZE, 3))
    like_trained(model)
    image = draw_scene(0, *SIZE).image
    want = model.predict_on_batch(image[None].astype(np.float32))[0]
    with tempfile.TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.tflite" for precision in PRECISIONS}
        notes = []
        try:
            convert_each(
                model,
                files,
                input_size=SIZE,
                calibration=[draw_scene(seed, *SIZE).image for seed in range(20, 24)],
            )
        except kseg.KsegError as error:
            notes.append(f"does not convert: {error}")
        for precision, file in files.items():
            if file.exists():
                notes += _measure_file(row, precision, file, image, want)
    row["note"] = "; ".join(notes)
    return row


def _measure_file(
    row: dict[str, Any], precision: str, file: Path, image: np.ndarray, want: np.ndarray
) -> list[str]:
    """Fills in what a file's columns are, ``want`` being Keras' logits; gives a note on it."""
    row[f"{precision}_bytes"] = file.stat().st_size
    if precision == "fp32":
        row["operators"] = " ".join(sorted(operators(file.read_bytes())))
    got = kseg.tflite.TFLitePredictor(file)(image)
    cost = float(np.abs(got - want).max() / np.ptp(want))
    row[f"{precision}_keras"] = f"{cost:.2g}"
    try:
        result = compare(file, [image])
    except NoAccelerator:
        raise
    except kseg.KsegError as error:
        return [f"{precision}: {str(error).removeprefix(f'{file}: ')}"]
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


def main(names: list[str]) -> int:
    """Measures what is missing, or the rows that are named; 1 without an accelerator."""
    rows = read_rows() if measured_with_these_versions() else {}
    for name in names:
        rows.pop(name, None)
    todo = [n for n in kseg.list_models() if n not in rows or rows[n]["graph"] != graph_of(n)]
    for number, name in enumerate(todo, 1):
        begin = time.monotonic()
        try:
            rows[name] = measure(name)
        except NoAccelerator as error:
            print(f"matrix: {error}", file=sys.stderr)
            return 1
        write_rows(rows)
        seconds = time.monotonic() - begin
        note = rows[name]["note"] or "agrees in every precision"
        print(f"{number}/{len(todo)} {name}: {seconds:.0f} s; {note}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
