"""Runs one .tflite file by LiteRT's CompiledModel, in a process of its own.

A delegate can abort its process. ``python -m kseg.tflite.gpu_worker FILE [THREADS] FD``, on the
GPU accelerator, or on the CPU in half precision by so many threads, takes the bytes of input
tensors from the connection FD. Its first message, and the one before the bytes of every output
tensor, is empty or says what failed, and is the last then.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.cpu_options import CpuOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import Options

from kseg.errors import KsegError
from kseg.tflite.predictors import TensorIO

NO_ACCELERATOR = "no GPU accelerator: LiteRT found no Vulkan driver that it takes"

REFUSED = "the accelerator refuses some of its operators"

# Seconds, of ai-edge-litert 2.3: then reading an output fails, and no option changes it.
_LITERT_WAITS = 120


GPU = "gpu"


def half_name(threads: int) -> str:
    """What a runtime in half precision is called."""
    return f"cpu in half precision, {threads} threads"


# XNNPACK's TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16.
_FORCE_FP16 = 4


class _CompiledFile:
    """A whole .tflite file as a CompiledModel, in this process.

    Attributes:
        input_shape, input_type, output_shape, output_type: of its tensors.
        io: what they mean, where a Predictor's is given; None takes pixels.
    """

    io: TensorIO | None = None

    def __init__(self, path: str | Path, model: CompiledModel) -> None:
        self._path, self._model = path, model
        (signature,) = model.get_signature_list()
        (source,) = model.get_input_tensor_details(signature).values()
        (result,) = model.get_output_tensor_details(signature).values()
        self.input_shape, self.input_type = tuple(source["shape"]), np.dtype(source["dtype"])
        self.output_shape, self.output_type = tuple(result["shape"]), np.dtype(result["dtype"])
        self._inputs = model.create_input_buffers(0)
        self._outputs = model.create_output_buffers(0)

    def write(self, tensor: np.ndarray) -> None:
        """Copies the input tensor in."""
        with self._in_words():
            self._inputs[0].write(tensor)

    def run(self) -> None:
        """Computes."""
        with self._in_words():
            self._model.run_by_index(0, self._inputs, self._outputs)

    def read(self) -> np.ndarray:
        """Waits for the output tensor and copies it out."""
        count = int(np.prod(self.output_shape))
        with self._in_words(f"; LiteRT waits {_LITERT_WAITS} s for a result"):
            values = self._outputs[0].read(count, self.output_type)
        return np.asarray(values, self.output_type).reshape(self.output_shape)

    @contextlib.contextmanager
    def _in_words(self, more: str = "") -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise KsegError(f"{self._path}: {_reason(str(error))}{more}") from None


class AcceleratedModel(_CompiledFile):
    """A whole .tflite file on the accelerator, in this process.

    Raises:
        KsegError: there is none (the text has ``NO_ACCELERATOR``), it refuses the file, or
            fails on an image.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            model = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.GPU)
        except RuntimeError as error:
            raise _error(path, _reason(str(error))) from None
        if not model.is_fully_accelerated():
            raise _error(path, REFUSED)
        super().__init__(path, model)


class HalfModel(_CompiledFile):
    """A whole .tflite file on the CPU in half precision, by XNNPACK, in this process.

    Args:
        path: of the file.
        threads: of the CPU.

    Raises:
        KsegError: XNNPACK refuses the file, or fails on an image.
    """

    def __init__(self, path: str | Path, threads: int) -> None:
        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU,
            cpu_options=CpuOptions(num_threads=threads, xnnpack_flags=_FORCE_FP16),
        )
        try:
            model = CompiledModel.from_file(str(path), options=options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].lstrip("└ ")
            raise KsegError(
                f"{path}: XNNPACK cannot compute it in half precision ({reason})"
            ) from None
        super().__init__(path, model)


def _reason(text: str) -> str:
    """Why a file was not compiled, from the text of LiteRT's error."""
    last = text.strip().splitlines()[-1].lstrip("└ ")
    if "not accelerated" in last:
        return REFUSED
    # Without a driver there are the places in LiteRT's source only; else the cause is last.
    return NO_ACCELERATOR if last.startswith("ERROR: [") else f"the accelerator fails ({last})"


def _error(path: str | Path, reason: str) -> KsegError:
    return KsegError(f"{path}: {reason}; `kseg check-gpu --help` says what is needed")


def main() -> None:
    """Serves until the connection is closed."""
    path, *threads, descriptor = sys.argv[1:]
    connection = Connection(int(descriptor))
    try:
        model: _CompiledFile
        model = HalfModel(path, int(threads[0])) if threads else AcceleratedModel(path)
    except KsegError as error:
        connection.send_bytes(str(error).encode())
        return
    connection.send_bytes(b"")
    while True:
        try:
            values = np.frombuffer(connection.recv_bytes(), model.input_type)
        except EOFError:
            return
        try:
            model.write(values.reshape(model.input_shape))
            model.run()
            result = model.read()
        except KsegError as error:
            connection.send_bytes(str(error).encode())
            return
        connection.send_bytes(b"")
        connection.send_bytes(result.tobytes())


if __name__ == "__main__":
    main()
