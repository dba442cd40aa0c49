"""Times one file, a round when asked, in a process of its own: peak memory is the file's.

``python -m kseg.tflite.timing_worker FILE OPTIONS FD`` first sends the facts of the
file, or an error, and then a round's times for every message; all are JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kseg.card import Card
from kseg.errors import KsegError, first_line
from kseg.files import suffix_of
from kseg.predictor import KerasPredictor, Predictor
from kseg.resize import resize_nearest
from kseg.shipped import is_model
from kseg.tflite.gpu_worker import GPU, AcceleratedModel, HalfModel, half_name
from kseg.tflite.predictors import (
    OnnxPredictor,
    TFLitePredictor,
    import_onnxruntime,
    stated_for,
    thread_count,
)

_DEFAULT_SIZE = (512, 1024)


class Runner(Protocol):
    """A network whose copies are apart from its run."""

    def write(self, tensor: np.ndarray) -> None:
        """Copies the input tensor in."""
        ...

    def run(self) -> None:
        """Computes."""
        ...

    def read(self) -> np.ndarray:
        """Copies the output tensor out."""
        ...


class WholeRunner:
    """Any Predictor, which copies within its run."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def write(self, tensor: np.ndarray) -> None:
        """Keeps the image."""
        self._image = tensor[0]

    def run(self) -> None:
        """The whole call."""
        self._output = self._predictor(self._image)

    def read(self) -> np.ndarray:
        """The output, with a batch of one."""
        return self._output[None]


def time_round(
    runner: Runner, image: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, dict[str, float]]:
    """One image through the network, as an application would.

    Args:
        runner: the network.
        image: (H, W, 3) uint8.
        dtype: of its input tensor.

    Returns:
        The label map (H, W) uint8 and the seconds of "copy" (in and out), "run" and
        "argmax". Logits are decided at their own size, those at a stride then enlarged
        by the nearest pixel; channel numbers need nothing.
    """
    clock = [time.perf_counter()]
    runner.write(_tensor(runner, image, dtype))
    clock.append(time.perf_counter())
    runner.run()
    output = runner.read()
    clock.append(time.perf_counter())
    # The accelerator computes until its output is read: a second reading is all copy.
    runner.read()
    clock.append(time.perf_counter())
    io = getattr(runner, "io", None)
    output = io.arranged(output) if io is not None else output[0]
    # The scale of int8 logits does not matter here.
    labels = output if output.ndim == 2 else output.argmax(-1).astype(np.uint8)
    if labels.shape != image.shape[:2]:
        labels = resize_nearest(labels, image.shape[:2])
    clock.append(time.perf_counter())
    copy_in, run, copy_out, argmax = np.diff(clock).tolist()
    return labels, {"copy": copy_in + copy_out, "run": run - copy_out, "argmax": argmax}


def _tensor(runner: Runner, image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The input tensor of an image (H, W, 3) uint8."""
    io = getattr(runner, "io", None)
    if io is not None and not io.takes_pixels:
        return io.encode(image)
    # The pixels' values as they are.
    return image[None].astype(dtype)


def peak_memory() -> int:
    """Bytes that this process had in memory at its peak."""
    try:
        # Not getrusage's: a new process inherits that peak from the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(peak)


def start(file: Path, options: dict[str, Any]) -> tuple[Runner, np.dtype, dict[str, Any]]:
    """The network, its input's type and the facts that the first message has.

    Args:
        file: ``.keras``, ``.tflite``, ``.onnx`` or shipped WEIGHTS:MODEL.
        options: "runtime", "threads", "input_size" and "card", as ``benchmark`` takes them.
    """
    if suffix_of(file) == ".onnx":
        # The only library that is not loaded yet.
        import_onnxruntime(file)
    before = peak_memory()
    runner: Runner
    card: Card
    own: tuple[int, int] | None
    if is_model(file):
        _set_keras_threads(options["threads"])
        predictor = KerasPredictor(file)
        runner, dtype, own = WholeRunner(predictor), np.dtype(np.float32), predictor.input_size
        card, runtime = predictor.card, predictor.runtime
    elif options["runtime"] == "cpu":
        kind = OnnxPredictor if suffix_of(file) == ".onnx" else TFLitePredictor
        runner = in_steps = kind(file, options["threads"], stated_for(file, options.get("card")))
        dtype, own = in_steps.io.input_type, in_steps.input_size
        card, runtime = in_steps.card, in_steps.runtime
    else:
        # Which knows what the tensors are.
        reference = TFLitePredictor(file, stated=stated_for(file, options.get("card")))
        compiled: AcceleratedModel | HalfModel
        if options["runtime"] == "litert-fp16":
            threads = thread_count(options["threads"])
            compiled, name = HalfModel(file, threads), half_name(threads)
        else:
            compiled, name = AcceleratedModel(file), GPU
        compiled.io = reference.io
        runner, dtype, own = compiled, compiled.input_type, reference.input_size
        card, runtime = reference.card, f"litert {version('ai-edge-litert')} {name}"
    asked = options["input_size"] and tuple(options["input_size"])
    if asked and own and asked != own:
        raise KsegError(
            f"{file}: takes {own} (H, W) only, not {asked}; "
            "leave input_size out or convert at that size"
        )
    size = own or asked or card.input_size or _DEFAULT_SIZE
    return (
        runner,
        dtype,
        {
            "model": card.name,
            "output": card.output,
            "runtime": runtime,
            "input_size": size,
            "memory_before": before,
        },
    )


def _set_keras_threads(threads: int | None) -> None:
    if threads is None:
        return
    if keras.backend.backend() != "tensorflow":
        raise KsegError(
            f"threads is {threads}; those of the {keras.backend.backend()} backend cannot be "
            "set, leave it out"
        )
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def main() -> None:
    """Serves until the connection is closed."""
    connection = Connection(int(sys.argv[3]))

    def send(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        runner, dtype, facts = start(Path(sys.argv[1]), json.loads(sys.argv[2]))
        send(facts)
        # What the pixels show does not matter to the time.
        image = np.random.default_rng(0).integers(0, 256, (*facts["input_size"], 3), np.uint8)
        while True:
            connection.recv_bytes()
            _, seconds = time_round(runner, image, dtype)
            send({**seconds, "peak_memory": peak_memory()})
    except EOFError:
        return
    except KsegError as error:
        send({"error": str(error)})
    except Exception as error:  # every runtime raises its own
        send({"error": f"{sys.argv[1]}: {first_line(error)}"})


if __name__ == "__main__":
    main()
