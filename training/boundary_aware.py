"""The logits' loss where the network finds boundaries: PIDNet, arXiv:2206.02066, Section 3.1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras import ops

from kseg.errors import KsegError
from kseg.training.config import TrainingConfig
from kseg.training.losses import SegmentationLoss
from kseg.zoo import find_variant

# Probability of a boundary, above which a pixel counts.
_CERTAIN = 0.8


@dataclasses.dataclass(frozen=True)
class BoundaryAware:
    """A loss of the logits over the pixels that a head gives as boundaries.

    Attributes:
        head: the output of the boundaries' logits, (N, H, W, 1).
        loss: of labels and logits.
        weight: of this loss beside the others.
    """

    head: str
    loss: SegmentationLoss
    weight: float

    def __call__(self, labels: Any, outputs: Mapping[str, Any]) -> Any:
        """The weighted loss of labels (N, H, W) or (N, H, W, 1) and the model's outputs."""
        certain = ops.sigmoid(ops.cast(outputs[self.head], "float32")) > _CERTAIN
        if len(labels.shape) == 3:
            certain = certain[..., 0]
        ignored = ops.cast(self.loss.ignore_id, labels.dtype)
        return self.weight * self.loss(ops.where(certain, labels, ignored), outputs["logits"])


def open_boundary_aware(config: TrainingConfig, loss: SegmentationLoss) -> BoundaryAware | None:
    """What the configuration asks for, if it does.

    Args:
        config: its ``model``, ``auxiliary`` and ``boundary_aware`` decide.
        loss: of the logits.

    Raises:
        KsegError: a network without such a head, or one that does not train it.
    """
    if not config.boundary_aware:
        return None
    head = find_variant(config.model).boundary
    if not head:
        raise KsegError(
            f"boundary_aware is {config.boundary_aware}; {config.model} has no head of boundaries, "
            "leave it out"
        )
    if not config.auxiliary:
        raise KsegError(
            f"boundary_aware is {config.boundary_aware}, and the heads of {config.model} are not "
            "trained; give their weights as auxiliary"
        )
    return BoundaryAware(head, loss, config.boundary_aware)
