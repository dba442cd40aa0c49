"""What .tflite files take on a CPU: ``results/tflite.csv``, written network by network.

``python benchmarks/latency.py [MODEL ...]``: of the models that are named, or of every row of the
zoo that is missing for this CPU, those of the least arithmetic first. Each is made in four
precisions and every output form at 512x1024 with random weights, which the time does not
depend on. The precisions of a form run by turns on two threads, one at a time, so that a busy
machine slows all alike; networks of 30 G multiply-adds and more run fewer times. A row has

    bytes       of the file
    run_ms      the network, median; copy_ms what goes in and out, argmax_ms the host's decision
    p90_ms      of the run
    times       the median of fp32's run by its own: how many times faster than fp32
    graph       digest of the network, as in results/zoo.csv
    cpu         its instructions, as table.py names them; rows of several CPUs stand together
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import table
from table import RESULTS

import kseg
from kseg.cost import multiply_adds
from kseg.streets import draw_scene
from kseg.tflite import Timing, benchmark, convert_each
from kseg.tflite.options import OUTPUTS, PRECISIONS
from matrix import MOST, digest, with_random_weights

SIZE, THREADS = (512, 1024), 2
# Of the models whose weights go into the files, quick to build.
SMALL = (64, 128, 3)
COLUMNS = (
    *("model", "output", "precision", "bytes", "run_ms", "p90_ms", "copy_ms", "argmax_ms"),
    *("times", "runs", "graph", "cpu"),
)


def write_files(
    model: kseg.SegmentationModel,
    folder: Path,
    output: str,
    size: tuple[int, int],
    precisions: Sequence[str],
) -> dict[str, Path]:
    """The model's .tflite file of each precision, calibrated with a drawn street."""
    files = {precision: folder / f"{precision}.tflite" for precision in precisions}
    scenes = [draw_scene(20, *size).image]
    convert_each(
        model,
        files,
        output=output,
        input_size=size,
        calibration=scenes,
        calibration_method="min-max",  # the quickest; the ranges do not matter to the time
    )
    return files


def measure(name: str, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """A network's rows; without stride logits where it computes all of them at full size."""
    graph = digest(kseg.create_model(name))
    model = with_random_weights(name, input_shape=SMALL)
    # In proportion to the area, but for pooled pyramids' few.
    work = multiply_adds(model) * math.prod(size) / math.prod(model.input_shape[1:3])
    runs = 10 if work < MOST else 3
    rows = []
    for output in OUTPUTS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = write_files(model, Path(folder), output, size, PRECISIONS)
            except kseg.KsegError as error:
                if "no low-resolution logits" not in str(error):
                    raise
                continue
            timings = benchmark(list(files.values()), threads=THREADS, runs=runs, warm_up=1)
        whole_run = timings[0].run.median
        rows += [
            _row(precision, timing, whole_run, graph)
            for precision, timing in zip(files, timings, strict=True)
        ]
    return rows


def _row(precision: str, timing: Timing, fp32: float, graph: str) -> dict[str, Any]:
    return {
        "model": timing.model,
        "output": timing.output,
        "precision": precision,
        "bytes": timing.file_size,
        "run_ms": f"{1e3 * timing.run.median:.1f}",
        "p90_ms": f"{1e3 * timing.run.p90:.1f}",
        "copy_ms": f"{1e3 * timing.copy.median:.1f}",
        "argmax_ms": f"{1e3 * timing.argmax.median:.1f}",
        "times": f"{fp32 / timing.run.median:.2f}",
        "runs": timing.runs,
        "graph": graph,
        "cpu": table.cpu(),
    }


def facts() -> dict[str, Any]:
    """What the rows are measured with."""
    return {**table.facts_but_cpu(), "threads": THREADS, "size": SIZE}


def read_rows(results: Path = RESULTS) -> list[dict[str, str]]:
    """The table's rows; none where it is absent."""
    return table.read(results / "tflite.csv")


def write(rows: list[dict[str, Any]], results: Path) -> None:
    """Puts a network's rows into the table, and what they were measured with beside it."""
    table.replace(results / "tflite.csv", COLUMNS, rows, facts())


def missing() -> list[str]:
    """Models without rows of the graph that zoo.csv has on this CPU, the least arithmetic first."""
    here = table.cpu()
    measured = {(row["model"], row["graph"]) for row in read_rows() if row["cpu"] == here}
    rows = [
        row
        for row in table.read(RESULTS / "zoo.csv")
        if (row["model"], row["graph"]) not in measured
    ]
    return [row["model"] for row in sorted(rows, key=lambda row: int(row["multiply_adds"]))]


def main(names: Sequence[str]) -> None:
    """Measures and shows a line a file."""
    for name in names or missing():
        rows = measure(name)
        write(rows, RESULTS)
        for row in rows:
            print(
                f"{name:<28} {row['output']:<14} {row['precision']:<5} "
                f"{row['run_ms']:>8} ms  {row['times']} x  {int(row['bytes']) / 1e6:.2f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
