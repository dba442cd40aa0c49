"""Looks a data set over before it is trained on."""

from __future__ import annotations

import dataclasses
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
        images: pairs that could be read.
        classes: names, colours and ids.
        pixels: (num_classes,) int64 by train id.
        ignored: pixels that neither train nor score.
        sizes: how many images have each (H, W).
        problems: one line each: bad ids, missing halves, sizes, unreadable files.
    """

    split: str
    images: int
    classes: ClassTable
    pixels: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]
    problems: list[str]

    def __str__(self) -> str:
        total = max(int(self.pixels.sum()), 1)
        width = max(map(len, self.classes.names))
        sizes = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sorted(self.sizes.items()))
        lines = [f"{self.split}: {self.images} images ({sizes or 'none'})"]
        for name, count in zip(self.classes.names, self.pixels, strict=True):
            share = 100 * count / total
            lines.append(f"  {name:<{width}} {share:6.2f} %  {'#' * round(share)}".rstrip())
        everything = total + self.ignored
        lines.append(f"  {'(ignored)':<{width}} {100 * self.ignored / everything:6.2f} % of all")
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  no problems"]
        return "\n".join(lines)


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
    table = classes.label_table()
    problems = [f"{s.image}: has no label in {pairs.labels}" for s in pairs.unlabelled]
    problems += [f"{path}: has no image in {pairs.images}" for path in pairs.imageless]
    counts = np.zeros(256, np.int64)
    sizes: dict[tuple[int, int], int] = {}
    shown = set(np.linspace(0, len(pairs.samples) - 1, pictures).astype(int).tolist())
    if out is not None:
        out = make_folder(out)
    read = 0
    for number, sample in enumerate(pairs.samples):
        try:
            image, ids = read_image(sample.image), read_ids(sample.label)
        except KsegError as error:
            problems.append(str(error))
            continue
        read += 1
        size = image.shape[:2]
        sizes[size] = sizes.get(size, 0) + 1
        labels = table[ids]
        if size != labels.shape:
            problems.append(f"{sample.label}: is {labels.shape}, its image {size} (H, W)")
        if bad := np.unique(ids[labels == BAD]).tolist():
            share = 100 * (labels == BAD).mean()
            problems.append(f"{sample.label}: has unknown ids {bad} on {share:.2f} % of its pixels")
        counts += np.bincount(labels.ravel(), minlength=256)
        if out is not None and number in shown and size == labels.shape:
            picture = overlay(image, labels, classes.names, classes.colors)
            with whole(out / f"{split}_{sample.name}.png") as path:
                picture.save(path)
        if progress:
            progress(number + 1, len(pairs.samples))
    return DataReport(
        split=split,
        images=read,
        classes=classes,
        pixels=counts[: classes.num_classes],
        ignored=int(counts[255]),
        sizes=sizes,
        problems=problems,
    )
