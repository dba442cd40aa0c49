"""Training: the input pipeline, losses, recipes, distribution and the fit loop."""

from kseg.training import losses, metrics
from kseg.training.config import TrainingConfig
from kseg.training.pipeline import dataset
from kseg.training.recipes import RECIPES, from_recipe
from kseg.training.records import open_records, prepare
from kseg.training.run import train

__all__ = [
    "RECIPES",
    "TrainingConfig",
    "dataset",
    "from_recipe",
    "losses",
    "metrics",
    "open_records",
    "prepare",
    "train",
]
