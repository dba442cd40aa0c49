"""Label maps of images and videos as files, and as pictures over them."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kseg.data import read_image
from kseg.errors import KsegError
from kseg.evaluation.predictions import warn_of_turned
from kseg.evaluation.sources import Source
from kseg.evaluation.video import VideoReader, VideoWriter
from kseg.files import atomic_write, check_not_input, make_folder
from kseg.pictures import Color, overlay, side_by_side, spread_colors
from kseg.predictor import InferenceSettings, Predictor, predict_labels

KINDS = {"labels": "", "overlay": "_overlay", "side-by-side": "_pair"}
"""What is written, and what it adds to a source's name."""


def write_overlays(
    predictor: Predictor,
    sources: Sequence[Source],
    folder: str | Path,
    settings: InferenceSettings | None = None,
    *,
    kinds: Collection[str] = ("labels", "overlay"),
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Path]:
    """Writes NAME.png and NAME_overlay.png for every image NAME, and yields each file.

    The first has train ids in 8 bits, 255 for no class, the second the image under them
    with a legend; both have the image's size, the legend apart. Of a video they are
    NAME.mkv, which keeps every id, and NAME_overlay.mp4, whose legend has all classes.
    Ctrl-C ends a video, which then has the frames so far, and is raised again.

    Args:
        predictor: runs the network.
        sources: with different names.
        folder: is made.
        settings: of the inference, None for the defaults.
        kinds: of KINDS; "side-by-side" is the image beside its overlay.
        progress: is called with the numbers of images done and of all; within a video, of
            its frames, if the file says how many there are.

    Raises:
        KsegError: a kind that is none, two sources of one name, an image, video or network
            that fails, or a folder that cannot be written.
    """
    folder = Path(folder)
    check_overlays(sources, folder, kinds=kinds)
    make_folder(folder)
    draw = _Drawing(predictor, settings, kinds)
    for done, source in enumerate(sources):
        make_folder((folder / source.name).parent)
        if source.is_video:
            yield from draw.video(source, folder, progress)
        else:
            yield from draw.image(source, folder)
        if progress is not None and not source.is_video:
            progress(done + 1, len(sources))


class _Drawing:
    """A network's answers as arrays of every kind."""

    def __init__(
        self, predictor: Predictor, settings: InferenceSettings | None, kinds: Collection[str]
    ) -> None:
        card = predictor.card
        self._predictor, self._kinds = predictor, kinds
        self._settings = settings or InferenceSettings()
        self._names = card.class_names or tuple(f"class {i}" for i in range(card.num_classes))
        self._colors: Sequence[Color] = card.colors or spread_colors(len(self._names))

    def image(self, source: Source, folder: Path) -> Iterator[Path]:
        image = read_image(source.path)
        warn_of_turned(self._predictor, self._settings, source.path, image.shape[:2])
        pictures = self._pictures(str(source.path), image)
        for kind, name in _files(source, self._kinds).items():
            with atomic_write(folder / name) as path:
                Image.fromarray(pictures[kind]).save(path)
            yield folder / name

    def video(
        self, source: Source, folder: Path, progress: Callable[[int, int], None] | None
    ) -> Iterator[Path]:
        reader = VideoReader(source)
        names = _files(source, self._kinds)
        interrupt = None
        with contextlib.ExitStack() as stack:
            paths = {k: stack.enter_context(atomic_write(folder / n)) for k, n in names.items()}
            writers = {kind: VideoWriter(path, reader) for kind, path in paths.items()}
            try:
                for done, (image, time) in enumerate(reader):
                    name = f"{source.path}, frame {done + 1}"
                    pictures = self._pictures(name, image, range(len(self._names)))
                    for kind, writer in writers.items():
                        writer.write(pictures[kind], time)
                    if progress is not None and reader.total:
                        progress(done + 1, reader.total)
            except KeyboardInterrupt as error:
                interrupt = error
            for writer in writers.values():
                writer.close()
        yield from (folder / name for name in names.values())
        if interrupt is not None:
            raise interrupt

    def _pictures(
        self, name: str, image: np.ndarray, legend: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        try:
            labels = predict_labels(self._predictor, image, self._settings)
        except KsegError as error:
            raise KsegError(f"{name}: {error}") from error
        pictures = {"labels": labels}
        if set(self._kinds) - {"labels"}:
            pictures["overlay"] = np.asarray(
                overlay(image, labels, self._names, self._colors, legend)
            )
        if "side-by-side" in self._kinds:
            drawn = pictures["overlay"]
            below = np.full((len(drawn) - len(image), *image.shape[1:]), 255, np.uint8)
            pair = [np.concatenate([image, below]), drawn]
            pictures["side-by-side"] = np.asarray(side_by_side(pair))
        return pictures


def _files(source: Source, kinds: Collection[str]) -> dict[str, str]:
    """Names of what is written for a source, by kind."""

    def suffix(kind: str) -> str:
        if not source.is_video:
            return ".png"
        return ".mkv" if kind == "labels" else ".mp4"

    return {kind: f"{source.name}{KINDS[kind]}{suffix(kind)}" for kind in KINDS if kind in kinds}


def check_overlays(
    sources: Sequence[Source],
    folder: Path,
    inputs: Sequence[Path] = (),
    kinds: Collection[str] = ("labels", "overlay"),
) -> None:
    """Whether ``write_overlays`` would write over a file that is not its own.

    Raises:
        KsegError: a kind that is none, or a file would be written twice, over an image, over
            one of ``inputs``, or over what lies beside its image: that may be a label.
    """
    if wrong := [kind for kind in kinds if kind not in KINDS] or not kinds:
        raise KsegError(f"kinds is {wrong or 'empty'}; it must be of {', '.join(KINDS)}")
    outputs = [(s.path, folder / name) for s in sources for name in _files(s, kinds).values()]
    counts = collections.Counter(path for _, path in outputs)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise KsegError(
            f"{twice[0]}: more than one of the images would be written there; "
            "give them other names, or write the images of each folder to a folder of their own"
        )
    check_not_input([path for _, path in outputs], [*(s.path for s in sources), *inputs])
    for image, path in outputs:
        if path.exists() and image.parent.resolve() == folder.resolve():
            raise KsegError(f"{path}: is there already, beside its image; name another folder")
