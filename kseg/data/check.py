"""Looks a data set over before it is trained on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg._version import __version__
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
from kseg.data.finding import Pairs, Sample, find_pairs
from kseg.data.fingerprint import joint_digest
from kseg.data.reading import Tell, check_jpeg, read_image, read_pair, read_palette
from kseg.data.shard_files import ShardFile
from kseg.data.shards import WHOLE, Shard
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
    return find_problems(
        name, split, pairs, WHOLE, out=out, pictures=pictures, progress=progress
    ).report()


def find_problems(
    name: str,
    split: str,
    pairs: Pairs,
    shard: Shard,
    *,
    out: str | Path | None = None,
    pictures: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Reads a part of a split, as ``check_data`` reads all of it.

    Args:
        name, split, out, pictures, progress: as for ``check_data``.
        pairs: of the split, as ``find_pairs`` gives them.
        shard: the part; what is known without reading an image is found by the first one.

    Raises:
        KsegError: ``out`` is among the images.
    """
    read = DataSet(
        name, split, pairs.classes, (*pairs.samples, *pairs.unlabelled), None, pairs.root
    )
    check_outputs([out], data=[read])
    # A test split's labels may be the server's; any other split without labels is faulty.
    labelled = bool(pairs.samples) or not split.startswith("test")
    samples = pairs.samples if labelled else pairs.unlabelled
    found = Findings(name, split, labelled, pairs.classes, joint_digest(read.names))
    if shard.number == 1:
        found.problems += [f"{path}: has no image in {pairs.images}" for path in pairs.imageless]
        if labelled:
            found.problems += [
                f"{s.image}: has no label in {pairs.labels}" for s in pairs.unlabelled
            ]
        found.unused += _unused(pairs.images, pairs.unused_images)
        found.unused += _unused(pairs.labels, pairs.unused_labels)
        found.hidden = pairs.hidden
    places = shard.of(range(len(samples)))
    if labelled and places:
        found.begin(samples[: places[0]])
    shown = set(np.linspace(0, len(samples) - 1, pictures).astype(int).tolist())
    if out is not None:
        out = make_folder(out)
    for number, place in enumerate(places, 1):
        sample = samples[place]
        try:
            image, labels = found.read(sample)
        except KsegError as error:
            found.problems.append(str(error))
            continue
        if out is not None and place in shown and labels is not None:
            picture = overlay(image, labels, pairs.classes.names, pairs.classes.colors)
            with atomic_write(out / f"{split}_{sample.name}.png") as path:
                picture.save(path)
        if progress:
            progress(number, len(places))
    return found


@dataclasses.dataclass
class Findings:
    """What the images and labels of a split, or of a part of it, show.

    Attributes:
        dataset, split: as given to ``open_dataset``.
        labelled, classes, problems: as of ``DataReport``.
        names: of all samples of the split, a digest.
        doubts: what may be meant otherwise, by its kind.
        sizes: how many images have each (H, W).
        counts: of all labels.
        first_mask: the first label with 0 and 255 alone.
        unused: a line for each kind of files that are not used.
        hidden: how many names were passed over.
    """

    dataset: str
    split: str
    labelled: bool
    classes: ClassTable
    names: str
    problems: list[str] = dataclasses.field(default_factory=list)
    doubts: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    counts: LabelCounts = dataclasses.field(default_factory=LabelCounts)
    first_mask: str | None = None
    unused: list[str] = dataclasses.field(default_factory=list)
    hidden: int = 0
    _palettes: dict[Path, tuple[Color, ...]] = dataclasses.field(default_factory=dict)

    def begin(self, samples: Sequence[Sample]) -> None:
        """Takes the first palette of the samples before this part, to compare others with it."""
        if any(self.classes.chosen_colors):
            return
        for sample in samples:
            if self._palettes:
                return
            # Whoever reads the label says what is wrong with it.
            with contextlib.suppress(KsegError):
                if sample.label is not None and read_palette(sample.label):
                    read_pair(sample.image, sample.label, self.classes, lambda *_: None)
                    check_jpeg(sample.image)
                    _compare_palettes(sample.label, self._palettes, self.classes, self._tell)

    def merge(self, other: Findings) -> None:
        """Adds those of the part that follows."""
        self.problems += other.problems
        for kind, texts in other.doubts.items():
            self.doubts.setdefault(kind, []).extend(texts)
        self.sizes += other.sizes
        self.counts += other.counts
        self.first_mask = self.first_mask or other.first_mask
        self.unused += other.unused
        self.hidden += other.hidden

    def report(self) -> DataReport:
        """What is to be said of them."""
        warnings = [_first_of(texts) for texts in self.doubts.values()]
        problems = list(self.problems)
        notes: list[str] = []
        if self.labelled:
            self._doubt_classes(problems, warnings, notes)
        warnings += self.unused
        if self.hidden:
            notes.append(
                f"{self.hidden} names with a dot in front or of the system are passed over"
            )
        return DataReport(
            split=self.split,
            images=self.sizes.total(),
            labelled=self.labelled,
            classes=self.classes,
            pixels=self.pixels,
            ignored=self.ignored,
            sizes=dict(self.sizes),
            problems=problems,
            warnings=warnings,
            notes=notes,
        )

    def to_json(self) -> dict[str, Any]:
        """What ``restore`` takes, as plain JSON."""
        return {
            "problems": self.problems,
            "doubts": self.doubts,
            "sizes": [[*size, count] for size, count in self.sizes.items()],
            "pixels": self.counts.pixels.tolist(),
            "masks": [self.counts.masks, self.counts.edged],
            "first_mask": self.first_mask,
            "unused": self.unused,
            "hidden": self.hidden,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: what is no such thing.
        """
        self.problems, self.doubts = list(state["problems"]), dict(state["doubts"])
        self.sizes = Counter({(h, w): count for h, w, count in state["sizes"]})
        self.counts = LabelCounts(np.array(state["pixels"], np.int64), *state["masks"])
        self.first_mask = state["first_mask"]
        self.unused, self.hidden = list(state["unused"]), int(state["hidden"])

    @property
    def pixels(self) -> np.ndarray:
        """(num_classes,) int64 by train id."""
        return self.counts.pixels[: self.classes.num_classes]

    @property
    def ignored(self) -> int:
        """Pixels of no class."""
        return int(self.counts.pixels[IGNORE])

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
        image, labels, unknown = read_pair(sample.image, sample.label, self.classes, self._tell)
        check_jpeg(sample.image)
        size = image.shape[:2]
        self.sizes[size] += 1
        if size != labels.shape:
            self.problems.append(f"{sample.label}: is {labels.shape}, its image {size} (H, W)")
        if unknown:
            share = 100 * (labels == BAD).mean()
            self.problems.append(f"{sample.label}: {share:.2f} % of its pixels have {unknown}")
        if not any(self.classes.chosen_colors):
            _compare_palettes(sample.label, self._palettes, self.classes, self._tell)
        counts = LabelCounts.of(np.bincount(labels.ravel(), minlength=256))
        self.counts += counts
        if counts.masks and self.first_mask is None:
            self.first_mask = str(sample.label)
        return image, labels if size == labels.shape else None

    def _tell(self, kind: str, path: Path, text: str) -> None:
        self.doubts.setdefault(kind, []).append(f"{path}: {text}")

    def _doubt_classes(self, problems: list[str], warnings: list[str], notes: list[str]) -> None:
        """Adds what the classes' pixels say of labels that may mean something else."""
        classes, pixels, counts = self.classes, self.pixels, self.counts
        absences = self.sizes and never_occurring(classes, pixels, self.ignored)
        if absences:
            if pixels.any():
                (notes if classes in PUBLISHED else warnings).append(absences)
            else:
                # A benchmark's test labels hide the classes.
                (warnings if self.split.startswith("test") else problems).append(absences)
        if classes.num_classes == 1:
            warnings.append(ONE_CLASS)
        if doubt := counts.mask_doubt(classes):
            warnings.append(
                f"{self.first_mask}: has 0 and 255 alone ({counts.masks} such labels), {doubt}"
            )


def write_data_shard(path: str | Path, shard: Shard, splits: Sequence[Findings]) -> None:
    """Writes what was found in a part of some splits, for ``merge_data_shards``.

    Args:
        path: of the file.
        shard: the part.
        splits: what was found in each.

    Raises:
        KsegError: it cannot be written.
    """
    job = {
        "dataset": [found.dataset for found in splits],
        "split": [found.split for found in splits],
        "labelled": [found.labelled for found in splits],
        "names": [found.names for found in splits],
        "classes": [dataclasses.asdict(found.classes) for found in splits],
        "kseg": __version__,
    }
    ShardFile(Path(path), "data", shard, job, {"splits": [f.to_json() for f in splits]}).write()


def merge_data_shards(shards: Sequence[ShardFile]) -> list[DataReport]:
    """The reports of some splits from all parts, as one process would make them.

    Args:
        shards: of ``read_shards``.

    Raises:
        KsegError: a file that is damaged.
    """
    job, place = shards[0].job, shards[0]
    fields = ("dataset", "split", "labelled", "classes", "names")
    reports = []
    try:
        for number, facts in enumerate(zip(*(job[field] for field in fields), strict=True)):
            dataset, split, labelled, classes, names = facts
            table = ClassTable.from_json(classes)
            whole = Findings(dataset, split, labelled, table, names)
            for place in shards:
                part = Findings(dataset, split, labelled, table, names)
                part.restore(place.found["splits"][number])
                whole.merge(part)
            reports.append(whole.report())
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise place.damaged() from error
    return reports


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
