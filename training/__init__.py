"""Training: the input pipeline, losses, metrics and the fit loop."""

from kseg.training import losses, metrics
from kseg.training.config import TrainingConfig
from kseg.training.pipeline import dataset
from kseg.training.records import open_records, prepare
from kseg.training.run import train

__all__ = [
    "TrainingConfig",
    "dataset",
    "losses",
    "metrics",
    "open_records",
    "prepare",
    "train",
]
