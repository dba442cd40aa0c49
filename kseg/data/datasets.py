"""Data sets on disk: which image belongs to which label, and how to read both."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kseg.data.classes import ClassTable, LabelCounts
from kseg.data.finding import LAYOUTS, Pairs, Sample, find_pairs, joined_names
from kseg.data.fingerprint import file_digests, joint_digest
from kseg.data.reading import (
    Tell,
    image_size,
    orientation_of,
    read_image,
    read_instances,
    read_label,
    read_pair,
    upright_label,
    warn_once,
)
from kseg.data.shards import Shard
from kseg.errors import KsegError
from kseg.files import check_not_input


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One split of a data set.

    Attributes:
        name, split: as given to ``open_dataset``.
        classes: names, colours and ids.
        samples: in the order of their names.
        size: (H, W) of the images, to choose defaults by: as published, or what all of
            the split have; None where they are mixed.
        root: the folder; warnings are given once for each.
    """

    name: str
    split: str
    classes: ClassTable
    samples: tuple[Sample, ...]
    size: tuple[int, int] | None
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the samples."""
        return tuple(sample.name for sample in self.samples)

    def labelled(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """An image (H, W, 3) uint8 and its train ids (H, W) uint8, both upright.

        Raises:
            KsegError: no label, or a size other than the image's, besides what
                ``read_image`` and ``read_label`` raise.
        """
        if sample.label is None:
            raise KsegError(f"{sample.image}: has no label; use a split with labels")
        image, label, unknown = read_pair(sample.image, sample.label, self.classes, self._tell)
        if unknown:
            raise KsegError(f"{sample.label}: has {unknown}")
        if image.shape[:2] != label.shape:
            raise KsegError(
                f"{sample.label}: is {label.shape[0]}x{label.shape[1]} but its image is "
                f"{image.shape[0]}x{image.shape[1]} (HxW); `kseg check-data` lists all such pairs"
            )
        return image, label

    def label(self, sample: Sample) -> np.ndarray:
        """(H, W) uint8: the label that ``labelled`` gives, without decoding the image.

        Raises:
            KsegError: no label, an image without a header, or what ``read_label`` raises.
        """
        if sample.label is None:
            raise KsegError(f"{sample.image}: has no label; use a split with labels")
        label = read_label(sample.label, self.classes, self._tell)
        orientation, size = orientation_of(sample.image)
        if orientation == 1:
            return label
        return upright_label(label, orientation, size, sample.image, self._tell)

    def fingerprint(self) -> str:
        """32 hexadecimal digits that stand for names, classes and the bytes of every file.

        It is the same for a copy of the data set elsewhere, and another when an image, a
        label, a file of instances or classes.txt was corrected, whatever size and time the
        file has. All files are read for it, once in a process.
        """
        files = [(s.image, s.label, s.instances) for s in self.samples]
        digests = iter(file_digests(path for paths in files for path in paths if path))
        parts = [repr(dataclasses.astuple(self.classes))]
        for sample, paths in zip(self.samples, files, strict=True):
            parts += [sample.name, *(next(digests) if path else "" for path in paths)]
        return joint_digest(parts)

    @property
    def _tell(self) -> Tell:
        return functools.partial(warn_once, f"{self.name} {self.split} {self.root}")

    @property
    def has_instances(self) -> bool:
        """Whether every sample has a file of instances."""
        return all(sample.instances for sample in self.samples)

    def instances(self, sample: Sample, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint16: file id * 1000 + number; 1000 and below belongs to no instance.

        Args:
            sample: one with a file of instances.
            size: (H, W) of its label.

        Raises:
            KsegError: another size, no such file, or what ``read_instances`` raises.
        """
        if sample.instances is None:
            raise KsegError(f"{sample.image}: has no file of instances")
        instances = read_instances(sample.instances)
        if instances.shape != size:
            raise KsegError(
                f"{sample.instances}: is {instances.shape[0]}x{instances.shape[1]} but its "
                f"label is {size[0]}x{size[1]} (HxW); make it again from the same polygons"
            )
        return instances

    def some(self, count: int) -> DataSet:
        """``count`` samples (all, if there are fewer), evenly spread over the split."""
        if count < 1:
            raise KsegError(f"{count} images are asked for; at least 1 is needed")
        places = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        return dataclasses.replace(self, samples=tuple(self.samples[i] for i in places))

    def part(self, shard: Shard) -> DataSet:
        """The samples of one of several parts; it may have none."""
        return dataclasses.replace(self, samples=shard.of(self.samples))

    def images(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 each, without their labels."""
        for sample in self.samples:
            yield read_image(sample.image, self._tell)

    def class_pixels(self, *, skip_bad: bool = False) -> np.ndarray:
        """(num_classes,) int64: pixels of every class over all labels.

        Args:
            skip_bad: leaves labels out that ``read_label`` refuses.
        """
        return self.label_counts(skip_bad=skip_bad).pixels[: self.classes.num_classes]

    def label_counts(self, *, skip_bad: bool = False) -> LabelCounts:
        """As ``class_pixels``, with the ignored ones and what they stand beside."""
        return sum(map(LabelCounts.of, self.sample_pixels(skip_bad=skip_bad)), LabelCounts())

    def sample_pixels(self, *, skip_bad: bool = False) -> np.ndarray:
        """(N, 256) int64: by sample, as ``LabelCounts.pixels``; zeros where there is no label."""
        counts = np.zeros((len(self), 256), np.int64)
        for row, sample in zip(counts, self.samples, strict=True):
            if sample.label is None:
                continue
            try:
                label = read_label(sample.label, self.classes, self._tell)
            except KsegError:
                if skip_bad:
                    continue
                raise
            row[:] = np.bincount(label.ravel(), minlength=256)
        return counts


def list_datasets() -> list[str]:
    """Names that ``open_dataset`` knows, sorted."""
    return sorted(LAYOUTS)


def open_dataset(name: str, folder: str | Path | None, split: str) -> DataSet:
    """The samples of one split; other splits may be absent.

    Args:
        name: a name of ``list_datasets()``. "folder" is any folder with
            ``images/SPLIT/**``, ``labels/SPLIT/**`` (``kseg.data.reading.read_label``) of the
            same names below, and ``classes.txt`` (``kseg.data.class_files.read_classes``).
        folder: its root (for VOC the one with ``JPEGImages``); None takes
            CITYSCAPES_DATASET for Cityscapes.
        split: "train", "val" or "test"; "train_extra" of Cityscapes' coarse labels;
            "trainval" and "trainaug" of VOC. "train+val" has the samples of both.

    Files that look like data and are not used are said once, as a KsegWarning.

    Raises:
        KsegError: an unknown name, a missing folder, no images, an image without a
            label where the split has labels, a bad classes.txt, a split named twice.
    """
    if not isinstance(split, str):
        raise KsegError(f"split is {split!r}; it must be a name such as 'train' or 'train+val'")
    parts = split.split("+")
    if len(set(parts)) < len(parts):
        raise KsegError(f"split {split!r} names a part twice; name each once")
    found = [find_pairs(name, folder, part) for part in parts]
    by_part = [(part, s) for part, pairs in zip(parts, found, strict=True) for s in _all(pairs)]
    samples = tuple(sample for _, sample in by_part)
    if len({sample.name for sample in samples}) < len(samples):
        names = joined_names((part, sample.name) for part, sample in by_part)
        samples = tuple(
            dataclasses.replace(sample, name=name)
            for name, sample in zip(names, samples, strict=True)
        )
    for part, pairs in zip(parts, found, strict=True):
        _warn_of_unused(f"{name} {part} {pairs.root}", pairs)
    size = LAYOUTS[name].size or _common_size(samples)
    return DataSet(name, split, found[0].classes, samples, size, found[0].root)


def check_outputs(
    outputs: Iterable[str | Path | None],
    inputs: Iterable[str | Path | None] = (),
    data: Iterable[DataSet] = (),
) -> None:
    """Before any work: outputs must not be inputs, nor lie among the files of a data set.

    Args:
        outputs, inputs: files and folders, None is left out.
        data: what is read of data sets.

    Raises:
        KsegError: as of ``kseg.files.check_not_input``.
    """
    files: set[Path] = set()
    folders: set[Path] = set()
    for split in data:
        for sample in split.samples:
            read = [path for path in (sample.image, sample.label, sample.instances) if path]
            files.update(read)
            folders.update(path.parent for path in read)
        if split.root:
            # The folders with images and labels in or below them, and lists beside them.
            below = [
                path.relative_to(split.root) for path in files if path.is_relative_to(split.root)
            ]
            folders.update(split.root / path.parts[0] for path in below if len(path.parts) > 1)
            files.update([split.root, *split.root.glob("*.txt")])
    check_not_input(outputs, [*inputs, *files], folders)


def _all(pairs: Pairs) -> list[Sample]:
    if pairs.unlabelled and pairs.samples:
        raise KsegError(
            f"{pairs.unlabelled[0].image}: has no label in {pairs.labels} "
            f"({len(pairs.unlabelled)} such images); `kseg check-data` lists them"
        )
    return pairs.samples or pairs.unlabelled  # a test split may come without any labels


# What programs for labelling, and people, put beside images.
_NOTES = (".csv", ".json", ".md", ".txt", ".xml", ".yaml", ".yml")


def _warn_of_unused(place: str, pairs: Pairs) -> None:
    tell = functools.partial(warn_once, place, more="; `kseg check-data` lists them")
    unused = [path for path in pairs.unused_images if path.suffix.lower() not in _NOTES]
    if unused:
        tell("unused", unused[0], f"is not used ({len(unused)} such files)")
    if pairs.samples and pairs.imageless:
        tell("imageless", pairs.imageless[0], f"has no image ({len(pairs.imageless)} such labels)")


def _common_size(samples: Sequence[Sample]) -> tuple[int, int] | None:
    """(H, W) where all images have it, by their headers."""
    sizes = set()
    for sample in samples:
        try:
            sizes.add(image_size(sample.image))
        except KsegError:  # who reads the image will say so
            return None
        if len(sizes) > 1:
            return None
    return sizes.pop()
