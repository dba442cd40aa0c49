"""What decides a training run."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any

from kseg.card import tuples
from kseg.errors import KsegError, shown

# What the fields that are words may be.
CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("poly", "cosine", "step"),
    "decayed": ("kernels", "full-kernels", "all"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "batch_norm": ("train", "sync", "frozen"),
    "bad_images": ("stop", "skip"),
    "init_part": ("all", "backbone", "all-but-classifier"),
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result of a run; a resume compares it with its file.

    Attributes:
        recipe: name of the recipe that some values came from, None without.
        model, options: the network, as for ``kseg.create_model``.
        dataset, split, val_split: what to train and to score on; no ``val_split``, no
            scores and no best checkpoint.
        records: folder that ``kseg prepare`` made of ``split``, read instead of its files.
        epochs: passes over the data; ``steps`` overrides them.
        batch_size: of all replicas together.
        accumulate: batches whose mean gradient makes one update; a rest of the run that is
            fewer makes none. On TensorFlow for one device.
        crop: (H, W) after scaling; None is the data set's image size, halved until it
            is at most 512 x 1024; 512 x 512 where sizes are mixed.
        final_crop, final_epochs: another crop for the last epochs. A small crop makes
            steps cheap, a last stage at the size that is scored costs little.
        optimizer: "adamw", with decoupled decay; "adam" or "sgd" (momentum 0.9), where
            decay is part of the gradient.
        learning_rate: at the start.
        schedule: "poly" decays it as (1 - step / steps) ** 0.9 to zero, "cosine" on half a
            cosine to zero (arXiv:1608.03983, without restarts), "step" by ``decay_factor``
            every ``decay_epochs``.
        warmup_steps: batches over which the rate rises from nothing.
        encoder_rate: factor on the rate of the encoder's variables; 1 for one rate.
        freeze_encoder_epochs: first epochs in which the encoder stays as it is, its BatchNorm
            too. After them the optimizer begins anew, the schedule goes on.
        patience: the run ends after so many scores that are no better than the best; None
            for never.
        weight_decay: of the variables that ``decayed`` names: "kernels", without
            BatchNorm, biases and slopes; "full-kernels", without depthwise kernels too;
            or "all".
        clip_norm: largest norm of all gradients together, None for any.
        ema: momentum of a moving average of the weights, which is what is scored and kept;
            None for none.
        xla: compile the training steps, not the score, by XLA; for one device.
        precision: "float32", "mixed_bfloat16" or "mixed_float16"; weights and logits are
            float32 in all of them, and so is the model that is kept.
        batch_norm: "train"; "sync", with statistics of all replicas; "frozen", with the
            initial statistics and scales. Layers that are frozen in a wrapped model stay so.
        loss: a name of ``kseg.training.losses.LOSSES``, or a sum ("cross_entropy+lovasz").
        ohem_threshold, ohem_fraction: of the loss "ohem": a pixel is hard where its label's
            probability is below the threshold; the share of an image's pixels that counts at least.
        class_weights: c of 1 / ln(c + p), None for equal weights.
        auxiliary: training heads and the weights of their losses, in the order in which
            the network has them; empty for none. A head of boundaries, such as PIDNet's
            "seghead_d", has ``kseg.training.losses.boundary``.
        auxiliary_loss: of the other training heads, as ``loss``; None for that one.
        boundary_aware: weight of the logits' loss over the pixels that the head of boundaries
            gives 0.8 and more, added to the others (arXiv:2206.02066, Section 3.1); 0 for none.
        scale, flip, jitter: augmentation, as for ``kseg.training.dataset``.
        rotate, randaugment, blur, noise, jpeg: augmentation, as for
            ``kseg.training.augment.Augmentation``.
        class_uniform: share of the images whose crop is centred on a pixel of a class, each
            class as likely, as for ``kseg.training.dataset``.
        class_mix: share of the images that get the rare classes of another image, as there.
        bad_images: "stop" at a file that cannot be read, or "skip" it for the next.
        seed: of initialisation, order and augmentation.
        validate_every: epochs between two scores.
        teacher: a .keras file or shipped WEIGHTS:MODEL with the data's classes, whose
            probabilities the network learns beside the labels; None for labels alone.
        distill_weight: of what the teacher says, added to the loss of the labels.
        temperature: that the teacher's and the network's logits are divided by.
        init, init_part: a published checkpoint, a .keras file or shipped WEIGHTS:MODEL to
            start from, and what of it: "all", "backbone" or "all-but-classifier"; or
            "imagenet", of the encoder, as ``create_model`` takes it. Where ``train`` was given
            a model, "initial.keras", its copy in the run's folder.
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
    accumulate: int = 1
    crop: tuple[int, int] | None = None
    final_crop: tuple[int, int] | None = None
    final_epochs: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "poly"
    decay_epochs: int = 100
    decay_factor: float = 0.5
    warmup_steps: int = 0
    encoder_rate: float = 1.0
    freeze_encoder_epochs: int = 0
    patience: int | None = None
    weight_decay: float = 1e-2
    decayed: str = "kernels"
    clip_norm: float | None = None
    ema: float | None = None
    xla: bool = False
    precision: str = "float32"
    batch_norm: str = "train"
    loss: str = "cross_entropy"
    ohem_threshold: float = 0.7
    ohem_fraction: float = 1 / 16
    class_weights: float | None = 1.10
    auxiliary: tuple[float, ...] = ()
    auxiliary_loss: str | None = None
    boundary_aware: float = 0.0
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    jitter: float = 0.2
    rotate: float = 0.0
    randaugment: tuple[int, int] | None = None
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None
    class_uniform: float = 0.0
    class_mix: float = 0.0
    bad_images: str = "stop"
    seed: int = 0
    validate_every: int = 1
    teacher: str | None = None
    distill_weight: float = 1.0
    temperature: float = 1.0
    init: str | None = None
    init_part: str = "all"
    recipe: str | None = None

    def check(self) -> None:
        """Raises KsegError for the first value of a wrong kind or out of range.

        What only the network or the data can judge, such as ``options``, is left to them.
        """
        for name, hint in typing.get_type_hints(TrainingConfig).items():
            if not _fits(value := getattr(self, name), hint):
                raise KsegError(f"{name} is {value!r}; it must be {_words(hint)}")
        try:
            json.dumps(self.options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise KsegError(f"options is {self.options}; JSON cannot hold it ({error})") from None
        for name in (
            *("epochs", "steps", "batch_size", "accumulate", "decay_epochs"),
            *("validate_every", "patience"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KsegError(f"{name} is {value}; it must be at least 1")
        for name in (
            *("weight_decay", "warmup_steps", "final_epochs", "freeze_encoder_epochs"),
            "boundary_aware",
        ):
            if getattr(self, name) < 0:
                raise KsegError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in (
            *("learning_rate", "encoder_rate", "clip_norm", "decay_factor"),
            *("distill_weight", "temperature"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise KsegError(f"{name} is {value}; it must be above 0")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise KsegError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        check_seed(self.seed)
        for name in ("class_uniform", "class_mix", "ohem_threshold", "ohem_fraction"):
            check_share(name, getattr(self, name))
        if bool(self.final_crop) != (self.final_epochs > 0):
            raise KsegError(
                f"final_crop is {self.final_crop} and final_epochs is {self.final_epochs}; "
                "give both or none"
            )
        if self.auxiliary_loss is not None and not self.auxiliary:
            raise KsegError(
                f"auxiliary_loss is {self.auxiliary_loss!r}, and no training head has a weight; "
                "give auxiliary"
            )
        if self.teacher is None:
            for name in ("distill_weight", "temperature"):
                if (value := getattr(self, name)) != 1:
                    raise KsegError(f"{name} is {value}, and there is no teacher; give one")
        if self.patience is not None and self.val_split is None:
            raise KsegError(
                f"patience is {self.patience}, and nothing is scored; give a val_split, or leave "
                "patience out"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise KsegError(f"ema is {self.ema}; it must be above 0 and below 1")

    def without_effect(self, epochs: int) -> list[str]:
        """The settings that change nothing beside the others, a line each.

        Args:
            epochs: of the run, which ``steps`` decide.
        """
        defaults = TrainingConfig(self.model, self.dataset)
        losses = "+".join([self.loss, self.auxiliary_loss or self.loss]).split("+")
        lines = [
            f"{name} is {shown(value)}, and {reason}, so that it has no effect"
            for names, unused, reason in (
                (
                    ("ohem_threshold", "ohem_fraction"),
                    "ohem" not in losses,
                    f"loss {self.loss!r} has no ohem",
                ),
                (
                    ("decay_epochs", "decay_factor"),
                    self.schedule != "step",
                    f"schedule is {self.schedule!r}",
                ),
                (
                    ("init_part",),
                    self.init is None,
                    "the run begins with random weights, since there is no init",
                ),
            )
            for name in names
            if unused and (value := getattr(self, name)) != getattr(defaults, name)
        ]
        of_epochs = f"of {epochs} epochs"
        if self.final_epochs >= epochs:
            lines.append(f"final_epochs is {self.final_epochs} {of_epochs}: crop is never used")
        if self.val_split is not None and self.validate_every > epochs:
            lines.append(
                f"validate_every is {self.validate_every} {of_epochs}: nothing is scored, and "
                "there will be no best.keras"
            )
        return lines

    def difference(self, other: dict[str, Any]) -> str:
        """Where a stored configuration differs, for a message; empty where nowhere."""
        # A run from before a field existed had its default.
        defaults = dataclasses.asdict(TrainingConfig(self.model, self.dataset))
        # JSON gives back lists for tuples, at any depth.
        mine, other = tuples(dataclasses.asdict(self)), tuples({**defaults, **other})
        return ", ".join(
            f"{key} was {shown(other[key])} and is {shown(value)}"
            for key, value in mine.items()
            if value != other[key]
        )


def check_seed(seed: int) -> None:
    """Raises KsegError where NumPy takes no such seed."""
    if not 0 <= seed < 2**32:
        raise KsegError(f"seed is {seed}; it must be 0 to {2**32 - 1}")


def check_share(name: str, share: float) -> None:
    """Raises KsegError where a setting that is a part of the whole is none."""
    if not 0 <= share <= 1:
        raise KsegError(f"{name} is {share}; it must be 0 to 1")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a number must be finite, a list is a tuple too."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        wanted = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | hint):
            return False
        return math.isfinite(value)
    return isinstance(value, origin or hint)


_WORDS = {
    int: "an int",
    float: "a finite number",
    str: "a text",
    bool: "True or False",
    types.NoneType: "None",
    dict[str, Any]: "a dict",
    tuple[int, int]: "two ints",
    tuple[float, float]: "two finite numbers",
    tuple[float, ...]: "finite numbers",
}


def _words(hint: Any) -> str:
    """A field's type, for a message."""
    union = typing.get_origin(hint) is types.UnionType
    return " or ".join(_WORDS[part] for part in (typing.get_args(hint) if union else (hint,)))
