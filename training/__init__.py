"""Training: the input pipeline, losses, recipes, distribution and the fit loop.

Names come when they are first used: preparing records needs no TensorFlow. Once both
kseg.training and Keras are imported, in whichever order, ``keras.models.load_model`` reads
models that were compiled with its losses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from kseg.lazy import lazy_names

if TYPE_CHECKING:
    from kseg.training import losses, metrics
    from kseg.training.config import TrainingConfig
    from kseg.training.pipeline import dataset
    from kseg.training.recipes import RECIPES, from_recipe
    from kseg.training.records import open_records, prepare, prepare_shard
    from kseg.training.run import train
    from kseg.training.statistics import recompute_batch_norm

__all__ = [
    "RECIPES",
    "TrainingConfig",
    "dataset",
    "from_recipe",
    "losses",
    "metrics",
    "open_records",
    "prepare",
    "prepare_shard",
    "recompute_batch_norm",
    "train",
]

_MODULES = {
    "RECIPES": "recipes",
    "TrainingConfig": "config",
    "dataset": "pipeline",
    "from_recipe": "recipes",
    "open_records": "records",
    "prepare": "records",
    "prepare_shard": "records",
    "recompute_batch_norm": "statistics",
    "train": "run",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES, ("losses", "metrics"))


def _register_classes(_module: Any) -> None:
    """Imports what Keras must know to load a compiled model."""
    for name in ("losses", "metrics", "optimizers"):
        importlib.import_module(f"kseg.training.{name}")


wrapt.register_post_import_hook(_register_classes, "keras")
