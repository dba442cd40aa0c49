"""Kills commands at random moments and starts them again: they must end as if undisturbed.

    python benchmarks/kills.py [--count 20] [--seed 0] [--only train prepare ...]

Each command runs undisturbed first. Then, ``--count`` times, it is killed by SIGKILL after a
random share of that time, one to three times in a row, and run to its end; what it wrote must be
to the byte, or for training to the value, what the undisturbed run wrote, and nothing beside it.
Ends with status 1 if one did not. On drawn images and a small network.

Each run is a process of its own that is forked after the imports, before anything was computed
or written: imports are most of a short command's time, and a kill during them shows nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]

ERRORS = "errors"

# Not "spawn": what is imported stays.
_FORK = multiprocessing.get_context("fork")

# What the commands import when they run.
MODULES = (
    *(f"kseg.cli.{name}" for name in ("convert", "evaluate", "import_", "prepare", "train")),
    *("kseg.evaluation", "kseg.evaluation.boundaries", "kseg.importing", "kseg.opening"),
    *("kseg.tflite.export", "kseg.tflite.metadata", "kseg.training.records", "kseg.training.run"),
)

# By name, the command; OUT is where it writes. What it reads is beside it.
COMMANDS = {
    "train": "train --model small --dataset camvid --data-dir cam --epochs 3 --batch-size 2 "
    "--crop 32 40 --run-dir OUT/run",
    "prepare": "prepare --dataset camvid --data-dir cam OUT/records --shards 4 --workers 2",
    "prepare-shard": "prepare --dataset camvid --data-dir cam OUT/records --shards 4 "
    "--workers 1 --shard 2/2",
    "evaluate": "evaluate model.keras --dataset camvid --data-dir cam --boundaries --workers 1 "
    "--resume OUT/saved.json --json OUT/score.json",
    "evaluate-shard": "evaluate model.keras --dataset camvid --data-dir cam --boundaries "
    "--workers 1 --shard 2/3 --resume OUT/saved.json --json OUT/shard.json",
    "convert": "convert model.keras OUT/model.tflite --input-size 48 64",
    "import": "import small published.safetensors OUT/model.keras --classes camvid",
}


def main() -> int:
    """Runs the commands; 1 if one did not end as if undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="of each command (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--only", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    args = parser.parse_args()
    wrong = 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    load_modules()
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own: TensorFlow starts threads with what it computes first, and a
        # forked process would lack them.
        inputs = _FORK.Process(target=make_inputs, args=(Path(folder),))
        inputs.start()
        inputs.join()
        if inputs.exitcode:
            raise SystemExit("the inputs could not be made")
        for name in args.only:
            wrong += disturb(name, Path(folder), args.count, args.seed)
    return int(wrong > 0)


def make_inputs(folder: Path) -> None:
    """Drawn images, a model and a checkpoint, for all commands."""
    import keras
    import safetensors.numpy

    import kseg
    from kseg.data import CAMVID
    from support import random_tensors, write_camvid

    os.chdir(folder)
    keras.utils.set_random_seed(1)
    Path("cam").mkdir()
    write_camvid(Path("cam"), {"train": 8, "val": 12})
    model = kseg.create_model("small", num_classes=11)
    model.card = model.card.replace(
        dataset="camvid", class_names=CAMVID.names, colors=CAMVID.colors, input_size=(48, 64)
    )
    model.save("model.keras")
    safetensors.numpy.save_file(random_tensors(model), "published.safetensors")


def load_modules() -> None:
    """All that the commands import, and the network that trains in a second, as tests have it."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from kseg.evaluation import resume
    from kseg.zoo import VARIANTS
    from support import SMALL

    VARIANTS.update(SMALL)
    resume.INTERVAL = 0
    for module in MODULES:
        importlib.import_module(module)


def disturb(name: str, folder: Path, count: int, seed: int) -> int:
    """How often the command did not end as if undisturbed."""
    begin = time.monotonic()
    error = finish(name, folder, "undisturbed")
    if error:
        raise SystemExit(f"{name}: the undisturbed command failed: {error}")
    seconds = time.monotonic() - begin
    want = written(folder / f"{name}-undisturbed")
    wrong, kills = 0, 0
    for number in range(count):
        # Of its own for each, so that one can be repeated.
        moments = random.Random(f"{seed} {name} {number}")
        to, killed = f"{number}", []
        for _ in range(moments.randint(1, 3)):
            moment = moments.uniform(0.0, 1.0) * seconds
            while not (dead := kill_after(name, folder, to, moment)) and not killed:
                # Faster than the first run, as on a machine that was busy then.
                shutil.rmtree(folder / f"{name}-{to}")
                moment, seconds = 0.7 * moment, 0.9 * seconds
            if dead:
                killed.append(f"{moment:.2f} s")
        kills += len(killed)
        error = finish(name, folder, to)
        differing = error or difference(want, written(folder / f"{name}-{to}"))
        if differing:
            wrong += 1
            print(f"{name} {number}: killed after {', '.join(killed)}: {differing}", flush=True)
    print(f"{name}: {count} runs, {kills} kills, {wrong} wrong", flush=True)
    return wrong


def start(name: str, folder: Path, to: str) -> multiprocessing.process.BaseProcess:
    """The command as a process."""
    out = folder / f"{name}-{to}"
    out.mkdir(exist_ok=True)
    arguments = [part.replace("OUT", out.name) for part in COMMANDS[name].split()]
    process = _FORK.Process(target=run, args=(folder, arguments))
    process.start()
    return process


def run(folder: Path, arguments: list[str]) -> None:
    """``kseg ARGUMENTS`` in this process, its errors in a file of the folder."""
    from kseg.cli import main

    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_WRONLY)
    errors = os.open(folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    sys.exit(main(arguments))


def kill_after(name: str, folder: Path, to: str, seconds: float) -> bool:
    """Whether the command still ran after these seconds, and was killed."""
    process = start(name, folder, to)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def finish(name: str, folder: Path, to: str) -> str | None:
    """Runs the command to its end; its last line of errors where it failed."""
    process = start(name, folder, to)
    process.join(600)
    if process.exitcode == 0:
        return None
    process.kill()
    lines = (folder / ERRORS).read_text().strip().splitlines()
    return f"status {process.exitcode}: {lines[-1] if lines else 'no line'}"


def written(folder: Path) -> dict[str, Any]:
    """What a command wrote, by file, as far as it does not depend on the time."""
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted(folder.rglob("*"))
        # TensorBoard starts a new file with each process. The lock of a run that was killed at
        # its very end stays: a complete run needs none.
        if "tensorboard" not in path.parts and path.name != ".lock" and not _is_parent(path)
    }


def _is_parent(path: Path) -> bool:
    """Of something: an empty folder is something that was left."""
    return path.is_dir() and any(path.iterdir())


def content(path: Path) -> Any:
    """What can be compared with == of a file."""
    if path.is_dir():
        return None
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights:
            return without_chance(json.loads(archive.read("config.json"))), arrays(weights)
    if path.suffix == ".h5":
        return arrays(path)
    if path.name == "history.csv":
        rows = list(csv.DictReader(path.open(newline="")))
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
    if path.name in ("score.json", "shard.json", "config.json"):
        return without_chance(json.loads(path.read_text()))
    return path.read_bytes()


def without_chance(value: Any) -> Any:
    """JSON without times, addresses in memory, the folder's name and digests of these."""
    if isinstance(value, list):
        return [without_chance(item) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = ("seconds", "checksum", "command", "shared_object_id")
    return {key: without_chance(item) for key, item in value.items() if key not in left_out}


def arrays(file: Any) -> dict[str, bytes]:
    """The arrays of an HDF5 file, by name."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item).tobytes()

    with h5py.File(file) as opened:
        opened.visititems(visit)
    return found


def difference(want: dict[str, Any], got: dict[str, Any]) -> str | None:
    """What differs between two folders; None if nothing."""
    if more := sorted(got.keys() - want.keys()):
        return f"{', '.join(more)} beside what the undisturbed command wrote"
    if missing := sorted(want.keys() - got.keys()):
        return f"{', '.join(missing)} missing"
    differing = [name for name, value in want.items() if got[name] != value]
    return f"{', '.join(differing)} with another content" if differing else None


if __name__ == "__main__":
    sys.exit(main())
