"""A run as calls of ``fit``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kseg.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Epochs of one length and crop, and of one optimizer: one call of ``fit``.

    Attributes:
        first_epoch, end_epoch: the first one, and the one behind the last, from 0.
        length: batches of each.
        crop: (H, W).
        step: batches of the run before it.
    """

    first_epoch: int
    end_epoch: int
    length: int
    crop: tuple[int, int]
    step: int


def stretches(
    config: TrainingConfig, *, step: int, steps: int, epoch_steps: int
) -> Iterator[Stretch]:
    """What is left of a run of ``steps`` after ``step``.

    The rest of an epoch that was interrupted, and a last one that ``config.steps`` cuts
    short, stand alone.

    Raises:
        ValueError: the configuration has no crop yet.
    """
    if config.crop is None:
        raise ValueError("crop is None; a run fills it in before it starts")
    epochs = -(-steps // epoch_steps)
    final = max(epochs - config.final_epochs, 0)
    while step < steps:
        epoch, inside = divmod(step, epoch_steps)
        if epoch < final:
            crop, end = config.crop, final
        else:
            crop, end = config.final_crop or config.crop, epochs
        if epoch < config.freeze_encoder_epochs:
            end = min(end, config.freeze_encoder_epochs)
        whole_epochs = min(end, steps // epoch_steps) - epoch
        if inside or whole_epochs <= 0:
            count, length = 1, min(epoch_steps - inside, steps - step)
        else:
            count, length = whole_epochs, epoch_steps
        yield Stretch(epoch, epoch + count, length, crop, step)
        step += count * length
