"""What decides a training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from kseg.errors import KsegError


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result of a run; its file is what a resume compares.

    Attributes:
        model, options: the network, as for ``kseg.create_model``.
        dataset, split, val_split: what to train and to score on; no ``val_split``, no
            scores and no best checkpoint.
        records: folder that ``kseg prepare`` made of ``split``, read instead of its files.
        epochs: passes over the data; ``steps`` overrides them.
        batch_size: of all replicas together.
        crop: (H, W) after scaling; None is the data set's image size, halved until it
            is at most 512 x 1024; 512 x 512 where sizes are mixed.
        final_crop, final_epochs: another crop for the last epochs. A small crop makes
            steps cheap, a last stage at the size that is scored costs little.
        learning_rate: at the start; decays as (1 - step / steps) ** 0.9 to zero.
        weight_decay: decoupled, not on BatchNorm, biases and slopes.
        ema: momentum of a moving average of the weights, which is what is scored and kept;
            None for none.
        class_weights: c of 1 / ln(c + p), None for equal weights.
        scale, flip, jitter: augmentation, as for ``kseg.training.dataset``.
        seed: of initialisation, order and augmentation.
        validate_every: epochs between two scores.
        init: published checkpoint to start from.
    """

    model: str
    dataset: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    split: str = "train"
    val_split: str | None = "val"
    records: str | None = None
    epochs: int = 100
    steps: int | None = None
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    final_crop: tuple[int, int] | None = None
    final_epochs: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema: float | None = None
    class_weights: float | None = 1.10
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    jitter: float = 0.2
    seed: int = 0
    validate_every: int = 1
    init: str | None = None

    def check(self) -> None:
        """Raises KsegError for the first value out of range that no builder would catch."""
        for name in ("epochs", "steps", "batch_size", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KsegError(f"{name.replace('_', '-')} is {value}; it must be at least 1")
        if bool(self.final_crop) != (self.final_epochs > 0):
            raise KsegError(
                f"final-crop is {self.final_crop} and final-epochs {self.final_epochs}; "
                "give both or none"
            )
        if not self.learning_rate > 0:
            raise KsegError(f"learning-rate is {self.learning_rate}; it must be above 0")
        if self.ema is not None and not 0 < self.ema < 1:
            raise KsegError(f"ema is {self.ema}; it must be above 0 and below 1")
        if self.weight_decay < 0:
            raise KsegError(f"weight-decay is {self.weight_decay}; it must not be negative")

    def difference(self, other: dict[str, Any]) -> str:
        """Where a stored configuration differs, for a message; empty where nowhere."""
        mine = dataclasses.asdict(self)
        # A run of before a value existed had its default.
        other = {**dataclasses.asdict(TrainingConfig(self.model, self.dataset)), **other}
        return ", ".join(
            f"{key} was {other[key]!r} and is {value!r}"
            for key, value in mine.items()
            if _plain(value) != _plain(other[key])
        )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
