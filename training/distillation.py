"""A network that teaches another one: Hinton et al., arXiv:1503.02531, Section 2."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

from kseg.data import DataSet
from kseg.errors import KsegError
from kseg.evaluation.predictions import check_classes
from kseg.loading import load
from kseg.model import SegmentationModel, dtype_policy, fixed_size
from kseg.training.boundary_aware import BoundaryAware
from kseg.training.config import TrainingConfig
from kseg.training.losses import DistillationLoss
from kseg.training.records import Records
from kseg.zoo import build, check_size


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A finished network, and how much of the loss comes from it.

    Attributes:
        model: of any input size, from RGB 0..255 to logits; it is not trained.
        loss: of (labels, the teacher's logits) and the student's logits.
        weight: of that loss beside the one of the labels.
    """

    model: SegmentationModel
    loss: DistillationLoss
    weight: float

    def __call__(self, images: Any) -> Any:
        """Logits (N, H, W, C) of the classes, void channels left out, for images (N, H, W, 3)."""
        size, own = tuple(images.shape[1:3]), fixed_size(self.model)
        if None not in own and own != size:
            images = _resized(images, own)
        logits = self.model(images, training=False)
        if void := self.model.card.void_channels:
            kept = [c for c in range(logits.shape[-1]) if c not in void]
            logits = ops.take(logits, kept, axis=-1)
        return logits if tuple(logits.shape[1:3]) == size else _resized(logits, size)


def _resized(x: Any, size: tuple[int | None, int | None]) -> Any:
    return ops.image.resize(x, size, "bilinear", antialias=False, data_format="channels_last")


class Student(SegmentationModel):
    """A model whose training, but not its score, has losses of more than one output's labels.

    Attributes:
        teacher: None for the labels alone. It is no layer of the model: neither its weights
            nor its updates are the model's.
        boundary_aware: the loss of the logits where the model itself finds boundaries, or None.
    """

    teacher: Teacher | None = None
    boundary_aware: BoundaryAware | None = None

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        labels, logits = (v["logits"] if isinstance(v, dict) else v for v in (y, y_pred))
        if self.teacher is not None:
            answers = ops.stop_gradient(self.teacher(x))
            loss = loss + self.teacher.weight * self.teacher.loss((labels, answers), logits)
        if self.boundary_aware is not None:
            loss = loss + self.boundary_aware(labels, y_pred)
        return loss


def open_teacher(config: TrainingConfig, data: DataSet | Records) -> Teacher | None:
    """The teacher of a configuration, if it has one.

    Args:
        config: its ``teacher``, ``distill_weight``, ``temperature``, ``precision`` and crops
            decide.
        data: what the student will be trained on.

    Raises:
        KsegError: a file that is none of kseg's, other classes, or a crop that is too small.
    """
    if config.teacher is None:
        return None
    try:
        source = load(config.teacher)
        check_classes(source.card, data, way_out="Take a teacher of the classes of the data")
        for crop in filter(None, (config.crop, config.final_crop)):
            check_size(source.card, *crop)
        with dtype_policy(config.precision):
            model = build(source.card.for_inference(), weights_of=source)
    except KsegError as error:
        if config.teacher in str(error):
            raise
        raise KsegError(f"teacher {config.teacher}: {error}") from error
    model.trainable = False
    return Teacher(model, DistillationLoss(config.temperature), config.distill_weight)
