"""What ``train`` is given, as a configuration and data sets."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from pathlib import Path
from typing import Any

from kseg.data import DataSet, open_dataset
from kseg.data.reading import image_size
from kseg.errors import KsegError
from kseg.model import SegmentationModel, check_card, check_image_size, fixed_size
from kseg.training.config import TrainingConfig
from kseg.training.records import Records, compare_with_source, open_records

Data = DataSet | Records
"""What training reads."""

Given = str | Path | Data | tuple[Data, DataSet] | None
"""What ``train`` may be given as data."""

INITIAL = "initial.keras"
"""In a run's folder: the model that the run was given."""

# Fields of TrainingConfig that a model and data sets have themselves.
_DESCRIBED = (
    *("model", "options", "init", "recipe"),
    *("dataset", "split", "val_split", "records"),
)


def from_configuration(
    config: TrainingConfig, folder: Given, settings: dict[str, Any]
) -> tuple[TrainingConfig, Data, DataSet | None]:
    """The configuration with its crop filled in, and the data to train and to score on.

    Raises:
        KsegError: arguments that do not go together, a value out of range, or what
            ``open_dataset`` and ``open_records`` raise.
    """
    if not isinstance(config, TrainingConfig):
        raise KsegError(
            f"train is given a {type(config).__name__}; it takes a TrainingConfig, or a model "
            "of kseg.create_model or kseg.load"
        )
    if not isinstance(folder, str | Path | None):
        raise KsegError(
            f"data is a {type(folder).__name__}; with a TrainingConfig it is the data set's "
            "folder, with a model a DataSet or two"
        )
    if settings:
        raise KsegError(
            f"{', '.join(settings)}: a TrainingConfig has its settings already; "
            "use dataclasses.replace"
        )
    config.check()
    data: Data
    if config.records:
        data = open_records(config.records, config.dataset, config.split)
        if config.val_split or folder is not None:
            compare_with_source(data, folder)
    else:
        data = open_dataset(config.dataset, folder, config.split)
    config = dataclasses.replace(config, crop=config.crop or default_crop(data))
    if not config.val_split:
        return config, data, None
    val_data = open_dataset(config.dataset, folder, config.val_split)
    if val_data.classes != data.classes:
        raise KsegError(
            f"{config.records}: has other classes than {folder} now; prepare the records again"
        )
    return config, data, val_data


def from_model(
    model: SegmentationModel, data: Given, settings: dict[str, Any]
) -> tuple[TrainingConfig, Data, DataSet | None]:
    """The configuration that says the same, its crop filled in, and the data.

    Args:
        model: whose card names network and options.
        data: to train on, or a pair of that and what to score on.
        settings: other fields of TrainingConfig.

    Raises:
        KsegError: data sets that do not go together, a setting that is unknown, not free
            to choose or out of range, or a size that the model does not take.
    """
    check_card(model)
    pair = tuple(data) if isinstance(data, tuple | list) else (data, None)
    train_data, val_data = pair if len(pair) == 2 else (None, None)
    if not (isinstance(train_data, Data) and isinstance(val_data, DataSet | None)):
        raise KsegError(
            "data must be a DataSet to train on, or a pair of one to train and one to score on, "
            "where a model is trained; kseg.data.open_dataset opens them"
        )
    if val_data is not None and val_data.classes != train_data.classes:
        raise KsegError("data: the two data sets have other classes; take two splits of one")
    known = {field.name for field in dataclasses.fields(TrainingConfig)} - {*_DESCRIBED}
    for name in settings:
        if name in _DESCRIBED:
            raise KsegError(f"{name} is what the model or its data decides; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise KsegError(f"train has no setting {name!r}; did you mean {', '.join(near)}?")
    config = TrainingConfig(
        model=model.card.name,
        options={k: v for k, v in model.card.options.items() if k != "auxiliary"},
        init=INITIAL,
        dataset=train_data.name,
        split=train_data.split,
        val_split=None if val_data is None else val_data.split,
        records=str(train_data.folder) if isinstance(train_data, Records) else None,
        **settings,
    )
    config.check()
    crop = chosen_crop(config.crop, train_data, model)
    if config.final_crop is not None:
        check_takes(model, "final_crop", config.final_crop, "choose another final_crop")
    if model.card.wrapped and val_data is not None:
        for size, path in _images_by_size(val_data).items():
            check_takes(
                model,
                str(path),
                size,
                "to be scored while it trains, the model must take whole images: train without "
                "data to score on, and evaluate with an input_size",
            )
    return dataclasses.replace(config, crop=crop), train_data, val_data


def chosen_crop(
    crop: tuple[int, int] | None, data: Data, model: SegmentationModel
) -> tuple[int, int]:
    """The crop that a model is trained on.

    Args:
        crop: (H, W), None for the size of a wrapped model that takes one alone, else
            ``default_crop``.
        data: to train on.
        model: of the zoo or wrapped.

    Raises:
        KsegError: a wrapped model does not take this one.
    """
    if crop is None:
        height, width = default_crop(data)
        own = fixed_size(model) if model.card.wrapped else (None, None)
        crop = own[0] or height, own[1] or width
    check_takes(model, "crop", crop, "choose another crop")
    return crop


def check_takes(model: SegmentationModel, what: str, size: tuple[int, int], way_out: str) -> None:
    """Raises KsegError for a size (H, W) that a wrapped model cannot be trained or scored at.

    A network of the zoo is built anew for any size.

    Args:
        what: has the size, for the message.
        way_out: the end of the message.
    """
    if not model.card.wrapped:
        return
    try:
        check_image_size(model, *size)
    except KsegError as error:
        raise KsegError(f"{what}: {error}; {way_out}") from error


def _images_by_size(data: DataSet) -> dict[tuple[int, int], Path]:
    """An image of each size (H, W); of one that cannot be read, who reads it will say so."""
    found: dict[tuple[int, int], Path] = {}
    for sample in data.samples:
        with contextlib.suppress(KsegError):
            found.setdefault(image_size(sample.image), sample.image)
    return found


def default_crop(data: Data) -> tuple[int, int]:
    """The images' size, halved until it is at most 512 x 1024; 512 x 512 where it is mixed."""
    height, width = data.size or (512, 512)
    while height > 512 or width > 1024:
        height, width = height // 2, width // 2
    return height, width
