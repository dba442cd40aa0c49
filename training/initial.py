"""The model that a run begins with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from kseg import checkpoints
from kseg.data import DataSet, first_difference
from kseg.errors import KsegError, KsegWarning
from kseg.files import suffix_of
from kseg.loading import create_model, load, load_application, load_imagenet
from kseg.model import SegmentationModel, dtype_policy, leaf_layers
from kseg.shipped import is_model
from kseg.training.config import TrainingConfig
from kseg.training.records import Records
from kseg.training.statistics import batch_norms
from kseg.zoo import build, find_variant, option_defaults

# Images that the statistics of a folded BatchNorm are measured on, and their largest side.
_UNFOLD_IMAGES, _UNFOLD_SIZE = 32, 512

# Layers of Keras that move pixels of images, or mix images, in training.
_MOVERS = (
    *(keras.layers.AugMix, keras.layers.CutMix, keras.layers.MixUp, keras.layers.RandAugment),
    *(keras.layers.RandomCrop, keras.layers.RandomElasticTransform, keras.layers.RandomFlip),
    *(keras.layers.RandomPerspective, keras.layers.RandomRotation, keras.layers.RandomShear),
    *(keras.layers.RandomTranslation, keras.layers.RandomZoom),
)


def initial_model(
    config: TrainingConfig, data: DataSet | Records, source: SegmentationModel | None = None
) -> SegmentationModel:
    """The network of a configuration with the data's classes, before the first step.

    Args:
        config: its ``model``, ``options``, ``auxiliary``, ``precision``, ``batch_norm``,
            ``init`` and ``init_part`` decide.
        data: what it will be trained on.
        source: a model to take the weights of, in place of the file ``config.init``.

    Raises:
        KsegError: an unknown network or option, or weights that do not fit.
    """
    wrapped = source is not None and source.card.wrapped
    if source is not None and wrapped:
        _check_wrapped(config, data, source)
        with dtype_policy(config.precision):
            model = build(source.card, weights_of=source)
    else:
        _check_options(config)
        with dtype_policy(config.precision):
            model = create_model(
                config.model,
                num_classes=data.classes.num_classes,
                auxiliary=bool(config.auxiliary),
                **config.options,
            )
    trained_splits: tuple[str, ...] = ()
    if source is not None:
        _warn_of_classes(source, data, config.init_part)
        trained_splits = source.card.trained_splits
    if source is not None and not wrapped:
        model = _like(model, source, source.card.name, config)
        checkpoints.copy(model, source, part=config.init_part)
    elif wrapped:
        pass  # It has them.
    elif config.init == "imagenet":
        load_imagenet(model)
    elif config.init:
        model, trained_splits = _with_file(model, config.init, config, data)
    if config.batch_norm != "frozen" and checkpoints.has_folded_batch_norm(model):
        _unfold(model, config.init or model.name, data)
    layers = batch_norms(model)
    frozen = [layer for layer in layers if not layer.trainable]
    if frozen and config.batch_norm != "frozen":
        # Their user has frozen them, most often with the layers around them.
        warnings.warn(
            f"{model.name}: {len(frozen)} BatchNorm layers, such as {frozen[0].name}, are frozen "
            "in the model itself and stay so; set their trainable to True to train them",
            KsegWarning,
            stacklevel=2,
        )
    for layer in layers:
        layer.trainable = layer.trainable and config.batch_norm != "frozen"
        # JAX computes the statistics of all devices' images anyway.
        jax = keras.backend.backend() == "jax"
        layer.synchronized = config.batch_norm == "sync" and not jax
    model.card = model.card.replace(trained_splits=trained_splits).trained_on(data)
    return model


def _check_wrapped(
    config: TrainingConfig, data: DataSet | Records, source: SegmentationModel
) -> None:
    """Raises KsegError for what a wrapped model, whose layers are as they are, does not have."""
    card, count = source.card, data.classes.num_classes
    if card.num_classes != count:
        raise KsegError(
            f"{card.name}: has {card.num_classes} channels and {data.name} {count} classes; wrap "
            "a model that ends in as many"
        )
    defaults = {"auxiliary": (), "boundary_aware": 0, "init_part": "all"}
    for name, default in defaults.items():
        if (value := getattr(config, name)) != default:
            raise KsegError(f"{name} is {value!r}; a wrapped model has no parts, leave it out")
    for layer in leaf_layers(source):
        if isinstance(layer, _MOVERS):
            raise KsegError(
                f"{card.name}: its {type(layer).__name__} {layer.name!r} would move the images in "
                "training, and the labels would stay; wrap the model without it: the settings of "
                "train move both"
            )


def _check_options(config: TrainingConfig) -> None:
    """Other arguments of ``create_model`` have fields of their own, or the run decides them."""
    known = set(option_defaults(find_variant(config.model))) - {"auxiliary"}
    if refused := sorted(config.options.keys() - known):
        raise KsegError(
            f"options has {', '.join(refused)}; {config.model} has {', '.join(sorted(known))}"
        )


def _warn_of_classes(source: SegmentationModel, data: DataSet | Records, part: str) -> None:
    """Says so where the channels that the run begins with mean other classes than the data's."""
    own, wanted = source.card.class_names, data.classes.names
    if part == "all" and own and len(own) == len(wanted) and own != wanted:
        warnings.warn(
            f"{source.card.weights}: its channels are other classes than those of {data.name} "
            f"({first_difference(wanted, own)}); the run begins with them all the same, if "
            'init_part is not "all-but-classifier"',
            KsegWarning,
            stacklevel=2,
        )


def _with_file(
    model: SegmentationModel, init: str, config: TrainingConfig, data: DataSet | Records
) -> tuple[SegmentationModel, tuple[str, ...]]:
    """The model with a file's weights; what they were trained on (``Card.trained_splits``)."""
    part = config.init_part
    encoder = find_variant(model.card.name).encoder
    try:
        if encoder and encoder.application and suffix_of(init) == ".h5":
            load_application(model, encoder, Path(init))
            return model, ()
        if not is_model(init):
            checkpoints.assign(model, checkpoints.read(init), part=part)
            return model, ()
        source = load(init)
        _warn_of_classes(source, data, part)
        model = _like(model, source, init, config)
        checkpoints.copy(model, source, part=part)
        return model, source.card.trained_splits
    except KsegError as error:
        if init in str(error):
            raise
        raise KsegError(f"{init}: {error}") from error


def _like(
    model: SegmentationModel, source: SegmentationModel, name: str, config: TrainingConfig
) -> SegmentationModel:
    """The model, or one that normalises as the source does, whose weights know no other.

    Warns:
        KsegWarning: the source is of the same network with other options, such as rates, which
            no weight's shape shows.
    """
    given, card = source.card, model.card
    if given.name == card.name and config.init_part != "backbone":
        defaults = option_defaults(find_variant(card.name))
        # Weights serve at any stride, and training heads are left out of files.
        defaults = {k: v for k, v in defaults.items() if k not in ("output_stride", "auxiliary")}
        theirs, ours = ({**defaults, **c.options} for c in (given, card))
        if other := {k: theirs[k] for k in defaults if theirs[k] != ours[k]}:
            warnings.warn(
                f"{name}: was made with {other}, and the run builds {card.name} with "
                f"{ {k: ours[k] for k in other} }; state these in options to keep its function",
                KsegWarning,
                stacklevel=2,
            )
    if given.normalization == card.normalization:
        return model
    with dtype_policy(config.precision):
        return build(card.replace(normalization=given.normalization))


def _unfold(model: SegmentationModel, init: str, data: DataSet | Records) -> None:
    """Statistics of training images for the BatchNorm that a file has folded."""
    if isinstance(data, DataSet):
        checkpoints.unfold_batch_norm(model, _centres(data))
        return
    message = (
        f"{init}: its BatchNorm is folded, and records have no images to measure statistics on; "
        'start from a data set once, or train with batch_norm "frozen"'
    )
    warnings.warn(message, KsegWarning, stacklevel=2)


def _centres(data: DataSet) -> Iterator[np.ndarray]:
    for image in data.some(_UNFOLD_IMAGES).images():
        top, left = (max(0, n - _UNFOLD_SIZE) // 2 for n in image.shape[:2])
        yield image[top : top + _UNFOLD_SIZE, left : left + _UNFOLD_SIZE]
