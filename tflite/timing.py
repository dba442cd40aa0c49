"""How long files take, side by side: latency by its parts, memory and size."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kseg import shipped
from kseg.errors import KsegError
from kseg.file_card import read_file_card
from kseg.files import check_is_file, suffix_of
from kseg.lazy import import_extra
from kseg.shipped import is_model
from kseg.tflite.child import Child
from kseg.tflite.gpu import check_is_float, child_error
from kseg.tflite.options import RUNTIMES
from kseg.tflite.predictors import TFLitePredictor, stated_for

_PARTS = ("copy", "run", "argmax")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Seconds over all runs."""

    median: float
    p90: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least one measurement."""
        return cls(float(np.median(seconds)), float(np.percentile(seconds, 90)))


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a file takes from RGB bytes to a label map at the input's size.

    Attributes:
        file, model: its path and the row of the zoo.
        runtime: what ran it.
        threads: None for what the runtime takes by itself.
        input_size: (H, W).
        output: the card's. Logits are decided by the host at their own size, those at a
            stride then enlarged; channel numbers need no argmax.
        runs: measured, after the warm-up.
        copy: into the input tensor and out of the output tensor; a .keras file copies
            within its run, ONNX Runtime reads and writes where the host does.
        run, argmax: the network, and the decision on the host.
        total: of the three.
        peak_memory: bytes of the file's process at its peak.
        added_memory: those of them that came after its libraries were loaded.
        file_size: bytes, with the weights that an .onnx file has beside it.
    """

    file: str
    model: str
    runtime: str
    threads: int | None
    input_size: tuple[int, int]
    output: str
    runs: int
    copy: Spread
    run: Spread
    argmax: Spread
    total: Spread
    peak_memory: int
    added_memory: int
    file_size: int


def benchmark(
    files: Sequence[str | Path],
    *,
    threads: int | None = None,
    runs: int = 20,
    warm_up: int = 3,
    runtime: str = "cpu",
    card: str | Path | None = None,
    input_size: tuple[int, int] | None = None,
    timeout: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Times the files by turns, so that a busy machine slows all alike.

    Every file has a process of its own, and runs one image while the others wait.

    Args:
        files: ``.keras``, ``.tflite``, ``.onnx`` and shipped WEIGHTS:MODEL.
        threads: of the CPU, None for the runtime's choice.
        runs, warm_up: images a file, measured and before.
        runtime: "cpu"; of .tflite files also "litert-gpu", the LiteRT GPU accelerator, and
            "litert-fp16", half precision on the CPU.
        card: JSON file (``kseg.file_card``) of those files of others that have none.
        input_size: (H, W) of a file that takes any; None is the card's, else 512 x 1024.
        timeout: seconds for the start of a file, and for an image.
        progress: called with (rounds done, rounds in all).

    Raises:
        NoAccelerator: no Vulkan driver that LiteRT takes.
        KsegError: a value out of range, or a file that is missing, damaged or fails.
    """
    check_counts(threads, runs, warm_up)
    if threads is not None and runtime == "litert-gpu":
        raise KsegError(f"threads is {threads}; litert-gpu takes none, leave it out")
    if isinstance(files, str | Path):
        raise KsegError(f"files is {str(files)!r}; give a list of files")
    paths = [Path(file) for file in files]
    for path in paths:
        _check(path, runtime, card)
    if card is not None:
        read_file_card(card)
    options = json.dumps(
        {
            "threads": threads,
            "runtime": runtime,
            "input_size": input_size,
            "card": card and str(card),
        }
    )
    with contextlib.ExitStack() as stack:
        # All start at once, then each says what it has.
        children = [
            stack.enter_context(Child("kseg.tflite.timing_worker", path, options, timeout=timeout))
            for path in paths
        ]
        facts = [parse_reply(child.receive()) for child in children]
        rounds = []
        for number in range(warm_up + runs):
            rounds.append([parse_reply(child.ask(b"")) for child in children])
            if progress:
                progress(number + 1, warm_up + runs)
    return [
        _timing(path, threads, fact, results[warm_up:])
        for path, fact, *results in zip(paths, facts, *rounds, strict=True)
    ]


def _timing(
    path: Path, threads: int | None, facts: dict[str, Any], rounds: Sequence[dict[str, Any]]
) -> Timing:
    """Of what a file's process sent: its facts and the rounds behind the warm-up."""
    peak = rounds[-1]["peak_memory"]
    return Timing(
        file=str(path),
        model=facts["model"],
        runtime=facts["runtime"],
        threads=threads,
        input_size=tuple(facts["input_size"]),
        output=facts["output"],
        runs=len(rounds),
        **{part: Spread.of([each[part] for each in rounds]) for part in _PARTS},
        total=Spread.of([sum(each[part] for part in _PARTS) for each in rounds]),
        peak_memory=peak,
        added_memory=peak - facts["memory_before"],
        file_size=_size_of(shipped.file_of(path)),
    )


def _size_of(path: Path) -> int:
    """Bytes of a file, with those of the weights that an .onnx file has beside it."""
    size = path.stat().st_size
    if suffix_of(path) == ".onnx":
        onnx = import_extra("onnx", "onnx", path)
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
        beside = {
            entry.value for t in tensors for entry in t.external_data if entry.key == "location"
        }
        size += sum((path.parent / name).stat().st_size for name in beside)
    return size


def check_counts(threads: int | None, runs: int, warm_up: int) -> None:
    """Raises KsegError where one is too small."""
    for name, value, least in (("runs", runs, 1), ("warm_up", warm_up, 0), ("threads", threads, 1)):
        if value is not None and value < least:
            raise KsegError(f"{name} is {value}; it must be at least {least}")


def parse_reply(message: bytes) -> dict[str, Any]:
    """A child process's message of JSON.

    Raises:
        NoAccelerator, KsegError: the child's error, where the message is one.
    """
    reply = json.loads(message)
    if "error" in reply:
        raise child_error(reply["error"])
    return reply


def _check(path: Path, runtime: str, card: str | Path | None) -> None:
    """What can be said before a process is started."""
    if path.is_dir():
        check_is_file(path, "a .keras, .tflite or .onnx file")
    if suffix_of(path) not in (".tflite", ".onnx") and not is_model(path):
        raise KsegError(f"{path}: is neither .keras nor .tflite nor .onnx, nor shipped")
    check_is_file(shipped.file_of(path), "a .keras, .tflite or .onnx file")
    if runtime not in RUNTIMES or (runtime != "cpu" and suffix_of(path) != ".tflite"):
        raise KsegError(f"{path}: runtime is {runtime!r}; a .tflite takes {', '.join(RUNTIMES)}")
    if runtime != "cpu":
        # A CompiledModel does not say what a damaged file lacks; the interpreter does.
        predictor = TFLitePredictor(path, stated=stated_for(path, card))
        if runtime == "litert-fp16":
            check_is_float(path, predictor)


def format_timings(timings: Sequence[Timing]) -> str:
    """A line a file: milliseconds as median and p90, megabytes."""
    width = max([len(timing.file) for timing in timings] + [4])
    parts = (*_PARTS, "total")
    lines = [
        f"{'file':<{width}} "
        + " ".join(f"{f'{part} ms (p90)':>16}" for part in parts)
        + f" {'peak MB':>8} {'added':>8} {'file MB':>8}  output, input, runtime"
    ]
    for timing in timings:
        spreads = [getattr(timing, part) for part in parts]
        memory = (timing.peak_memory, timing.added_memory, timing.file_size)
        lines.append(
            f"{timing.file:<{width}} "
            + " ".join(f"{f'{1e3 * s.median:.1f} ({1e3 * s.p90:.1f})':>16}" for s in spreads)
            + " "
            + " ".join(f"{value / 1e6:>8.1f}" for value in memory)
            + f"  {timing.output}, {timing.input_size[0]}x{timing.input_size[1]}, {timing.runtime}"
        )
    if len({timing.input_size for timing in timings}) > 1:
        lines.append("the files take images of different sizes, so their times do not compare")
    return "\n".join(lines)
