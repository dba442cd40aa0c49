"""Label maps of images as files, and as pictures over the images."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from kseg.data import read_image
from kseg.errors import KsegError
from kseg.files import atomic_write, check_not_input, make_folder
from kseg.pictures import overlay, spread_colors
from kseg.predictor import InferenceSettings, Predictor, predict_labels


def write_overlays(
    predictor: Predictor,
    images: Sequence[Path],
    folder: str | Path,
    settings: InferenceSettings | None = None,
) -> Iterator[Path]:
    """Writes NAME.png and NAME_overlay.png for every image NAME, and yields each file.

    The first has train ids in 8 bits, 255 for no class, the second the image under them
    with a legend; both have the image's size, the legend apart.

    Args:
        predictor: runs the network.
        images: files with different names.
        folder: is made.
        settings: of the inference, None for the defaults.

    Raises:
        KsegError: two images of one name, an image or network that fails, or a folder that
            cannot be written.
    """
    folder = Path(folder)
    check_overlays(images, folder)
    make_folder(folder)
    card = predictor.card
    names = card.class_names or [f"class {i}" for i in range(card.num_classes)]
    colors = card.colors or spread_colors(len(names))
    for file in images:
        image = read_image(file)
        labels = card.train_ids()[predict_labels(predictor, image, settings)]
        pictures = [Image.fromarray(labels), overlay(image, labels, names, colors)]
        for name, picture in zip(_names(file), pictures, strict=True):
            with atomic_write(folder / name) as path:
                picture.save(path)
            yield folder / name


def _names(image: Path) -> tuple[str, str]:
    """Names of what is written for an image."""
    return f"{image.stem}.png", f"{image.stem}_overlay.png"


def check_overlays(images: Sequence[Path], folder: Path, inputs: Sequence[Path] = ()) -> None:
    """Whether ``write_overlays`` would write over a file that is not its own.

    Raises:
        KsegError: a file would be written twice, over an image, over one of ``inputs``, or
            over what lies beside its image: that may be a label.
    """
    counts = collections.Counter(name for image in images for name in _names(image))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise KsegError(
            f"{folder / twice[0]}: more than one of the images would be written there; "
            "give them other names, or write the images of each folder to a folder of their own"
        )
    outputs = [(image, folder / name) for image in images for name in _names(image)]
    check_not_input([path for _, path in outputs], [*images, *inputs])
    for image, path in outputs:
        if path.exists() and image.parent.resolve() == folder.resolve():
            raise KsegError(f"{path}: is there already, beside its image; name another folder")
