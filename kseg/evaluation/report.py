"""A score as a page for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kseg.data import DataSet, Sample, check_outputs, read_image
from kseg.evaluation.confusion import ByName
from kseg.evaluation.predictions import LabelMaps, Predictions, predictions_of
from kseg.evaluation.scores import Scores, describe
from kseg.files import check_not_input
from kseg.pictures import cover, side_by_side
from kseg.predictor import InferenceSettings, Predictor
from kseg.report import Report, confusion_matrix, trimap_curve
from kseg.resize import resize_bilinear

_WIDTH = 1400


def write_report(
    path: str | Path,
    scores: Scores,
    source: Predictor | LabelMaps,
    data: DataSet,
    *,
    pictures: int = 3,
) -> None:
    """One HTML file: scores by class, confusion matrix, best and worst images, trimap.

    Args:
        path: of the file.
        scores: what ``evaluate`` returned for this source and data.
        source, data: as for ``evaluate``; the images shown are predicted again, with the
            settings of the scores.
        pictures: how many of the best and of the worst, by their own mean IoU.

    Raises:
        KsegError: what cannot be written or is among the files that are read, or an image or
            network that fails.
    """
    check_outputs([path], data=[data])
    if isinstance(source, LabelMaps):
        check_not_input([path], [], [source.folder])
    page = Report(f"{scores.model} on {scores.dataset} {scores.split}")
    page.line(describe(scores))
    page.line(f"weights: {scores.weights}; kseg {scores.kseg}")
    page.heading("Scores, %")
    page.table(*_class_table(scores))
    if scores.category_iou:
        page.table(*_category_table(scores))
    page.heading("Confusion matrix")
    page.picture(
        confusion_matrix(scores.confusion_matrix, data.classes.names),
        "Share of a label's pixels by prediction; numbers from 1 % on.",
    )
    if scores.trimap_iou:
        page.heading("Along the borders")
        page.picture(
            trimap_curve({"mean IoU": scores.trimap_iou}),
            "Mean IoU of the pixels in a band around the labels' borders.",
        )
    _add_images(page, scores, source, data, pictures)
    page.write(path)


def _class_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores by class, the means last."""
    header, rows = _table(
        "class",
        {
            "IoU": (scores.class_iou, scores.mean_iou),
            "iIoU": (scores.class_iiou, scores.mean_class_iiou),
            "boundary F": (scores.boundary_f, scores.mean_boundary_f),
        },
    )
    pixels = np.sum(scores.confusion_matrix, axis=1)
    shares = [*(_percent(n / max(pixels.sum(), 1)) for n in pixels), _percent(1.0)]
    rows = [[*row, share] for row, share in zip(rows, shares, strict=True)]
    return [*header, "labelled pixels"], rows


def _category_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the scores by category, the means last."""
    return _table(
        "category",
        {
            "IoU": (scores.category_iou, scores.mean_category_iou),
            "iIoU": (scores.category_iiou, scores.mean_category_iiou),
        },
    )


def _table(
    kind: str, columns: dict[str, tuple[ByName | None, float | None]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the columns that were measured.

    Args:
        kind: of the first column, whose names are those of the first score.
        columns: by title, a score by name and its mean.
    """
    measured = {title: (by, mean) for title, (by, mean) in columns.items() if by is not None}
    names = list(next(iter(measured.values()))[0])
    rows = [[name, *(_percent(by.get(name)) for by, _ in measured.values())] for name in names]
    rows.append(["mean", *(_percent(mean) for _, mean in measured.values())])
    return [kind, *measured], rows


def _add_images(
    page: Report, scores: Scores, source: Predictor | LabelMaps, data: DataSet, count: int
) -> None:
    """The best and the worst images; none is among both."""
    predictions = predictions_of(source, data, scores.settings or InferenceSettings())
    samples = {sample.name: sample for sample in data.samples}
    iou = {name: value for name, value in scores.image_iou.items() if value is not None}
    order = sorted(iou, key=iou.__getitem__, reverse=True)
    best = order[: min(count, (len(order) + 1) // 2)]
    worst = order[::-1][: min(count, len(order) // 2)]
    for title, names in (("Best images", best), ("Worst images", worst)):
        if names:
            page.heading(title)
        for name in names:
            page.picture(
                _overlays(predictions, data, samples[name]),
                f"{name}: mean IoU {100 * iou[name]:.2f} %; image, label, prediction",
            )


def _overlays(predictions: Predictions, data: DataSet, sample: Sample) -> Image.Image:
    """The image, and the image under its label and under its prediction."""
    content, label = predictions.read(sample)
    maps = (label, predictions.predict(sample, content, label.shape))
    image = read_image(sample.image)
    # Label maps are scored without their images, which may have another size.
    image = np.rint(resize_bilinear(image, label.shape)).astype(np.uint8)
    covered = [cover(image, ids, data.classes.colors) for ids in maps]
    picture = side_by_side([image, *covered])
    picture.thumbnail((_WIDTH, _WIDTH))
    return picture


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
