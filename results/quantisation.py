"""What quantisation costs trained weights: ``results/quantisation.csv``.

``python results/quantisation.py CAMVID``: each shipped model of ``camvid-train`` as .tflite
files, scored on val. With training about half an hour on two idle cores a model; the table is
written row by row, and what it has of the shipped weights is not measured anew. A row has

    file            of FILES below
    mean_iou        on val, per cent
    points          what it has above fp32, in points of mean IoU
    bytes, packed   of the file, and of the file compressed by zlib as in an app's package
    weights         the first 16 digits of the SHA-256 of the shipped weights
    command         what made the file; $CAMVID is the data set's folder
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import table

from kseg import shipped
from kseg.cli import main as kseg
from kseg.data import open_dataset
from kseg.environment import environment
from kseg.evaluation import evaluate
from kseg.tflite import TFLitePredictor

RESULTS = Path(__file__).parent
TABLE = RESULTS / "quantisation.csv"
COLUMNS = ("model", "file", "mean_iou", "points", "bytes", "packed", "weights", "command")

_CALIBRATION = "--calibration-dataset camvid --calibration-dir $CAMVID --calibration-count 100"
_TRAINING = "--dataset camvid --data-dir $CAMVID --epochs 1"
_INT8 = f"--precision int8 {_CALIBRATION}"

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


def measure(name: str, file: str, camvid: Path, folder: Path) -> dict[str, Any]:
    """A row of the shipped model ``camvid-train:NAME``, without its points.

    Raises:
        RuntimeError: a command failed.
    """
    given = {"MODEL": f"camvid-train:{name}", "$CAMVID": str(camvid)}
    given |= {x: str(folder / x) for x in ("x.keras", "x.tflite")}
    for command in FILES[file]:
        if kseg([given.get(word, word) for word in command.split()]):
            raise RuntimeError(f"{name}, {file}: kseg {command} failed")
    content = (folder / "x.tflite").read_bytes()
    score = evaluate(TFLitePredictor(folder / "x.tflite"), open_dataset("camvid", camvid, "val"))
    return {
        "model": name,
        "file": file,
        "mean_iou": f"{100 * score['mean_iou']:.2f}",
        "bytes": len(content),
        "packed": len(zlib.compress(content)),
        "weights": weights_of(name),
        "command": " && ".join(f"kseg {x}" for x in FILES[file]).replace(
            "MODEL", shlex.quote(given["MODEL"])
        ),
    }


def weights_of(name: str) -> str:
    """What tells the shipped weights of a model from others."""
    path = shipped.weights_file(f"camvid-train:{name}")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_rows() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of the shipped weights by model and file."""
    rows = {(row["model"], row["file"]): row for row in table.read(TABLE)}
    return {key: row for key, row in rows.items() if row["weights"] == weights_of(key[0])}


def write_rows(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The table, and what it was measured with."""
    for (name, _), row in rows.items():
        points = float(row["mean_iou"]) - float(rows[name, "fp32"]["mean_iou"])
        row["points"] = f"{points:+.2f}"
    facts = environment("tensorflow-model-optimization", "tf_keras")
    order = list(FILES)
    ordered = sorted(rows.values(), key=lambda row: (row["model"], order.index(row["file"])))
    table.write(TABLE, COLUMNS, ordered, facts)


def main(camvid: Path) -> None:
    """Measures what is missing and shows each row."""
    names = [name.partition(":")[2] for name in shipped.list_shipped() if "-train:" in name]
    rows = read_rows()
    for name in names:
        for file in FILES:
            if (name, file) in rows:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows[name, file] = measure(name, file, camvid, Path(folder))
            write_rows(rows)
            row = rows[name, file]
            print(f"{name}, {file}: {row['mean_iou']} % ({row['points']}), {row['bytes']} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
