"""kseg: semantic segmentation from a published checkpoint to a phone, in Keras.

Importing kseg loads neither Keras nor TensorFlow, which take seconds: names come when they
are first used. Once both kseg and Keras are imported, in whichever order,
``keras.models.load_model`` reads kseg's files.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from kseg._version import __version__
from kseg.lazy import lazy_names

if TYPE_CHECKING:
    from kseg import (
        checkpoints,
        data,
        evaluation,
        layers,
        pictures,
        predictor,
        shipped,
        tflite,
        training,
    )
    from kseg.card import Card
    from kseg.errors import KsegError
    from kseg.loading import create_model, load
    from kseg.model import SegmentationModel
    from kseg.opening import open_predictor
    from kseg.wrapping import wrap
    from kseg.zoo import list_encoders, list_heads, list_models

__all__ = [
    "Card",
    "KsegError",
    "SegmentationModel",
    "__version__",
    "checkpoints",
    "create_model",
    "data",
    "evaluation",
    "layers",
    "list_encoders",
    "list_heads",
    "list_models",
    "load",
    "open_predictor",
    "pictures",
    "predictor",
    "shipped",
    "tflite",
    "training",
    "wrap",
]

_MODULES = {
    "Card": "card",
    "KsegError": "errors",
    "SegmentationModel": "model",
    "create_model": "loading",
    "list_encoders": "zoo",
    "list_heads": "zoo",
    "list_models": "zoo",
    "load": "loading",
    "open_predictor": "opening",
    "wrap": "wrapping",
}

__getattr__, __dir__ = lazy_names(
    __name__, _MODULES, [name for name in __all__ if name not in (*_MODULES, "__version__")]
)


def _register_classes(module: Any) -> None:
    """Imports what Keras must know to load kseg's files.

    Where ``kseg.layers`` is what imports Keras, ``kseg.model`` can only come after it.
    """
    if module.__name__ == "kseg.layers" or "kseg.layers" not in sys.modules:
        importlib.import_module("kseg.model")


for _name in ("keras", "kseg.layers"):
    wrapt.register_post_import_hook(_register_classes, _name)
