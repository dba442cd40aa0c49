"""The table, the pictures and the page of `kseg demo`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kseg.data import DataSet
from kseg.evaluation import Scores
from kseg.pictures import cover, side_by_side
from kseg.predictor import Predictor, predict_labels
from kseg.report import Report, class_bars, training_curve

COLUMNS = (
    "file",
    "size",
    "mean IoU",
    "6 scenes, CPU",
    "6 scenes, GPU",
    "same class on both",
    "CPU time",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text: megabytes, per cent, milliseconds; "-" where nothing was measured."""

    def show(key: str, form: str, factor: float) -> str:
        return "-" if row.get(key) is None else form.format(factor * row[key])

    return [
        row["file"],
        show("bytes", "{:.2f} MB", 1e-6),
        show("mean_iou", "{:.2f} %", 100),
        show("few_cpu", "{:.2f} %", 100),
        show("few_gpu", "{:.2f} %", 100),
        show("same_class", "{:.2f} %", 100),
        show("cpu_seconds", "{:.0f} ms", 1000),
    ]


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def scene_pictures(
    data: DataSet, predictors: Sequence[Predictor], count: int = 4
) -> list[Image.Image]:
    """For some scenes the image, and the image under its label and under each prediction.

    Args:
        data: a split with labels.
        predictors: of the data set's classes.
        count: how many scenes at most, evenly spread over the split.
    """
    pictures = []
    for sample in data.some(count).samples:
        image, label = data.labelled(sample)
        maps = [label, *(predict_labels(predictor, image) for predictor in predictors)]
        covered = [cover(image, labels, data.classes.colors) for labels in maps]
        pictures.append(side_by_side([image, *covered]))
    return pictures


def write_demo_report(
    path: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    *,
    scenes: Sequence[Image.Image],
    history: Path,
    no_gpu: str = "",
) -> None:
    """One HTML file: the table, the scenes, the training and the scores by class.

    Args:
        path: of the file.
        facts: what ``demo.json`` says besides the rows.
        rows: of the table.
        scores: by file; "keras", "fp32" and "int8" among them.
        scenes: of ``scene_pictures``.
        history: the run's ``history.csv``.
        no_gpu: why the columns of the GPU are empty; "" if they are not.

    Raises:
        KsegError: the file cannot be written.
    """
    report = Report("kseg: from a data set to a file for the phone")
    report.line(f"{facts['model']}, {facts['data']}, {facts['steps']} steps.")
    report.table(COLUMNS, [cells(row) for row in rows])
    report.line(
        no_gpu
        or "GPU: the LiteRT GPU accelerator. Same class: the share of pixels, on the "
        "worst of six scenes, to which it gives the class that the CPU gives."
    )
    report.heading("What it sees: image, label, fp32, int8")
    for scene in scenes:
        report.picture(scene)
    report.heading("Training")
    with history.open(newline="") as file:
        report.picture(training_curve(list(csv.DictReader(file))))
    report.heading("By class")
    report.picture(class_bars({name: scores[name].class_iou for name in ("fp32", "int8")}))
    report.table(
        ["class", *scores],
        [
            [label, *(_percent(score.class_iou[label]) for score in scores.values())]
            for label in scores["keras"].class_iou
        ],
    )
    report.heading("Made with")
    report.line(", ".join(f"{k} {v}" for k, v in facts["versions"].items()))
    report.line(f"{facts['machine']['cpus']} CPUs, {facts['machine']['kind']}")
    report.write(path)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
