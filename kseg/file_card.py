"""What the maker of a .tflite or .onnx file knew and the file does not say, as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from kseg.card import Card, Normalization, check_num_classes, tuples
from kseg.errors import KsegError, first_line

OUTPUTS = ("logits", "probabilities", "argmax")
LAYOUTS = ("NHWC", "NCHW")

TEMPLATE = (
    '{"class_names": ["road", "car"], "mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, '
    '127.5], "channel_order": "RGB", "output": "logits"}'
)
"""A card to begin with; the message of a file without one has it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileCard:
    """How a file of others is used; the fields are the JSON's.

    Attributes:
        mean, std: of the channels, in ``channel_order``: the network takes
            ``(x - mean) / std`` of pixels 0..255. (0, 0, 0) and (1, 1, 1) for 0..255,
            (0, 0, 0) and (255, 255, 255) for 0..1, 127.5 for -1..1.
        channel_order: "RGB" or "BGR".
        class_names: one for every channel that is not void.
        num_classes: channels, where there are no names.
        colors: RGB 0..255, one for every name.
        void_channels: channels that mean "no class".
        output: "logits", "probabilities" (a softmax), or "argmax" (channel numbers).
        layout: of input and output, "NHWC" or "NCHW"; None where their shapes show it.
        resize: how logits at a stride are enlarged, "half_pixel" or "align_corners".

    Raises:
        KsegError: a value out of range, or neither names nor a number of classes.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str = "RGB"
    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None
    void_channels: tuple[int, ...] = ()
    output: str = "logits"
    layout: str | None = None
    resize: str = "half_pixel"

    def __post_init__(self) -> None:
        if self.class_names is None and self.num_classes is None:
            raise KsegError("class_names or num_classes is needed")
        check_num_classes(self.channels)
        for name, choices in (("output", OUTPUTS), ("layout", (*LAYOUTS, None))):
            if getattr(self, name) not in choices:
                listed = ", ".join(choice for choice in choices if choice)
                raise KsegError(f"{name} is {getattr(self, name)!r}; it must be one of {listed}")
        # Says what else is wrong, before any file is opened.
        self.card("the card", "logits", 1, None)

    @property
    def channels(self) -> int:
        """Channels of the output, void ones included."""
        if self.num_classes is not None:
            return self.num_classes
        return len(self.class_names or ()) + len(self.void_channels)

    @property
    def normalization(self) -> Normalization:
        """What the network was trained on."""
        return Normalization(self.mean, self.std, self.channel_order)

    def card(
        self, name: str, output: str, output_stride: int, input_size: tuple[int, int] | None
    ) -> Card:
        """The card of a Predictor that normalises RGB 0..255 as this says."""
        return Card(
            name=name,
            options={},
            num_classes=self.channels,
            dataset=None,
            class_names=self.class_names,
            colors=self.colors,
            void_channels=self.void_channels,
            preprocessing=True,
            normalization=self.normalization,
            resize=self.resize,
            input_size=input_size,
            weights="of others",
            output=output,
            output_stride=output_stride,
            wrapped=True,
        )


def read_file_card(path: str | Path) -> FileCard:
    """The card in a JSON file.

    Raises:
        KsegError: a missing or damaged file, an unknown field, one that is missing, or a
            value out of range.
    """
    path = Path(path)
    try:
        value: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise KsegError(
            f"{path}: not a readable card ({first_line(error)}); it is JSON such as {TEMPLATE}"
        ) from error
    fields = {field.name for field in dataclasses.fields(FileCard)}
    if not isinstance(value, dict):
        raise KsegError(f"{path}: holds no object; a card is JSON such as {TEMPLATE}")
    if unknown := sorted(value.keys() - fields):
        raise KsegError(
            f"{path}: has the unknown fields {', '.join(unknown)}; a card has {_list(fields)}"
        )
    if missing := sorted({"mean", "std"} - value.keys()):
        raise KsegError(f"{path}: lacks {', '.join(missing)}; a card is JSON such as {TEMPLATE}")
    try:
        return FileCard(**tuples(value))
    except (KsegError, TypeError) as error:
        raise KsegError(f"{path}: {error}; a card is JSON such as {TEMPLATE}") from None


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def without_card(path: str | Path) -> KsegError:
    """The error of a file that has no card and was given none."""
    return KsegError(
        f"{path}: has no card, so that its classes and the values that it takes are not known; "
        f"write a file card.json such as {TEMPLATE} and give it as card"
    )
