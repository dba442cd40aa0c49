"""What scoring costs: ``results/evaluation.csv``, in about four minutes on two idle cores.

``python benchmarks/evaluation.py``. Streets of 1024x2048 with instances are drawn, and label
maps for them that are mostly right; the network apart, kseg scores the same files as
cityscapesScripts' evalPixelLevelSemanticLabeling, by turns, to the same mean IoU. Of that
script it is the Python code that pip installs; the source of its Cython part is neither in
the wheel nor in the archive. Rows:

    official        the script: milliseconds an image, median of the repeats
    kseg_N          kseg with N threads: the same
    ratio_N         how many times faster, median of the repeats' ratios
    pillow          Pillow alone on the three files of an image: milliseconds
    decoding        the same with their pixels inflated by zlib-ng, as kseg reads them
    ratio_decoding  official by decoding: no thread that decodes so can be faster
    network         a .tflite file on one thread, images in memory: milliseconds
    reading         what the other thread does then: image, label, instances and counting
    together        kseg with these two threads
    ratio_together  by the slower of the two: 1 if the other one's work costs no time
    peak_memory     GiB of `kseg evaluate` with CGNet at 1024x2048, TensorFlow included

A row has the command that does what was timed; what was timed runs within one process,
without the start of Python.
"""

from __future__ import annotations

import copy
import io
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
from kseg.data.png import with_stored_pixels
from kseg.environment import environment
from kseg.evaluation import LabelMaps, evaluate
from kseg.evaluation.counts import Counts
from kseg.evaluation.predictions import NetworkPredictions
from kseg.predictor import InferenceSettings, Predictor
from kseg.streets import write_streets
from kseg.tflite import convert

COLUMNS = ("what", "value", "unit", "spread", "images", "size", "repeats", "command")

NETWORK = "cgnet_m3n21"

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


def decode(data: DataSet, folder: Path, prepare: Callable[[bytes], bytes]) -> None:
    """Reads what a score needs, and no more; ``prepare`` sees a file before Pillow."""
    for sample in data.samples:
        for file in (sample.label, sample.instances, folder / f"{sample.name}_pred_labelIds.png"):
            np.asarray(Image.open(io.BytesIO(prepare(file.read_bytes()))))


def threads_alone(predictor: Predictor, data: DataSet) -> dict[str, Callable[[], Any]]:
    """What each of two threads does where a network is scored, as works of their own."""
    predictions = NetworkPredictions(predictor, data, InferenceSettings())
    pairs = [(sample, *predictions.read(sample)) for sample in data.samples]

    def network() -> None:
        for sample, image, label in pairs:
            predictions.predict(sample, image, label.shape)

    def reading() -> None:
        counts = Counts(data.classes, instances=data.has_instances, boundaries=False)
        for sample in data.samples:
            _, label = predictions.read(sample)
            instances = data.instances(sample, label.shape) if data.has_instances else None
            counts.add(sample.name, label, label, instances)

    return {"network": network, "reading": reading}


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
    folder: Path,
    *,
    count: int = 20,
    size: tuple[int, int] = (1024, 2048),
    input_size: tuple[int, int] = (512, 1024),
    repeats: int = 11,
) -> list[dict[str, Any]]:
    """The rows of the table; ``folder`` takes the streets, ``input_size`` is the network's.

    Raises:
        KsegError: the scores differ.
    """
    root, maps, model = folder / "streets", folder / "maps", folder / f"{NETWORK}.keras"
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
    works["pillow"] = lambda: decode(data, maps, bytes)
    works["decoding"] = lambda: decode(data, maps, with_stored_pixels)
    network = kseg.create_model(NETWORK)
    network.save(model)
    file = model.with_suffix(".tflite")
    convert(network, file, output="argmax", input_size=input_size)
    predictor = kseg.open_predictor(file, threads=1)
    works |= threads_alone(predictor, data)
    works["together"] = lambda: evaluate(predictor, data, workers=1)
    seconds = by_turns(works, repeats)
    slower = max(np.median(seconds[name]) for name in ("network", "reading"))
    common = {"images": len(data), "size": "{}x{}".format(*size), "repeats": repeats}
    on_streets = "--dataset streets --data-dir streets --split"
    commands = {
        "official": "CITYSCAPES_DATASET=streets CITYSCAPES_RESULTS=maps "
        "csEvalPixelLevelSemanticLabeling",
        **{f"kseg_{n}": f"kseg evaluate maps {on_streets} train --workers {n}" for n in threads},
        **dict.fromkeys(
            ("pillow", "decoding", "network", "reading", "together"),
            "python benchmarks/evaluation.py",
        ),
    }
    rows = []
    for name, command in commands.items():
        values = 1e3 * seconds[name] / len(data)
        rows.append(_row(name, values, "ms an image", command, common))
        if name.startswith(("kseg_", "decoding")):
            ratio = f"ratio_{name.removeprefix('kseg_')}"
            rows.append(_row(ratio, seconds["official"] / seconds[name], "times", command, common))
    rows.append(
        _row("ratio_together", seconds["together"] / slower, "times", commands["together"], common)
    )
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
    facts = environment("pillow", "zlib-ng", "cityscapesscripts")
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
