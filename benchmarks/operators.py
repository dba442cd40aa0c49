"""Which operators a network's time on a CPU goes to: ``results/operators.csv``.

``python benchmarks/operators.py [MODEL ...]``: files as ``benchmarks/latency.py`` makes them, in
fp32 and int8 with logits at full size and at a stride, each by the profiler of LiteRT's CPU
runtime on two threads. A row has

    operator    kernel of XNNPACK: F32 computes in float32, QS8 and QC8 in int8
    count       how many of them there are
    run_ms      all of them together, mean
    share       of the sum over the file's operators
    cpu         as in results/tflite.csv
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import table
from latency import SIZE, SMALL, THREADS, facts, write_files
from runtimes import MODELS
from table import RESULTS

from kseg.tflite.profile import operator_profile
from matrix import with_random_weights

OUTPUTS, PRECISIONS = ("stride-logits", "logits"), ("fp32", "int8")
COLUMNS = ("model", "output", "precision", "operator", "count", "run_ms", "share", "cpu")


def measure(name: str, size: tuple[int, int] = SIZE, runs: int = 10) -> list[dict[str, Any]]:
    """A network's rows."""
    model = with_random_weights(name, input_shape=SMALL)
    rows = []
    for output in OUTPUTS:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(model, Path(folder), output, size, PRECISIONS)
            for precision, file in files.items():
                profile = operator_profile(file, threads=THREADS, runs=runs)
                total = sum(operator.seconds for operator in profile.operators)
                rows += [
                    {
                        "model": name,
                        "output": output,
                        "precision": precision,
                        "operator": operator.kind,
                        "count": operator.count,
                        "run_ms": f"{1e3 * operator.seconds:.2f}",
                        "share": f"{operator.seconds / total:.3f}",
                        "cpu": table.cpu(),
                    }
                    for operator in profile.operators
                ]
    return rows


def main(names: Sequence[str]) -> None:
    """Measures and shows a line a kind of operator."""
    for name in names or MODELS:
        rows = measure(name)
        table.replace(RESULTS / "operators.csv", COLUMNS, rows, facts())
        for row in rows:
            print("{model} {output} {precision} {run_ms} ms {share} {operator}".format(**row))


if __name__ == "__main__":
    main(sys.argv[1:])
