"""A .tflite file as a complete Android app: a Gradle project around it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from kseg.files import atomic_folder
from kseg.tflite.app_facts import AppFacts, app_facts

TEMPLATE = Path(__file__).parent / "android"
ASSET = "model.tflite"

_MAIN = Path("app/src/main")
_OPACITY = 0x8C  # 55 %


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
    source = _source(app_facts(path))
    with atomic_folder(folder) as temporary:
        shutil.copytree(TEMPLATE, temporary, dirs_exist_ok=True)
        (temporary / _MAIN / "kotlin/org/kseg/camera/Model.kt").write_text(source, "utf-8")
        (temporary / _MAIN / "assets").mkdir()
        shutil.copyfile(path, temporary / _MAIN / "assets" / ASSET)


def _source(facts: AppFacts) -> str:
    """Model.kt."""
    return f"""package org.kseg.camera

/** The numbers of the file's output tensor. */
enum class Output {{ CHANNELS, FLOAT_LOGITS, INT8_LOGITS }}

/** What the file takes and gives; written by `kseg android`. */
object Model {{
    const val FILE = "{ASSET}"
    const val HEIGHT = {facts.height}
    const val WIDTH = {facts.width}
    const val TAKES_BYTES = {str(facts.takes_bytes).lower()}
    val OUTPUT = Output.{facts.output}
    const val MASK_HEIGHT = {facts.mask_height}
    const val MASK_WIDTH = {facts.mask_width}

    /** By channel. */
    val NAMES = arrayOf(
        {_lines(_literal(name) for name in facts.names)}
    )

    /** ARGB by channel; what means "no class" is not drawn. */
    val COLORS = intArrayOf(
        {_lines(_color(color, i in facts.void) for i, color in enumerate(facts.colors))}
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
