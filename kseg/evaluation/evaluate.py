"""Scores a Predictor on a data set, one image at a time, at the labels' resolution."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kseg._version import __version__
from kseg.crf import DenseCRF
from kseg.data import DataSet
from kseg.errors import KsegError
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.model import Card
from kseg.predictor import Predictor, predict_labels


def evaluate(
    predictor: Predictor,
    data: DataSet,
    *,
    input_size: tuple[int, int] | None = None,
    pad_to: tuple[int, int] | None = None,
    crf: DenseCRF | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The score and all that decides it, as plain JSON.

    Args:
        predictor: runs the network.
        data: a split with labels.
        input_size, pad_to, crf: as for ``predict_labels``.
        progress: called with (images done, images in all).

    Returns:
        ``mean_iou``, ``class_iou`` by official name, ``pixel_accuracy`` (0..1, None
        where undefined), ``confusion_matrix`` and the settings.

    Raises:
        KsegError: classes that do not match, or an image, label or network that fails.
    """
    columns = columns_of(predictor.card, data)
    matrix = ConfusionMatrix(data.classes.num_classes)
    begin = time.monotonic()
    for number, sample in enumerate(data.samples, 1):
        image, label = data.labelled(sample)
        try:
            channels = predict_labels(
                predictor, image, size=label.shape, input_size=input_size, pad_to=pad_to, crf=crf
            )
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        matrix.update(label, columns[channels])
        if progress:
            progress(number, len(data))
    card = predictor.card
    return {
        "mean_iou": matrix.mean_iou(),
        "class_iou": dict(zip(data.classes.names, matrix.iou(), strict=True)),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "dataset": data.name,
        "split": data.split,
        "images": len(data),
        "model": card.name,
        "options": card.options,
        "weights": card.weights,
        "runtime": predictor.runtime,
        "input_size": input_size or predictor.input_size,
        "pad_to": pad_to,
        "scales": [1.0],
        "flip": False,
        "crf": crf and dataclasses.asdict(crf),
        "output": card.output,
        "output_stride": card.output_stride,
        "resize": card.resize,
        "normalization": dataclasses.asdict(card.normalization),
        "void_channels": list(card.void_channels),
        "confusion_matrix": matrix.counts.tolist(),
        "seconds": time.monotonic() - begin,
        "kseg": __version__,
    }


def columns_of(card: Card, data: DataSet) -> np.ndarray:
    """(256,) from channel to column of the confusion matrix, void to the last.

    Raises:
        KsegError: the card's classes are not the data set's.
    """
    classes = data.classes
    named = card.class_names is None or tuple(card.class_names) == classes.names
    if not named or card.num_classes - len(card.void_channels) != classes.num_classes:
        known = f"the classes of {card.dataset}" if card.dataset else "no class names"
        raise KsegError(
            f"{card.name} has {card.num_classes} channels, {len(card.void_channels)} of them "
            f"void, and {known}; {data.name} has {classes.num_classes} classes. "
            "Score it on the data set that it was trained for"
        )
    return np.minimum(card.train_ids(), classes.num_classes)


def format_report(report: dict[str, Any]) -> str:
    """The report as text: a class a line, then the means and what they stand for."""

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    width = max(map(len, report["class_iou"]))
    lines = [f"{'class':<{width}}  IoU %"]
    lines += [f"{name:<{width}} {percent(iou)}" for name, iou in report["class_iou"].items()]
    size = report["input_size"]
    lines += [
        f"{'mean IoU':<{width}} {percent(report['mean_iou'])}",
        f"{'pixel acc.':<{width}} {percent(report['pixel_accuracy'])}",
        f"{report['dataset']} {report['split']}, {report['images']} images, "
        f"input {'native' if size is None else f'{size[0]}x{size[1]}'}, "
        f"scales {' '.join(map(str, report['scales']))}, "
        f"{'with' if report['flip'] else 'no'} flip, "
        f"{'dense CRF, ' if report['crf'] else ''}{report['runtime']}",
    ]
    return "\n".join(lines)
