"""LiteRT's GPU accelerator and half precision on the CPU: Predictors, and numbers beside the CPU's.

Neither ``is_fully_accelerated`` nor the converter's compatibility analysis says that a
file's numbers are right; only running it does. The accelerator works through Vulkan, and
a software driver will do: where Debian's chromium is installed, its SwiftShader is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np

from kseg.errors import KsegError
from kseg.file_card import FileCard
from kseg.resize import resize_bilinear
from kseg.tflite.child import Child
from kseg.tflite.flatbuffer import operators
from kseg.tflite.gpu_worker import GPU, NO_ACCELERATOR, half_name
from kseg.tflite.predictors import TFLitePredictor, thread_count


class NoAccelerator(KsegError):
    """There is no GPU accelerator here, so nothing can be said of a file."""


class _ChildPredictor:
    """Runs a .tflite file by LiteRT's CompiledModel, in a child process.

    Args:
        path: of the file.
        reference: the CPU's interpreter, which says whether the file is whole and what its
            tensors are.
        runtime: its name.
        arguments: for the child.
        timeout: seconds for the start, and again for every image.
    """

    def __init__(
        self,
        path: str | Path,
        reference: TFLitePredictor,
        runtime: str,
        *arguments: str,
        timeout: float,
    ) -> None:
        self.card, self.input_size, self._io = reference.card, reference.input_size, reference.io
        self.runtime = f"litert {version('ai-edge-litert')} {runtime}"
        self._child = Child("kseg.tflite.gpu_worker", path, *arguments, timeout=timeout)
        self._check(self._child.receive())

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self._check(self._child.ask(self._io.encode(image).tobytes()))
        values = np.frombuffer(self._child.receive(), self._io.output_type)
        return self._io.decode(values.reshape(self._io.output_shape))

    def _check(self, message: bytes) -> None:
        if message:
            self.close()
            raise child_error(message.decode())

    def close(self) -> None:
        """Ends the child process."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class GpuPredictor(_ChildPredictor):
    """Runs a .tflite file on the LiteRT GPU accelerator, in a child process.

    Args:
        path: of the file.
        timeout: seconds for the start, and again for every image.
        stated: of a file of others, which has no card.

    Raises:
        NoAccelerator: no Vulkan driver that LiteRT takes.
        KsegError: the file is damaged, the accelerator refuses it, aborts or hangs.
    """

    def __init__(
        self, path: str | Path, timeout: float = 300.0, stated: FileCard | None = None
    ) -> None:
        reference = TFLitePredictor(path, stated=stated)
        super().__init__(path, reference, GPU, timeout=timeout)


class HalfPredictor(_ChildPredictor):
    """Runs a .tflite file on the CPU in half precision (XNNPACK), in a child process.

    Constants and outputs of operators have 16 bits; on x86 sums are added up in 32. What
    XNNPACK does not take stays in float32: docs/android.md has a list.

    Args:
        path: of a file in float; its weights may have 16 or 8 bits.
        timeout: seconds for the start, and again for every image.
        stated: of a file of others, which has no card.
        threads: None takes all cores.

    Raises:
        KsegError: the file is damaged or computes in 8 bits, or XNNPACK refuses it.
    """

    def __init__(
        self,
        path: str | Path,
        timeout: float = 300.0,
        stated: FileCard | None = None,
        threads: int | None = None,
    ) -> None:
        threads = thread_count(threads)
        reference = TFLitePredictor(path, threads, stated)
        check_is_float(path, reference)
        super().__init__(path, reference, half_name(threads), str(threads), timeout=timeout)


def is_quantised(path: str | Path, predictor: TFLitePredictor) -> bool:
    """Whether a file's activations are integers."""
    # Where its own input and output are integers, a file needs no QUANTIZE.
    scales = predictor.io.scale, predictor.io.input_scale
    return any(scales) or "QUANTIZE" in operators(Path(path).read_bytes())


def check_is_float(path: str | Path, predictor: TFLitePredictor) -> None:
    """Raises KsegError where a file's activations are integers, of which none is halved."""
    if is_quantised(path, predictor):
        raise KsegError(
            f"{path}: computes in 8 bits; half precision is for float files, so take the fp32 file"
        )


def child_error(reason: str) -> KsegError:
    """The error that a child process reports in words."""
    return (NoAccelerator if NO_ACCELERATOR in reason else KsegError)(reason)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Another runtime against the CPU on the same file and images, the worst image of each.

    Attributes:
        difference: largest absolute difference by the range of the CPU's logits; of an
            argmax file the share of pixels of another class.
        decibels: signal to noise.
        same_class: share of pixels of the same class.
        quantised: whether activations are integers.
    """

    difference: float
    decibels: float
    same_class: float
    quantised: bool

    @property
    def agrees(self) -> bool:
        """Within 0.1 % of the range; quantised: the same class on 99 % of the pixels."""
        return self.same_class >= 0.99 if self.quantised else self.difference <= 1e-3

    def __str__(self) -> str:
        return (
            f"largest difference {100 * self.difference:.4f} % of the range, "
            f"{self.decibels:.1f} dB, same class on {100 * self.same_class:.3f} % of the pixels"
        )


class Comparison:
    """Another runtime as a Predictor that runs every image on the CPU in float32 as well.

    Args:
        path, timeout, stated: as for ``GpuPredictor``.
        runtime: "litert-gpu" or "litert-fp16".

    Attributes:
        agreement: of all images so far, at least one.
    """

    def __init__(
        self,
        path: str | Path,
        timeout: float = 300.0,
        stated: FileCard | None = None,
        runtime: str = "litert-gpu",
    ) -> None:
        self._path = path
        self._cpu = TFLitePredictor(path, stated=stated)
        kind = HalfPredictor if runtime == "litert-fp16" else GpuPredictor
        self._other: _ChildPredictor = kind(path, timeout, stated)
        self.card, self.input_size = self._other.card, self._other.input_size
        self.runtime = self._other.runtime
        self._quantised = is_quantised(path, self._cpu)
        self._results: list[tuple[float, float, float]] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        want, got = self._cpu(image), self._other(image)
        if not np.isfinite(want).all():
            raise KsegError(
                f"{self._path}: the logits are not finite on the CPU; the weights are damaged"
            )
        self._results.append(differences(want, got, self.card.output == "argmax"))
        return got

    @property
    def agreement(self) -> Agreement:
        if not self._results:
            raise KsegError(f"{self._path}: there are no images to compare on")
        differences, decibels, same = zip(*self._results, strict=True)
        return Agreement(max(differences), min(decibels), min(same), self._quantised)

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_error: object) -> None:
        self._other.close()


def compare(
    path: str | Path,
    images: Iterable[np.ndarray],
    timeout: float = 300.0,
    stated: FileCard | None = None,
    runtime: str = "litert-gpu",
) -> Agreement:
    """Runs the images (h, w, 3) uint8, resized to the file's input, on the CPU and beside it.

    Args:
        path, timeout, stated, runtime: as for ``Comparison``.
        images: any number of them.

    Raises:
        KsegError: as ``Comparison``, or there are no images.
    """
    with Comparison(path, timeout, stated, runtime) as both:
        for image in images:
            size = both.input_size or image.shape[:2]
            both(np.rint(resize_bilinear(image, size)))
        return both.agreement


def differences(want: np.ndarray, got: np.ndarray, channels: bool) -> tuple[float, float, float]:
    """Largest difference by range, decibels and share of the same class; see Agreement.

    Where something is not finite, the difference is infinite and the decibels minus infinite.

    Args:
        want, got: logits (h, w, channels), or channel numbers (h, w) if ``channels``.
    """
    want, got = want.astype(np.float32), got.astype(np.float32)
    if channels:
        same = float((want == got).mean())
        return 1 - same, np.inf if same == 1 else 0.0, same
    # A pixel without a number has no class.
    finite = np.isfinite(got).all(-1)
    same = float(((want.argmax(-1) == got.argmax(-1)) & finite).mean())
    if not finite.all():
        return np.inf, -np.inf, same
    error = got - want
    noise = float((error**2).mean())
    return (
        float(np.abs(error).max() / max(np.ptp(want), 1e-12)),
        10 * np.log10(float((want**2).mean()) / noise) if noise else np.inf,
        same,
    )
