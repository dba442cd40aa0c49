"""The form of a converted file: what ``convert`` and all that quantise take, checked here."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from kseg.card import OUTPUTS, check_type, checked_size
from kseg.errors import KsegError
from kseg.files import check_output

PRECISIONS = ("fp32", "fp16", "w8", "int8")
RUNTIMES = ("cpu", "litert-gpu", "litert-fp16")
"""What runs .tflite files."""
INPUT_TYPES = ("float", "uint8")
CALIBRATION_METHODS = ("min-max", "moving-average", "percentile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The form of one file.

    Attributes:
        precision, output, input_size, input_type, calibration_method, keep_float, sparse,
            dynamic_batch: as for ``kseg.tflite.convert``.

    Raises:
        KsegError: a value out of range, or two that do not go together.
    """

    precision: str = "fp32"
    output: str = "logits"
    input_size: tuple[int, int] | None = None
    input_type: str = "float"
    calibration_method: str = "percentile"
    keep_float: Collection[str] = ()
    sparse: bool = False
    dynamic_batch: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("output", self.output, OUTPUTS)
        check_choice("input_type", self.input_type, INPUT_TYPES)
        check_choice("calibration_method", self.calibration_method, CALIBRATION_METHODS)
        if self.input_size is not None:
            check_input_size(self.input_size)
        check_type("sparse", self.sparse, bool)
        check_type("dynamic_batch", self.dynamic_batch, bool)
        if isinstance(self.keep_float, str):
            raise KsegError(f"keep_float is {self.keep_float!r}; give a list of layers' names")
        if self.keep_float and self.precision != "int8":
            raise KsegError(f"precision {self.precision} keeps all in float; leave keep_float out")

    @property
    def dtype(self) -> str:
        """Of the file's input, "float32" or "uint8"."""
        return "uint8" if self.input_type == "uint8" else "float32"

    def check_path(self, path: str | Path) -> None:
        """Whether the file can be written, in this form.

        Raises:
            KsegError: another suffix than .tflite and .onnx, a path that cannot be written,
                or an option that files of this suffix do not have.
        """
        check_output(path, ".tflite", ".onnx")
        suffix = Path(path).suffix
        if suffix == ".onnx" and self.precision != "fp32":
            raise KsegError(f"{path}: precision is {self.precision!r}; an .onnx file has fp32 only")
        if suffix != ".onnx" and self.dynamic_batch:
            raise KsegError(f"{path}: a .tflite file has a batch of 1; leave dynamic_batch out")
        if self.sparse and (suffix == ".onnx" or self.precision not in ("fp32", "fp16")):
            raise KsegError(f"{path}: only .tflite files in fp32 and fp16 can be sparse")


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raises KsegError where the argument's value is none of the choices."""
    if value not in choices:
        raise KsegError(f"{argument} is {value!r}; it must be one of {', '.join(choices)}")


def check_input_size(size: tuple[int, int]) -> None:
    """Raises KsegError where it is no size, or a side is too small for any network."""
    height, width = checked_size("input_size", size) or (0, 0)
    if min(height, width) < 32:
        raise KsegError(f"input_size is {height}x{width}; both sides must be at least 32")
