"""Accuracy by latency of the shipped weights: ``docs/latency.png``.

``python benchmarks/plot.py``, from ``results/quantisation.csv`` (mean IoU on CamVid's val) and
``results/tflite.csv`` (milliseconds at 512x1024 on two threads, logits at full size, which
hardly depend on the classes). A line a network and CPU, a point a file.
"""

from __future__ import annotations

from pathlib import Path

import table
from matplotlib.figure import Figure
from table import RESULTS

from kseg.files import atomic_write
from kseg.report import rendered


def points(results: Path = RESULTS) -> dict[str, dict[str, tuple[float, float]]]:
    """By model and CPU, then by file: milliseconds and mean IoU in per cent."""
    scores = {
        (row["model"], row["file"]): float(row["mean_iou"])
        for row in table.read(results / "quantisation.csv")
    }
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in table.read(results / "tflite.csv"):
        # Files of quantisation-aware training have other operators; they are not timed.
        key = row["model"], row["precision"]
        if row["output"] == "logits" and key in scores:
            line = found.setdefault(f"{row['model']}, {row['cpu']}", {})
            line[row["precision"]] = float(row["run_ms"]), scores[key]
    return found


def draw(found: dict[str, dict[str, tuple[float, float]]]) -> Figure:
    """The figure of ``points``."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot(
        xlabel="ms at 512x1024, two CPU threads", ylabel="mean IoU on CamVid val, %"
    )
    for label, files in found.items():
        line = sorted(files.values())
        axes.plot(*zip(*line, strict=True), marker="o", linestyle=":", label=label)
        for file, place in files.items():
            axes.annotate(file, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.margins(0.25)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Draws the figure."""
    with atomic_write(RESULTS.parent / "docs/latency.png") as path:
        rendered(draw(points())).save(path)


if __name__ == "__main__":
    main()
