"""Where the label maps to be scored come from: a network, or files that are there."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg.card import Card, Split
from kseg.data import IGNORE, DataSet, Sample, first_difference
from kseg.data.finding import FolderFiles
from kseg.data.reading import read_label, warn_once
from kseg.errors import KsegError
from kseg.predictor import InferenceSettings, Predictor, check_predictor, predict_labels
from kseg.resize import is_turned
from kseg.zoo import backbone_stride

_SUFFIXES = ("_pred_labelIds.png", ".png")


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """A folder of label maps, in place of a Predictor.

    Attributes:
        folder: has, in itself or any folder below, ``NAME_pred_labelIds.png`` as
            ``write_submission`` names it, or ``NAME.png``, for every sample: uint8 in the
            data set's own ids; its void ids are no class.
    """

    folder: Path


class NetworkPredictions:
    """Label maps that a Predictor makes.

    Args:
        predictor: runs the network.
        data: a split with labels.
        settings: of the inference.

    Raises:
        KsegError: classes that do not match, or a setting that the predictor's output does
            not allow.
    """

    def __init__(self, predictor: Predictor, data: DataSet, settings: InferenceSettings) -> None:
        settings.check(predictor.card)
        check_classes(predictor.card, data)
        self._predictor, self._data, self._settings = predictor, data, settings

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label (H, W), both uint8; callable from any thread.

        Raises:
            KsegError: as ``DataSet.labelled``.
        """
        return self._data.labelled(sample)

    def predict(self, sample: Sample, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 train ids, 255 for no class; from one thread alone.

        Args:
            sample: that ``read`` got.
            image: what ``read`` gave.
            size: (H, W) of the label.

        Raises:
            KsegError: as ``predict_labels``, with the image's name.
        """
        warn_of_turned(self._predictor, self._settings, sample.image, image.shape[:2])
        try:
            return predict_labels(self._predictor, image, self._settings, size=size)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error

    def files(self) -> list[Path]:
        """None: a network makes the label maps."""
        return []

    def facts(self) -> dict[str, Any]:
        """The fields of ``Scores`` that say what made the label maps."""
        card = self._predictor.card
        input_size = self._settings.size_for(self._predictor)
        return {
            "model": card.name,
            "options": card.options,
            "weights": card.weights,
            "trained_splits": card.trained_splits,
            "runtime": self._predictor.runtime,
            "settings": dataclasses.replace(self._settings, input_size=input_size),
            "output": card.output,
            "output_stride": card.output_stride,
            "backbone_stride": backbone_stride(card),
            "resize": card.resize,
            "normalization": card.normalization,
            "void_channels": card.void_channels,
        }


def warn_of_turned(
    predictor: Predictor, settings: InferenceSettings, image: Path, size: tuple[int, int]
) -> None:
    """Says so of a folder's first image that lies where the network's input stands, or stands.

    Args:
        predictor, settings: decide the input's size.
        image: its file.
        size: (H, W) of it.
    """
    own = settings.size_for(predictor)
    if own and is_turned(own, size):
        warn_once(
            str(image.parent),
            f"turned {own}",
            image,
            f"is {size[0]}x{size[1]} and the network's input {own[0]}x{own[1]} (HxW), which "
            "distorts it; state an input_size of its shape (the height first), or convert a "
            "file of that",
        )


class FilePredictions:
    """Label maps that are there as files.

    Args:
        folder: of ``LabelMaps``.
        data: a split with labels.

    Raises:
        KsegError: a sample without a file, or with several.
    """

    def __init__(self, folder: Path, data: DataSet) -> None:
        self._folder, self._data = folder, data
        found = defaultdict(list)
        for path in FolderFiles(folder).left:
            # Of samples' names; macOS writes accents apart.
            found[unicodedata.normalize("NFC", path.name)].append(path)
        self._files: dict[str, Path] = {}
        for sample in data.samples:
            names = [f"{sample.name}{suffix}" for suffix in _SUFFIXES]
            present = next((found[name] for name in names if name in found), [])
            if not present:
                raise KsegError(
                    f"{folder}: has neither {' nor '.join(names)}; "
                    "write one label map for every image of the split"
                )
            if len(present) > 1:
                raise KsegError(
                    f"{present[0]}: {present[1]} is another label map of this image; keep one"
                )
            self._files[sample.name] = present[0]

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The prediction and the label, both (H, W) uint8 train ids; callable from any thread.

        Raises:
            KsegError: another size than the label's, or as ``DataSet.label``.
        """
        label = self._data.label(sample)
        file = self._files[sample.name]
        prediction = read_label(file, self._data.classes)
        if prediction.shape != label.shape:
            raise KsegError(
                f"{file}: is {prediction.shape[0]}x{prediction.shape[1]} but its label is "
                f"{label.shape[0]}x{label.shape[1]} (HxW); resize the logits before the "
                "argmax, or the label map by the nearest pixel"
            )
        self._warn_of_train_ids(file, prediction, label)
        return prediction, label

    def _warn_of_train_ids(self, file: Path, prediction: np.ndarray, label: np.ndarray) -> None:
        """Says so where a label map is right by train ids more often than by the data set's ids."""
        classes = self._data.classes
        # Train id 0 is a void id where the two differ.
        if classes.file_ids == tuple(range(classes.num_classes)) or IGNORE not in prediction:
            return
        scored = label != IGNORE
        right = np.count_nonzero((prediction == label) & scored)
        if 2 * right >= np.count_nonzero(scored):
            return  # Train ids cannot be right twice as often, so the file is not read again.
        with Image.open(file) as image:
            ids = np.asarray(image)
        if ids.shape == label.shape and np.count_nonzero((ids == label) & scored) > 2 * right:
            warn_once(
                str(self._folder),
                "train ids",
                file,
                f"has ids that look like train ids, and {self._data.name} is scored by its own "
                "ids: write these, as `kseg predict --submission` does, or "
                "data.classes.file_table()[train_ids]",
            )

    def predict(self, sample: Sample, prediction: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The prediction as ``read`` gave it."""
        return prediction

    def files(self) -> list[Path]:
        """In the order of the samples."""
        return [self._files[name] for name in self._data.names]

    def facts(self) -> dict[str, Any]:
        """As ``NetworkPredictions.facts``, None where only a network has something."""
        return {
            "model": str(self._folder),
            "options": {},
            "weights": None,
            "trained_splits": (),
            "runtime": "label maps",
            "settings": None,
            "output": None,
            "output_stride": None,
            "backbone_stride": None,
            "resize": None,
            "normalization": None,
            "void_channels": (),
        }


Predictions = NetworkPredictions | FilePredictions


def predictions_of(
    source: Predictor | LabelMaps, data: DataSet, settings: InferenceSettings
) -> Predictions:
    """The label maps of a split.

    Args:
        source: a Predictor or a folder.
        data: a split with labels.
        settings: of the inference; for a folder nothing but the defaults.

    Raises:
        KsegError: classes that do not match, a missing file, or a setting that only a
            network can follow.
    """
    if not isinstance(source, LabelMaps):
        check_predictor(source)
        return NetworkPredictions(source, data, settings)
    defaults = InferenceSettings()
    names = [field.name for field in dataclasses.fields(settings)]
    if changed := [name for name in names if getattr(settings, name) != getattr(defaults, name)]:
        raise KsegError(
            f"{source.folder}: label maps are scored as they are; leave {', '.join(changed)} out"
        )
    return FilePredictions(Path(source.folder), data)


def check_classes(
    card: Card, data: Split, *, way_out: str = "Name the data set that it was trained for"
) -> None:
    """Raises KsegError where the card has other classes than the data set.

    Args:
        way_out: the end of the message.
    """
    classes = data.classes
    named = card.class_names is None or tuple(card.class_names) == classes.names
    if not named or card.num_classes - len(card.void_channels) != classes.num_classes:
        names = card.class_names
        difference = names and first_difference(names, classes.names)
        known = f"the classes of {card.dataset}" if card.dataset else "no class names"
        raise KsegError(
            f"{card.name} has {card.num_classes} channels, {len(card.void_channels)} of them "
            f"void, and {known}; {data.name} has {classes.num_classes} classes"
            + (f" ({difference}). " if difference else ". ")
            + way_out
        )
