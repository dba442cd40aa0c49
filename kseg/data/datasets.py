"""Data sets on disk: which image belongs to which label, and how to read both."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from kseg.data.classes import BAD, CAMVID, CITYSCAPES, VOC, ClassTable, read_classes
from kseg.errors import KsegError

_IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image, its label, its instances; ``name`` is unique and fit for a file name."""

    name: str
    image: Path
    label: Path | None
    instances: Path | None = None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One split of a data set.

    Attributes:
        name, split: as given to ``open_dataset``.
        classes: names, colours and ids.
        samples: in the order of their names.
        size: (H, W) of the images, to choose defaults by: as published, or what all of
            the split have; None where they are mixed.
    """

    name: str
    split: str
    classes: ClassTable
    samples: tuple[Sample, ...]
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the samples."""
        return tuple(sample.name for sample in self.samples)

    def labelled(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """An image (H, W, 3) uint8 and its train ids (H, W) uint8.

        Raises:
            KsegError: no label, or a size other than the image's, besides what
                ``read_image`` and ``read_label`` raise.
        """
        if sample.label is None:
            raise KsegError(f"{sample.image}: has no label; use a split with labels")
        image = read_image(sample.image)
        label = read_label(sample.label, self.classes)
        if image.shape[:2] != label.shape:
            raise KsegError(
                f"{sample.label}: is {label.shape[0]}x{label.shape[1]} but its image is "
                f"{image.shape[0]}x{image.shape[1]} (HxW); `kseg check-data` lists all such pairs"
            )
        return image, label

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
            KsegError: another size, or what ``read_instances`` raises.
        """
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

    def images(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 each, without their labels."""
        for sample in self.samples:
            yield read_image(sample.image)

    def class_pixels(self, *, skip_bad: bool = False) -> np.ndarray:
        """(num_classes,) int64: pixels of every class over all labels.

        Args:
            skip_bad: leaves labels out that ``read_label`` refuses.
        """
        counts = np.zeros(256, np.int64)
        for sample in self.samples:
            if sample.label is None:
                continue
            try:
                label = read_label(sample.label, self.classes)
            except KsegError:
                if skip_bad:
                    continue
                raise
            counts += np.bincount(label.ravel(), minlength=256)
        return counts[: self.classes.num_classes]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        KsegError: missing, damaged, or of more than 8 bits a channel.
    """
    with _opened(path) as image:
        # Pillow cuts these off at 255.
        if image.mode.startswith(("I", "F")):
            raise KsegError(f"{path}: is an image of mode {image.mode}; images are 8-bit")
        return np.asarray(image.convert("RGB"))


def read_ids(path: Path) -> np.ndarray:
    """(H, W) uint8: the ids of a label file as they stand there.

    Raises:
        KsegError: missing, damaged, or in colours instead of ids.
    """
    with _opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise KsegError(f"{path}: is a label of mode {image.mode}; labels are 8-bit ids")
        return np.asarray(image).astype(np.uint8, copy=False)


def read_label(path: Path, classes: ClassTable) -> np.ndarray:
    """(H, W) uint8 train ids, 255 ignored.

    Raises:
        KsegError: an id that the data set does not have, or what ``read_ids`` raises.
    """
    ids = read_ids(path)
    label = classes.label_table().take(ids)  # faster than an index
    if (label == BAD).any():
        bad = sorted(set(ids[label == BAD].tolist()))
        raise KsegError(
            f"{path}: has ids {bad} that the data set does not know; "
            "correct them or map them to 255"
        )
    return label


def read_instances(path: Path) -> np.ndarray:
    """(H, W) uint16: the ids of a file of instances as they stand there.

    Raises:
        KsegError: missing, damaged, or not of 16 bits.
    """
    with _opened(path) as image:
        if image.mode not in ("I;16", "I", "L"):
            raise KsegError(f"{path}: is of mode {image.mode}; instances are 16-bit ids")
        return np.asarray(image).astype(np.uint16, copy=False)


class _opened:
    """A Pillow image, its data read, with every failure turned into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Image.Image:
        try:
            self._image = Image.open(self.path)
            self._image.load()
        except FileNotFoundError:
            raise KsegError(f"{self.path}: no such file") from None
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error
            raise KsegError(f"{self.path}: not a readable image ({error}); replace it") from error
        return self._image

    def __exit__(self, *_error) -> None:
        self._image.close()


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where a data set keeps its files.

    Attributes:
        classes: names, colours, ids; None for those in the folder's classes.txt.
        size: (H, W) of the published images; None is what the files say.
        images, labels: folder of a split.
        image_suffixes, label_suffixes: what a file's name ends with; what stands before
            it, below the folder, pairs an image with its label.
        instance_suffixes: of the files of instances beside the labels, if there are any.
        more_labels: folder of a split to take labels from instead, where it exists.
        listing: file with the names of a split; without it they are all in the folder.
        environment: variable with the default folder.
    """

    classes: ClassTable | None
    size: tuple[int, int] | None
    images: Callable[[str], str]
    labels: Callable[[str], str]
    image_suffixes: tuple[str, ...] = _IMAGE_SUFFIXES
    label_suffixes: tuple[str, ...] = (".png",)
    instance_suffixes: tuple[str, ...] = ()
    more_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    listing: Callable[[str], str] | None = None
    environment: str = ""


_CITYSCAPES = _Layout(
    classes=CITYSCAPES,
    size=(1024, 2048),
    images="leftImg8bit/{}".format,
    labels="gtFine/{}".format,
    image_suffixes=tuple(f"_leftImg8bit{suffix}" for suffix in (".png", ".jpg")),
    label_suffixes=("_gtFine_labelIds.png",),
    instance_suffixes=("_gtFine_instanceIds.png",),
    environment="CITYSCAPES_DATASET",
)

_LAYOUTS: dict[str, _Layout] = {
    "camvid": _Layout(classes=CAMVID, size=(360, 480), images="{}".format, labels="{}annot".format),
    "cityscapes": _CITYSCAPES,
    "cityscapes_coarse": dataclasses.replace(
        _CITYSCAPES,
        labels="gtCoarse/{}".format,
        label_suffixes=("_gtCoarse_labelIds.png",),
        instance_suffixes=(),
    ),
    "folder": _Layout(
        classes=None, size=None, images="images/{}".format, labels="labels/{}".format
    ),
    # kseg.streets draws these.
    "streets": dataclasses.replace(_CITYSCAPES, size=None, environment=""),
    "voc": _Layout(
        classes=VOC,
        size=None,
        images=lambda split: "JPEGImages",
        labels=lambda split: "SegmentationClass",
        image_suffixes=(".jpg",),
        # The labels of SBD (Hariharan et al., ICCV 2011), which papers add to VOC's
        more_labels={"trainaug": "SegmentationClassAug"},
        listing="ImageSets/Segmentation/{}.txt".format,
    ),
}


def list_datasets() -> list[str]:
    """Names that ``open_dataset`` knows, sorted."""
    return sorted(_LAYOUTS)


def _find_layout(name: str) -> _Layout:
    if name not in _LAYOUTS:
        raise KsegError(f"unknown data set {name!r}; kseg knows {', '.join(list_datasets())}")
    return _LAYOUTS[name]


def open_dataset(name: str, folder: str | Path | None, split: str) -> DataSet:
    """The samples of one split; other splits may be absent.

    Args:
        name: a name of ``list_datasets()``. "folder" is any folder with
            ``images/SPLIT/**``, ``labels/SPLIT/**`` (8-bit ids, 255 ignored) of the same
            names below, and ``classes.txt`` (``kseg.data.classes.read_classes``).
        folder: its root (for VOC the one with ``JPEGImages``); None takes
            CITYSCAPES_DATASET for Cityscapes.
        split: "train", "val" or "test"; "train_extra" of Cityscapes' coarse labels;
            "trainval" and "trainaug" of VOC. "train+val" has the samples of both.

    Raises:
        KsegError: an unknown name, a missing folder, no images, an image without a
            label where the split has labels, a bad classes.txt, a split named twice.
    """
    parts = split.split("+")
    if len(set(parts)) < len(parts):
        raise KsegError(f"split {split!r} names a part twice; name each once")
    found = [find_pairs(name, folder, part) for part in parts]
    samples = tuple(sample for pairs in found for sample in _labelled(pairs))
    if len({sample.name for sample in samples}) < len(samples):
        samples = tuple(
            dataclasses.replace(sample, name=f"{part}_{sample.name}")
            for part, pairs in zip(parts, found, strict=True)
            for sample in _labelled(pairs)
        )
    size = _LAYOUTS[name].size or _common_size(samples)
    return DataSet(name, split, found[0].classes, samples, size)


def _labelled(pairs: Pairs) -> list[Sample]:
    if pairs.unlabelled and pairs.samples:
        raise KsegError(
            f"{pairs.unlabelled[0].image}: has no label in {pairs.labels} "
            f"({len(pairs.unlabelled)} such images); `kseg check-data` lists them"
        )
    return pairs.samples or pairs.unlabelled  # a test split may come without any labels


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Files of a split: samples, images without a label, labels without an image."""

    classes: ClassTable
    images: Path
    labels: Path
    samples: list[Sample]
    unlabelled: list[Sample]
    imageless: list[Path]


def find_pairs(name: str, folder: str | Path | None, split: str) -> Pairs:
    """Images and labels of a split, matched by name.

    Raises:
        KsegError: an unknown name, a missing folder, no images, a bad classes.txt.
    """
    layout = _find_layout(name)
    folder = folder or os.environ.get(layout.environment)
    if not folder:
        way = f" or set {layout.environment}" if layout.environment else ""
        raise KsegError(f"{name} needs a folder; give --data-dir{way}")
    images = Path(folder, layout.images(split))
    labels = Path(folder, layout.labels(split))
    if split in layout.more_labels and Path(folder, layout.more_labels[split]).is_dir():
        labels = Path(folder, layout.more_labels[split])
    if not images.is_dir():
        raise KsegError(
            f"{images}: no such folder; {name} keeps the images of split {split!r} there"
        )
    classes = layout.classes or read_classes(Path(folder, "classes.txt"))
    image_files = _files(images, layout.image_suffixes)
    label_files = _files(labels, layout.label_suffixes)
    instance_files = _files(labels, layout.instance_suffixes)
    if layout.listing:
        listing = Path(folder, layout.listing(split))
        listed = _read_listing(listing, name, split)
        if absent := [key for key in listed if key not in image_files]:
            raise KsegError(
                f"{listing}: lists {absent[0]!r}, which {images} does not have "
                f"({len(absent)} such names)"
            )
        image_files = {key: image_files[key] for key in listed}
        label_files = {key: label_files[key] for key in listed if key in label_files}
    if not image_files:
        raise KsegError(f"{images}: has no images ({', '.join(layout.image_suffixes)})")
    names = {key: key.rpartition("/")[2] for key in image_files}
    if len(set(names.values())) < len(names):
        names = {key: key.replace("/", "_") for key in image_files}
    samples = [
        Sample(names[key], path, label_files.get(key), instance_files.get(key))
        for key, path in image_files.items()
    ]
    return Pairs(
        classes=classes,
        images=images,
        labels=labels,
        samples=[sample for sample in samples if sample.label],
        unlabelled=[sample for sample in samples if not sample.label],
        imageless=[path for key, path in label_files.items() if key not in image_files],
    )


def _read_listing(path: Path, name: str, split: str) -> list[str]:
    """The names in the file, sorted: the first word of a line, less folder and suffix."""
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        raise KsegError(
            f"{path}: no such file; {name} lists the images of split {split!r} there"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KsegError(f"{path}: cannot be read as text ({error})") from error
    # Lists of trainaug that go round name both files of a pair.
    return sorted({Path(line.split()[0]).stem for line in lines if line.strip()})


def _common_size(samples: list[Sample]) -> tuple[int, int] | None:
    """(H, W) where all images have it, by their headers."""
    sizes = set()
    for sample in samples:
        try:
            with Image.open(sample.image) as image:
                sizes.add((image.height, image.width))
        except Exception:  # as in _opened; who reads the image will say so
            return None
        if len(sizes) > 1:
            return None
    return sizes.pop()


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Every file with one of the suffixes by its relative name without it, sorted.

    Raises:
        KsegError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = next((s for s in suffixes if path.name.endswith(s)), None)
        if suffix is None or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix().removesuffix(suffix)
        if name in found:
            raise KsegError(f"{path}: has the name of {found[name].name}; remove one or rename it")
        found[name] = path
    return found
