"""What training costs on a GPU: ``results/gpu_training.csv``, written row by row.

``python benchmarks/gpu.py`` on a machine with a GPU; some minutes a network, most of them
compilation. Killed, it goes on with the rows that are missing. Each row is a process of its own:

    runtime     tensorflow, jax (both by Keras) or torch (PyTorch's own modules, torch_twin.py,
                channels-last memory, autocast)
    precision   float32 (with TF32 where the runtime takes it by default), mixed_float16 or
                mixed_bfloat16
    compiled    by XLA (tensorflow, jax) or by torch.compile; JAX is always compiled

All train the same network with the same weights, images, labels, loss and AdamW. Columns:

    images_per_second, slowest, fastest   by the median, the longest and the shortest step
    first_step        seconds of the first step, which compiles
    memory_mib        the peak that the runtime has allocated on the GPU; on a CPU the process'
    loss_difference   the largest of the first 20 steps, as a share of the loss in float32 on the
                      CPU; at ``--check-size``, without dropout
    input_share       time to read an image from records (``benchmarks/input.py``, all cores) by
                      the step's time an image: input is hidden behind the step below 1. Empty
                      without TensorFlow
    note              why a row has no figures

Packages that are absent leave their rows out. GPU memory is taken as it is needed, so that the GPU
can be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import table
from table import RESULTS

from kseg.environment import environment

COLUMNS = (
    *("model", "runtime", "precision", "compiled", "images_per_second", "slowest", "fastest"),
    *("first_step", "memory_mib", "loss_difference", "input_share"),
    *("batch_size", "size", "device", "note"),
)
MODELS = (
    "cgnet_m3n21",
    "liteseg_mobilenet_v2",
    "deeplab_v3_plus_xception65",
    "deeplab_v3_plus_efficientnet_lite0",
)
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# Whether XLA or torch.compile is on.
COMPILED = {"tensorflow": (False, True), "jax": (True,), "torch": (False, True)}
_WARM_STEPS = 3


class Case(NamedTuple):
    """A row to be measured."""

    model: str
    runtime: str
    precision: str
    compiled: bool

    @property
    def key(self) -> tuple[str, ...]:
        """As the row's cells say it."""
        return self.model, self.runtime, self.precision, "yes" if self.compiled else "no"


def key_of(row: table.Row) -> tuple[str, ...]:
    """``Case.key`` of a row of the table."""
    return tuple(row[column] for column in COLUMNS[:4])


def cases(
    models: Sequence[str], runtimes: Sequence[str], precisions: Sequence[str], compiled: str
) -> Iterator[Case]:
    """The rows in their order; ``compiled`` is "yes", "no" or "both"."""
    for model in models:
        for runtime in runtimes:
            for precision in precisions:
                for case in (Case(model, runtime, precision, c) for c in COMPILED[runtime]):
                    if compiled in ("both", case.key[-1]):
                        yield case


def installed_runtimes() -> list[str]:
    """Those whose packages are here."""
    return [runtime for runtime in COMPILED if find_spec(runtime)]


# --- in the process of a row ----------------------------------------------------------


def measure(
    case: Case,
    *,
    batch_size: int,
    size: tuple[int, int],
    steps: int,
    check_size: tuple[int, int],
    check_steps: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Losses of the first steps, seconds of the measured ones, memory and device."""
    from training_step import keras_step, torch_step

    if case.runtime == "tensorflow":
        from kseg.training.distribution import share_gpus

        share_gpus()
    take = torch_step if case.runtime == "torch" else keras_step
    common = dict(precision=case.precision, compiled=case.compiled, options=options)
    step, _ = take(case.model, 2, check_size, dropout=False, **common)
    facts: dict[str, Any] = {"losses": [step() for _ in range(check_steps)]}
    if steps:
        step, _ = take(case.model, batch_size, size, **common)
        seconds = [_timed(step) for _ in range(1 + _WARM_STEPS + steps)]
        facts |= {"first_step": seconds[0], "seconds": seconds[1 + _WARM_STEPS :]}
    device, memory = _device(case.runtime)
    return facts | {"device": device, "memory_mib": memory}


def _timed(step: Any) -> float:
    begin = time.perf_counter()
    step()  # gives the loss as a number, and so waits for it
    return time.perf_counter() - begin


def _device(runtime: str) -> tuple[str, float]:
    """What computes, and the MiB at the peak."""
    if runtime == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 2**20
    elif runtime == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform != "cpu":
            return device.device_kind, device.memory_stats()["peak_bytes_in_use"] / 2**20
    else:
        import tensorflow as tf

        if gpus := tf.config.list_physical_devices("GPU"):
            name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
            return name, tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    import resource

    return "CPU", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


# --- in the process that asks -----------------------------------------------------------


def ask(
    case: Case, arguments: Sequence[str], *, timeout: float, **variables: str
) -> dict[str, Any] | str:
    """``measure`` of another process; the reason in one line where it fails."""
    command = [sys.executable, __file__, "--case", json.dumps(case), *arguments]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    backend = {"KERAS_BACKEND": "tensorflow" if case.runtime == "tensorflow" else "jax"}
    if case.runtime == "torch" and find_spec("tensorflow"):
        backend = {"KERAS_BACKEND": "tensorflow"}
    try:
        result = subprocess.run(
            command,
            env={**os.environ, **quiet, **backend, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return f"took more than {timeout:.0f} s"
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"code {result.returncode}"]
        return lines[-1][:200]
    return json.loads(result.stdout.splitlines()[-1])


def on_cpu(case: Case) -> Case:
    """The row whose losses the others are compared with."""
    runtime = "tensorflow" if find_spec("tensorflow") else "jax"
    return Case(case.model, runtime, "float32", runtime == "jax")


def row(
    case: Case,
    facts: dict[str, Any] | str,
    expected: list[float],
    *,
    batch_size: int,
    size: tuple[int, int],
    input_seconds: float | None,
) -> table.Row:
    """The table's row.

    Args:
        facts: of ``measure``, or why there are none.
        expected: losses on the CPU.
        input_seconds: to read an image.
    """
    cells: table.Row = dict(zip(COLUMNS[:4], case.key, strict=True))
    cells |= {"batch_size": batch_size, "size": "{}x{}".format(*size)}
    if isinstance(facts, str):
        return cells | {"note": facts}
    seconds = facts["seconds"]
    differences = [abs(a - b) / b for a, b in zip(facts["losses"], expected, strict=True)]
    per_image = statistics.median(seconds) / batch_size
    return cells | {
        "images_per_second": f"{1 / per_image:.3g}",
        "slowest": f"{batch_size / max(seconds):.3g}",
        "fastest": f"{batch_size / min(seconds):.3g}",
        "first_step": f"{facts['first_step']:.3g}",
        "memory_mib": f"{facts['memory_mib']:.0f}",
        "loss_difference": f"{max(differences):.2g}",
        "input_share": "" if input_seconds is None else f"{input_seconds / per_image:.2g}",
        "device": facts["device"],
    }


def read_time(frame: tuple[int, int], crop: tuple[int, int], batch_size: int) -> float | None:
    """Seconds to read an image from records on all cores; None without TensorFlow."""
    if not find_spec("tensorflow"):
        return None
    from input import draw, measure_apart

    with tempfile.TemporaryDirectory() as temporary:
        draw(Path(temporary), frame)
        seconds = measure_apart(Path(temporary), os.cpu_count() or 1, crop, batch_size)
    return statistics.median(seconds["kseg, records"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=installed_runtimes(), choices=COMPILED)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--compiled", default="both", choices=("yes", "no", "both"))
    parser.add_argument("--options", type=json.loads, default={}, help="of the networks, JSON")
    parser.add_argument("--size", nargs=2, type=int, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="that are measured")
    parser.add_argument("--check-size", nargs=2, type=int, default=(128, 256))
    parser.add_argument("--check-steps", type=int, default=20)
    parser.add_argument("--frame", nargs=2, type=int, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--timeout", type=float, default=900, help="seconds of a row")
    parser.add_argument("--table", type=Path, default=RESULTS / "gpu_training.csv")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    size, check_size = tuple(args.size), tuple(args.check_size)
    if args.case:
        found = measure(
            Case(*args.case),
            batch_size=args.batch_size,
            size=size,
            steps=args.steps,
            check_size=check_size,
            check_steps=args.check_steps,
            options=args.options,
        )
        print(json.dumps(found))
        return 0

    def given(steps: int) -> list[str]:
        numbers = {
            "--size": size,
            "--batch-size": [args.batch_size],
            "--steps": [steps],
            "--check-size": check_size,
            "--check-steps": [args.check_steps],
        }
        flat = [str(part) for flag, values in numbers.items() for part in (flag, *values)]
        return [*flat, "--options", json.dumps(args.options)]

    facts = environment("jax", "torch")
    rows = table.read_current(args.table, facts)
    done = {key_of(r) for r in rows if not r["note"]}
    wanted = cases(args.models, args.runtimes, args.precisions, args.compiled)
    missing = [case for case in wanted if case.key not in done]
    if not missing:
        print(f"{args.table}: every row is there")
        return 0
    input_seconds = read_time(tuple(args.frame), size, args.batch_size)
    expected: dict[str, Any] = {}
    for case in missing:
        if case.model not in expected:
            nowhere = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
            answer = ask(on_cpu(case), given(0), timeout=args.timeout, **nowhere)
            if isinstance(answer, str):
                print(f"{case.model}: the CPU's losses: {answer}", file=sys.stderr)
                return 1
            expected[case.model] = answer["losses"]
        new = row(
            case,
            ask(case, given(args.steps), timeout=args.timeout),
            expected[case.model],
            batch_size=args.batch_size,
            size=size,
            input_seconds=input_seconds,
        )
        rows = [r for r in rows if key_of(r) != case.key]
        rows.append(new)
        table.write(args.table, COLUMNS, rows, facts)
        speed = new["note"] if "note" in new else f"{new['images_per_second']} images/s"
        print(" ".join(case.key), speed, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
