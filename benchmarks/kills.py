"""Kills commands at random moments and starts them again: they must end as if undisturbed.

    python benchmarks/kills.py [--count 20] [--seed 0] [--only train prepare ...]

Each command runs undisturbed first. Then, ``--count`` times, it is killed by SIGKILL after a
random share of that time, up to three times in a row, and run to its end; what it wrote must be
to the byte, or for training to the value, what the undisturbed run wrote, and nothing beside it.
Ends with status 1 if one did not. On drawn images and a small network, some minutes for
``--count 2``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]

# A network that trains in a second, as the tests have it.
_PATHS = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
_MAIN = (
    f"{_PATHS}"
    "from kseg.zoo import VARIANTS; from support import SMALL; VARIANTS.update(SMALL)\n"
    "from kseg.evaluation import resume; resume.INTERVAL = 0\n"
    "from kseg.cli import main; sys.exit(main(sys.argv[1:]))"
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
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        for name in args.only:
            wrong += disturb(name, Path(folder), args.count, args.seed)
    return int(wrong > 0)


def make_inputs(folder: Path) -> None:
    """Drawn images, a model and a checkpoint, for all commands."""
    code = (
        f"{_PATHS}"
        "import keras, kseg, safetensors.numpy; from pathlib import Path\n"
        "from kseg.data import CAMVID; from kseg.zoo import VARIANTS\n"
        "from support import SMALL, random_tensors, write_camvid\n"
        "VARIANTS.update(SMALL); keras.utils.set_random_seed(1); Path('cam').mkdir()\n"
        "write_camvid(Path('cam'), {'train': 8, 'val': 12})\n"
        "model = kseg.create_model('small', num_classes=11)\n"
        "model.card = model.card.replace(dataset='camvid', class_names=CAMVID.names, "
        "colors=CAMVID.colors, input_size=(48, 64)); model.save('model.keras')\n"
        "safetensors.numpy.save_file(random_tensors(model), 'published.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


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
            moment = moments.uniform(0.0, 1.05) * seconds
            killed.append(f"{moment:.2f} s")
            kills += kill_after(name, folder, to, moment)
        error = finish(name, folder, to)
        differing = error or difference(want, written(folder / f"{name}-{to}"))
        if differing:
            wrong += 1
            print(f"{name} {number}: killed after {', '.join(killed)}: {differing}", flush=True)
    print(f"{name}: {count} runs, {kills} kills, {wrong} wrong", flush=True)
    return wrong


def command(name: str, folder: Path, to: str) -> subprocess.Popen:
    """The command as a process."""
    out = folder / f"{name}-{to}"
    out.mkdir(exist_ok=True)
    arguments = [part.replace("OUT", out.name) for part in COMMANDS[name].split()]
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(name: str, folder: Path, to: str, seconds: float) -> bool:
    """Whether the command still ran after these seconds, and was killed."""
    with command(name, folder, to) as process:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def finish(name: str, folder: Path, to: str) -> str | None:
    """Runs the command to its end; its last line of errors where it failed."""
    with command(name, folder, to) as process:
        _, errors = process.communicate(timeout=600)
    return (errors.strip().splitlines() or ["no line"])[-1] if process.returncode else None


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
            return archive.read("config.json"), arrays(weights)
    if path.suffix == ".h5":
        return arrays(path)
    if path.name == "history.csv":
        rows = list(csv.DictReader(path.open(newline="")))
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
    if path.name in ("score.json", "shard.json", "config.json"):
        return without_time(json.loads(path.read_text()))
    return path.read_bytes()


def without_time(value: Any) -> Any:
    """Of a score, and without what holds it or names the folder."""
    if not isinstance(value, dict):
        return value
    left_out = ("seconds", "checksum", "command")
    return {key: without_time(item) for key, item in value.items() if key not in left_out}


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
