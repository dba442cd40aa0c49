"""What an app has to know of a .tflite file to run it, from the file itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from kseg.errors import KsegError
from kseg.tflite import metadata
from kseg.tflite.predictors import TFLitePredictor


@dataclasses.dataclass(frozen=True)
class AppFacts:
    """What a file takes and gives.

    Attributes:
        height, width: of the input, RGB 0..255.
        takes_bytes: whether it is uint8; float32 if not.
        output: "FLOAT_LOGITS", "INT8_LOGITS" or "CHANNELS" (uint8).
        mask_height, mask_width: of the output.
        names: by channel, "void" for what means "no class".
        colors: "#rrggbb" by channel.
        void: channels that mean "no class".
    """

    height: int
    width: int
    takes_bytes: bool
    output: str
    mask_height: int
    mask_width: int
    names: list[str]
    colors: list[str]
    void: list[int]


# By whether the output is channel numbers, and its type.
_OUTPUTS = {
    (False, np.dtype(np.float32)): "FLOAT_LOGITS",
    (False, np.dtype(np.int8)): "INT8_LOGITS",
    (True, np.dtype(np.uint8)): "CHANNELS",
}


def app_facts(path: Path) -> AppFacts:
    """The facts of a .tflite file of kseg.

    Raises:
        KsegError: a file that cannot be read, or one whose numbers are other than those.
    """
    predictor = TFLitePredictor(path, threads=1)
    card, io = predictor.card, predictor.io
    output = _OUTPUTS.get((card.output == "argmax", io.output_type))
    if output is None or io.input_type not in (np.float32, np.uint8) or not io.takes_pixels:
        raise KsegError(
            f"{path}: takes {io.input_type} and gives {io.output_type} {card.output}; an app "
            "writes RGB 0..255 as float32 or uint8 and reads float32 or int8 logits or uint8 "
            "channel numbers, so convert the .keras file with kseg"
        )
    assert predictor.input_size is not None  # a .tflite file has one
    height, width = predictor.input_size
    mask_height, mask_width = io.output_shape[1:3]
    return AppFacts(
        height=height,
        width=width,
        takes_bytes=io.input_type == np.uint8,
        output=output,
        mask_height=mask_height,
        mask_width=mask_width,
        names=metadata.labels(card),
        colors=metadata.colors(card),
        void=list(card.void_channels),
    )
