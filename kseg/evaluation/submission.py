"""Label maps in the form that a benchmark's server takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from kseg.data import DataSet, check_outputs, read_image
from kseg.errors import KsegError
from kseg.evaluation.predictions import check_classes
from kseg.files import atomic_write, make_folder
from kseg.predictor import InferenceSettings, Predictor, inference_settings, predict_labels


def write_submission(
    predictor: Predictor,
    data: DataSet,
    folder: str | Path,
    settings: InferenceSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **keywords: Any,
) -> list[Path]:
    """Writes a PNG of the data set's own ids for every image, at the image's size.

    Pixels of no class get the first void id. The names are those that cityscapesScripts
    looks for: ``NAME_pred_labelIds.png``.

    Args:
        predictor: runs the network.
        data: a split, with or without labels.
        folder: is made.
        settings: of the inference, None for the defaults.
        progress: called with (images done, images in all).
        **keywords: fields of ``InferenceSettings``, in place of ``settings``.

    Returns:
        The files, in the order of the samples.

    Raises:
        KsegError: classes that do not match, an image or network that fails, or a folder
            that cannot be written or is among the files of the data set.
    """
    settings = inference_settings(settings, keywords)
    check_outputs([folder], data=[data])
    check_classes(predictor.card, data)
    file_ids = data.classes.file_table()
    folder = make_folder(folder)
    files = []
    for number, sample in enumerate(data.samples, 1):
        image = read_image(sample.image)
        try:
            labels = predict_labels(predictor, image, settings)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        files.append(folder / f"{sample.name}_pred_labelIds.png")
        with atomic_write(files[-1]) as path:
            Image.fromarray(file_ids[labels]).save(path)
        if progress:
            progress(number, len(data))
    return files
