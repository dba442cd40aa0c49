"""Which files a data set consists of: layouts, folders, lists, and images with their labels."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from kseg.data.class_files import read_classes
from kseg.data.classes import CAMVID, CITYSCAPES, VOC, ClassTable
from kseg.errors import KsegError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".bmp", ".gif", ".png", ".tif", ".tiff", ".webp")
"""Of what can be lossless; a label's content is looked at when it is read."""

# Found where there is no other label, to be refused by name when they are read.
_LOSSY_SUFFIXES = (".jpeg", ".jpg")
# What systems put beside users' files.
_SYSTEM_NAMES = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")


class MissingSplit(KsegError):
    """The folder of a split's images, or the list of their names, is absent."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image, its label, its instances; ``name`` is unique and fit for a file name."""

    name: str
    image: Path
    label: Path | None
    instances: Path | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files.

    Attributes:
        classes: names, colours, ids; None for those in the folder's classes.txt.
        size: (H, W) of the published images; None is what the files say.
        images, labels: folder of a split.
        image_ending, label_ending: what a file's name has before its suffix; what stands
            before that, below the folder, pairs an image with its label.
        instance_ending: of the files of instances beside the labels, None without any.
        companions: endings, with suffix, of files that belong there and are not used.
        more_labels: folder of a split to take labels from instead, where it exists.
        listing: file with the names of a split; without it they are all in the folder.
        environment: variable with the default folder.
    """

    classes: ClassTable | None
    size: tuple[int, int] | None
    images: Callable[[str], str]
    labels: Callable[[str], str]
    image_ending: str = ""
    label_ending: str = ""
    instance_ending: str | None = None
    companions: tuple[str, ...] = ()
    more_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    listing: Callable[[str], str] | None = None
    environment: str = ""


def _cityscapes(kind: str, instances: bool) -> Layout:
    companions = ("color.png", "polygons.json", "instanceIds.png", "instanceTrainIds.png")
    return Layout(
        classes=CITYSCAPES,
        size=(1024, 2048),
        images="leftImg8bit/{}".format,
        labels=f"{kind}/{{}}".format,
        image_ending="_leftImg8bit",
        label_ending=f"_{kind}_labelIds",
        instance_ending=f"_{kind}_instanceIds" if instances else None,
        companions=tuple(f"_{kind}_{name}" for name in (*companions, "labelTrainIds.png")),
        environment="CITYSCAPES_DATASET",
    )


LAYOUTS: dict[str, Layout] = {
    "camvid": Layout(classes=CAMVID, size=(360, 480), images="{}".format, labels="{}annot".format),
    "cityscapes": _cityscapes("gtFine", instances=True),
    "cityscapes_coarse": _cityscapes("gtCoarse", instances=False),
    "folder": Layout(classes=None, size=None, images="images/{}".format, labels="labels/{}".format),
    # kseg.streets draws these.
    "streets": dataclasses.replace(
        _cityscapes("gtFine", instances=True), size=None, environment=""
    ),
    "voc": Layout(
        classes=VOC,
        size=None,
        images=lambda split: "JPEGImages",
        labels=lambda split: "SegmentationClass",
        # The labels of SBD (Hariharan et al., ICCV 2011), which papers add to VOC's
        more_labels={"trainaug": "SegmentationClassAug"},
        listing="ImageSets/Segmentation/{}.txt".format,
    ),
}


def find_layout(name: str) -> Layout:
    """Raises KsegError for an unknown name."""
    if name not in LAYOUTS:
        raise KsegError(f"unknown data set {name!r}; kseg knows {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Files of a split.

    Attributes:
        classes: names, colours and ids.
        root: of the data set.
        images, labels: folders.
        samples, unlabelled: images with and without a label.
        imageless: labels without an image.
        unused_images, unused_labels: files that are neither, in both folders; what a list
            leaves out is not among them.
        hidden: how many dot-files and files of the system were passed over.
    """

    classes: ClassTable
    root: Path
    images: Path
    labels: Path
    samples: list[Sample]
    unlabelled: list[Sample]
    imageless: list[Path]
    unused_images: list[Path]
    unused_labels: list[Path]
    hidden: int


def find_pairs(name: str, folder: str | Path | None, split: str) -> Pairs:
    """Images and labels of a split, matched by name.

    Suffixes count in any case, linked folders are followed, names with a dot in front are
    passed over. Accents may be written as macOS writes them in one folder and not in the
    other: names are in Unicode's composed form (NFC). What is no file, such as a named pipe,
    is not used.

    Raises:
        MissingSplit: the folder has no such split.
        KsegError: an unknown name, no images, two files of one name, a bad classes.txt, a name
            in a list that is no image's.
    """
    layout = find_layout(name)
    folder = folder or os.environ.get(layout.environment)
    if not folder:
        way = f" or set {layout.environment}" if layout.environment else ""
        raise KsegError(f"{name} needs the folder of its files; give data_dir{way}")
    images = Path(folder, layout.images(split))
    labels = Path(folder, layout.labels(split))
    if split in layout.more_labels and Path(folder, layout.more_labels[split]).is_dir():
        labels = Path(folder, layout.more_labels[split])
    if not images.is_dir():
        raise MissingSplit(
            f"{images}: no such folder; {name} keeps the images of split {split!r} there"
        )
    classes = layout.classes or read_classes(Path(folder, "classes.txt"))
    in_images, in_labels = FolderFiles(images), FolderFiles(labels)
    image_files = in_images.take(layout.image_ending, IMAGE_SUFFIXES)
    label_files = in_labels.take(layout.label_ending, LABEL_SUFFIXES)
    lossy_files = in_labels.take(layout.label_ending, _LOSSY_SUFFIXES, but=label_files)
    label_files |= lossy_files
    instance_files = {}
    if layout.instance_ending is not None:
        instance_files = in_labels.take(layout.instance_ending, (".png",))
    in_labels.take("", layout.companions)
    if layout.listing:
        listing = Path(folder, layout.listing(split))
        listed = _read_listing(listing, name, split, images, image_files)
        image_files = {key: image_files[key] for key in listed}
        label_files = {key: label_files[key] for key in listed if key in label_files}
    if not image_files:
        others = f"; {in_images.left[0].name} is none of them" if in_images.left else ""
        raise KsegError(f"{images}: has no images ({', '.join(IMAGE_SUFFIXES)}){others}")
    names = [key.rpartition("/")[2] for key in image_files]
    if len(set(names)) < len(names):
        names = joined_names([key.split("/") for key in image_files])
    samples = [
        Sample(
            name,
            _only(image_files[key]),
            _only(label_files[key]) if key in label_files else None,
            _only(instance_files[key]) if key in instance_files else None,
        )
        for name, key in zip(names, image_files, strict=True)
    ]
    return Pairs(
        classes=classes,
        root=Path(folder),
        images=images,
        labels=labels,
        samples=[sample for sample in samples if sample.label],
        unlabelled=[sample for sample in samples if not sample.label],
        imageless=[p for key, ps in label_files.items() if key not in image_files for p in ps],
        unused_images=[] if layout.listing else in_images.left,
        unused_labels=[] if layout.listing else in_labels.left,
        hidden=in_images.hidden + in_labels.hidden,
    )


def joined_names(paths: Iterable[Iterable[str]]) -> list[str]:
    """One file name for each path of several parts, no two the same.

    Raises:
        KsegError: no separator tells all of them apart.
    """
    paths = [list(path) for path in paths]
    names: list[str] = []
    for separator in ("_", "__", "--", "+", "=", "~"):
        names = [separator.join(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    first: dict[str, str] = {}
    for name, path in zip(names, map("/".join, paths), strict=True):
        if name in first:
            raise KsegError(f"{first[name]} and {path} have one name as files; rename one")
        first[name] = path
    raise AssertionError("unreachable: two names are the same")


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise KsegError(f"{paths[1]}: has the name of {paths[0].name}; remove one or rename it")
    return paths[0]


class FolderFiles:
    """The files below a folder, of which those that have a use are taken one kind at a time.

    Linked folders are followed, names with a dot in front and those of the system are not.

    Attributes:
        left: files that nobody took, sorted.
        hidden: how many were passed over for their names.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hidden = 0
        self.left = sorted(self._walk(folder, ())) if folder.is_dir() else []

    def _walk(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """Files below a folder, and links that would lead round, which are not followed."""
        try:
            above = (*above, folder.resolve())
            entries = list(os.scandir(folder))
        except OSError as error:
            raise KsegError(f"{folder}: cannot be listed ({error.strerror})") from error
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                self.hidden += 1
            elif not _is_folder(entry) or (entry.is_symlink() and _is_loop(path, above)):
                yield path
            else:
                yield from self._walk(path, above)

    def take(
        self, ending: str, suffixes: tuple[str, ...], but: Iterable[str] = ()
    ) -> dict[str, list[Path]]:
        """Files by relative name, NFC, without ending and suffix (in any case), sorted.

        Args:
            ending: before the suffix.
            suffixes: with their dot.
            but: names that stay.
        """
        found: dict[str, list[Path]] = {}
        left = []
        endings = tuple(f"{ending}{suffix}".lower() for suffix in suffixes)
        start = len(self._folder.as_posix()) + 1
        for path in self.left:
            lower = path.name.lower()
            suffix = next((e for e in endings if lower.endswith(e)), None)
            key = None if suffix is None else path.as_posix()[start:][: -len(suffix)]
            key = None if key is None else unicodedata.normalize("NFC", key)
            # Reading from a pipe would wait for somebody to write.
            if key is None or key in but or (not path.is_file() and path.exists()):
                left.append(path)
            else:
                _check_name(path)
                found.setdefault(key, []).append(path)
        self.left = left
        return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise KsegError(
            f"{str(path)!a}: the name is not UTF-8, so no index or score can hold it; rename it"
        ) from None


def _is_loop(link: Path, above: tuple[Path, ...]) -> bool:
    """Whether a link leads to a folder that one of those above it is, or is in."""
    target = link.resolve()
    return any(folder.is_relative_to(target) for folder in above)


def _read_listing(
    path: Path, name: str, split: str, images: Path, files: Mapping[str, object]
) -> list[str]:
    """The keys in ``files`` of the images that a list names, sorted.

    A line is an image's name as it is, with dots and spaces, or its file with folder and
    suffix, behind which its label's file may stand, as in the lists of trainaug. Folders may
    be separated as on Windows.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise MissingSplit(
            f"{path}: no such file; {name} lists the images of split {split!r} there"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KsegError(f"{path}: cannot be read as text ({error})") from error
    keys, absent = set(), []
    for number, line in enumerate(lines, 1):
        line = unicodedata.normalize("NFC", line.strip())
        if not line:
            continue
        key = _listed(f"{path}, line {number}", line, images.name, files)
        if key is None:
            absent.append(line)
        else:
            keys.add(key)
    if absent:
        raise KsegError(
            f"{path}: lists {absent[0]!r}, which {images} does not have ({len(absent)} such names)"
        )
    if not keys:
        raise KsegError(f"{path}: lists no image; write a name a line")
    return sorted(keys)


_FILE = rf"\S.*?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"


def _listed(where: str, line: str, folder: str, files: Mapping[str, object]) -> str | None:
    """The key of one line; None where no image has the name."""
    if "\\" in line and line not in files:
        line = line.replace("\\", "/")
    key = _stem(line, folder)
    for whole in (line, key):
        if whole in files:
            return whole
    if pair := re.fullmatch(rf"(?i)({_FILE})[\s,]+({_FILE})", line):
        key, label = (_stem(file, folder) for file in pair.groups())
        if key.rpartition("/")[2] != label.rpartition("/")[2]:
            raise KsegError(
                f"{where}: pairs {pair[1]} with {pair[2]}; a label has its image's name"
            )
    return next((k for k in (key, key.rpartition("/")[2]) if k in files), None)


def _stem(file: str, folder: str) -> str:
    """A file's name below the folder of images, without a suffix that images have."""
    before, found, below = f"/{file}".rpartition(f"/{folder}/")
    file = (below if found else before + below).lstrip("/")
    suffix = next((s for s in IMAGE_SUFFIXES if file.lower().endswith(s)), "")
    return file[: len(file) - len(suffix)]
