"""Published checkpoints: read their tensors, assign them to a model by name."""

from kseg.checkpoints.assign import (
    assign,
    copy,
    count_classes,
    is_encoder_alone,
    published,
    published_shapes,
)
from kseg.checkpoints.half import with_half_kernels
from kseg.checkpoints.read import read
from kseg.checkpoints.unfold import has_folded_batch_norm, unfold_batch_norm

__all__ = [
    "assign",
    "copy",
    "count_classes",
    "has_folded_batch_norm",
    "is_encoder_alone",
    "published",
    "published_shapes",
    "read",
    "unfold_batch_norm",
    "with_half_kernels",
]
