"""Label maps in the form that a benchmark's server takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from kseg.data import DataSet, read_image
from kseg.errors import KsegError
from kseg.evaluation.answers import train_ids
from kseg.files import make_folder, whole
from kseg.predictor import Predictor, predict_labels


def write_submission(
    predictor: Predictor,
    data: DataSet,
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    **way: Any,
) -> list[Path]:
    """Writes a PNG of the data set's own ids for every image, at the image's size.

    No class is written as the first void id. The names are those that cityscapesScripts
    looks for: ``NAME_pred_labelIds.png``.

    Args:
        predictor: runs the network.
        data: a split, with or without labels.
        folder: is made.
        progress: called with (images done, images in all).
        **way: as for ``predict_labels``.

    Returns:
        The files, in the order of the samples.

    Raises:
        KsegError: classes that do not match, an image or network that fails, or a folder
            that cannot be written.
    """
    table = data.classes.file_table()[train_ids(predictor.card, data)]
    folder = make_folder(folder)
    files = []
    for number, sample in enumerate(data.samples, 1):
        image = read_image(sample.image)
        try:
            channels = predict_labels(predictor, image, **way)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        files.append(folder / f"{sample.name}_pred_labelIds.png")
        with whole(files[-1]) as path:
            Image.fromarray(table[channels]).save(path)
        if progress:
            progress(number, len(data))
    return files
