"""A .tflite file on the GPU of a phone that is connected by adb, and here, by numbers.

TensorFlow Lite's ``benchmark_model`` runs it there, with the older GPU delegate:
https://ai.google.dev/edge/litert/models/measurement has its binaries for Android. It takes the
input from a file and writes the output into one.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from kseg.errors import KsegError
from kseg.file_card import FileCard
from kseg.files import check_is_file
from kseg.resize import resize_bilinear
from kseg.tflite.gpu import Agreement, differences, is_quantised
from kseg.tflite.predictors import TFLitePredictor

_FOLDER = "/data/local/tmp/kseg"


def check_phone(
    path: str | Path,
    image: np.ndarray,
    tool: str | Path,
    *,
    stated: FileCard | None = None,
    serial: str | None = None,
    timeout: float = 300.0,
) -> dict[str, Agreement]:
    """Runs an image on the phone's GPU and on the CPU here.

    Args:
        path: of a .tflite file with a fixed size.
        image: RGB (h, w, 3) uint8, resized to the file's input here.
        tool: ``benchmark_model`` for the phone.
        stated: of a file of others, which has no card.
        serial: of the phone, where several are connected.
        timeout: seconds for every call of adb.

    Returns:
        "half" and "float32": the phone against the CPU here, where the delegate may lose
        precision and where it may not.

    Raises:
        KsegError: a missing or damaged file, no adb, no phone, or the delegate does not take
            the whole file.
    """
    here = TFLitePredictor(path, stated=stated)
    check_is_file(Path(tool), "benchmark_model for the phone")
    assert here.input_size is not None  # a .tflite file has one
    pixels = np.rint(resize_bilinear(image, here.input_size))
    tensor, want = here.io.encode(pixels), here(pixels)
    phone = _Phone(serial, timeout)
    # A colon ends the name there.
    name = here.input_name.replace(":", "::")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "input.bin"), Path(folder, "output.bin")
        source.write_bytes(tensor.tobytes())
        phone.shell(["mkdir", "-p", _FOLDER])
        try:
            for local, remote in ((path, "x.tflite"), (source, "input.bin"), (tool, "tool")):
                phone("push", str(local), f"{_FOLDER}/{remote}")
            phone.shell(["chmod", "+x", f"{_FOLDER}/tool"])
            for precision, loss in (("half", "true"), ("float32", "false")):
                options = {
                    "graph": f"{_FOLDER}/x.tflite",
                    "input_layer": name,
                    "input_layer_shape": ",".join(map(str, tensor.shape)),
                    "input_layer_value_files": f"{name}:{_FOLDER}/input.bin",
                    "output_filepath": f"{_FOLDER}/output.bin",
                    "use_gpu": "true",
                    # Else what the delegate refuses runs on the CPU.
                    "require_full_delegation": "true",
                    "gpu_precision_loss_allowed": loss,
                    "num_runs": "1",
                    "warmup_runs": "1",
                    "min_secs": "0",
                    "warmup_min_secs": "0",
                }
                flags = [f"--{flag}={value}" for flag, value in options.items()]
                # Of a tool that writes nothing, the answer before would be taken.
                phone.shell(["rm", "-f", f"{_FOLDER}/output.bin"])
                phone.shell([f"{_FOLDER}/tool", *flags])
                phone("pull", f"{_FOLDER}/output.bin", str(result))
                values = np.frombuffer(result.read_bytes(), here.io.output_type)
                if values.size != np.prod(here.io.output_shape):
                    raise KsegError(
                        f"{path}: the phone gave {values.size} values, not "
                        f"{np.prod(here.io.output_shape)}; take a newer benchmark_model"
                    )
                got = here.io.decode(values.reshape(here.io.output_shape))
                agreement = differences(want, got, here.card.output == "argmax")
                found[precision] = Agreement(*agreement, is_quantised(path, here))
        finally:
            phone.shell(["rm", "-rf", _FOLDER])
    return found


class _Phone:
    """adb.

    Args:
        serial: None for the only one.
        timeout: seconds for a call.
    """

    def __init__(self, serial: str | None, timeout: float) -> None:
        self._command = ["adb", *(["-s", serial] if serial else [])]
        self._timeout = timeout

    def __call__(self, *arguments: str) -> None:
        """Raises KsegError with the last line that adb wrote where it fails."""
        try:
            result = subprocess.run(
                [*self._command, *arguments],
                capture_output=True,
                text=True,
                timeout=self._timeout,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise KsegError("adb is not there; install Android's platform-tools") from None
        except subprocess.TimeoutExpired:
            raise KsegError(f"adb {arguments[0]}: no answer in {self._timeout:.0f} s") from None
        if result.returncode:
            lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
            reason = lines[-1] if lines else f"code {result.returncode}"
            raise KsegError(f"adb {arguments[0]}: {reason}")

    def shell(self, command: list[str]) -> None:
        """A command on the phone."""
        self("shell", shlex.join(command))
