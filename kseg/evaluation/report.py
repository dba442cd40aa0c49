"""A score as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kseg.data import DataSet, Sample, read_image
from kseg.evaluation.answers import Answers, LabelMaps, answers
from kseg.evaluation.evaluate import describe
from kseg.pictures import cover, side_by_side
from kseg.predictor import Predictor
from kseg.report import Report, confusion_matrix, trimap_curve

_WIDTH = 1400


def write_report(
    path: str | Path,
    report: dict[str, Any],
    source: Predictor | LabelMaps,
    data: DataSet,
    *,
    pictures: int = 3,
    **way: Any,
) -> None:
    """One HTML file: scores by class, confusion matrix, best and worst images, trimap.

    Args:
        path: of the file.
        report: what ``evaluate`` returned for this source and data.
        source, data, way: as for ``evaluate``; the images shown are predicted again.
        pictures: how many of the best and of the worst, by their own mean IoU.

    Raises:
        KsegError: what cannot be written.
    """
    page = Report(f"{report['model']} on {report['dataset']} {report['split']}")
    page.line(describe(report))
    page.line(f"weights: {report['weights']}; kseg {report['kseg']}")
    page.heading("Scores, %")
    page.table(*_class_table(report))
    if report["category_iou"]:
        page.table(*_table(report, "category", {"IoU": "category_iou", "iIoU": "category_iiou"}))

    page.heading("Confusion matrix")
    page.picture(
        confusion_matrix(report["confusion_matrix"], data.classes.names),
        "Share of a label's pixels by prediction; numbers from 1 % on.",
    )
    if report["trimap_iou"]:
        page.heading("Along the borders")
        page.picture(
            trimap_curve({"mean IoU": report["trimap_iou"]}),
            "Mean IoU of the pixels in a band around the labels' borders.",
        )

    told = answers(source, data, **way)
    samples = {sample.name: sample for sample in data.samples}
    scores = {name: iou for name, iou in report["image_iou"].items() if iou is not None}
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    # No image is among the best and the worst.
    best = order[: min(pictures, (len(order) + 1) // 2)]
    worst = order[::-1][: min(pictures, len(order) // 2)]
    for title, names in (("Best images", best), ("Worst images", worst)):
        if names:
            page.heading(title)
        for name in names:
            page.picture(
                _overlays(told, data, samples[name]),
                f"{name}: mean IoU {100 * scores[name]:.2f} %; image, label, prediction",
            )
    page.write(path)


def _class_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = {"IoU": "class_iou", "iIoU": "class_iiou", "boundary F": "boundary_f"}
    header, rows = _table(report, "class", columns)
    pixels = np.sum(report["confusion_matrix"], axis=1)
    shares = [*(_percent(n / max(pixels.sum(), 1)) for n in pixels), _percent(1.0)]
    return [*header, "labelled pixels"], [
        [*row, share] for row, share in zip(rows, shares, strict=True)
    ]


def _table(
    report: dict[str, Any], kind: str, columns: dict[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the columns that were measured, the means last."""
    columns = {title: key for title, key in columns.items() if report[key] is not None}
    means = {key: "mean_iou" if key == "class_iou" else f"mean_{key}" for key in columns.values()}
    rows = [
        [name, *(_percent(report[key].get(name)) for key in columns.values())]
        for name in report[f"{kind}_iou"]
    ]
    rows.append(["mean", *(_percent(report[means[key]]) for key in columns.values())])
    return [kind, *columns], rows


def _overlays(told: Answers, data: DataSet, sample: Sample) -> Any:
    content, label = told.read(sample)
    maps = (label, told.answer(sample, content, label.shape))
    image = read_image(sample.image)
    covered = [cover(image, ids, data.classes.colors) for ids in maps]
    picture = side_by_side([image, *covered])
    picture.thumbnail((_WIDTH, _WIDTH))
    return picture


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
