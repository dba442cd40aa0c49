"""Batches, loss and number of steps to train a finished model a little further."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kseg.data import IGNORE, open_dataset
from kseg.errors import KsegError
from kseg.evaluation.predictions import check_classes
from kseg.model import SegmentationModel
from kseg.training.augment import Augmentation
from kseg.training.inputs import chosen_crop
from kseg.training.losses import class_weights, cross_entropy, distillation
from kseg.training.pipeline import augmented, steps_per_epoch
from kseg.zoo import build

TEACHERS = ("model", "labels")


def fine_tuning(
    model: SegmentationModel,
    name: str,
    dir: str | Path | None,
    *,
    steps: int | None = None,
    epochs: int = 1,
    crop: tuple[int, int] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    learn_from: str = "model",
) -> tuple[tf.data.Dataset, Callable[[Any, Any], Any], int]:
    """Batches as `kseg train` makes them, a loss by pixel, and the number of steps.

    Args:
        model: finished; it stays as it is.
        name, dir: as for ``kseg.data.open_dataset``; the split is "train".
        steps: None takes ``epochs`` times the data.
        crop: (H, W), None as for `kseg train`.
        batch_size: images at once.
        seed: of order and augmentation.
        learn_from: of ``TEACHERS``. "model": the batches have its logits in place of labels,
            so that what is trained keeps to what it does (``losses.distillation``);
            "labels": cross-entropy with CGNet's class weights, the batches' labels being channels.

    Raises:
        KsegError: what ``open_dataset`` raises, a value out of range, or classes that are
            not the model's.
    """
    if learn_from not in TEACHERS:
        raise KsegError(f"learn_from is {learn_from!r}; it must be one of {', '.join(TEACHERS)}")
    card = model.card
    data = open_dataset(name, dir, "train")
    check_classes(card, data)
    augmentation = Augmentation(
        chosen_crop(crop, data, model),
        scale=(0.5, 2.0),
        flip=True,
        jitter=0.2,
        pad_value=card.normalization.rgb_mean,
    )
    examples = augmented(data, augmentation, batch_size=batch_size, seed=seed, start_step=0)
    batches = examples.batch(batch_size, drop_remainder=True)
    if learn_from == "model":
        teacher = build(card.for_inference(), weights_of=model)
        batches = batches.map(lambda images, _: (images, teacher(images, training=False)))
        loss = distillation
    else:
        channels = card.class_channels()
        # Void channels may stand before others, whose numbers are not those of the labels then.
        table = np.full(256, IGNORE)
        table[: len(channels)] = channels
        batches = batches.map(
            lambda images, labels: (images, tf.gather(table, tf.cast(labels, tf.int32)))
        )
        weights = np.ones(card.num_classes)
        weights[channels] = class_weights(data.class_pixels())
        loss = functools.partial(cross_entropy, class_weights=weights.tolist())
    if steps is None:
        steps = epochs * steps_per_epoch(data, batch_size)
    return batches.prefetch(2), loss, steps
