"""A Keras functional model that carries one card: what it is and how to use it."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kseg.errors import KsegError
from kseg.layers import Normalize

if TYPE_CHECKING:
    from kseg.data import DataSet


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std`` of RGB 0..255; mean and std in ``channel_order``."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str = "RGB"

    @property
    def rgb_mean(self) -> tuple[float, float, float]:
        """The RGB value that normalises to zero."""
        return self.mean if self.channel_order == "RGB" else self.mean[::-1]


@dataclasses.dataclass(frozen=True)
class Card:
    """What predict, evaluate and convert need to know of a model; plain JSON.

    Attributes:
        name: row of the zoo.
        options: arguments of the builder beside the row's own.
        num_classes: channels of the logits.
        dataset: data set of the classes, None where unknown.
        class_names, colors: by train id, RGB 0..255; None where unknown.
        void_channels: channels that mean "no class": never right in a score.
        preprocessing: whether the normalisation is in the graph.
        normalization: what the network was trained on.
        resize: "half_pixel" or "align_corners".
        input_size: (H, W) of the data set's images, None where unknown or mixed.
        weights: where the weights come from, one line.
        output: "logits", "stride-logits" or "argmax"; a .keras file has logits.
        output_stride: input pixels to one of the output.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    dataset: str | None
    class_names: tuple[str, ...] | None
    colors: tuple[tuple[int, int, int], ...] | None
    void_channels: tuple[int, ...]
    preprocessing: bool
    normalization: Normalization
    resize: str
    input_size: tuple[int, int] | None = None
    weights: str = "random"
    output: str = "logits"
    output_stride: int = 1

    def train_ids(self) -> np.ndarray:
        """(256,) uint8 from channel to train id; void channels, and none, to 255."""
        ids = np.full(256, 255, np.uint8)
        kept = [c for c in range(self.num_classes) if c not in self.void_channels]
        ids[kept] = np.arange(len(kept))
        return ids

    def for_inference(self) -> Card:
        """The card of the same network from RGB to one output, training heads left out."""
        options = {k: v for k, v in self.options.items() if k != "auxiliary"}
        return self.replace(preprocessing=True, options=options)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Card:
        """Raises TypeError, KeyError or AttributeError for what is no card."""
        value = _tuples(value)
        value["normalization"] = Normalization(**value["normalization"])
        return cls(**value)

    def replace(self, **changes) -> Card:
        return dataclasses.replace(self, **changes)

    def trained_on(self, data: DataSet) -> Card:
        """With a data set's name, classes, colours and size, for a model that is trained on it."""
        return self.replace(
            dataset=data.name,
            class_names=data.classes.names,
            colors=data.classes.colors,
            void_channels=(),
            input_size=data.size,
            weights=f"trained by kseg on {data.name} {data.split}",
        )


def _tuples(value: Any) -> Any:
    """JSON has no tuples: lists back to tuples, so that a card equals its copy."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


@keras.saving.register_keras_serializable("kseg")
class SegmentationModel(keras.Model):
    """Images (N, H, W, 3) to float32 logits (N, H, W, num_classes).

    An ordinary functional Keras model: ``fit``, ``predict``, ``save`` and
    ``keras.models.load_model`` work as usual. ``card`` travels in its configuration.
    """

    def __init__(self, inputs, outputs, name=None, *, card: Card | None = None, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.card = card

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "card": self.card and self.card.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None) -> SegmentationModel:
        config = dict(config)
        card = config.pop("card")
        model = super().from_config(config, custom_objects=custom_objects)
        model.card = card and Card.from_json(card)
        return model


def normalize(x: keras.KerasTensor, normalization: Normalization) -> keras.KerasTensor:
    """The layer for a card's normalisation on the tensor ``x``."""
    return Normalize(**dataclasses.asdict(normalization), name="normalize")(x)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies by layer name into ``target``; ``source`` may have more layers."""
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def check_backend() -> None:
    """Raises KsegError where Keras computes by what kseg does not run on."""
    if (backend := keras.backend.backend()) not in ("tensorflow", "jax"):
        raise KsegError(f"Keras runs on {backend} here; set KERAS_BACKEND to tensorflow or jax")


def is_model(path: str | Path) -> bool:
    """Whether ``load_model`` is for it, by its name."""
    from kseg import shipped  # it builds models

    return Path(path).suffix == ".keras" or shipped.is_name(str(path))


def load_model(path: str | Path) -> SegmentationModel:
    """A ``.keras`` file that kseg made, without its optimizer, or shipped WEIGHTS:MODEL.

    Raises:
        KsegError: missing, damaged or not of kseg.
    """
    from kseg import shipped  # it builds models

    if shipped.is_name(str(path)):
        return shipped.load(str(path))
    path = Path(path)
    if not path.is_file():
        raise KsegError(f"{path}: no such file; name a .keras file")
    if path.suffix != ".keras":
        raise KsegError(f"{path}: this takes a .keras file, as `kseg train` and `import` make it")
    check_backend()
    if not zipfile.is_zipfile(path):
        # Keras says that there is no file.
        raise KsegError(
            f"{path}: not a readable .keras file (no zip archive); save or import it again"
        )
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py, json and Keras all raise their own
        raise KsegError(
            f"{path}: not a readable .keras file ({first_line(error)}); save or import it again"
        ) from error
    if not isinstance(model, SegmentationModel) or model.card is None:
        raise KsegError(
            f"{path}: holds a {type(model).__name__} without a card; "
            "make it with kseg.create_model or kseg import"
        )
    return model


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to ``limit`` characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
