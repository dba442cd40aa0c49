"""What scoring costs: ``results/evaluation.csv``, in about three minutes on two idle cores.

``python benchmarks/evaluation.py``. Streets of 1024x2048 with instances are drawn, and label
maps for them that are mostly right; the network apart, kseg scores the same files as
cityscapesScripts' evalPixelLevelSemanticLabeling, by turns, to the same mean IoU. Of that
script it is the Python code that pip installs; the source of its Cython part is neither in
the wheel nor in the archive. Rows:

    official        the script: milliseconds an image, median of the repeats
    kseg_N          kseg with N threads: the same
    ratio_N         how many times faster, median of the repeats' ratios
    decoding        Pillow alone on the three files of an image: milliseconds
    ratio_decoding  official by decoding: no thread that decodes so can be faster
    peak_memory     GiB of `kseg evaluate` with CGNet at 1024x2048, TensorFlow included

A row has the command that does what was timed; what was timed runs within one process,
without the start of Python.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import table
from PIL import Image
from table import RESULTS

import kseg
from kseg.data import CITYSCAPES, DataSet, open_dataset
from kseg.environment import environment
from kseg.evaluation import LabelMaps, evaluate
from kseg.streets import write_streets

COLUMNS = ("what", "value", "unit", "spread", "images", "size", "repeats", "command")

_PEAK = """
import sys
from kseg.cli import main
from kseg.tflite.timing_worker import peak_memory

code = main(sys.argv[1:])
print(peak_memory())
sys.exit(code)
"""


def peak_of(*command: object) -> int:
    """Bytes that ``kseg COMMAND`` has in memory at its peak, in a process of its own.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    child = [sys.executable, "-c", _PEAK, *map(str, command)]
    output = subprocess.run(child, stdout=subprocess.PIPE, check=True, timeout=600).stdout
    return int(output.split()[-1])


def write_maps(data: DataSet, folder: Path) -> None:
    """Label maps of a split, as of a network of stride 8 that errs on a twentieth."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for sample in data.samples:
        labels = np.asarray(Image.open(sample.label))
        coarse = labels[4::8, 4::8]
        blocks = [-(-n // 4) for n in coarse.shape]
        ids = rng.choice(np.array(CITYSCAPES.file_ids, np.uint8), blocks)
        wrong = rng.random(blocks) < 0.05
        ids, wrong = (
            x.repeat(4, 0).repeat(4, 1)[: coarse.shape[0], : coarse.shape[1]] for x in (ids, wrong)
        )
        prediction = np.where(wrong, ids, coarse).repeat(8, 0).repeat(8, 1)
        Image.fromarray(prediction).save(folder / f"{sample.name}_pred_labelIds.png")


def official(data: DataSet, folder: Path) -> float:
    """Mean class IoU by the official script."""
    # It calls a function that NumPy has dropped.
    np.in1d = np.isin
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    args = copy.copy(script.args)
    args.quiet, args.JSONOutput = True, False
    found = [str(folder / f"{sample.name}_pred_labelIds.png") for sample in data.samples]
    wanted = [str(sample.label) for sample in data.samples]
    return float(script.evaluateImgLists(found, wanted, args)["averageScoreClasses"])


def decode(data: DataSet, folder: Path) -> None:
    """Reads what a score needs, and no more."""
    for sample in data.samples:
        for file in (sample.label, sample.instances, folder / f"{sample.name}_pred_labelIds.png"):
            np.asarray(Image.open(file))


def by_turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each, (repeats,), after one that is not measured."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


def measure(
    folder: Path, *, count: int = 20, size: tuple[int, int] = (1024, 2048), repeats: int = 11
) -> list[dict[str, Any]]:
    """The rows of the table; ``folder`` takes the streets.

    Raises:
        KsegError: the scores differ.
    """
    root, maps, model = folder / "streets", folder / "maps", folder / "cgnet_m3n21.keras"
    write_streets(root, count, size=size)
    data = open_dataset("streets", root, "train")
    write_maps(data, maps)
    want, got = official(data, maps), evaluate(LabelMaps(maps), data).mean_iou
    if abs(want - got) > 1e-9:
        raise kseg.KsegError(f"{maps}: cityscapesScripts' mean IoU is {want}, kseg's {got}")
    threads = sorted({1, os.cpu_count() or 1})
    works: dict[str, Callable[[], Any]] = {"official": lambda: official(data, maps)}
    for n in threads:
        works[f"kseg_{n}"] = lambda n=n: evaluate(LabelMaps(maps), data, workers=n)
    works["decoding"] = lambda: decode(data, maps)
    seconds = by_turns(works, repeats)
    common = {"images": len(data), "size": "{}x{}".format(*size), "repeats": repeats}
    on_streets = "--dataset streets --data-dir streets --split"
    commands = {
        "official": "CITYSCAPES_DATASET=streets CITYSCAPES_RESULTS=maps "
        "csEvalPixelLevelSemanticLabeling",
        **{f"kseg_{n}": f"kseg evaluate maps {on_streets} train --workers {n}" for n in threads},
        "decoding": "python benchmarks/evaluation.py",
    }
    rows = []
    for name, command in commands.items():
        values = 1e3 * seconds[name] / len(data)
        rows.append(_row(name, values, "ms an image", command, common))
        if name != "official":
            ratio = f"ratio_{name.removeprefix('kseg_')}"
            rows.append(_row(ratio, seconds["official"] / seconds[name], "times", command, common))
    kseg.create_model("cgnet_m3n21").save(model)
    split = ("--dataset", "streets", "--data-dir", root, "--split", "val")
    peak = np.array([peak_of("evaluate", model, *split) / 2**30])
    common |= {"images": len(open_dataset("streets", root, "val")), "repeats": 1}
    command = f"kseg evaluate {model.name} {on_streets} val"
    return [*rows, _row("peak_memory", peak, "GiB", command, common)]


def _row(
    what: str, values: np.ndarray, unit: str, command: str, common: dict[str, Any]
) -> dict[str, Any]:
    """The median, and the range of the middle 80 % of the repeats."""
    low, high = np.percentile(values, [10, 90])
    value = f"{np.median(values):.3g}"
    spread = f"{low:.3g} to {high:.3g}"
    return dict(what=what, value=value, unit=unit, spread=spread, command=command, **common)


def write(rows: list[dict[str, Any]], results: Path) -> None:
    """The table, and what it was measured with."""
    facts = environment("pillow", "cityscapesscripts")
    table.write(results / "evaluation.csv", COLUMNS, rows, facts)


def main() -> None:
    """Measures and shows the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    write(rows, RESULTS)
    for row in rows:
        print(f"{row['what']:<15} {row['value']:>6} {row['unit']:<12} ({row['spread']})")


if __name__ == "__main__":
    main()
