"""A .tflite file as a complete Android app: a Gradle project around it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kseg.errors import KsegError
from kseg.files import atomic_folder
from kseg.tflite import metadata
from kseg.tflite.predictors import TFLitePredictor

TEMPLATE = Path(__file__).parent / "android"
ASSET = "model.tflite"

_MAIN = Path("app/src/main")
_OPACITY = 0x8C  # 55 %
# By whether the output is channel numbers, and its type.
_OUTPUTS = {
    (False, np.dtype(np.float32)): "FLOAT_LOGITS",
    (False, np.dtype(np.int8)): "INT8_LOGITS",
    (True, np.dtype(np.uint8)): "CHANNELS",
}


def write_android_project(path: str | Path, folder: str | Path) -> None:
    """Writes a Gradle project: camera, overlay and latency, on the GPU or the CPU.

    Args:
        path: of a .tflite file of kseg that takes RGB 0..255.
        folder: of the project; must not exist or be empty.

    Raises:
        KsegError: a file that cannot be read, one that does not take pixels' values as they
            come, or a folder that is not empty.
    """
    path = Path(path)
    facts = _facts(path)
    with atomic_folder(folder) as temporary:
        shutil.copytree(TEMPLATE, temporary, dirs_exist_ok=True)
        (temporary / _MAIN / "kotlin/org/kseg/camera/Model.kt").write_text(facts, "utf-8")
        (temporary / _MAIN / "assets").mkdir()
        shutil.copyfile(path, temporary / _MAIN / "assets" / ASSET)


def _facts(path: Path) -> str:
    """The source file that says what the file takes and gives."""
    predictor = TFLitePredictor(path, threads=1)
    card, io = predictor.card, predictor.io
    output = _OUTPUTS.get((card.output == "argmax", io.output_type))
    if output is None or io.input_type not in (np.float32, np.uint8) or not io.takes_pixels:
        raise KsegError(
            f"{path}: takes {io.input_type} and gives {io.output_type} {card.output}; the app "
            "writes RGB 0..255 as float32 or uint8 and reads float32 or int8 logits or uint8 "
            "channel numbers, so convert the .keras file with kseg"
        )
    assert predictor.input_size is not None  # a .tflite file has one
    height, width = predictor.input_size
    mask_height, mask_width = io.output_shape[1:3]
    names, colors = metadata.labels(card), metadata.colors(card)
    void = set(card.void_channels)
    return f"""package org.kseg.camera

/** The numbers of the file's output tensor. */
enum class Output {{ CHANNELS, FLOAT_LOGITS, INT8_LOGITS }}

/** What the file takes and gives; written by `kseg android`. */
object Model {{
    const val FILE = "{ASSET}"
    const val HEIGHT = {height}
    const val WIDTH = {width}
    const val TAKES_BYTES = {str(io.input_type == np.uint8).lower()}
    val OUTPUT = Output.{output}
    const val MASK_HEIGHT = {mask_height}
    const val MASK_WIDTH = {mask_width}

    /** By channel. */
    val NAMES = arrayOf(
        {_lines(_literal(name) for name in names)}
    )

    /** ARGB by channel; what means "no class" is not drawn. */
    val COLORS = intArrayOf(
        {_lines(_color(color, i in void) for i, color in enumerate(colors))}
    )
}}
"""


def _lines(values: Iterable[str]) -> str:
    return ",\n        ".join(values)


def _literal(text: str) -> str:
    """A string of Kotlin, where $ begins a template."""
    for character in '\\"$':
        text = text.replace(character, "\\" + character)
    return f'"{text}"'


def _color(color: str, is_void: bool) -> str:
    return "0" if is_void else f"0x{_OPACITY:02X}{color[1:].upper()}.toInt()"
