"""What training a finished model a little further needs, whoever runs the steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from kseg.data import open_dataset
from kseg.errors import KsegError
from kseg.model import Card
from kseg.training.losses import class_weights, cross_entropy
from kseg.training.pipeline import augmented, steps_per_epoch
from kseg.training.run import default_crop


def fine_tuning(
    card: Card,
    name: str,
    dir: str | Path | None,
    *,
    steps: int | None = None,
    epochs: int = 1,
    crop: tuple[int, int] | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> tuple[tf.data.Dataset, Callable[[Any, Any], Any], int]:
    """Batches as `kseg train` makes them, its loss by pixel, and the number of steps.

    Args:
        card: of the model.
        name, dir: as for ``kseg.data.open_dataset``; the split is "train".
        steps: None takes ``epochs`` times the data.
        crop: (H, W), None as for `kseg train`.
        batch_size: images at once.
        seed: of order and augmentation.

    Raises:
        KsegError: what ``open_dataset`` raises, a value out of range, or classes that are
            not the model's.
    """
    data = open_dataset(name, dir, "train")
    classes = data.classes.num_classes
    if card.num_classes - len(card.void_channels) != classes:
        raise KsegError(f"{data.name} has {classes} classes, {card.name} {card.num_classes}")
    weights = class_weights(data.class_pixels()) + [1.0] * len(card.void_channels)
    examples = augmented(
        data,
        crop=crop or default_crop(data),
        batch_size=batch_size,
        scale=(0.5, 2.0),
        flip=True,
        jitter=0.2,
        pad_value=card.normalization.rgb_mean,
        seed=seed,
        start_step=0,
    )
    batches = examples.batch(batch_size, drop_remainder=True).prefetch(2)
    if steps is None:
        steps = epochs * steps_per_epoch(data, batch_size)
    return batches, functools.partial(cross_entropy, class_weights=weights), steps
