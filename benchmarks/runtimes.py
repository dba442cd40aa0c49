"""The same network on several runtimes, in one run: ``results/runtimes.csv``.

``python benchmarks/runtimes.py [MODEL ...]`` (extras ``onnx`` and ``bench``): the inference graph
that kseg exports, BatchNorm folded, with random weights, in float32 on

    litert       the .tflite file
    onnxruntime  the .onnx file
    tensorflow   the .keras file as `kseg predict` runs it; full logits only
    torch        PyTorch's own modules (torch_twin.py), channels last, traced
                 and frozen, or optimised for inference where that is faster

by turns, each in a process of its own that is alone while it runs. With stride logits the
last resizing is the application's on all sides. A row has

    run_ms, p90_ms  of the network, median
    of_best         litert's median by the faster one's of torch and onnxruntime
    of_smaller      the median by the same runtime's at half the height and width: 4 would be
                    time in proportion to the area
    cpu             as in results/tflite.csv
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import table
from table import RESULTS
from worker import Worker, serve

import kseg
from kseg.tflite import benchmark, convert
from kseg.zoo import build

MODELS = ("cgnet_m3n21", "liteseg_mobilenet_v2", "deeplab_v3_plus_mobilenet_v2")
SIZES = ((256, 512), (512, 1024))
THREADS = (2, 1)
RUNS, WARM_UP = 10, 2
COLUMNS = (
    *("model", "output", "runtime", "threads", "size", "run_ms", "p90_ms"),
    *("of_best", "of_smaller", "runs", "command", "cpu"),
)


def measure(
    name: str, output: str, threads: int, size: tuple[int, int], runs: int = RUNS
) -> list[dict[str, Any]]:
    """The rows of one form of a network, without ``of_smaller``."""
    model = kseg.create_model(name)
    with tempfile.TemporaryDirectory() as folder:
        files = {"litert": Path(folder) / "x.tflite", "onnxruntime": Path(folder) / "x.onnx"}
        for file in files.values():
            convert(model, file, output=output, input_size=size)
        if output == "logits":
            files["tensorflow"] = Path(folder) / "x.keras"
            model.save(files["tensorflow"])
        torch = Worker(f"{name} on torch", [__file__, "--torch", name, output, threads, *size])
        torch_seconds = []
        try:
            torch.step()
            timings = benchmark(
                list(files.values()),
                threads=threads,
                runs=runs,
                warm_up=WARM_UP,
                input_size=size,
                progress=lambda *_: torch_seconds.append(torch.step()["seconds"]),
            )
        finally:
            torch.close()
    spreads = {
        runtime: (timing.run.median, timing.run.p90)
        for runtime, timing in zip(files, timings, strict=True)
    }
    measured = torch_seconds[WARM_UP:]
    spreads["torch"] = float(np.median(measured)), float(np.percentile(measured, 90))
    best = min(spreads["torch"][0], spreads["onnxruntime"][0])
    return [
        {
            "model": name,
            "output": output,
            "runtime": runtime,
            "threads": threads,
            "size": "{}x{}".format(*size),
            "run_ms": f"{1e3 * median:.1f}",
            "p90_ms": f"{1e3 * p90:.1f}",
            "of_best": f"{median / best:.2f}" if runtime == "litert" else "",
            "runs": runs,
            "command": f"python benchmarks/runtimes.py {name}",
            "cpu": table.cpu(),
        }
        for runtime, (median, p90) in spreads.items()
    ]


def compare_areas(rows: Sequence[dict[str, Any]]) -> None:
    """Fills in ``of_smaller`` where there is the same at half the size."""
    milliseconds = {_key(row, row["size"]): float(row["run_ms"]) for row in rows}
    for row in rows:
        half = "x".join(str(int(side) // 2) for side in row["size"].split("x"))
        smaller = milliseconds.get(_key(row, half))
        row["of_smaller"] = f"{float(row['run_ms']) / smaller:.2f}" if smaller else ""


def _key(row: dict[str, Any], size: str) -> tuple[str, ...]:
    return (*(str(row[column]) for column in ("model", "output", "runtime", "threads")), size)


def torch_run(
    name: str, output: str, threads: int, size: tuple[int, int]
) -> tuple[Callable[[], None], dict[str, Any]]:
    """The network in PyTorch."""
    import torch
    from torch_twin import twin

    torch.set_num_threads(threads)
    card = kseg.create_model(name).card
    module = twin(build(card, input_shape=(*size, 3), output=output)).eval()
    module = module.to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, *size).mul(255).to(memory_format=torch.channels_last)

    def timed(module: Any, turns: int = 3) -> float:
        seconds = []
        for _ in range(turns):
            begin = time.perf_counter()
            module(image)
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    with torch.inference_mode():
        # Which of the two ways to fold BatchNorm is the faster depends on the network.
        ways = [
            torch.jit.freeze(torch.jit.trace(module, image)),
            torch.jit.optimize_for_inference(torch.jit.trace(module, image)),
        ]
        best = min(ways, key=timed)

    def run() -> None:
        with torch.inference_mode():
            best(image)

    return run, {}


def write(rows: list[dict[str, Any]], results: Path) -> None:
    """Puts networks' rows into the table, and what they were measured with beside it."""
    table.replace(
        results / "runtimes.csv", COLUMNS, rows, table.facts_but_cpu("onnxruntime", "torch")
    )


def main(arguments: Sequence[str]) -> None:
    """Measures and shows a line a runtime."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--torch", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.torch:
        name, output, *numbers = args.torch
        threads, *size = map(int, numbers)
        serve(lambda: torch_run(name, output, threads, tuple(size)))
        return
    for name in args.models:
        rows = [
            row
            for output in ("stride-logits", "logits")
            for threads in THREADS
            for size in SIZES
            for row in measure(name, output, threads, size)
        ]
        compare_areas(rows)
        write(rows, RESULTS)
        for row in rows:
            print(
                f"{name:<28} {row['output']:<14} {row['runtime']:<12} {row['threads']} threads "
                f"{row['size']:>9} {row['run_ms']:>8} ms  {row['of_best']}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
