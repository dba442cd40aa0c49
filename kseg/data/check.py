"""Looks a data set over before it is trained on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kseg.data.classes import (
    BAD,
    IGNORE,
    ONE_CLASS,
    PUBLISHED,
    ClassTable,
    LabelCounts,
    never_occurring,
)
from kseg.data.datasets import DataSet, check_outputs
from kseg.data.finding import Sample, find_pairs
from kseg.data.reading import Tell, check_jpeg, read_image, read_pair, read_palette
from kseg.errors import KsegError
from kseg.files import atomic_write, make_folder
from kseg.pictures import Color, overlay


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
        problems: one line each, what stops or spoils training: bad ids and colours, missing
            halves, sizes, unreadable and lossy files, labels that are ignored altogether.
        warnings: one line each, what may be meant otherwise: classes that never occur, files
            that are not used, turned images, alpha channels, palettes read by colour.
        notes: one line each, what is as it should be: names that were passed over, classes of
            a published data set that do not occur.
    """

    split: str
    images: int
    labelled: bool
    classes: ClassTable
    pixels: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]
    problems: list[str]
    warnings: list[str]
    notes: list[str]

    def __str__(self) -> str:
        sizes = ", ".join(f"{n} of {h}x{w}" for (h, w), n in sorted(self.sizes.items()))
        lines = [f"{self.split}: {self.images} images ({sizes or 'none'})"]
        lines += self._histogram() if self.labelled else ["  no labels: only the images were read"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        if not self.problems and not self.warnings:
            lines.append("  no problems")
        lines += [f"  note: {note}" for note in self.notes]
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
        KsegError: an unknown name, a missing folder, no images, or ``out`` among them.
    """
    pairs = find_pairs(name, folder, split)
    read = DataSet(
        name, split, pairs.classes, (*pairs.samples, *pairs.unlabelled), None, pairs.root
    )
    check_outputs([out], data=[read])
    # A test split's labels may be the server's; any other split without labels is faulty.
    labelled = bool(pairs.samples) or not split.startswith("test")
    samples = pairs.samples if labelled else pairs.unlabelled
    found = _Findings(pairs.classes)
    found.problems += [f"{path}: has no image in {pairs.images}" for path in pairs.imageless]
    if labelled:
        found.problems += [f"{s.image}: has no label in {pairs.labels}" for s in pairs.unlabelled]
    shown = set(np.linspace(0, len(samples) - 1, pictures).astype(int).tolist())
    if out is not None:
        out = make_folder(out)
    for number, sample in enumerate(samples):
        try:
            image, labels = found.read(sample)
        except KsegError as error:
            found.problems.append(str(error))
            continue
        if out is not None and number in shown and labels is not None:
            picture = overlay(image, labels, pairs.classes.names, pairs.classes.colors)
            with atomic_write(out / f"{split}_{sample.name}.png") as path:
                picture.save(path)
        if progress:
            progress(number + 1, len(samples))
    warnings = [_first_of(texts) for texts in found.doubts.values()]
    notes: list[str] = []
    if labelled:
        found.doubt_classes(warnings, notes, is_test=split.startswith("test"))
    warnings += _unused(pairs.images, pairs.unused_images)
    warnings += _unused(pairs.labels, pairs.unused_labels)
    if pairs.hidden:
        notes.append(f"{pairs.hidden} names with a dot in front or of the system are passed over")
    return DataReport(
        split=split,
        images=found.sizes.total(),
        labelled=labelled,
        classes=pairs.classes,
        pixels=found.pixels,
        ignored=found.ignored,
        sizes=dict(found.sizes),
        problems=found.problems,
        warnings=warnings,
        notes=notes,
    )


class _Findings:
    """What the images and labels of a split show, read one after the other.

    Attributes:
        problems: as of ``DataReport``.
        doubts: what may be meant otherwise, by its kind.
        sizes: how many images have each (H, W).
    """

    def __init__(self, classes: ClassTable) -> None:
        self.problems: list[str] = []
        self.doubts: dict[str, list[str]] = {}
        self.sizes: Counter[tuple[int, int]] = Counter()
        self._classes = classes
        self._counts = LabelCounts()
        self._palettes: dict[Path, tuple[Color, ...]] = {}
        self._first_mask: Path | None = None

    @property
    def pixels(self) -> np.ndarray:
        """(num_classes,) int64 by train id."""
        return self._counts.pixels[: self._classes.num_classes]

    @property
    def ignored(self) -> int:
        """Pixels of no class."""
        return int(self._counts.pixels[IGNORE])

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
        """The image, and its labels where it has some of its size.

        Raises:
            KsegError: a file that cannot be read.
        """
        if sample.label is None:
            image = read_image(sample.image, self._tell)
            check_jpeg(sample.image)
            self.sizes[image.shape[:2]] += 1
            return image, None
        image, labels, unknown = read_pair(sample.image, sample.label, self._classes, self._tell)
        check_jpeg(sample.image)
        size = image.shape[:2]
        self.sizes[size] += 1
        if size != labels.shape:
            self.problems.append(f"{sample.label}: is {labels.shape}, its image {size} (H, W)")
        if unknown:
            share = 100 * (labels == BAD).mean()
            self.problems.append(f"{sample.label}: {share:.2f} % of its pixels have {unknown}")
        if not any(self._classes.chosen_colors):
            _compare_palettes(sample.label, self._palettes, self._classes, self._tell)
        counts = LabelCounts.of(np.bincount(labels.ravel(), minlength=256))
        self._counts += counts
        if counts.masks and self._first_mask is None:
            self._first_mask = sample.label
        return image, labels if size == labels.shape else None

    def _tell(self, kind: str, path: Path, text: str) -> None:
        self.doubts.setdefault(kind, []).append(f"{path}: {text}")

    def doubt_classes(self, warnings: list[str], notes: list[str], *, is_test: bool) -> None:
        """Adds what the classes' pixels say of labels that may mean something else."""
        classes, pixels, counts = self._classes, self.pixels, self._counts
        absences = self.sizes and never_occurring(classes, pixels, self.ignored)
        if absences:
            if pixels.any():
                (notes if classes in PUBLISHED else warnings).append(absences)
            else:
                # A benchmark's test labels hide the classes.
                (warnings if is_test else self.problems).append(absences)
        if classes.num_classes == 1:
            warnings.append(ONE_CLASS)
        if doubt := counts.mask_doubt(classes):
            warnings.append(
                f"{self._first_mask}: has 0 and 255 alone ({counts.masks} such labels), {doubt}"
            )


def _compare_palettes(
    path: Path, palettes: dict[Path, tuple[Color, ...]], classes: ClassTable, tell: Tell
) -> None:
    """Tells of a palette unlike the first, where no colours say which of the two is right."""
    palette = read_palette(path)
    if not palette:
        return
    first, colors = next(iter(palettes.items()), (path, palette))
    palettes.setdefault(first, colors)
    for index, (color, other) in enumerate(zip(palette[:IGNORE], colors, strict=False)):
        if index in classes.file_ids and color != other:
            tell(
                "palettes",
                path,
                f"has a palette with another colour at index {index} than {first}; if the colours "
                "are right, write those of the classes in classes.txt (NAME #RRGGBB)",
            )
            return


def _first_of(texts: list[str]) -> str:
    return texts[0] + (f" ({len(texts)} such files)" if len(texts) > 1 else "")


def _unused(folder: Path, files: list[Path]) -> list[str]:
    """A line for each suffix, with the names of all files that are not used."""
    names: dict[str, list[str]] = {}
    for path in files:
        names.setdefault(path.suffix, []).append(path.relative_to(folder).as_posix())
    return [
        f"{folder}: {len(of_suffix)} files of suffix {suffix or '(none)'} are not used: "
        + ", ".join(of_suffix)
        for suffix, of_suffix in names.items()
    ]
