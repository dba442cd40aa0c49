"""kseg: semantic segmentation from a published checkpoint to a phone, in Keras."""

from kseg import _startup  # noqa: F401, I001  (first: it decides what the backend prints)
from kseg import checkpoints
from kseg._version import __version__
from kseg.errors import KsegError
from kseg.model import Card, SegmentationModel
from kseg.zoo import create_model, list_models

__all__ = [
    "Card",
    "KsegError",
    "SegmentationModel",
    "__version__",
    "checkpoints",
    "create_model",
    "list_models",
]
