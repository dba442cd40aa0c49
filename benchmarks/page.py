"""The tables of README.md and docs/latency.md: ``python benchmarks/page.py`` writes them anew.

They are made of the zoo and of the tables in ``results/``. Each stands between two comments
with its name; what is around them is written by hand.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import table
from table import RESULTS

from kseg.demo_report import table_text
from kseg.files import atomic_write
from kseg.zoo import list_models, published_cells

README = RESULTS.parent / "README.md"
LATENCY = RESULTS.parent / "docs/latency.md"

# Kinds of operators that a table names: the others are one column.
_OPERATORS = {
    "depthwise": r"DWConv",
    "convolutions": r"[Cc]onvolution|GEMM",
    "PReLU": r"PReLU",
    "copies": r"Copy|CONCATENATION",
    "conversions": r"Convert",
    "resizing": r"Resize",
}


def pages() -> dict[Path, dict[str, str]]:
    """The tables of every page by their names."""
    return {README: readme_tables(), LATENCY: latency_tables()}


def readme_tables() -> dict[str, str]:
    """The demo's figures, the shipped weights' scores, and the networks of the zoo."""
    demo = json.loads((RESULTS / "demo.json").read_text())
    header, *scores = csv.reader((RESULTS / "camvid.csv").read_text().splitlines())
    head = ["network", "parameters", "multiply-adds", "published mean IoU, %"]
    return {
        "demo": table_text(demo["rows"]),
        "camvid": markdown(header, scores),
        "zoo": markdown(head, [[name, *published_cells(name)] for name in list_models()]),
    }


def latency_tables(results: Path = RESULTS) -> dict[str, str]:
    """What the files of every network take, and what quantisation costs and gains."""
    return {
        "int8": _int8(
            *(table.read(results / f"{name}.csv") for name in ("tflite", "quantisation", "gpu"))
        ),
        "latency": _latency(table.read(results / "tflite.csv")),
        "runtimes": _runtimes(table.read(results / "runtimes.csv")),
        "operators": _operators(table.read(results / "operators.csv")),
        "quantisation": _quantisation(table.read(results / "quantisation.csv")),
    }


def _int8(times: list[table.Row], scores: list[table.Row], gpu: list[table.Row]) -> str:
    """Every network of the zoo; "-" where a table has no row of it."""
    # Of the first CPU of the latency table.
    cpu = max(row["cpu"] for row in times)
    faster = {
        (row["model"], row["output"]): row["times"]
        for row in times
        if (row["cpu"], row["precision"]) == (cpu, "int8")
    }
    points = {row["model"]: row["points"] for row in scores if row["file"] == "int8"}
    alike = {
        (row["model"], row["precision"]): f"{100 * float(row['same_class']):.1f}"
        for row in gpu
        if row["same_class"]
    }
    lines = [
        [
            *(name, published_cells(name)[2]),
            *(faster.get((name, output), "-") for output in ("logits", "stride-logits")),
            points.get(name, "-"),
            *(alike.get((name, precision), "-") for precision in ("fp16", "int8")),
        ]
        for name in list_models()
    ]
    head = ["network", "published mean IoU, %", "int8 on a CPU, logits: times"]
    head += ["stride logits: times", "int8, points", "GPU as CPU, fp16: % of pixels"]
    return markdown([*head, "int8: % of pixels"], lines)


def _latency(rows: list[table.Row]) -> str:
    by_model: dict[str, dict[tuple[str, ...], table.Row]] = defaultdict(dict)
    for row in rows:
        by_model[row["model"]][row["cpu"], row["output"], row["precision"]] = row
    forms = ("logits", "stride-logits")
    # Of the first CPU milliseconds, of the others how many times as fast int8 is.
    first, *others = sorted({row["cpu"] for row in rows}, reverse=True)
    lines = []
    for model, files in by_model.items():
        cells = [model]
        for form in forms:
            pair = [files.get((first, form, precision)) for precision in ("fp32", "int8")]
            cells += [_round(row["run_ms"]) if row else "-" for row in pair]
            cells.append(pair[1]["times"] if pair[1] else "-")
        for cpu in others:
            pair = [files.get((cpu, form, "int8")) for form in forms]
            cells += [row["times"] if row else "-" for row in pair]
        # Files are the same for every CPU.
        sizes = {
            precision: row["bytes"]
            for (_, form, precision), row in files.items()
            if form == "logits"
        }
        cells += [f"{int(sizes[p]) / 1e6:.1f}" for p in ("fp32", "fp16", "int8")]
        lines.append(cells)
    head = ["network", "logits: fp32, ms", "int8, ms", "times"]
    head += ["stride logits: fp32, ms", "int8, ms", "times"]
    head += [f"{cpu}, {form}: times" for cpu in others for form in ("logits", "stride logits")]
    return markdown([*head, "fp32, MB", "fp16, MB", "int8, MB"], lines)


def _runtimes(rows: list[table.Row]) -> str:
    by_form: dict[tuple[str, ...], dict[str, table.Row]] = defaultdict(dict)
    for row in rows:
        if row["size"] == "512x1024":
            form = row["model"], row["cpu"], row["output"], row["threads"]
            by_form[form][row["runtime"]] = row
    names = ("litert", "onnxruntime", "torch", "tensorflow")
    lines = []
    for form, by_name in by_form.items():
        times = [_round(by_name[name]["run_ms"]) if name in by_name else "-" for name in names]
        litert = by_name["litert"]
        lines.append([*form, *times, litert["of_best"], litert["of_smaller"]])
    head = ["network", "CPU", "output", "threads", "LiteRT, ms", "ONNX Runtime, ms"]
    head += ["PyTorch, ms", "TensorFlow, ms", "LiteRT by the faster of ONNX Runtime and PyTorch"]
    return markdown([*head, "LiteRT by itself at 256x512"], lines)


def _operators(rows: list[table.Row]) -> str:
    by_file: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        kind = next((k for k, p in _OPERATORS.items() if re.search(p, row["operator"])), "others")
        file = row["model"], row["cpu"], row["output"], row["precision"]
        by_file[file][kind] += float(row["run_ms"])
    kinds = [*_OPERATORS, "others"]
    lines = [
        [*file, *(f"{by_kind[kind]:.1f}" for kind in kinds)] for file, by_kind in by_file.items()
    ]
    return markdown(["network", "CPU", "output", "file", *kinds], lines)


def _quantisation(rows: list[table.Row]) -> str:
    lines = []
    for row in rows:
        sizes = (f"{int(row[size]) / 1e3:.0f}" for size in ("bytes", "packed"))
        lines.append([row["model"], row["file"], row["mean_iou"], row["points"], *sizes])
    return markdown(["network", "file", "mean IoU, %", "points", "kB", "kB in a package"], lines)


def _round(milliseconds: str) -> str:
    return f"{float(milliseconds):.0f}"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [[*head], *rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def filled(page: str, contents: dict[str, str]) -> str:
    """The page with each table in its place."""
    for name, text in contents.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not begin or not end:
            raise ValueError(f"the page has no place for {name}")
        page = before + begin + text + end + after
    return page


def main() -> None:
    """Writes the pages."""
    for page, tables in pages().items():
        text = filled(page.read_text(), tables)
        with atomic_write(page) as path:
            path.write_text(text)


if __name__ == "__main__":
    main()
