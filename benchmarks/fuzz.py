"""Reads damaged files of every format that kseg reads: one line or a right answer, never else.

    python benchmarks/fuzz.py [--count 1000] [--seed 0] [--only png keras ...]
    python benchmarks/fuzz.py --case FORMAT NUMBER [--seed 0]

Valid files of ``tests/data/fuzz`` and some that are made here are damaged by bytes and by
structure (``mutations.py``). A process of its own reads them, with limits of time and memory; it
is started again behind a case that ended it. An outcome is

- refused: a KsegError in one line that names the file;
- right: what the undamaged file gives, or a value that the format allows where no checksum tells;
- wrong: another exception, the end of the process, more than ``--seconds`` of CPU time or a
  gigabyte of memory for a file of some kilobytes, or other numbers although a checksum tells.

Ends with status 1 if one was wrong. ``--case`` repeats one and says what it gave.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
import hashlib
import importlib
import io
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests/data/fuzz"
sys.path.insert(0, str(ROOT / "benchmarks"))

import mutations as damage  # noqa: E402

from kseg.errors import KsegError  # noqa: E402

_MEMORY = 2**30
_NEED_KERAS = ("keras", "config")


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is damaged and read.

    Attributes:
        seeds: files of the corpus, or functions that write a folder and name the file in it.
        read: what kseg gives for the file, to be compared.
        structure: damage that keeps checksums right.
        checked: whether the format's own checksums tell of damaged bytes.
        legal: whether a value is one that the format allows.
    """

    seeds: tuple[str | Callable[[Path], Path], ...]
    read: Callable[[Path], Any]
    structure: damage.Mutator
    checked: bool = False
    legal: Callable[[Any], bool] = lambda value: True


# --- readers -------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Any:
    """The tensors, by name."""
    from kseg import checkpoints

    return checkpoints.read(path)


def read_tensorflow(path: Path) -> Any:
    """As ``read_checkpoint``, of the two files of a prefix."""
    return read_checkpoint(path.with_name("tiny.ckpt"))


def is_tensors(value: Any) -> bool:
    """Whether these are tensors of numbers, by name."""
    return all(
        isinstance(v, np.ndarray | np.generic) and v.dtype.kind in "biufc" for v in value.values()
    )


def read_keras(path: Path) -> Any:
    """Card, weights and output of a model."""
    import kseg

    model = kseg.load(path)
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    weights = {f"{i} {w.path}": np.asarray(w) for i, w in enumerate(model.weights)}
    return model.card.to_json(), weights, np.asarray(model(image, training=False))


def run_file(path: Path) -> Any:
    """Card and output of a .tflite or .onnx file."""
    import kseg

    predictor = kseg.open_predictor(path, threads=1)
    height, width = predictor.input_size or (8, 8)
    if height * width > 10**6:
        return predictor.card.to_json(), None
    image = np.resize(np.arange(251, dtype=np.uint8), (height, width, 3))
    return predictor.card.to_json(), predictor(image)


def read_image(path: Path) -> Any:
    """The pixels."""
    from kseg.data import read_image

    return read_image(path)


def is_image(value: Any) -> bool:
    """Whether these are pixels."""
    return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3


def read_label(path: Path) -> Any:
    """The train ids."""
    from kseg.data import CAMVID
    from kseg.data.reading import read_label

    return read_label(path, CAMVID)


def is_label(value: Any) -> bool:
    """Whether these are train ids of CamVid."""
    return (
        value.dtype == np.uint8 and value.ndim == 2 and set(np.unique(value)) <= {*range(11), 255}
    )


def read_records(path: Path) -> Any:
    """The records, and what the index says of them."""
    from kseg.training.records import open_records

    records = open_records(path.parent)
    content = [records.read(i) for i in range(len(records))]
    records.label_counts()
    records.sample_pixels()
    return records.names, records.classes, records.pixels, content, records.fingerprint()


def read_run(path: Path) -> Any:
    """Nothing: whether the folder of a run is refused."""
    from kseg.data import open_dataset
    from kseg.training.config import TrainingConfig
    from kseg.training.run_folder import check_folder

    data = open_dataset("camvid", path.parents[1] / "camvid", "train")
    check_folder(path.parent, TrainingConfig("cgnet_m3n21", "camvid"), data, None)


def read_card(path: Path) -> Any:
    """The card."""
    from kseg.file_card import read_file_card

    return read_file_card(path)


def read_classes(path: Path) -> Any:
    """The classes."""
    from kseg.data.class_files import read_classes

    return read_classes(path)


def merge(path: Path) -> Any:
    """The score, or the reports, of two shards of which one is damaged."""
    from kseg.cli import main

    out = path.with_name("score.json")
    stdout = io.StringIO()
    other = path.with_name(path.name.replace("1", "2"))
    arguments = ["merge", str(path), str(other)] + ["--json", str(out)] * ("score" in path.name)
    stderr = io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = main(arguments)
    errors = [line for line in stderr.getvalue().splitlines() if "warning:" not in line]
    assert len(errors) < 2, errors
    if errors:
        raise KsegError(*errors)
    score = json.loads(out.read_text()) if out.exists() else None
    out.unlink(missing_ok=True)
    return status, stdout.getvalue(), score


def resume(path: Path) -> Any:
    """The counts of a score that was left."""
    from kseg.evaluation.counts import Counts
    from kseg.evaluation.resume import SavedScores

    data, _ = _maps(path.parent)
    counts = Counts(data.classes, instances=True, boundaries=True)
    seconds = SavedScores(path).load({"runtime": "x"}, data, counts)
    counts.figures()
    return seconds, counts.to_json()


# --- seeds that are made here --------------------------------------------------------


def _camvid(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 255, (12, 16, 3), np.uint8)
            Image.fromarray(image).save(folder / split / f"{i}.png")
            Image.fromarray(image[..., 0] % 11).save(folder / f"{split}annot" / f"{i}.png")
    return folder


def _records(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from kseg.data import open_dataset
        from kseg.training.records import prepare

        data = open_dataset("camvid", _camvid(folder / "camvid"), "train")
        prepare(data, folder / "records", shards=2, workers=1)
        return folder / "records" / name

    return write


def _run(folder: Path) -> Path:
    from kseg.data import open_dataset
    from kseg.training.config import TrainingConfig
    from kseg.training.run_folder import claim_folder

    data = open_dataset("camvid", _camvid(folder / "camvid"), "train")
    claim_folder(folder / "run", TrainingConfig("cgnet_m3n21", "camvid"), data, None)
    return folder / "run/config.json"


@functools.cache
def _maps(folder: Path) -> Any:
    sys.path.append(str(ROOT / "tests"))
    from support import write_maps

    return write_maps(folder / "maps", 3)


def _score(folder: Path) -> Path:
    from kseg.data import Shard
    from kseg.evaluation import evaluate_shard

    data, maps = _maps(folder)
    for number in (1, 2):
        shard = evaluate_shard(maps, data, Shard(number, 2), boundaries=True)
        shard.write(folder / f"score-{number}.json")
    return folder / "score-1.json"


def _findings(folder: Path) -> Path:
    from kseg.cli import main

    _camvid(folder / "camvid")
    for number in (1, 2):
        with contextlib.redirect_stdout(io.StringIO()):
            main(
                f"check-data --dataset camvid --data-dir {folder}/camvid --shard {number}/2 "
                f"--json {folder}/data-{number}.json".split()
            )
    return folder / "data-1.json"


def _unfinished(folder: Path) -> Path:
    from kseg.evaluation.counts import Counts
    from kseg.evaluation.resume import SavedScores

    data, _ = _maps(folder)
    counts = Counts(data.classes, instances=True, boundaries=True)
    saved = SavedScores(folder / "saved.json")
    saved.load({"runtime": "x"}, data, counts)
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 19, (2, 9, 9)).astype(np.uint8)
    counts.add(data.samples[0].name, label, prediction, np.full((9, 9), 26001, np.uint16))
    saved.save(counts, 1.0)
    return folder / "saved.json"


def _text(name: str, *contents: str) -> tuple[Callable[[Path], Path], ...]:
    def write(folder: Path, content: str) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return tuple(functools.partial(write, content=content) for content in contents)


_CARD = {
    "class_names": ["road", "car"],
    "mean": [127.5, 127.5, 127.5],
    "std": [127.5, 127.5, 127.5],
    "channel_order": "RGB",
    "output": "logits",
    "colors": [[1, 2, 3], [4, 5, 6]],
    "void_channels": [2],
    "num_classes": 3,
    "layout": "NHWC",
    "resize": "half_pixel",
}


# --- damage by structure that needs a format's own package ---------------------------


def _checksum(value: Any) -> str:
    """As kseg keeps it in its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def signed_json(rng: random.Random, content: bytes) -> bytes:
    """JSON with a right checksum, or without one."""
    state = json.loads(content)
    state.pop("checksum", None)
    text = damage.json_damaged(rng, json.dumps(state).encode()).decode()
    try:
        state = json.loads(text)
        signed = {**state, "checksum": _checksum(state)} if rng.random() < 0.8 else state
        return json.dumps(signed).encode()
    except (RecursionError, TypeError, ValueError):
        return text.encode()


def safetensors_damaged(rng: random.Random, content: bytes) -> bytes:
    """The header as JSON, or its length."""
    end = 8 + int.from_bytes(content[:8], "little")
    if rng.random() < 0.1:
        return (rng.choice(damage.INTEGERS) % 2**64).to_bytes(8, "little") + content[8:]
    header = damage.json_damaged(rng, content[8:end])
    return len(header).to_bytes(8, "little") + header + content[end:]


def pytorch_damaged(rng: random.Random, name: str, data: bytes) -> bytes:
    """An entry of an archive of PyTorch."""
    pickled = name.endswith("data.pkl")
    return (damage.pickle_damaged if pickled else damage.damaged)(rng, data)


def keras_damaged(rng: random.Random, name: str, data: bytes) -> bytes:
    """An entry of a .keras file."""
    if name.endswith(".json"):
        return (damage.json_damaged if rng.random() < 0.8 else damage.damaged)(rng, data)
    return (hdf5_damaged if rng.random() < 0.5 else damage.damaged)(rng, data)


def legacy_damaged(rng: random.Random, content: bytes) -> bytes:
    """One of the pickles of a legacy file, which begins with three short ones."""
    import pickletools

    stream = io.BytesIO(content)
    places = [0]
    for _ in range(rng.choice((0, 1, 2, 3, 3, 3, 3, 4))):
        collections.deque(pickletools.genops(stream), 0)
        places.append(stream.tell())
    return content[: places[-1]] + damage.pickle_damaged(rng, content[places[-1] :])


def hdf5_damaged(rng: random.Random, content: bytes) -> bytes:
    """A dataset or attribute of another type, shape or storage; a link to elsewhere."""
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        datasets = [name for name in names if isinstance(file[name], h5py.Dataset)]
        name = rng.choice(datasets)
        array = np.asarray(file[name])
        kind = rng.randrange(13)
        if kind < 11:
            del file[name]
        if kind == 0:
            shape = rng.choice(
                ((10**9,), (10**5, 10**5), (2**33,), (2**62,), (0,), (10**8, *array.shape))
            )
            file.create_dataset(name, shape, "f4", chunks=(1,) * len(shape))
        elif kind == 1:
            zeros = np.zeros(10**6, "f4")
            file.create_dataset(name, data=zeros, compression="gzip", chunks=(10**5,))
        elif kind == 2:
            file[name] = rng.choice((np.bytes_(b"text"), "text", b"", 3, 2.5, float("nan")))
        elif kind == 3:
            file[name] = array.astype(rng.choice(("f2", "f8", "i1", "i8", "u1", "?", ">f4", "c8")))
        elif kind == 4:
            file[name] = np.zeros(array.shape, [("a", "f4"), ("b", "i2")])
        elif kind == 5:
            file.create_dataset(name, data=["a", "b\nc"], dtype=h5py.string_dtype())
        elif kind == 6:
            file[name] = h5py.SoftLink(
                rng.choice(("/", "/nowhere", f"/{name}", f"/{rng.choice(names)}"))
            )
        elif kind == 7:
            file[name] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == 8:
            file.create_dataset(
                name, array.shape, "f4", external=[("/proc/self/exe", 0, array.nbytes)]
            )
        elif kind == 9:
            file[name] = np.full(array.shape, rng.choice((np.nan, np.inf, 1e38, 0)), array.dtype)
        elif kind == 10:
            file[name] = np.resize(
                array, rng.choice(((), (1,), array.shape[::-1], (*array.shape, 2)))
            )
        elif kind == 11:
            place = file[rng.choice(names)]
            for key in list(place.attrs):
                place.attrs[key] = rng.choice(("x", 3, "a/b\nc", np.zeros(9)))
        else:
            file.move(name, rng.choice((f"{name}x", "x", f"optimizer/{name}")))
    return stream.getvalue()


def flatbuffer_damaged(rng: random.Random, content: bytes) -> bytes:
    """One or two fields of a .tflite file's tables."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    while True:
        model = schema.ModelT.InitFromPackedBuf(content)
        for _ in range(rng.choice((1, 1, 2))):
            _change_table(rng, model)
        try:
            builder = flatbuffers.Builder(len(content) + 4096)
            builder.Finish(model.Pack(builder), b"TFL3")
        except Exception:  # the package cannot write it
            continue
        return bytes(builder.Output())


def _change_table(rng: random.Random, table: Any) -> None:
    found: list[tuple[Any, str]] = []

    def visit(item: Any) -> None:
        if isinstance(item, list):
            for inner in item:
                visit(inner)
        elif hasattr(item, "__dict__"):
            found.extend((item, name) for name in vars(item))
            for inner in vars(item).values():
                visit(inner)

    visit(table)
    item, name = rng.choice(found)
    setattr(item, name, _other(rng, getattr(item, name)))


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*damage.INTEGERS, value + 1, value - 1, rng.randrange(160)))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), value * 2))
    if isinstance(value, bytes):
        return rng.choice((b"", damage.damaged(rng, value), b"x" * 1000, b"a\n\xff"))
    if isinstance(value, np.ndarray) and value.size:
        if rng.random() < 0.3:
            return rng.choice((value[:-1], value[:0], np.tile(value, 2)))
        changed = value.copy()
        with np.errstate(all="ignore"):
            changed.flat[rng.randrange(value.size)] = (
                np.array(rng.choice(damage.INTEGERS), object).astype("f8").astype(value.dtype)
            )
        return changed
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return rng.choice((value[:place] + value[place + 1 :], [*value, value[place]], value[::-1]))
    return None


def protobuf_damaged(rng: random.Random, content: bytes) -> bytes:
    """One or two fields of an .onnx file's messages."""
    import onnx

    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 2))):
        found: list[tuple[Any, Any]] = []

        def visit(message: Any, found: list[tuple[Any, Any]] = found) -> None:
            for field, value in message.ListFields():
                found.append((message, field))
                if field.message_type is not None:
                    for inner in value if field.is_repeated else [value]:
                        visit(inner)

        visit(model)
        message, field = rng.choice(found)
        _change_field(rng, message, field)
    return model.SerializeToString()


def _change_field(rng: random.Random, message: Any, field: Any) -> None:
    value = getattr(message, field.name)
    if field.is_repeated:
        place = rng.randrange(len(value))
        if rng.random() < 0.4 or field.message_type is not None:
            if rng.random() < 0.5:
                del value[place]
            else:
                value.append(value[place])
            return
        with contextlib.suppress(ValueError, TypeError):
            value[place] = _other(rng, value[place])
    elif field.message_type is not None:
        message.ClearField(field.name)
    else:
        with contextlib.suppress(ValueError, TypeError):
            text = isinstance(value, str)
            setattr(
                message,
                field.name,
                rng.choice(("", "a\nb", "Conv")) if text else _other(rng, value),
            )


# --- the formats ---------------------------------------------------------------------

FORMATS = {
    "png": Format(
        ("rgb.png", "palette.png", "exif.png", "rgba.png"),
        read_image,
        damage.png_damaged,
        True,
        is_image,
    ),
    "jpeg": Format(
        ("rgb.jpg", "progressive.jpg"), read_image, damage.jpeg_damaged, False, is_image
    ),
    "label": Format(
        ("label.png", "label4.png", "label-palette.png"),
        read_label,
        damage.png_damaged,
        True,
        is_label,
    ),
    "pytorch": Format(
        ("zip.pth",), read_checkpoint, damage.zip_damaged(pytorch_damaged), True, is_tensors
    ),
    "legacy": Format(("legacy.pth",), read_checkpoint, legacy_damaged, False, is_tensors),
    "safetensors": Format(
        ("tiny.safetensors",), read_checkpoint, safetensors_damaged, False, is_tensors
    ),
    "hdf5": Format(("tiny.weights.h5", "old.h5"), read_checkpoint, hdf5_damaged, False, is_tensors),
    "tensorflow": Format(
        ("tiny.ckpt.index", "tiny.ckpt.data-00000-of-00001"),
        read_tensorflow,
        damage.damaged,
        True,
        is_tensors,
    ),
    "tflite-weights": Format(
        ("slim.tflite",), read_checkpoint, flatbuffer_damaged, False, is_tensors
    ),
    "keras": Format(("tiny.keras",), read_keras, damage.zip_damaged(keras_damaged), True),
    "tflite": Format(("tiny.tflite", "int8.tflite"), run_file, flatbuffer_damaged),
    "card": Format(_text("card.json", json.dumps(_CARD)), read_card, damage.json_damaged),
    "config": Format((_run,), read_run, damage.json_damaged),
    "classes": Format(
        _text(
            "classes.txt",
            "road #804080\ncar #400080\nsky\n",
            "id,name,r,g,b\n0,road,1,2,3\n1,car,4,5,6\n",
            "3: road\n5: car\nignore: 7, 9\n",
            "# label:color_rgb:parts:actions\nroad:1,2,3::\ncar:4,5,6::\n",
        ),
        read_classes,
        damage.text_damaged,
    ),
    "scores": Format((_score, _findings), merge, signed_json, True),
    "resume": Format((_unfinished,), resume, signed_json, True),
    "records": Format(
        (
            _records("index.json"),
            _records("index.json"),
            _records("shard-00000-of-00002.tfrecord"),
        ),
        read_records,
        lambda rng, content: (signed_json if content[:1] == b"{" else damage.damaged)(rng, content),
        True,
    ),
    "onnx": Format(("tiny.onnx",), run_file, protobuf_damaged),
}


# --- cases ---------------------------------------------------------------------------


class Cases:
    """The damaged files of a format, one after the other in a folder.

    Args:
        name: of the format.
        folder: empty.
        seed: of the damage.
    """

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.format, self._seed = name, FORMATS[name], seed
        self.files = []
        for number, source in enumerate(self.format.seeds):
            place = folder / str(number)
            place.mkdir()
            if callable(source):
                self.files.append(source(place))
            else:
                # A checkpoint of TensorFlow has two files.
                for file in CORPUS.glob(f"{source.partition('.ckpt')[0]}*"):
                    if file.name == source or ".ckpt" in source:
                        shutil.copy(file, place)
                self.files.append(place / source)
        self._valid = [path.read_bytes() for path in self.files]
        self._there = {path: set(path.parent.iterdir()) for path in self.files}
        self._want = [self.format.read(path) for path in self.files]

    def case(self, number: int) -> tuple[Path, bytes, bytes, bool]:
        """The file, its valid content, the damaged one, and whether checksums tell of that."""
        # Of its own for each, so that one can be repeated.
        rng = random.Random(f"{self._seed} {self.name} {number}")
        which = rng.randrange(len(self.files))
        path, valid = self.files[which], self._valid[which]
        while True:
            by_structure = rng.random() < 0.6
            mutate = self.format.structure if by_structure else damage.damaged
            try:
                content = mutate(rng, valid)
            except Exception:  # what cannot be written any more, or is too large to be made here
                continue
            if content != valid:
                break
        told = self.format.checked and (not by_structure or mutate is damage.damaged)
        return path, valid, content, told

    def outcome(self, number: int) -> tuple[str, str]:
        """ "refused", "right" or "wrong", and why."""
        path, valid, content, told = self.case(number)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = self.format.read(path)
        except KsegError as error:
            return _judged(error, path)
        except BaseException as error:  # of Rust too
            where = traceback.extract_tb(error.__traceback__)[-1]
            return (
                "wrong",
                f"{type(error).__name__} {Path(where.filename).name}:{where.lineno} {error}",
            )
        finally:
            path.write_bytes(valid)
            left = set(path.parent.iterdir()) - self._there[path]
            for file in left:
                file.unlink()
        if left:
            return "wrong", f"left {sorted(file.name for file in left)}"
        if same(value, self._want[self.files.index(path)]):
            return "right", "the same"
        if told:
            return "wrong", "other numbers, although a checksum tells"
        return ("right", "legal") if self.format.legal(value) else ("wrong", "not legal")


def _judged(error: KsegError, path: Path) -> tuple[str, str]:
    """Whether an error is what it should be."""
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "unable to allocate" in str(cause).lower():
            return "wrong", f"memory: {text[:300]}"
        cause = cause.__cause__ or cause.__context__
    if len(text.splitlines()) != 1 or len(text) > 2000:
        return "wrong", f"{len(text.splitlines())} lines, {len(text)} characters: {text[:300]!r}"
    # An archive of records or a run is named by its folder.
    if path.parent.name not in text:
        return "wrong", f"no file named: {text[:300]}"
    return "refused", text[:300]


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, NaN with NaN."""
    arrays = [isinstance(value, np.ndarray | np.generic) for value in (a, b)]
    if any(arrays):
        if not all(arrays):
            return False
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def work(name: str, seed: int, first: int, count: int, seconds: int, channel: int) -> None:
    """Reads the cases in this process, telling each outcome as a line of JSON."""
    if name in _NEED_KERAS:
        importlib.import_module("keras")
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    with tempfile.TemporaryDirectory() as folder, os.fdopen(channel, "w") as out:
        cases = Cases(name, Path(folder), seed)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(first, first + count):
            used = int(time.process_time())
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, hard))
            if number % 100 == 0:
                gc.collect()
            print(json.dumps([number]), file=out, flush=True)
            begin = time.process_time()
            result = cases.outcome(number)
            print(json.dumps([number, *result, time.process_time() - begin]), file=out, flush=True)


def campaign(
    name: str, seed: int, first: int, count: int, seconds: int
) -> Iterator[tuple[int, str, str, float]]:
    """Number, outcome, why and CPU seconds of each case; a process that ends is started again."""
    number, end, started = first, first + count, True
    while number < end:
        if not started:
            raise SystemExit(f"{name}: the process ends before its first case")
        started = False
        ours, theirs = os.pipe()
        # Keras keeps some memory of what it loads.
        arguments = [name, seed, number, min(end - number, 250), seconds, theirs]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if name not in _NEED_KERAS:
            # TensorFlow, which they do without, takes seconds to load.
            environment["KERAS_BACKEND"] = "numpy"
        with (
            subprocess.Popen(
                [sys.executable, __file__, "--worker", *map(str, arguments)],
                pass_fds=(theirs,),
                stderr=subprocess.PIPE,
                env=environment,
            ) as process,
            os.fdopen(ours) as lines,
        ):
            os.close(theirs)
            while True:
                # Blocked without computing: another process of this machine may have its CPU.
                if not select.select([lines], [], [], 60 * seconds)[0]:
                    process.kill()
                line = lines.readline()
                if not line:
                    break
                started = True
                number, *outcome = json.loads(line)
                if outcome:
                    yield number, *outcome
                    number += 1
            code = process.wait()
            errors = process.stderr.read().decode() if process.stderr else ""
        if code and started:
            yield number, "wrong", f"its process ended (code {code}) {errors[-300:]}", 0.0
            number += 1
        elif not started:
            raise SystemExit(f"{name}: {errors}")


def main() -> int:
    """Runs the cases; 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="of each format (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (0)")
    parser.add_argument("--seconds", type=int, default=20, help="of CPU time for a case (20)")
    parser.add_argument("--only", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--case", nargs=2, metavar=("FORMAT", "NUMBER"), help="one alone, here")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], *map(int, args.worker[1:]))
        return 0
    if args.case:
        name, number = args.case[0], int(args.case[1])
        folder = Path(tempfile.mkdtemp())
        path, _, content, _ = (cases := Cases(name, folder, args.seed)).case(number)
        kept = folder / path.name
        kept.write_bytes(content)
        print(kept, *cases.outcome(number), sep="\n")
        return 0
    wrong = 0
    for name in args.only:
        found: collections.Counter[str] = collections.Counter()
        spent = 0.0
        for number, outcome, why, used in campaign(
            name, args.seed, args.first, args.count, args.seconds
        ):
            found[outcome] += 1
            found["same"] += why == "the same"
            spent += used
            if outcome == "wrong":
                print(f"{name} {number}: {why[:250]}", flush=True)
        wrong += found["wrong"]
        print(
            f"{name}: {args.count} tried, {found['refused']} refused, {found['right']} right "
            f"({found['same']} the same), {found['wrong']} wrong, {spent:.0f} s",
            flush=True,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
