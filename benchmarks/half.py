"""What half precision does to every network: ``results/half.csv``.

``python benchmarks/half.py CAMVID WEIGHTS [SUBJECT ...]``: CamVid's folder, a folder of published
checkpoints (``PUBLISHED`` below), and the subjects to be measured anew; without any, all that are
missing: shipped weights, published ones, and the zoo's other rows
with random weights, whose BatchNorm has the statistics of drawn streets (matrix.py). Rows are
written one by one, so the command can be killed and started again; a row is measured again
when the graph that is exported changes.

Random weights say little, so they have one size and no score. What grows with the image are sums
of means and poolings, along a row or a column of it; those of trained weights grow by 2.1 at most
from 512x1024 to 1024x2048.

A row has

    model, weights  where they come from: a shipped name, a published file, random
    size            of the file's input
    decibels        XNNPACK in half precision against float32: signal to noise of the logits
    same_class      share of pixels that have the same class
    simulated       decibels of kseg check-half's simulation, in which means and poolings are
                    added up in half precision as well; -inf where they overflow
    tensor          the largest magnitude of a value
    partial         the largest partial sum, in the worst order; layer: where
    safe            what kseg check-half says
    mean_iou        on CamVid's val in float32, of weights trained for it, at the size of its
                    images; points: what half precision has above it, in points
    graph           digest of the exported graph
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import table
from table import RESULTS

import kseg
from kseg import shipped
from kseg.data import open_dataset
from kseg.environment import environment
from kseg.evaluation import evaluate
from kseg.importing import import_checkpoint
from kseg.loading import load
from kseg.opening import open_predictor
from kseg.tflite import check_half, convert
from kseg.tflite.export import export_graph
from kseg.tflite.gpu import compare
from matrix import Worker, digest, with_random_weights

TABLE = RESULTS / "half.csv"
COLUMNS = (
    *("model", "weights", "size", "decibels", "same_class", "simulated", "tensor", "partial"),
    *("layer", "safe", "mean_iou", "points", "graph"),
)
SIZES = ((512, 1024), (1024, 2048))
CAMVID_SIZE = (360, 480)
# Photographs; at 1024x2048 a network takes a minute for each.
COUNT = 1
# Of the images that make the statistics of random weights.
SMALL = (64, 128, 3)
PUBLISHED = {
    "cgnet_camvid": "cgnet_m3n21_camvid.pth",
    "espnet_camvid": "espnet_decoder_p_2_q_8_camvid.pth",
    "espnet": "espnet_decoder_p_2_q_8.pth",
    "espnet_c": "espnet_encoder_p_2_q_8.pth",
}


class Subject(NamedTuple):
    """A network with weights.

    Attributes:
        model: its row.
        weights: as the column has it.
        file: of the weights; None where they are random.
    """

    model: str
    weights: str
    file: str | None

    @property
    def name(self) -> str:
        """What the command takes."""
        return f"{self.weights}:{self.model}"

    def load(self) -> kseg.SegmentationModel:
        """The model."""
        if self.file is None:
            return with_random_weights(self.model, input_shape=SMALL)
        if self.file.endswith(".pth"):
            return import_checkpoint(self.model, self.file)[0]
        return load(self.file)

    def sizes(self) -> list[tuple[int, int]]:
        """Of the table's rows: CamVid's where it was trained on it, and SIZES."""
        if self.file is None:
            return [SIZES[0]]
        return [CAMVID_SIZE, *SIZES] if "camvid" in self.weights else [*SIZES]


def subjects(weights: Path) -> list[Subject]:
    """All of the table: those with trained weights first."""
    known = [
        Subject(name.split(":")[1], name.split(":")[0], name) for name in shipped.list_shipped()
    ]
    known += [Subject(name, file, str(weights / file)) for name, file in PUBLISHED.items()]
    others = [name for name in kseg.list_models() if name not in {each.model for each in known}]
    return known + [Subject(name, "random", None) for name in others]


def measure(subject: Subject, size: tuple[int, int], camvid: Path) -> dict[str, Any]:
    """A row."""
    model = subject.load()
    data = open_dataset("camvid", camvid, "val")
    images = [*data.some(COUNT).images()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tflite"
        convert(model, path, input_size=size)
        found = compare(path, images, timeout=600, runtime="litert-fp16")
        report = check_half(path, images)
        most = report.most("partial")
        row = {
            "model": subject.model,
            "weights": subject.weights,
            "size": "{}x{}".format(*size),
            "decibels": f"{found.decibels:.1f}",
            "same_class": f"{found.same_class:.4f}",
            "simulated": f"{report.decibels:.1f}",
            "tensor": f"{report.most('largest').largest:.4g}",
            "partial": f"{most.partial:.5g}",
            "layer": f"{most.layer} ({most.operator})",
            "safe": "yes" if report.safe else "no",
            "graph": digest(export_graph(model, "logits", size)[0]),
        }
        if size == CAMVID_SIZE:
            scores = []
            for runtime in ("cpu", "litert-fp16"):
                predictor = open_predictor(path, runtime=runtime)
                scores.append(100 * evaluate(predictor, data).mean_iou)
            row["mean_iou"] = f"{scores[0]:.2f}"
            row["points"] = f"{scores[1] - scores[0]:+.2f}"
    return row


def graph_of(subject: Subject, size: tuple[int, int]) -> str:
    """The digest of the graph that is exported."""
    return digest(export_graph(subject.load(), "logits", size)[0])


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    """What tells a row from others."""
    return row["model"], row["weights"], row["size"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and shows a line a row; 1 if some could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid", type=Path, metavar="CAMVID")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="such as random:enet")
    args = parser.parse_args(arguments)
    every = subjects(args.weights)
    order = {
        (each.model, each.weights, "{}x{}".format(*size)): number
        for number, (each, size) in enumerate(
            itertools.chain.from_iterable([(each, size) for size in each.sizes()] for each in every)
        )
    }
    facts = environment()
    rows = {key(row): row for row in table.read_current(TABLE, facts) if key(row) in order}
    failed = 0
    worker = Worker()
    for each in every:
        for size in each.sizes():
            if args.subjects and each.name not in args.subjects:
                continue
            known = rows.get((each.model, each.weights, "{}x{}".format(*size)))
            if not args.subjects and known and known["graph"] == worker(graph_of, each, size):
                continue
            try:
                row = worker(measure, each, size, args.camvid)
            except kseg.KsegError as error:
                print(f"half: {each.name}: {error}", file=sys.stderr)
                failed = 1
                continue
            rows[key(row)] = row
            ordered = sorted(rows.values(), key=lambda row: order[key(row)])
            table.write(TABLE, COLUMNS, ordered, facts)
            print(" ".join(str(value) for value in row.values()), flush=True)
    worker.close()
    return failed


if __name__ == "__main__":
    sys.exit(main())
