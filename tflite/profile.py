"""Which operators a .tflite file's time on the CPU goes to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from kseg.errors import KsegError
from kseg.file_card import FileCard
from kseg.files import suffix_of
from kseg.tflite.child import Child
from kseg.tflite.predictors import TFLitePredictor, thread_count
from kseg.tflite.timing import check_counts, parse_reply

# A line of the summary by kind: name, operators, mean of one in ms, ..., calls in all runs.
_LINE = re.compile(r"^ *(\S.*?) +(\d+) +([\d.]+) +[\d.]+% +[\d.]+% +[\d.]+ +(\d+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """All operators of a kind in a run.

    Attributes:
        kind: XNNPACK's name of the kernel, which says the types it computes in (F32; QS8
            and QC8 for int8, with weights by tensor and by channel); TensorFlow Lite's
            name in capitals for an operator that XNNPACK does not take.
        count: operators.
        seconds: of all of them together, mean of the runs.
    """

    kind: str
    count: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """A file's operators by kind, those of the most time first.

    Attributes:
        file: its path.
        seconds: of a run as the caller waits for it, mean of the runs.
        operators: the kinds.
    """

    file: str
    seconds: float
    operators: tuple[OperatorTime, ...]


def operator_profile(
    path: str | Path,
    *,
    threads: int | None = None,
    runs: int = 20,
    warm_up: int = 3,
    stated: FileCard | None = None,
    timeout: float = 600.0,
) -> Profile:
    """Measures, in a process of its own, with the profiler of LiteRT's CPU runtime.

    Args:
        path: of a .tflite file.
        threads: None takes all cores.
        runs, warm_up: images, measured and before.
        stated: of a file of others, which has no card.
        timeout: seconds for the start, and for an image.

    Raises:
        KsegError: a value out of range, a file that is missing or damaged, or a LiteRT
            without the profiler.
    """
    check_counts(threads, runs, warm_up)
    if suffix_of(path) != ".tflite":
        raise KsegError(f"{path}: only .tflite files have a profile; convert the model first")
    # LiteRT's C interface does not say what a damaged file lacks; the interpreter does.
    TFLitePredictor(path, stated=stated)
    numbers = (str(n) for n in (thread_count(threads), runs, warm_up))
    # There is one answer, at the end.
    whole = timeout * (1 + warm_up + runs)
    with Child("kseg.tflite.profile_worker", path, *numbers, timeout=whole) as child:
        answer = parse_reply(child.receive())
    _, _, summary = answer["summary"].partition("Summary by node type")
    operators = [
        OperatorTime(
            kind.removeprefix("Delegate/"), int(calls) // runs, float(ms) * int(calls) / runs / 1e3
        )
        for kind, _, ms, calls in _LINE.findall(summary)
    ]
    if not operators:
        raise KsegError(f"{path}: LiteRT's profile cannot be read; it needs ai-edge-litert 2.3")
    operators.sort(key=lambda operator: -operator.seconds)
    return Profile(str(path), answer["seconds"], tuple(operators))


def format_profiles(profiles: Sequence[Profile]) -> str:
    """Tables, a line a kind, with its share of the operators' time."""
    lines = []
    for profile in profiles:
        total = sum(operator.seconds for operator in profile.operators)
        lines += [f"{profile.file}: {1e3 * profile.seconds:.1f} ms a run, by operator"]
        lines += [
            f"  {1e3 * operator.seconds:8.2f} ms {operator.seconds / total:6.1%} "
            f"{operator.count:4d} x {operator.kind}"
            for operator in profile.operators
        ]
    return "\n".join(lines)
