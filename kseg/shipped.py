"""Weights that come with kseg, each with its facts: ``WEIGHTS:MODEL`` names them.

``weights/WEIGHTS/MODEL.safetensors`` has the published tensor names, the JSON file beside
it what they are: data set and splits, recipe, scores, versions, licence, and the command
that makes them again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kseg.errors import KsegError
from kseg.files import make_folder, whole
from kseg.model import Card, SegmentationModel

FOLDER = Path(__file__).parent / "weights"

# A drawn street to try them on; results/camvid.py drew it.
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
    return bool(colon) and weights in {folder.name for folder in FOLDER.iterdir()}


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
    """The file of weights where a path is a name of ``list_shipped()``, else the path.

    Raises:
        KsegError: there are no such weights.
    """
    return weights_file(str(path)) if is_name(str(path)) else path


def load(name: str, **arguments: Any) -> SegmentationModel:
    """A model with shipped weights.

    Args:
        name: of ``list_shipped()``.
        **arguments: of ``create_model`` that leave the weights as they are, such as
            ``input_shape`` or ``output_stride``.

    Raises:
        KsegError: no such weights, or they do not fit.
    """
    from kseg import checkpoints  # they build models with it
    from kseg.zoo import create_model

    card = Card.from_json(facts(name)["card"])
    given = arguments.pop("num_classes", None)
    if given not in (None, card.num_classes):
        raise KsegError(
            f"{name}: has {card.num_classes} classes, not {given}; leave num_classes out"
        )
    options = {**card.options, **arguments}
    result = create_model(card.name, num_classes=card.num_classes, **options)
    checkpoints.assign(result, checkpoints.read(weights_file(name)))
    result.card = card.replace(options=result.card.options, preprocessing=result.card.preprocessing)
    return result


def ship(model: SegmentationModel, weights: str, description: dict[str, Any]) -> Path:
    """Puts a model's weights and facts into the package; the file of weights.

    Args:
        model: trained.
        weights: the folder, such as "camvid-train".
        description: facts beside the card.
    """
    from safetensors.numpy import save_file

    from kseg import checkpoints

    folder = make_folder(FOLDER / weights)
    card = model.card.for_inference().replace(weights=f"{weights}:{model.card.name}")
    path = folder / f"{card.name}.safetensors"
    with whole(path) as temporary:
        save_file(checkpoints.published(model), temporary)
        temporary.chmod(0o644)  # the library leaves it to its owner
    with whole(path.with_suffix(".json")) as temporary:
        record = {**description, "card": card.to_json()}
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return path
