"""The whole way once, on streets that it draws: training, scores, files, a report.

Ends with a table and DIR/report.html. Left half-way, the same command goes on. With
CITYSCAPES_DATASET set it takes Cityscapes instead of the streets.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from kseg.cli import arguments
from kseg.data import DataSet, open_dataset
from kseg.environment import environment
from kseg.files import make_folder, whole, write_json
from kseg.pictures import cover, side_by_side, stacked
from kseg.progress import Stages

if TYPE_CHECKING:
    from kseg.predictor import Predictor

MODEL = "cgnet_m3n21"

# Seconds on two cores.
_PLAN = {"streets": 25, "training": 250, "files": 60, "gpu": 110, "times": 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to and how much."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument("--scenes", type=int, default=160, metavar="N", help="streets (160)")
    parser.add_argument("--steps", type=int, default=220, metavar="N", help="of training (220)")
    arguments.add_size(parser, "--crop", "of training (128 256)")


def run(args: argparse.Namespace) -> None:
    """Goes the way and prints the table."""
    from kseg.data.streets import write_streets
    from kseg.evaluation import evaluate
    from kseg.predictor import KerasPredictor
    from kseg.tflite import TFLitePredictor, benchmark, convert_each
    from kseg.tflite.gpu import Comparison, NoAccelerator
    from kseg.tflite.options import PRECISIONS
    from kseg.training import TrainingConfig, train
    from kseg.training.run import default_crop

    stages = Stages(_PLAN)
    out = make_folder(args.out)
    name, folder = "cityscapes", os.environ.get("CITYSCAPES_DATASET")
    if not folder:
        name, folder = "streets", out / f"streets-{args.scenes}"
        stages.begin("streets", f"{args.scenes} streets are drawn")
        if not folder.exists():
            write_streets(folder, args.scenes)
    train_data, val_data = (open_dataset(name, folder, split) for split in ("train", "val"))
    val_data = val_data.some(32)

    stages.begin("training", f"{MODEL} is trained on {len(train_data)} scenes")
    config = TrainingConfig(
        MODEL,
        name,
        steps=args.steps,
        crop=arguments.size(args.crop) or (128, 256),
        validate_every=5,
    )
    model = train(config, folder, out / MODEL)

    stages.begin("files", f"four precisions are scored on {len(val_data)} held-out scenes")
    size = default_crop(val_data)
    scores = {"keras": evaluate(KerasPredictor(model), val_data, input_size=size)}
    files = {precision: out / f"{precision}.tflite" for precision in PRECISIONS}
    convert_each(model, files, input_size=size, calibration=train_data.some(64).images())
    for precision, file in files.items():
        scores[precision] = evaluate(TFLitePredictor(file), val_data)

    # A software driver takes seconds an image.
    few = val_data.some(6)
    stages.begin("gpu", f"CPU and GPU accelerator are compared on {len(few)} of them")
    on_cpu, on_gpu, agreements, no_gpu = {}, {}, {}, ""
    try:
        for precision, file in files.items():
            with Comparison(file) as both:
                on_gpu[precision] = evaluate(both, few)["mean_iou"]
                agreements[precision] = both.agreement
            on_cpu[precision] = evaluate(TFLitePredictor(file), few)["mean_iou"]
    except NoAccelerator as error:
        no_gpu = f"{error}; the GPU columns are empty"

    stages.begin("times", "latency on the CPU")
    timings = dict(zip(files, benchmark(list(files.values()), runs=10), strict=True))

    rows = [{"file": "model.keras", "mean_iou": scores["keras"]["mean_iou"]}]
    for precision, file in files.items():
        timing, agreement = timings[precision], agreements.get(precision)
        rows.append(
            {
                "file": file.name,
                "bytes": timing.file_size,
                "mean_iou": scores[precision]["mean_iou"],
                "few_cpu": on_cpu.get(precision),
                "few_gpu": on_gpu.get(precision),
                "same_class": agreement and agreement.same_class,
                "difference": agreement and agreement.difference,
                "cpu_seconds": timing.run.median,
            }
        )
    facts = {
        "model": MODEL,
        "data": f"{name}, {len(train_data)} scenes for training, {len(val_data)} for the scores",
        "steps": args.steps,
        "crop": config.crop,
        "input_size": size,
        **environment(),
    }
    write_json(out / "demo.json", {**facts, "rows": rows})
    predictors = {p: TFLitePredictor(files[p]) for p in ("fp32", "int8")}
    strips = _strips(val_data, predictors)
    with whole(out / "scenes.png") as path:
        stacked(strips).save(path)
    _report(out, facts, rows, scores, strips, no_gpu)
    print(table_text(rows))
    print("\n".join(filter(None, (no_gpu, f"{out / 'report.html'}: all of it, with pictures"))))


COLUMNS = (
    "file",
    "size",
    "mean IoU",
    "6 scenes, CPU",
    "6 scenes, GPU",
    "same class on both",
    "CPU time",
)


def cells(row: dict[str, Any]) -> list[str]:
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


def table_text(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _strips(data: DataSet, predictors: dict[str, Predictor], count: int = 4) -> list[Image.Image]:
    """Image, label and predictions of some scenes, in a row each."""
    from kseg.predictor import predict_labels

    strips = []
    for sample in data.some(count).samples:
        image, label = data.labelled(sample)
        maps = [label, *(predict_labels(p, image) for p in predictors.values())]
        covered = [cover(image, labels, data.classes.colors) for labels in maps]
        strips.append(side_by_side([image, *covered]))
    return strips


def _report(
    out: Path,
    facts: dict[str, Any],
    rows: list[dict[str, Any]],
    scores: dict[str, dict[str, Any]],
    strips: list[Image.Image],
    note: str,
) -> None:
    from kseg.report import Report, class_bars, training_curve

    report = Report("kseg: from a data set to a file for the phone")
    report.line(f"{facts['model']}, {facts['data']}, {facts['steps']} steps.")
    report.table(COLUMNS, [cells(row) for row in rows])
    report.line(
        note
        or "GPU: the LiteRT GPU accelerator. Same class: the share of pixels, on the "
        "worst of six scenes, to which it gives the class that the CPU gives."
    )
    report.heading("What it sees: image, label, fp32, int8")
    for strip in strips:
        report.picture(strip)
    report.heading("Training")
    with (out / MODEL / "history.csv").open(newline="") as file:
        report.picture(training_curve(list(csv.DictReader(file))))
    report.heading("By class")
    report.picture(class_bars({p: scores[p]["class_iou"] for p in ("fp32", "int8")}))
    names = list(scores)
    report.table(
        ["class", *names],
        [
            [label, *(_percent(scores[n]["class_iou"][label]) for n in names)]
            for label in scores["keras"]["class_iou"]
        ],
    )
    report.heading("Made with")
    report.line(", ".join(f"{k} {v}" for k, v in facts["versions"].items()))
    report.line(f"{facts['machine']['cpus']} CPUs, {facts['machine']['kind']}")
    report.write(out / "report.html")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
