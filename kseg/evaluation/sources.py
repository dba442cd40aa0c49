"""What a user names to be segmented: images, folders, patterns, videos and a camera."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable
from pathlib import Path

from kseg import shipped
from kseg.data.finding import IMAGE_SUFFIXES, FolderFiles
from kseg.errors import KsegError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
CAMERA, SAMPLE = "camera", "sample"


@dataclasses.dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: of the file or the device.
        name: of what is written for it, below the folder for that; without a suffix.
        is_video: whether it has many frames.
    """

    path: Path
    name: str
    is_video: bool = False


def find_sources(names: Iterable[str | Path]) -> list[Source]:
    """Images and videos, in the order of the names and within a folder or pattern sorted.

    Args:
        names: of files; folders, of which all images and videos below are taken, behind links
            too, but nothing whose name begins with a dot; patterns as of ``glob`` ("**" too);
            "sample", the drawn street that kseg ships; "camera", the first one of Linux.
            What exists under such a name goes before.

    Raises:
        KsegError: a folder without images, or a pattern that nothing fits.
    """
    return [source for name in names for source in _found(str(name))]


def _found(name: str) -> list[Source]:
    path = Path(name)
    if path.is_dir():
        kinds = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        found = FolderFiles(path).left
        files = [file for file in found if file.suffix.lower() in kinds and file.is_file()]
        if not files:
            raise KsegError(f"{path}: has no images or videos ({', '.join(kinds)})")
        return [_source(file, file.relative_to(path)) for file in files]
    if path.exists():
        return [_source(path, Path(path.name))]
    if name == SAMPLE:
        return [_source(shipped.SAMPLE, Path(shipped.SAMPLE.name))]
    if name == CAMERA:
        return [Source(Path("/dev/video0"), CAMERA, is_video=True)]
    if glob.has_magic(name):
        files = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not files:
            raise KsegError(f"{name}: no file fits this pattern")
        return [_source(file, Path(file.name)) for file in files]
    # Reading it says what is wrong.
    return [_source(path, Path(path.name))]


def _source(path: Path, name: Path) -> Source:
    return Source(path, name.with_suffix("").as_posix(), path.suffix.lower() in VIDEO_SUFFIXES)
