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
from kseg.card import Card
from kseg.data import DataSet, Sample, read_image
from kseg.errors import KsegError
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.predictions import check_classes, warn_of_turned
from kseg.evaluation.scores import warn_of_seen
from kseg.pictures import Color, cover, side_by_side, spread_colors
from kseg.predictor import InferenceSettings, Predictor, check_predictor, predict_labels


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """What both predict for one image.

    Attributes:
        name: of the sample.
        image: its file.
        same: share of pixels of the same class, 0..1.
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
        """The image, the image under each label map, and the pixels that differ in white."""
        image = read_image(self.image)
        covered = [cover(image, labels, self.colors) for labels in (self.first, self.second)]
        differs = np.where(self.first != self.second, 255, 0).astype(np.uint8)
        return side_by_side([image, *covered, differs[..., None].repeat(3, axis=-1)])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; shares and IoU are 0..1, None where undefined.

    Attributes:
        same: share of pixels of the same class.
        class_same: by class, that share among the first's pixels of the class.
        worst: the images with the lowest share, the worst first.
        dataset, split, images: what was compared on, and its number of images.
        files: of the two: model, weights, runtime, output form and input size.
        kseg: its version.
        class_iou, mean_iou: of the two; None without labels.
        drops: classes that the second is worse at, the largest drop first; None without
            labels.
    """

    same: float | None
    class_same: dict[str, float | None]
    worst: list[Disagreement]
    dataset: str
    split: str
    images: int
    files: list[dict[str, Any]]
    kseg: str
    class_iou: list[dict[str, float | None]] | None
    mean_iou: list[float | None] | None
    drops: list[dict[str, Any]] | None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON: file and share of the worst images, no IoU without labels."""
        return {
            **{name: value for name, value in vars(self).items() if value is not None},
            "same": self.same,
            "worst": [{"image": str(item.image), "same": item.same} for item in self.worst],
        }


def compare(
    first: Predictor,
    second: Predictor,
    data: DataSet,
    *,
    input_size: tuple[int, int] | None = None,
    worst: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Runs both on every image once; memory does not grow with the number of images.

    Args:
        first, second: of the same classes.
        data: a split; without labels there is no IoU.
        input_size: (H, W) for both; None is each one's own, where it takes any size the
            other's, else the image's.
        worst: how many images to name at most.
        progress: called with (images done, images in all).

    Raises:
        KsegError: classes that do not match, a value out of range, or an image, label or
            network that fails.

    Warns:
        KsegWarning: as ``evaluate``, of weights that were trained on the split.
    """
    if worst < 0:
        raise KsegError(f"worst is {worst}; it must be at least 0")
    for predictor in (first, second):
        check_predictor(predictor)
    names = _class_names(first.card, second.card)
    labelled = any(sample.label for sample in data.samples)
    for predictor in (first, second) if labelled else ():
        # An IoU needs channels that are the data set's classes.
        check_classes(predictor.card, data)
        card = predictor.card
        warn_of_seen(card.name, card.trained_splits, data.name, data.split)
    a = _Side(first, input_size or first.input_size or second.input_size)
    b = _Side(second, input_size or second.input_size or first.input_size)
    agreement = ConfusionMatrix(len(names) + 1)
    images = _Worst(worst)
    colors = first.card.colors or spread_colors(len(names))
    for number, sample in enumerate(data.samples, 1):
        image, label = data.labelled(sample) if labelled else (read_image(sample.image), None)
        labels_a, labels_b = (side.predict(sample, image, label) for side in (a, b))
        agreement.update(labels_a, labels_b)
        same = float((labels_a == labels_b).mean())
        images.add(Disagreement(sample.name, sample.image, same, labels_a, labels_b, colors))
        if progress:
            progress(number, len(data))
    ious = [dict(zip(names, side.matrix.iou(), strict=True)) for side in (a, b)]
    return Comparison(
        same=agreement.pixel_accuracy(),
        class_same=dict(zip(names, _row_shares(agreement.counts[: len(names)]), strict=True)),
        worst=images.sorted(),
        dataset=data.name,
        split=data.split,
        images=len(data),
        files=[a.facts(), b.facts()],
        kseg=__version__,
        class_iou=ious if labelled else None,
        mean_iou=[a.matrix.mean_iou(), b.matrix.mean_iou()] if labelled else None,
        drops=_drops(*ious) if labelled else None,
    )


class _Side:
    """One of the two: its label maps and, against the labels, its confusion matrix."""

    def __init__(self, predictor: Predictor, input_size: tuple[int, int] | None) -> None:
        self._predictor, self._settings = predictor, InferenceSettings(input_size=input_size)
        card = predictor.card
        count = card.num_classes - len(card.void_channels)
        self.matrix = ConfusionMatrix(count)

    def predict(self, sample: Sample, image: np.ndarray, label: np.ndarray | None) -> np.ndarray:
        """(H, W) uint8 train ids of an image, which are counted where there is a label."""
        warn_of_turned(self._predictor, self._settings, sample.image, image.shape[:2])
        try:
            labels = predict_labels(self._predictor, image, self._settings)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        # "No class" is one class more, numbered as the next, on which both can agree.
        labels = np.minimum(labels, self.matrix.num_classes)
        if label is not None:
            self.matrix.update(label, labels)
        return labels

    def facts(self) -> dict[str, Any]:
        """What decides its label maps, as plain JSON."""
        card = self._predictor.card
        return {
            "model": card.name,
            "weights": card.weights,
            "runtime": self._predictor.runtime,
            "output": card.output,
            "input_size": self._settings.input_size,
        }


class _Worst:
    """The images on which most pixels differ, at most ``count`` of them."""

    def __init__(self, count: int) -> None:
        self._count, self._added = count, 0
        self._heap: list[tuple[float, int, Disagreement]] = []

    def add(self, item: Disagreement) -> None:
        # The heap's first is the best of the worst; of equals the earlier stays.
        heapq.heappush(self._heap, (-item.same, -self._added, item))
        self._added += 1
        if len(self._heap) > self._count:
            heapq.heappop(self._heap)

    def sorted(self) -> list[Disagreement]:
        """The worst first."""
        return [item for *_, item in sorted(self._heap, reverse=True)]


def _class_names(first: Card, second: Card) -> list[str]:
    """Names of the classes that both have, void channels left out."""
    cards = (first, second)
    counts = [card.num_classes - len(card.void_channels) for card in cards]
    names = [card.class_names for card in cards]
    if counts[0] != counts[1] or (None not in names and names[0] != names[1]):
        raise KsegError(
            f"{first.name} has {counts[0]} classes of {first.dataset}, {second.name} "
            f"{counts[1]} of {second.dataset}; compare files of the same classes"
        )
    return list(names[0] or names[1] or [f"class {i}" for i in range(counts[0])])


def _row_shares(counts: np.ndarray) -> list[float | None]:
    """Share of each row's pixels that are on the diagonal, None of an empty row."""
    pixels = counts.sum(1)
    return [
        int(hits) / int(total) if total else None
        for hits, total in zip(counts.diagonal(), pixels, strict=True)
    ]


def _drops(first: dict[str, float | None], second: dict[str, float | None]) -> list[dict[str, Any]]:
    """The classes that both have an IoU for and the second a lower one, worst first."""
    drops = []
    for name, iou in first.items():
        other = second[name]
        if iou is not None and other is not None and other < iou:
            drops.append({"class": name, "drop": iou - other})
    return sorted(drops, key=lambda drop: -drop["drop"])


def format_comparison(comparison: Comparison) -> str:
    """The comparison as text: a class a line, all pixels, largest drops, worst images."""
    header = "same %"
    rows = {name: [same] for name, same in comparison.class_same.items()}
    total = [comparison.same]
    if comparison.class_iou is not None and comparison.mean_iou is not None:
        header += "  IoU A  IoU B"
        for name, values in rows.items():
            values += [iou[name] for iou in comparison.class_iou]
        total += comparison.mean_iou
    width = max(*map(len, rows), len("all pixels"))
    lines = [f"{'class':<{width}} {header}"]
    for name, values in [*rows.items(), ("all pixels", total)]:
        lines.append(f"{name:<{width}} {' '.join(map(_percent, values))}")
    if comparison.drops:
        found = [f"{drop['class']} {100 * drop['drop']:.2f}" for drop in comparison.drops[:3]]
        lines.append(f"largest drops of IoU, in points: {', '.join(found)}")
    lines += [f"{_percent(item.same)} % same: {item.image}" for item in comparison.worst]
    a, b = comparison.files
    if (sizes := [facts["input_size"] for facts in (a, b)])[0] != sizes[1]:
        names = ["the image's size" if s is None else f"{s[0]}x{s[1]}" for s in sizes]
        lines.append(f"the networks' inputs differ: A takes {names[0]}, B {names[1]}")
    lines.append(
        f"{comparison.dataset} {comparison.split}, {comparison.images} images; "
        f"A {a['model']} on {a['runtime']}, B {b['model']} on {b['runtime']}"
    )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:6.2f}"
