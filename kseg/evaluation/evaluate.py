"""Scores a Predictor on a data set, one image at a time, at the labels' resolution."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kseg._version import __version__
from kseg.crf import DenseCRF
from kseg.data import DataSet
from kseg.errors import KsegError
from kseg.evaluation.boundaries import BoundaryScores, boundary_report
from kseg.evaluation.categories import InstanceScores, category_iou
from kseg.evaluation.confusion import ConfusionMatrix, mean
from kseg.model import Card
from kseg.predictor import Predictor, network_size, predict_labels


def evaluate(
    predictor: Predictor,
    data: DataSet,
    *,
    input_size: tuple[int, int] | None = None,
    pad_to: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    crf: DenseCRF | None = None,
    boundaries: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The score and all that decides it, as plain JSON.

    Args:
        predictor: runs the network.
        data: a split with labels.
        input_size, pad_to, scales, flip, window, overlap, crf: as for ``predict_labels``.
        boundaries: measures along the labels' borders as well.
        progress: called with (images done, images in all).

    Returns:
        ``mean_iou``, ``class_iou`` by official name, ``pixel_accuracy`` (0..1, None
        where undefined), ``confusion_matrix`` and the settings. Where the data set has
        categories ``category_iou``, and where all samples have instances ``class_iiou``
        and ``category_iiou``, with their means as ``mean_category_iou`` and so on; with
        ``boundaries`` ``trimap_iou``, a list over the band's width from 1 pixel on, and
        ``boundary_f`` by class; None elsewhere. ``image_iou`` is the mean IoU of every
        image alone.

    Raises:
        KsegError: classes that do not match, or an image, label or network that fails.
    """
    table = train_ids(predictor.card, data)
    way = dict(input_size=input_size, pad_to=pad_to, scales=tuple(scales), flip=flip)
    way |= dict(window=window, overlap=overlap, crf=crf)
    classes = data.classes
    matrix = ConfusionMatrix(classes.num_classes)
    instances = InstanceScores(classes) if data.has_instances else None
    edges = BoundaryScores(classes.num_classes) if boundaries else None
    image_iou: dict[str, float | None] = {}
    begin = time.monotonic()
    for number, sample in enumerate(data.samples, 1):
        image, label = data.labelled(sample)
        try:
            channels = predict_labels(predictor, image, size=label.shape, **way)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        predictions = table[channels]
        alone = ConfusionMatrix(classes.num_classes)
        alone.update(label, predictions)
        matrix.counts += alone.counts
        image_iou[sample.name] = alone.mean_iou()
        if edges:
            edges.update(label, predictions)
        if instances:
            ids = data.instances(sample, label.shape)
            try:
                instances.update(ids, predictions)
            except KsegError as error:
                raise KsegError(f"{sample.instances}: {error}") from error
        if progress:
            progress(number, len(data))
    card = predictor.card
    more = {
        "category_iou": category_iou(matrix, classes) if classes.categories else None,
        "class_iiou": instances and instances.class_iou(matrix),
        "category_iiou": instances and instances.category_iou(matrix),
    }
    return {
        "mean_iou": matrix.mean_iou(),
        "class_iou": dict(zip(classes.names, matrix.iou(), strict=True)),
        **more,
        **{f"mean_{name}": by and mean(by.values()) for name, by in more.items()},
        **boundary_report(edges, classes.names),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "dataset": data.name,
        "split": data.split,
        "images": len(data),
        "model": card.name,
        "options": card.options,
        "weights": card.weights,
        "runtime": predictor.runtime,
        **way,
        "input_size": input_size or network_size(predictor, pad_to, window),
        "overlap": overlap if window else None,
        "crf": crf and dataclasses.asdict(crf),
        "output": card.output,
        "output_stride": card.output_stride,
        "resize": card.resize,
        "normalization": dataclasses.asdict(card.normalization),
        "void_channels": list(card.void_channels),
        "image_iou": image_iou,
        "confusion_matrix": matrix.counts.tolist(),
        "seconds": time.monotonic() - begin,
        "kseg": __version__,
    }


def train_ids(card: Card, data: DataSet) -> np.ndarray:
    """(256,) uint8 from channel to train id of the data set; void, and none, to 255.

    Raises:
        KsegError: the card has other classes.
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
    return card.train_ids()


def format_report(report: dict[str, Any]) -> str:
    """The report as text: a class a line, then the means and what they stand for."""

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    width = max(map(len, report["class_iou"]))
    lines = []
    for kind in ("class", "category"):
        scores, weighted = report[f"{kind}_iou"], report[f"{kind}_iiou"]
        if scores is None:
            continue
        second = "  iIoU %" if weighted is not None else ""
        lines.append(f"{kind:<{width}}  IoU %{second}")
        for name, iou in scores.items():
            second = "" if weighted is None else f"  {percent(weighted.get(name))}"
            lines.append(f"{name:<{width}} {percent(iou)}{second}")
    means = {
        "mean IoU": "mean_iou",
        "mean iIoU": "mean_class_iiou",
        "category IoU": "mean_category_iou",
        "category iIoU": "mean_category_iiou",
        "boundary F": "mean_boundary_f",
        "pixel acc.": "pixel_accuracy",
    }
    shown = {title: report[key] for title, key in means.items()}
    lines += [
        f"{title:<{width}} {percent(value)}"
        for title, value in shown.items()
        if value is not None or title == "mean IoU"
    ]
    if report["trimap_iou"]:
        lines.append("mean IoU in a band around the labels' borders")
        widths = (1, 2, 5, 10, 20, 40)
        lines += [f"{f'{w} px':<{width}} {percent(report['trimap_iou'][w - 1])}" for w in widths]
    lines.append(describe(report))
    return "\n".join(lines)


def describe(report: dict[str, Any]) -> str:
    """What was scored and how, in a line."""

    def size(value: tuple[int, int] | None) -> str:
        return "native" if value is None else f"{value[0]}x{value[1]}"

    parts = [f"{report['dataset']} {report['split']}", f"{report['images']} images"]
    parts.append(f"input {size(report['input_size'])}")
    if report["pad_to"]:
        parts.append(f"padded to {size(report['pad_to'])}")
    parts.append(f"scales {' '.join(f'{scale:g}' for scale in report['scales'])}")
    parts.append("with flip" if report["flip"] else "no flip")
    if report["window"]:
        parts.append(f"windows {size(report['window'])} overlap {report['overlap']:.2f}")
    if "output_stride" in report["options"]:
        parts.append(f"output stride {report['options']['output_stride']}")
    if report["crf"]:
        parts.append("dense CRF")
    return ", ".join([*parts, report["runtime"]])
