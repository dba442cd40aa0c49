"""Looks a data set over before it is trained on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kseg.data.classes import BAD, ClassTable
from kseg.data.datasets import find_pairs, read_ids, read_image
from kseg.errors import KsegError
from kseg.files import make_folder, whole
from kseg.pictures import overlay


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What ``check_data`` found in one split.

    Attributes:
        split: its name.
        images: that could be read, with their labels where the split has labels.
        labelled: whether the split has labels; a test split may come without any.
        classes: names, colours and ids.
        pixels: (num_classes,) int64 by train id.
        ignored: pixels that neither train nor score.
        sizes: how many images have each (H, W).
        problems: one line each: bad ids, missing halves, sizes, unreadable files.
    """

    split: str
    images: int
    labelled: bool
    classes: ClassTable
    pixels: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]
    problems: list[str]

    def __str__(self) -> str:
        sizes = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sorted(self.sizes.items()))
        lines = [f"{self.split}: {self.images} images ({sizes or 'none'})"]
        lines += self._histogram() if self.labelled else ["  no labels: only the images were read"]
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  no problems"]
        return "\n".join(lines)

    def _histogram(self) -> list[str]:
        total = max(int(self.pixels.sum()), 1)
        width = max(map(len, self.classes.names))
        lines = []
        for name, count in zip(self.classes.names, self.pixels, strict=True):
            share = 100 * count / total
            lines.append(f"  {name:<{width}} {share:6.2f} %  {'#' * round(share)}".rstrip())
        everything = total + self.ignored
        lines.append(f"  {'(ignored)':<{width}} {100 * self.ignored / everything:6.2f} % of all")
        return lines


def check_data(
    name: str,
    folder: str | Path | None,
    split: str,
    *,
    out: str | Path | None = None,
    pictures: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Reads every image and label of a split and lists what is wrong.

    Args:
        name, folder, split: as for ``open_dataset``.
        out: folder for pictures of labels over images, None for none.
        pictures: how many of them, spread over the split.
        progress: called with (images done, images in all).

    Raises:
        KsegError: an unknown name, a missing folder, no images.
    """
    pairs = find_pairs(name, folder, split)
    classes = pairs.classes
    # A test split's labels may be the server's; any other split without labels is faulty.
    labelled = bool(pairs.samples) or not split.startswith("test")
    samples = pairs.samples if labelled else pairs.unlabelled
    problems = [f"{path}: has no image in {pairs.images}" for path in pairs.imageless]
    if labelled:
        problems += [f"{s.image}: has no label in {pairs.labels}" for s in pairs.unlabelled]
    counts = np.zeros(256, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    shown = set(np.linspace(0, len(samples) - 1, pictures).astype(int).tolist())
    if out is not None:
        out = make_folder(out)
    for number, sample in enumerate(samples):
        try:
            image = read_image(sample.image)
            labels = None
            if sample.label is not None:
                labels = _read_label(sample.label, classes, image.shape[:2], problems)
        except KsegError as error:
            problems.append(str(error))
            continue
        sizes[image.shape[:2]] += 1
        if labels is not None:
            counts += np.bincount(labels.ravel(), minlength=256)
            if out is not None and number in shown and image.shape[:2] == labels.shape:
                picture = overlay(image, labels, classes.names, classes.colors)
                with whole(out / f"{split}_{sample.name}.png") as path:
                    picture.save(path)
        if progress:
            progress(number + 1, len(samples))
    return DataReport(
        split=split,
        images=sizes.total(),
        labelled=labelled,
        classes=classes,
        pixels=counts[: classes.num_classes],
        ignored=int(counts[255]),
        sizes=dict(sizes),
        problems=problems,
    )


def _read_label(
    path: Path, classes: ClassTable, size: tuple[int, int], problems: list[str]
) -> np.ndarray:
    """(H, W) uint8 train ids, BAD where the id is unknown; what is wrong goes to ``problems``."""
    ids = read_ids(path)
    labels = classes.label_table()[ids]
    if size != labels.shape:
        problems.append(f"{path}: is {labels.shape}, its image {size} (H, W)")
    if bad := np.unique(ids[labels == BAD]).tolist():
        share = 100 * (labels == BAD).mean()
        problems.append(f"{path}: has unknown ids {bad} on {share:.2f} % of its pixels")
    return labels
