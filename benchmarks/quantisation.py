"""What quantisation costs trained weights: ``results/quantisation.csv``.

``python benchmarks/quantisation.py CAMVID [espnet_camvid=CHECKPOINT]``: each shipped model of
``camvid-train`` as .tflite files, scored on val, and networks with checkpoints published for
CamVid. With training about half an hour on two idle cores a model; the table is written row
by row, and what it has of the same weights is not measured anew. A row has

    file            of FILES below
    mean_iou        on val, per cent
    points          what it has above fp32, in points of mean IoU
    bytes, packed   of the file, and of the file compressed by zlib as in an app's package
    weights         the first 16 digits of the SHA-256 of the weights' file
    command         what made the file; $CAMVID is the data set's folder
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import table
from table import RESULTS

from kseg import shipped
from kseg.cli import main as kseg
from kseg.data import open_dataset
from kseg.environment import environment
from kseg.evaluation import evaluate
from kseg.tflite import TFLitePredictor
from matrix import apart

TABLE = RESULTS / "quantisation.csv"
COLUMNS = ("model", "file", "mean_iou", "points", "bytes", "packed", "weights", "command")

_CALIBRATION = "--calibration-dataset camvid --calibration-dir $CAMVID --calibration-count 100"
_TRAINING = "--dataset camvid --data-dir $CAMVID --epochs 1"
_INT8 = f"--precision int8 {_CALIBRATION}"
_TRAINS = ("qat", "prune", "cluster")

# What is run for each file, one after the other, from the shipped MODEL to x.tflite.
FILES = {
    "fp32": ["convert MODEL x.tflite"],
    "fp16": ["convert MODEL x.tflite --precision fp16"],
    "w8": ["convert MODEL x.tflite --precision w8"],
    "int8": [f"convert MODEL x.tflite {_INT8}"],
    "int8, quantisation-aware": [f"qat MODEL x.tflite {_TRAINING}"],
    "int8, half of the weights zero": [
        f"prune MODEL x.keras --sparsity 0.5 {_TRAINING}",
        f"convert x.keras x.tflite {_INT8}",
    ],
    "int8, 16 values a kernel": [
        f"cluster MODEL x.keras --clusters 16 {_TRAINING}",
        f"convert x.keras x.tflite {_INT8}",
    ],
}


def commands_of(name: str, file: str, checkpoint: Path | None) -> list[str]:
    """What is run for a file of the shipped ``camvid-train:NAME``, or of a checkpoint."""
    if checkpoint is None:
        return [command.replace("MODEL", f"camvid-train:{name}") for command in FILES[file]]
    # What is imported does not know the size of its training's images.
    size = " --input-size 360 480"
    return [f"import {name} {checkpoint.name} m.keras"] + [
        command.replace("MODEL", "m.keras") + size * command.startswith(("convert", "qat"))
        for command in FILES[file]
    ]


def measure(
    name: str, file: str, camvid: Path, folder: Path, checkpoint: Path | None = None
) -> dict[str, Any]:
    """A row without its points and the weights' digest.

    Raises:
        RuntimeError: a command failed.
    """
    given = {"$CAMVID": str(camvid)}
    given |= {x: str(folder / x) for x in ("m.keras", "x.keras", "x.tflite")}
    if checkpoint is not None:
        given[checkpoint.name] = str(checkpoint)
    commands = commands_of(name, file, checkpoint)
    for command in commands:
        if run([given.get(word, word) for word in shlex.split(command)]):
            raise RuntimeError(f"{name}, {file}: kseg {command} failed")
    content = (folder / "x.tflite").read_bytes()
    scores = evaluate(TFLitePredictor(folder / "x.tflite"), open_dataset("camvid", camvid, "val"))
    return {
        "model": name,
        "file": file,
        "mean_iou": f"{100 * scores.mean_iou:.2f}",
        "bytes": len(content),
        "packed": len(zlib.compress(content)),
        "command": " && ".join(f"kseg {command}" for command in commands),
    }


def run(arguments: list[str]) -> int:
    """The exit status of a ``kseg`` command."""
    if arguments[0] not in _TRAINS:
        return kseg(arguments)
    # The memory of one training is free before the next begins.
    return apart(kseg, arguments)


def digest(path: Path) -> str:
    """What tells weights from others."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_rows(files: Mapping[str, Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by model and file, but those of other weights than these."""
    digests = {name: digest(path) for name, path in files.items()}
    return {
        (row["model"], row["file"]): row
        for row in table.read(TABLE)
        if digests.get(row["model"], row["weights"]) == row["weights"]
    }


def write_rows(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The table, and what it was measured with."""
    for (name, _), row in rows.items():
        points = float(row["mean_iou"]) - float(rows[name, "fp32"]["mean_iou"])
        row["points"] = f"{points:+.2f}"
    facts = environment("tensorflow-model-optimization", "tf_keras")
    order = list(FILES)
    ordered = sorted(rows.values(), key=lambda row: (row["model"], order.index(row["file"])))
    table.write(TABLE, COLUMNS, ordered, facts)


def main(camvid: Path, checkpoints: Mapping[str, Path]) -> None:
    """Measures what is missing and shows each row."""
    names = [name for name in shipped.list_shipped() if name.startswith("camvid-train:")]
    files = {name.partition(":")[2]: shipped.weights_file(name) for name in names}
    files |= checkpoints
    rows = read_rows(files)
    for name, weights in files.items():
        for file in FILES:
            if (name, file) in rows:
                continue
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = checkpoints.get(name)
                measured = measure(name, file, camvid, Path(folder), checkpoint)
            rows[name, file] = {**measured, "weights": digest(weights)}
            write_rows(rows)
            row = rows[name, file]
            print(f"{name}, {file}: {row['mean_iou']} % ({row['points']}), {row['bytes']} bytes")


if __name__ == "__main__":
    pairs = [text.split("=", 1) for text in sys.argv[2:]]
    main(Path(sys.argv[1]), {name: Path(path) for name, path in pairs})
