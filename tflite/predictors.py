""".tflite and .onnx files as Predictors."""

from __future__ import annotations

import abc
import dataclasses
import json
import os
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kseg.card import Card
from kseg.errors import KsegError, first_line
from kseg.quiet import quiet_stderr
from kseg.tflite.flatbuffer import CARD_ENTRY, read_card

# Bytes: a flatbuffer's offsets have 31 bits. More is not even read.
_LIMIT = 2**31


@dataclasses.dataclass(frozen=True)
class TensorIO:
    """A file's input and output as its tensors take them.

    Attributes:
        input_type: float32 or uint8.
        output_type, output_shape: of the tensor, batch included.
        scale, zero_point: of an int8 output.
    """

    input_type: np.dtype
    output_type: np.dtype
    output_shape: tuple[int, ...]
    scale: float
    zero_point: int

    def encode(self, image: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3) 0..255 to the input tensor."""
        if self.input_type == np.uint8:
            image = np.clip(np.rint(image), 0, 255)
        return np.asarray(image, self.input_type)[None]

    def decode(self, output: np.ndarray) -> np.ndarray:
        """The output tensor to float32 logits or channel numbers, without the batch."""
        if output.dtype == np.int8:
            return (output[0].astype(np.float32) - self.zero_point) * np.float32(self.scale)
        return output[0]


class _InSteps(abc.ABC):
    """A Predictor whose parts are timed apart: write, run and read tensors as ``io`` says."""

    card: Card
    input_size: tuple[int, int]
    runtime: str
    io: TensorIO

    @abc.abstractmethod
    def write(self, tensor: np.ndarray) -> None: ...

    @abc.abstractmethod
    def run(self) -> None: ...

    @abc.abstractmethod
    def read(self) -> np.ndarray: ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.write(self.io.encode(image))
        self.run()
        return self.io.decode(self.read())


class TFLitePredictor(_InSteps):
    """Runs a .tflite file of kseg on the CPU (LiteRT with XNNPACK).

    Args:
        path: of the file.
        threads: None takes all cores.

    Raises:
        KsegError: missing, damaged, too large, without a card or with several outputs.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise KsegError(f"{path}: no such file; name a .tflite file")
        if path.suffix in (".keras", ".onnx"):
            raise KsegError(f"{path}: this takes a .tflite file, as `kseg convert` makes it")
        size = path.stat().st_size
        if not 0 < size < _LIMIT:
            raise KsegError(f"{path}: not a readable .tflite file ({size} bytes); convert it again")
        threads = thread_count(threads)
        try:
            content = path.read_bytes()
            with quiet_stderr():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            card = read_card(content)
        except Exception as error:  # damage shows as ValueError, RuntimeError or struct.error
            raise KsegError(
                f"{path}: not a readable .tflite file ({first_line(error)}); convert it again"
            ) from error
        if card is None:
            raise KsegError(f"{path}: has no card; convert the model with kseg")
        self.card = card
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self._input, self._output = _one_of_each(path, inputs, outputs)
        self.io = TensorIO(
            np.dtype(self._input["dtype"]),
            np.dtype(self._output["dtype"]),
            tuple(int(n) for n in self._output["shape"]),
            *self._output["quantization"],
        )
        height, width = self._input["shape"][1:3]
        self.input_size = int(height), int(width)
        self.runtime = f"litert {version('ai-edge-litert')} cpu, {threads} threads"

    def write(self, tensor: np.ndarray) -> None:
        """Copies the input tensor in."""
        self._interpreter.set_tensor(self._input["index"], tensor)

    def run(self) -> None:
        """Computes."""
        self._interpreter.invoke()

    def read(self) -> np.ndarray:
        """Copies the output tensor out."""
        return self._interpreter.get_tensor(self._output["index"])


class OnnxPredictor(_InSteps):
    """Runs an .onnx file of kseg on the CPU (ONNX Runtime, extra ``onnx``).

    Args:
        path: of the file.
        threads: None takes all cores.

    Raises:
        KsegError: missing, damaged, without a card or with several outputs, or ONNX Runtime
            is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise KsegError(f"{path}: no such file; name an .onnx file")
        onnxruntime = import_onnxruntime(path)
        threads = thread_count(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # What fails is raised as well.
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            entry = self._session.get_modelmeta().custom_metadata_map.get(CARD_ENTRY)
            card = entry and Card.from_json(json.loads(entry))
        except Exception as error:  # ONNX Runtime has an exception for each of its codes
            raise KsegError(
                f"{path}: not a readable .onnx file ({first_line(error)}); convert it again"
            ) from error
        if not card:
            raise KsegError(f"{path}: has no card; convert the model with kseg")
        self.card = card
        ends = self._session.get_inputs(), self._session.get_outputs()
        source, result = _one_of_each(path, *ends)
        self._input = source.name
        # The batch is 1 or open; there are no scales, since nothing is int8.
        self.io = TensorIO(_dtype(source.type), _dtype(result.type), (1, *result.shape[1:]), 1, 0)
        height, width = source.shape[1:3]
        self.input_size = height, width
        self.runtime = f"onnxruntime {onnxruntime.__version__} cpu, {threads} threads"

    def write(self, tensor: np.ndarray) -> None:
        """Keeps the input tensor: ONNX Runtime reads it where it is."""
        self._tensor = tensor

    def run(self) -> None:
        """Computes."""
        (self._result,) = self._session.run(None, {self._input: self._tensor})

    def read(self) -> np.ndarray:
        """The output tensor, new with every run."""
        return self._result


def import_onnxruntime(path: Path) -> ModuleType:
    """ONNX Runtime for a file.

    Raises:
        KsegError: it is not installed.
    """
    try:
        # It looks for GPUs and tells what it did not find.
        with quiet_stderr():
            import onnxruntime
    except ImportError:
        raise KsegError(f"{path}: needs onnxruntime; install kseg[onnx]") from None
    return onnxruntime


def thread_count(count: int | None = None) -> int:
    """The threads asked for; None takes all cores.

    Raises:
        KsegError: less than one.
    """
    if count is not None and count < 1:
        raise KsegError(f"threads is {count}; it must be at least 1")
    return count or os.cpu_count() or 1


def _one_of_each(path: Path, inputs: list[Any], outputs: list[Any]) -> tuple[Any, Any]:
    """The input and the output of a file."""
    if (len(inputs), len(outputs)) != (1, 1):
        raise KsegError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs, not one of each; "
            "convert the model with kseg"
        )
    return inputs[0], outputs[0]


def _dtype(name: str) -> np.dtype:
    """Of ONNX Runtime's "tensor(float)" or "tensor(uint8)"."""
    return np.dtype(np.uint8 if name == "tensor(uint8)" else np.float32)
