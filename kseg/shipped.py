"""The files of the weights that come with kseg, each with its facts: ``WEIGHTS:MODEL``.

``weights/WEIGHTS/MODEL.safetensors`` has the published tensor names, the JSON file beside
it what they are: data set and splits, recipe, scores, versions, licence, and the command
that makes them again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kseg import hub
from kseg.errors import KsegError
from kseg.files import suffix_of

FOLDER = Path(__file__).parent / "weights"

# A drawn street to try them on; benchmarks/camvid.py drew it.
SAMPLE = FOLDER / "sample.jpg"


def list_shipped() -> list[str]:
    """Names as ``camvid:cgnet_m3n21``, sorted."""
    files = FOLDER.glob("*/*.json")
    return sorted(f"{file.parent.name}:{file.stem}" for file in files)


def facts(name: str) -> dict[str, Any]:
    """What is known of shipped weights.

    Args:
        name: of ``list_shipped()``.

    Raises:
        KsegError: there are none of that name.
    """
    return json.loads(weights_file(name).with_suffix(".json").read_text())


def is_name(text: str) -> bool:
    """Whether a text names shipped weights rather than a file."""
    weights, colon, _ = text.partition(":")
    return bool(colon) and any(folder.name == weights for folder in FOLDER.glob("*/"))


def is_model(path: str | Path) -> bool:
    """Whether a path names what Keras runs: a ``.keras`` file, shipped weights, hf://USER/NAME."""
    name = str(path)
    return is_name(name) or hub.is_name(name) or suffix_of(path) == ".keras"


def weights_file(name: str) -> Path:
    """The .safetensors file of a name of ``list_shipped()``.

    Raises:
        KsegError: there are no such weights.
    """
    weights, _, model = name.partition(":")
    path = FOLDER / weights / f"{model}.safetensors"
    if not weights or not path.is_file():
        raise KsegError(f"{name}: no such weights; kseg ships {', '.join(list_shipped())}")
    return path


def file_of(path: Path) -> Path:
    """The file where a path is a name of ``list_shipped()`` or of the hub, else the path.

    Raises:
        KsegError: there are no such weights.
    """
    if hub.is_name(str(path)):
        return hub.fetch(str(path))
    return weights_file(str(path)) if is_name(str(path)) else path
