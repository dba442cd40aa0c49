"""Times the operators of one .tflite file on the CPU, in a process of its own.

``python -m kseg.tflite.profile_worker FILE THREADS RUNS WARM_UP FD`` sends one message of
JSON: the summary of LiteRT's profiler as text, and the seconds of a run.

LiteRT's Python interface has no profiler. The C interface of the wheel's ``libLiteRt.so``
has; what it wants of types is written down below, as of ai-edge-litert 2.3.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kseg.errors import KsegError

_CPU, _WRITE = 1, 1
_ELEMENT_TYPES = {
    "float32": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "int16": 7,
    "int8": 9,
    "float16": 10,
}

_Handle = ctypes.c_void_p


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint8),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element_type", ctypes.c_int32), ("layout", _Layout))


class _Library:
    """LiteRT's C functions, each of which gives a status."""

    def __init__(self) -> None:
        path = Path(ai_edge_litert.__file__).parent / "libLiteRt.so"
        try:
            self._functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise KsegError(f"{path}: {error}; profiles need ai-edge-litert 2.3") from None

    def __call__(self, function: str, *arguments: Any) -> None:
        try:
            status = getattr(self._functions, function)(*arguments)
        except AttributeError:
            raise KsegError(f"LiteRT has no {function}; profiles need ai-edge-litert 2.3") from None
        if status:
            raise KsegError(f"LiteRT's {function} failed with status {status}")

    def make(self, function: str, *arguments: Any) -> _Handle:
        """What the function puts behind its last argument."""
        handle = _Handle()
        self(function, *arguments, ctypes.byref(handle))
        return handle


def profile(path: str, threads: int, runs: int, warm_up: int) -> tuple[str, float]:
    """LiteRT's summary of its operators' times, and the seconds of a run.

    Raises:
        KsegError: LiteRT does not give it.
    """
    library = _Library()
    environment = library.make("LiteRtCreateEnvironment", 0, None)
    file = library.make("LiteRtCreateModelFromFile", environment, path.encode())
    options = library.make("LiteRtCreateOptions")
    library("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
    # The texts are kept to the end; LiteRT is given nothing to free them with.
    texts = [b"enable_profiling = true\n", f"num_threads = {threads}\n".encode()]
    keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    for name, text in zip((b"runtime_options_string", b"xnnpack"), texts, strict=True):
        option = library.make("LiteRtCreateOpaqueOptions", name, text, keep)
        library("LiteRtAddOpaqueOptions", options, option)
    model = library.make("LiteRtCreateCompiledModel", environment, file, options)
    interpreter = Interpreter(path)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    first = ctypes.c_size_t(0)
    buffers = []
    for kind, tensor in (("Input", source), ("Output", result)):
        needs = library.make(f"LiteRtGetCompiledModel{kind}BufferRequirements", model, first, first)
        shape = [int(n) for n in tensor["shape"]]
        layout = _Layout(len(shape), (ctypes.c_int32 * 8)(*shape))
        of = _TensorType(_ELEMENT_TYPES[np.dtype(tensor["dtype"]).name], layout)
        buffers.append(
            library.make(
                "LiteRtCreateManagedTensorBufferFromRequirements",
                environment,
                ctypes.byref(of),
                needs,
            )
        )
    image = np.random.default_rng(0).integers(0, 256, source["shape"]).astype(source["dtype"])
    memory = _Handle()
    library("LiteRtLockTensorBuffer", buffers[0], ctypes.byref(memory), _WRITE)
    ctypes.memmove(memory, image.ctypes.data, image.nbytes)
    library("LiteRtUnlockTensorBuffer", buffers[0])
    inputs, outputs = ((_Handle * 1)(buffer) for buffer in buffers)
    one = ctypes.c_size_t(1)

    def run() -> None:
        library("LiteRtRunCompiledModel", model, first, one, inputs, one, outputs)

    for _ in range(warm_up):
        run()
    profiler = library.make("LiteRtCompiledModelGetProfiler", model)
    library("LiteRtStartProfiler", profiler)
    begin = time.perf_counter()
    for _ in range(runs):
        run()
    seconds = (time.perf_counter() - begin) / runs
    library("LiteRtStopProfiler", profiler)
    summary = ctypes.c_char_p()
    library("LiteRtGetProfileSummary", profiler, model, ctypes.byref(summary))
    if summary.value is None:
        raise KsegError("LiteRT gave no profile; run it again")
    # The process ends now, and with it all that was made.
    return summary.value.decode(), seconds


def main() -> None:
    """Sends the profile, or what failed."""
    path, *numbers, descriptor = sys.argv[1:]
    connection = Connection(int(descriptor))
    try:
        summary, seconds = profile(path, *map(int, numbers))
        message = {"summary": summary, "seconds": seconds}
    except KsegError as error:
        message = {"error": f"{path}: {error}"}
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main()
