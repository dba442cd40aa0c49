"""TFLite metadata: what a file's tensors mean, for MediaPipe and other readers.

A flatbuffer of TensorFlow's metadata schema (version 1.5.0, identifier "M001") in the
model's metadata entry TFLITE_METADATA; the files that it names, one line a channel, are
an uncompressed zip archive behind the model. The schema's few tables that an image
segmenter has are written field by field: the packages that know the schema want other
versions of what kseg pins. Numbers of fields and values below are the schema's.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np

from kseg.card import CARD_ENTRY, Card
from kseg.pictures import spread_colors
from kseg.tflite.flatbuffer import Flatbuffer

ENTRY = "TFLITE_METADATA"
LABELS, COLORS = "labels.txt", "colors.txt"

_PARSER_VERSION = "1.5.0"
_RGB, _GRAYSCALE = 1, 2
_IMAGE_PROPERTIES, _NORMALIZATION_OPTIONS = 2, 1
_DESCRIPTIONS, _AXIS_LABELS, _VALUE_LABELS = 1, 2, 3
# MediaPipe takes any output for masks by channel; from channel numbers it would make
# masks of memory. At an activation that the schema does not have, it refuses the file.
_SOFTMAX, _DECIDED = 2, -1


def with_metadata(model: Flatbuffer, card: Card) -> bytes:
    """A .tflite file: the model with its card, its TFLite metadata and their files.

    Args:
        model: RGB 0..255 to the card's output.
        card: with the input's size.
    """
    entries = {CARD_ENTRY: json.dumps(card.to_json()).encode(), ENTRY: metadata(card)}
    archive = io.BytesIO(model.with_entries(entries).content)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as files:
        for name, lines in ((LABELS, labels(card)), (COLORS, colors(card))):
            # ZipInfo's own date is fixed: the same model gives the same bytes.
            files.writestr(zipfile.ZipInfo(name), "\n".join(lines) + "\n")
    return archive.getvalue()


def labels(card: Card) -> list[str]:
    """The name of every channel, void ones and those without a name included."""
    named = dict(enumerate(card.class_names or ()))
    ids = card.train_ids()[: card.num_classes].tolist()
    return [named.get(i, "void" if i == 255 else f"class {i}") for i in ids]


def colors(card: Card) -> list[str]:
    """The colour of every channel as #rrggbb, void ones black."""
    known = dict(enumerate(card.colors or spread_colors(card.num_classes)))
    ids = card.train_ids()[: card.num_classes].tolist()
    return ["#{:02x}{:02x}{:02x}".format(*known.get(i, (0, 0, 0))) for i in ids]


def description(card: Card) -> str:
    """What the file is, in a line."""
    classes = f"{card.num_classes} channels, classes of {card.dataset or 'no known data set'}"
    return f"semantic segmentation, {classes}; weights: {card.weights}"


def metadata(card: Card) -> bytes:
    """The metadata's flatbuffer (table ModelMetadata) of a file with this card.

    Raises:
        ValueError: the card has no input size.
    """
    if card.input_size is None:
        raise ValueError(f"{card.name}: the card has no input_size; a file's card has it")
    write = _Writer()
    height, width = card.input_size
    size = write.table(integers={0: width, 1: height})
    pixels = write.table({1: size}, octets={0: _RGB})
    # The network normalises by itself: what it takes are the pixels' values.
    unchanged = write.table({0: write.floats([0.0]), 1: write.floats([1.0])})
    image = write.table(
        {
            0: write.text("image"),
            1: write.text("RGB, 0 to 255; the normalisation is in the network"),
            3: write.table({1: pixels}, octets={0: _IMAGE_PROPERTIES}),
            4: write.tables([write.table({1: unchanged}, octets={0: _NORMALIZATION_OPTIONS})]),
            5: write.table({0: write.floats([255.0]), 1: write.floats([0.0])}),
        }
    )
    decided = card.output == "argmax"
    files = [
        write.table({0: write.text(name), 1: write.text(text)}, octets={2: kind})
        for name, text, kind in (
            (LABELS, "names of the channels", _VALUE_LABELS if decided else _AXIS_LABELS),
            (COLORS, "colours of the channels, #rrggbb", _DESCRIPTIONS),
        )
    ]
    masks = write.table(octets={0: _GRAYSCALE})
    # Axes 1 and 2 are the picture; the channels stand beside each other.
    axes = write.table(integers={0: 1, 1: 2})
    output = write.table(
        {
            0: write.text("channels" if decided else "logits"),
            1: write.text(
                "the number of each pixel's channel" if decided else "logits of each channel"
            ),
            3: write.table({1: masks, 2: axes}, octets={0: _IMAGE_PROPERTIES}),
            6: write.tables(files),
        }
    )
    segmenter = write.table(
        {
            0: write.text("SEGMENTER_METADATA"),
            1: write.octets(_segmenter_options(_DECIDED if decided else _SOFTMAX)),
        }
    )
    graph = write.table(
        {2: write.tables([image]), 3: write.tables([output]), 9: write.tables([segmenter])}
    )
    root = write.table(
        {
            0: write.text(card.name),
            1: write.text(description(card)),
            3: write.tables([graph]),
            7: write.text(_PARSER_VERSION),
        }
    )
    return write.finished(root, b"M001")


def _segmenter_options(activation: int) -> bytes:
    """MediaPipe's table ImageSegmenterOptions, which it looks for by name."""
    write = _Writer()
    return write.finished(write.table(octets={0: activation}), b"V001")


class _Writer:
    """Tables and vectors of a flatbuffer, inner ones first; all are known by offsets."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def table(
        self,
        offsets: Mapping[int, int] | None = None,
        *,
        octets: Mapping[int, int] | None = None,
        integers: Mapping[int, int] | None = None,
    ) -> int:
        """A table of fields by number: of other things, of 8 and of 32 bits."""
        builder = self._builder
        offsets, octets, integers = offsets or {}, octets or {}, integers or {}
        builder.StartObject(1 + max([*offsets, *octets, *integers]))
        for field, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, value in integers.items():
            builder.PrependUint32Slot(field, value, 0)
        for field, value in octets.items():
            builder.PrependInt8Slot(field, value, 0)
        return builder.EndObject()

    def text(self, value: str) -> int:
        return self._builder.CreateString(value)

    def octets(self, value: bytes) -> int:
        return self._builder.CreateByteVector(value)

    def floats(self, values: Sequence[float]) -> int:
        return self._builder.CreateNumpyVector(np.asarray(values, np.float32))

    def tables(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def finished(self, root: int, identifier: bytes) -> bytes:
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())
