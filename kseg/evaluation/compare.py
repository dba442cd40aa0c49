"""Where two Predictors disagree: pixels, classes, images, and what it costs in IoU."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg._version import __version__
from kseg.data import DataSet, read_image
from kseg.errors import KsegError
from kseg.evaluation.answers import check_classes
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.pictures import Color, cover, side_by_side, spread_colors
from kseg.predictor import Predictor, predict_labels


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """What both make of one image.

    Attributes:
        name: of the sample.
        image: its file.
        same: share of pixels of the same class.
        first, second: (H, W) uint8 train ids; the number of classes is "no class".
        colors: by train id.
    """

    name: str
    image: Path
    same: float
    first: np.ndarray
    second: np.ndarray
    colors: Sequence[Color]

    def picture(self) -> Image.Image:
        """The image, the image under either label map, and what differs in white."""
        image = read_image(self.image)
        covered = [cover(image, labels, self.colors) for labels in (self.first, self.second)]
        differs = np.where(self.first != self.second, 255, 0).astype(np.uint8)
        return side_by_side([image, *covered, differs[..., None].repeat(3, axis=-1)])


def compare(
    first: Predictor,
    second: Predictor,
    data: DataSet,
    *,
    input_size: tuple[int, int] | None = None,
    worst: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], list[Disagreement]]:
    """Runs both on every image once; memory does not grow with the number of images.

    Args:
        first, second: of the same classes.
        data: a split; without labels there is no IoU.
        input_size: (H, W) for both; None is each one's own, where it takes any size the
            other's, else the image's.
        worst: how many images to name at most.
        progress: called with (images done, images in all).

    Returns:
        A report as plain JSON and its worst images, the worst first. ``same`` is the share
        of pixels of the same class, ``class_same`` that of the first's pixels of a class
        (None without any). With labels ``class_iou`` and ``mean_iou`` have the two's
        scores, and ``drops`` the classes that the second is worse at, the worst first.

    Raises:
        KsegError: classes that do not match, a value out of range, or an image, label or
            network that fails.
    """
    if worst < 0:
        raise KsegError(f"worst is {worst}; it must be at least 0")
    names = _class_names(first, second)
    count = len(names)
    predictors = (first, second)
    sizes = [
        input_size or own.input_size or other.input_size
        for own, other in ((first, second), (second, first))
    ]
    labelled = any(sample.label for sample in data.samples)
    # With labels the channels must be the data set's classes.
    for predictor in predictors if labelled else ():
        check_classes(predictor.card, data)
    # "No class" is a class here: both can agree on it.
    tables = [np.minimum(predictor.card.train_ids(), count) for predictor in predictors]
    agreement = ConfusionMatrix(count + 1)
    matrices = [ConfusionMatrix(count) for _ in predictors]
    heap: list[tuple[float, int, Disagreement]] = []
    colors = first.card.colors or spread_colors(count)
    for number, sample in enumerate(data.samples, 1):
        image, label = data.labelled(sample) if labelled else (read_image(sample.image), None)
        try:
            maps = [
                table[predict_labels(predictor, image, input_size=size)]
                for table, predictor, size in zip(tables, predictors, sizes, strict=True)
            ]
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        agreement.update(*maps)
        if label is not None:
            for matrix, predictions in zip(matrices, maps, strict=True):
                matrix.update(label, predictions)
        same = float((maps[0] == maps[1]).mean())
        # The heap's first is the best of the worst; of equals the earlier stays.
        item = Disagreement(sample.name, sample.image, same, *maps, colors)
        heapq.heappush(heap, (-same, -number, item))
        if len(heap) > worst:
            heapq.heappop(heap)
        if progress:
            progress(number, len(data))
    found = [item for *_, item in sorted(heap, reverse=True)]
    pixels = agreement.counts.sum(1)
    report: dict[str, Any] = {
        "same": agreement.pixel_accuracy(),
        "class_same": {
            name: int(hits) / int(total) if total else None
            for name, hits, total in zip(
                names, agreement.counts.diagonal()[:count], pixels[:count], strict=True
            )
        },
        "worst": [{"image": str(item.image), "same": item.same} for item in found],
        "dataset": data.name,
        "split": data.split,
        "images": len(data),
        "files": [
            {
                "model": predictor.card.name,
                "weights": predictor.card.weights,
                "runtime": predictor.runtime,
                "output": predictor.card.output,
                "input_size": size,
            }
            for predictor, size in zip(predictors, sizes, strict=True)
        ],
        "kseg": __version__,
    }
    if labelled:
        ious = [dict(zip(names, matrix.iou(), strict=True)) for matrix in matrices]
        report["class_iou"] = ious
        report["mean_iou"] = [matrix.mean_iou() for matrix in matrices]
        report["drops"] = _drops(*ious)
    return report, found


def _class_names(first: Predictor, second: Predictor) -> list[str]:
    """Those of the first's classes, void channels left out."""
    cards = (first.card, second.card)
    counts = [card.num_classes - len(card.void_channels) for card in cards]
    names = [card.class_names for card in cards]
    if counts[0] != counts[1] or (None not in names and names[0] != names[1]):
        raise KsegError(
            f"{cards[0].name} has {counts[0]} classes of {cards[0].dataset}, {cards[1].name} "
            f"{counts[1]} of {cards[1].dataset}; compare files of the same classes"
        )
    return list(names[0] or names[1] or [f"class {i}" for i in range(counts[0])])


def _drops(first: dict[str, float | None], second: dict[str, float | None]) -> list[dict[str, Any]]:
    """The classes that both have an IoU for and the second a lower one, worst first."""
    drops = [
        {"class": name, "drop": iou - second[name]}
        for name, iou in first.items()
        if iou is not None and second[name] is not None and second[name] < iou
    ]
    return sorted(drops, key=lambda drop: -drop["drop"])


def format_comparison(report: dict[str, Any]) -> str:
    """The report as text: a class a line, the whole, the largest drops, the worst images."""

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    width = max(*map(len, report["class_same"]), len("all pixels"))
    scored = "class_iou" in report
    lines = [f"{'class':<{width}} same %" + ("  IoU A  IoU B" if scored else "")]
    for name, same in [*report["class_same"].items(), ("all pixels", report["same"])]:
        values = [same]
        if scored:
            values += [
                mean if name == "all pixels" else ious[name]
                for ious, mean in zip(report["class_iou"], report["mean_iou"], strict=True)
            ]
        lines.append(f"{name:<{width}} " + " ".join(map(percent, values)))
    if drops := report.get("drops", [])[:3]:
        found = ", ".join(f"{drop['class']} {100 * drop['drop']:.2f}" for drop in drops)
        lines.append(f"largest drops of IoU, in points: {found}")
    lines += [f"{percent(item['same'])} % same: {item['image']}" for item in report["worst"]]
    a, b = report["files"]
    lines.append(
        f"{report['dataset']} {report['split']}, {report['images']} images; "
        f"A {a['model']} on {a['runtime']}, B {b['model']} on {b['runtime']}"
    )
    return "\n".join(lines)
