"""What a model is and how to use it, as plain values that every file of it carries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from kseg.data import ClassTable


class Split(Protocol):
    """What a card takes of a data set, or of the records that were prepared of one."""

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def classes(self) -> ClassTable: ...

    @property
    def size(self) -> tuple[int, int] | None: ...


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


# What several published networks expect: 0..1, -1..1, ImageNet's mean and deviation
# (torchvision), and ImageNet's mean alone in BGR, of Caffe's VGG and ResNet models.
UNIT_RANGE = Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
SYMMETRIC_RANGE = Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
VGG_CAFFE = Normalization((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), "BGR")
RESNET_CAFFE = Normalization((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")


@dataclasses.dataclass(frozen=True)
class Card:
    """What predict, evaluate and convert need to know of a model; plain JSON.

    Lists in ``options`` become tuples, so that a card equals its copy from a file.

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

    def __post_init__(self) -> None:
        # A frozen dataclass has no other way to set its own field.
        object.__setattr__(self, "options", tuples(self.options))

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
        value = tuples(value)
        value["normalization"] = Normalization(**value["normalization"])
        return cls(**value)

    def replace(self, **changes: Any) -> Card:
        return dataclasses.replace(self, **changes)

    def trained_on(self, data: Split) -> Card:
        """With a data set's name, classes, colours and size, for a model that is trained on it."""
        return self.replace(
            dataset=data.name,
            class_names=data.classes.names,
            colors=data.classes.colors,
            void_channels=(),
            input_size=data.size,
            weights=f"trained by kseg on {data.name} {data.split}",
        )


def tuples(value: Any) -> Any:
    """The value with tuples for its lists at every depth, since JSON has no tuples."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(tuples(item) for item in value)
    return value
