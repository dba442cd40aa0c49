"""Where the label maps to be scored come from: a network, or files that are there."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kseg.card import Card
from kseg.data import DataSet, Sample
from kseg.data.datasets import read_label
from kseg.errors import KsegError
from kseg.predictor import Predictor, check_way, network_size, predict_labels
from kseg.zoo import backbone_stride

_SUFFIXES = ("_pred_labelIds.png", ".png")

_WAY = {
    "input_size": None,
    "pad_to": None,
    "scales": (1.0,),
    "flip": False,
    "window": None,
    "overlap": 1 / 3,
    "crf": None,
}
"""The settings of ``predict_labels`` that a score reports, and their defaults."""


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """A folder of label maps, in place of a Predictor.

    Attributes:
        folder: has, in itself or any folder below, ``NAME_pred_labelIds.png`` as
            ``write_submission`` names it, or ``NAME.png``, for every sample: the data
            set's own ids, those of its void ids no class.
    """

    folder: Path


class NetworkAnswers:
    """Label maps of a Predictor.

    Args:
        predictor: runs the network.
        data: a split with labels.
        **way: as for ``predict_labels``.

    Raises:
        KsegError: classes that do not match, or a setting out of range.
    """

    def __init__(self, predictor: Predictor, data: DataSet, **way: Any) -> None:
        self._predictor, self._data, self._way = predictor, data, _WAY | way
        sizes = ("input_size", "pad_to")
        check_way(predictor.card, **{k: v for k, v in self._way.items() if k not in sizes})
        self._table = train_ids(predictor.card, data)

    def read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """What ``answer`` needs, and the label (H, W) uint8; from any thread.

        Raises:
            KsegError: as ``DataSet.labelled``.
        """
        return self._data.labelled(sample)

    def answer(self, sample: Sample, content: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 train ids, those of no class 255; from one thread.

        Raises:
            KsegError: as ``predict_labels``, with the image's name.
        """
        try:
            channels = predict_labels(self._predictor, content, size=size, **self._way)
        except KsegError as error:
            raise KsegError(f"{sample.image}: {error}") from error
        return self._table.take(channels)

    def facts(self) -> dict[str, Any]:
        """What decides the score beside the data, for the report."""
        card, way = self._predictor.card, self._way
        size = way["input_size"]
        return {
            "model": card.name,
            "options": card.options,
            "weights": card.weights,
            "runtime": self._predictor.runtime,
            **way,
            "input_size": size or network_size(self._predictor, way["pad_to"], way["window"]),
            "scales": tuple(way["scales"]),
            "overlap": way["overlap"] if way["window"] else None,
            "crf": way["crf"] and dataclasses.asdict(way["crf"]),
            "output": card.output,
            "output_stride": card.output_stride,
            "backbone_stride": backbone_stride(card),
            "resize": card.resize,
            "normalization": dataclasses.asdict(card.normalization),
            "void_channels": list(card.void_channels),
        }


class FileAnswers:
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
        for path in sorted(folder.rglob("*.png")):
            found[path.name].append(path)
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
        """The answer and the label, both (H, W) uint8 train ids; from any thread.

        Raises:
            KsegError: another size than the label's, or as ``read_label``.
        """
        if sample.label is None:
            raise KsegError(f"{sample.image}: has no label; use a split with labels")
        file = self._files[sample.name]
        label = read_label(sample.label, self._data.classes)
        answer = read_label(file, self._data.classes)
        if answer.shape != label.shape:
            raise KsegError(
                f"{file}: is {answer.shape[0]}x{answer.shape[1]} but its label is "
                f"{label.shape[0]}x{label.shape[1]} (HxW); resize the logits before the "
                "argmax, or the label map by the nearest pixel"
            )
        return answer, label

    def answer(self, sample: Sample, content: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The answer as it was read."""
        return content

    def facts(self) -> dict[str, Any]:
        """As ``NetworkAnswers.facts``, None where only a network has something."""
        network = (
            *("weights", *_WAY, "output", "output_stride", "backbone_stride"),
            *("resize", "normalization"),
        )
        return {
            **dict.fromkeys(network),
            "model": str(self._folder),
            "options": {},
            "runtime": "label maps",
            "void_channels": [],
        }


Answers = NetworkAnswers | FileAnswers


def answers(source: Predictor | LabelMaps, data: DataSet, **way: Any) -> Answers:
    """Where the label maps of a split come from.

    Args:
        source: a Predictor or a folder.
        data: a split with labels.
        **way: as for ``predict_labels``; nothing but defaults for a folder.

    Raises:
        KsegError: classes that do not match, a missing file, or a setting that only a
            network can follow.
    """
    if not isinstance(source, LabelMaps):
        return NetworkAnswers(source, data, **way)
    if set_ := [name for name, value in way.items() if value != _WAY[name]]:
        raise KsegError(
            f"{source.folder}: label maps are scored as they are; "
            f"leave {', '.join(set_).replace('_', '-')} out"
        )
    return FileAnswers(source.folder, data)


def check_classes(card: Card, data: DataSet) -> None:
    """Raises KsegError where the card has other classes."""
    classes = data.classes
    named = card.class_names is None or tuple(card.class_names) == classes.names
    if not named or card.num_classes - len(card.void_channels) != classes.num_classes:
        known = f"the classes of {card.dataset}" if card.dataset else "no class names"
        raise KsegError(
            f"{card.name} has {card.num_classes} channels, {len(card.void_channels)} of them "
            f"void, and {known}; {data.name} has {classes.num_classes} classes. "
            "Name the data set that it was trained for"
        )


def train_ids(card: Card, data: DataSet) -> np.ndarray:
    """(256,) uint8 from channel to train id of the data set; void, and none, to 255.

    Raises:
        KsegError: the card has other classes.
    """
    check_classes(card, data)
    return card.train_ids()
