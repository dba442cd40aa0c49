"""Training: the input pipeline, losses, recipes, distribution and the fit loop.

Names come when they are first used: preparing records needs no TensorFlow. Once both
kseg.training and Keras are imported, in whichever order, ``keras.models.load_model`` reads
models that were compiled with its losses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from kseg.training import losses, metrics
    from kseg.training.config import TrainingConfig
    from kseg.training.pipeline import dataset
    from kseg.training.recipes import RECIPES, from_recipe
    from kseg.training.records import open_records, prepare
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
    "recompute_batch_norm": "statistics",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"kseg.training.{_MODULES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"kseg.training.{name}")
    raise AttributeError(f"module 'kseg.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_classes(_module: Any) -> None:
    """Imports what Keras must know to load a compiled model."""
    for name in ("losses", "metrics", "optimizers"):
        importlib.import_module(f"kseg.training.{name}")


wrapt.register_post_import_hook(_register_classes, "keras")
