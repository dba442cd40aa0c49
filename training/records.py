"""Prepared records: a split as TFRecord shards from which training decodes windows.

This module reads and writes the files without TensorFlow, which takes seconds to import and
which the worker processes have no other use for; ``kseg.training.pipeline`` decodes them.

A folder holds ``shard-I-of-N.tfrecord`` (tf.train.Example: ``image`` a JPEG, ``label`` a
PNG of train ids, ``name``) and ``index.json``: the data set, its classes, and where every
record lies, so that any one is read alone. The index is written last; until then every
finished shard has its own part of it beside it, so that a killed preparation goes on, and
several processes can make the shards.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kseg.data import (
    IGNORE,
    WHOLE,
    ClassTable,
    DataSet,
    LabelCounts,
    Sample,
    Shard,
    check_outputs,
    file_digests,
    joint_digest,
    open_dataset,
)
from kseg.data.reading import check_jpegs, orientation_of
from kseg.errors import KsegError, KsegWarning, shown
from kseg.files import (
    atomic_write,
    json_checksum,
    locked,
    make_folder,
    read_json,
    remove_left,
)
from kseg.training.tfrecord import FOOTER, HEADER, framed, serialized_example

VERSION = 1

_SHARD_IMAGES = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A prepared split, with what training needs of a ``DataSet``.

    Attributes:
        name, split, classes, size: of the data set.
        names: of the samples, in its order.
        pixels: (num_classes,) int64, pixels of every class over all labels.
        sizes: (N, 2) int32, (H, W) of every image.
        shards: files.
        places: (N, 4) int64 of every record: number of its shard, first byte, bytes and
            CRC-32.
        masks: labels with 0 and 255 alone, and with 1 and 255, as in ``LabelCounts``.
        sources: by sample, a digest of the image and label that the record was made of;
            None where an earlier kseg kept none.
        counts: by sample, pixels of every class; None where an earlier kseg kept none.
    """

    name: str
    split: str
    classes: ClassTable
    size: tuple[int, int] | None
    names: tuple[str, ...]
    pixels: np.ndarray
    sizes: np.ndarray
    shards: tuple[Path, ...]
    places: np.ndarray
    masks: tuple[int, int]
    sources: tuple[str | None, ...]
    counts: tuple[list[int] | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def folder(self) -> Path:
        """Of the shards and their index."""
        return self.shards[0].parent

    def class_pixels(self, *, skip_bad: bool = False) -> np.ndarray:
        """(num_classes,) int64: pixels of every class; ``prepare`` refused bad labels."""
        return self.pixels

    def label_counts(self, *, skip_bad: bool = False) -> LabelCounts:
        """As ``class_pixels``, with the ignored ones and what they stand beside."""
        pixels = np.zeros(256, np.int64)
        pixels[: len(self.pixels)] = self.pixels
        pixels[IGNORE] = self.sizes.astype(np.int64).prod(1).sum() - self.pixels.sum()
        return LabelCounts(pixels, *self.masks)

    def sample_pixels(self, *, skip_bad: bool = False) -> np.ndarray:
        """(N, 256) int64: by sample, as ``LabelCounts.pixels``.

        Raises:
            KsegError: an earlier kseg prepared the records.
        """
        known = [count for count in self.counts if count is not None]
        if len(known) < len(self):
            raise KsegError(
                f"{self.folder}: an earlier kseg prepared these records, without the classes of "
                "each image; run `kseg prepare` again, it makes them anew"
            )
        counts = np.zeros((len(self), 256), np.int64)
        counts[:, : len(self.pixels)] = known
        counts[:, IGNORE] = self.sizes.astype(np.int64).prod(1) - counts.sum(1)
        return counts

    def fingerprint(self) -> str:
        """As ``DataSet.fingerprint``, of what the records hold, however many shards they fill."""
        records = zip(self.names, self.places[:, 2:].tolist(), strict=True)
        return joint_digest([repr(dataclasses.astuple(self.classes)), *map(repr, records)])

    def check_sources(self, data: DataSet) -> None:
        """Compares the records with the data set that they were made of.

        Raises:
            KsegError: images, labels or classes are others now.
        """
        if data.names != self.names or data.classes != self.classes:
            raise KsegError(
                f"{self.folder}: holds other images or classes than {data.name} {data.split} has "
                "now; prepare the records again in another folder"
            )
        if None in self.sources:
            warnings.warn(
                f"{self.folder}: an earlier kseg prepared these records, so corrected images and "
                "labels go unnoticed; run `kseg prepare` again, it makes them anew",
                KsegWarning,
                stacklevel=2,
            )
            return
        current = zip(data.samples, self.sources, _sources(data.samples), strict=True)
        if changed := [sample for sample, stored, now in current if stored != now]:
            raise KsegError(
                f"{self.folder}: {changed[0].label} or its image has changed since the records "
                f"were prepared ({len(changed)} such samples); run `kseg prepare` again, it makes "
                "their shards anew"
            )

    def read(self, index: int) -> bytes:
        """A record as it was written.

        Raises:
            KsegError: its shard is missing or damaged.
        """
        shard, offset, length, checksum = self.places[index].tolist()
        path = self.shards[shard]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read(length)
        except OSError as error:
            raise KsegError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
        if zlib.crc32(content) != checksum:
            raise KsegError(f"{path}: is damaged at record {self.names[index]!r}; {_AGAIN}")
        return content


_FILE = re.compile(r"shard-\d{5,}-of-\d{5,}\.tfrecord")
_DAMAGED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
_AGAIN = "run `kseg prepare` again, it makes what is wrong anew"


def open_records(
    folder: str | Path, dataset: str | None = None, split: str | None = None
) -> Records:
    """What ``prepare`` wrote.

    Args:
        folder: of the shards and their index.
        dataset, split: what it must be of; None for any.

    Raises:
        KsegError: no index or one of another version, data set or split; a shard that is
            missing or of another length.
    """
    folder = Path(folder)
    index = _read_index(folder)
    try:
        records = _records_of(folder, index)
    except _DAMAGED:
        raise KsegError(f"{folder / 'index.json'}: is damaged; {_AGAIN}") from None
    for what, wanted in (("dataset", dataset), ("split", split)):
        if wanted not in (None, index[what]):
            raise KsegError(
                f"{folder}: holds records of {index['dataset']} {index['split']}, and {what} "
                f"{wanted!r} is asked for; prepare that into another folder"
            )
    for shard in index["shards"]:
        path = folder / shard["file"]
        have = path.stat().st_size if path.is_file() else None
        if have != shard["bytes"]:
            found = "is missing" if have is None else f"has {have} bytes, not {shard['bytes']}"
            raise KsegError(f"{path}: {found}; {_AGAIN}")
    return records


def _records_of(folder: Path, index: dict[str, Any]) -> Records:
    """The records of an index or a part of it; ``_DAMAGED`` where it is, and kept no checksum."""
    if not all(_FILE.fullmatch(shard["file"]) for shard in index["shards"]):
        raise ValueError
    masks = np.sum([shard.get("masks", (0, 0)) for shard in index["shards"]], 0)
    found = [(n, r) for n, shard in enumerate(index["shards"]) for r in shard["records"]]
    records = Records(
        name=index["dataset"],
        split=index["split"],
        classes=ClassTable.from_json(index["classes"]),
        size=index["size"] and tuple(index["size"]),
        names=tuple(str(r["name"]) for _, r in found),
        pixels=np.array([shard["class_pixels"] for shard in index["shards"]], np.int64).sum(0),
        sizes=np.array([r["size"] for _, r in found], np.int32).reshape(-1, 2),
        shards=tuple(folder / shard["file"] for shard in index["shards"]),
        places=np.array([(n, r["offset"], r["bytes"], r["crc32"]) for n, r in found], np.int64),
        masks=(int(masks[0]), int(masks[1])),
        sources=tuple(r.get("source") for _, r in found),
        counts=tuple(r.get("class_pixels") for _, r in found),
    )
    shard, offset, length, _ = records.places.T
    ends = np.array([entry["bytes"] for entry in index["shards"]])[shard]
    classes = records.classes.num_classes
    if (
        min(records.sizes.min(), length.min(), offset.min()) < 1
        or (length > ends - offset).any()
        or records.pixels.shape != (classes,)
        or any(count is not None and len(count) != classes for count in records.counts)
    ):
        raise ValueError
    return records


def compare_with_source(records: Records, folder: str | Path | None) -> None:
    """``Records.check_sources`` with the data set in ``folder``.

    Without the split there, which the records stand in for, a KsegWarning says so.

    Args:
        records: of any data set.
        folder: its root, as for ``open_dataset``.

    Raises:
        KsegError: as of ``Records.check_sources``.
    """
    try:
        data = open_dataset(records.name, folder, records.split)
    except KsegError as error:
        warnings.warn(
            f"{records.folder}: is not compared with the data set that it was made of ({error})",
            KsegWarning,
            stacklevel=2,
        )
    else:
        records.check_sources(data)


def prepare(
    data: DataSet,
    folder: str | Path,
    *,
    shards: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Records:
    """Writes a split as records, or goes on where a killed preparation stopped.

    Images become JPEG of quality 95 without chroma subsampling; those that are JPEG
    already are taken as they are, unless EXIF turns them. The bytes depend on the data and
    on ``shards`` alone. Shards that are there are verified; those that are missing, damaged
    or of images or labels that have changed are made.

    Args:
        data: a split with labels.
        folder: is made; one with records of other data is refused.
        shards: files; None for one to 64 images.
        workers: processes; None for one a CPU. With more than one, a script must have
            its calls under ``if __name__ == "__main__"``, as multiprocessing demands.
        progress: called with (images done, images in all), first with those that were
            there.

    Raises:
        KsegError: bad values, an unreadable image or label, records of other data in the
            folder, a folder among the files of the data set, or what cannot be written.
    """
    prepare_shard(data, folder, WHOLE, shards=shards, workers=workers, progress=progress)
    return open_records(folder)


def prepare_shard(
    data: DataSet,
    folder: str | Path,
    shard: Shard,
    *,
    shards: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Writes a part of the files of ``prepare``; the process that finds all writes the index.

    The processes share the folder. What they write is to the byte what ``prepare`` writes.

    Args:
        data, folder, shards, workers: as for ``prepare``.
        shard: the part of the files; with more parts than files some have nothing to do.
        progress: as for ``prepare``, of this part.

    Returns:
        Whether the records are complete.

    Raises:
        KsegError: as ``prepare``, or another process that does this part.
    """
    shards = shards if shards is not None else -(-len(data) // _SHARD_IMAGES)
    if not 1 <= shards <= len(data):
        raise KsegError(f"shards is {shards}; {len(data)} images make 1 to {len(data)} of them")
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise KsegError(f"workers is {workers}; it must be at least 1")
    check_outputs([folder], data=[data])
    folder = make_folder(folder)
    with contextlib.ExitStack() as locks:
        locks.enter_context(locked(folder, shared=shard != WHOLE))
        if shard != WHOLE:
            locks.enter_context(locked(folder / f"part-{shard.number}-of-{shard.count}"))
        return _prepare(data, folder, shard, shards, workers, progress)


def _prepare(
    data: DataSet,
    folder: Path,
    shard: Shard,
    shards: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """``prepare_shard`` in a folder that is locked, with checked values."""
    plan = _plan(data, shards)
    every = _slices(data, folder, shards)
    slices = dict(shard.of(list(every.items())))
    files = {path.name for path in slices}
    remove_left(folder, of_all_hosts=shard == WHOLE)
    parts = {
        p["file"]: p
        for p in _find_parts(folder, plan)
        if p["file"] in files and _is_whole(folder, p)
    }
    for path, part in slices.items():
        names = [sample.name for sample in part.samples]
        if path.name in parts and [r["name"] for r in parts[path.name]["records"]] != names:
            raise KsegError(f"{path}: holds other images of the split; {_ELSEWHERE}")
    for path, part in slices.items():
        if not (there := parts.get(path.name)):
            continue
        records = there["records"]
        # An earlier kseg kept no classes of each image.
        if any("class_pixels" not in record for record in records) or (
            [record.get("source") for record in records] != _sources(part.samples)
        ):
            del parts[path.name]
    todo = [(path, part) for path, part in slices.items() if path.name not in parts]
    # Here, since a worker would take seconds to load TensorFlow.
    check_jpegs([sample.image for _, part in todo for sample in part.samples], workers)
    total = sum(map(len, slices.values()))
    done = total - sum(len(part) for _, part in todo)
    if progress:
        progress(done, total)
    for entry in _write_shards(todo, plan, workers):
        parts[entry["file"]] = entry
        done += len(entry["records"])
        if progress:
            progress(done, total)
    return _write_index(folder, plan, [path.name for path in every], parts)


def _write_index(
    folder: Path, plan: dict[str, Any], files: Sequence[str], parts: dict[str, dict[str, Any]]
) -> bool:
    """Writes the index if all its parts are there; whether it did.

    Args:
        folder: of the records.
        plan: as of ``_plan``.
        files: names of all shards, in their order.
        parts: by file, those that this process has seen to be right.
    """
    # Two processes that end together would remove each other's parts.
    with locked(folder / "index.json", wait=True):
        there = {p["file"]: p for p in _find_parts(folder, plan)} | parts
        if not all(name in there for name in files):
            return False
        index = {**plan, "shards": [there[name] for name in files]}
        with atomic_write(folder / "index.json") as temporary:
            temporary.write_text(_json(index))
        for name in files:
            (folder / name).with_suffix(".json").unlink(missing_ok=True)
    return True


_ELSEWHERE = "choose another folder or remove this one"


def _sources(samples: Sequence[Sample]) -> list[str]:
    """By sample, a digest of its image and label."""
    images = file_digests(sample.image for sample in samples)
    labels = file_digests(sample.label or sample.image for sample in samples)
    return [joint_digest(pair) for pair in zip(images, labels, strict=True)]


def _slices(data: DataSet, folder: Path, shards: int) -> dict[Path, DataSet]:
    """The files of the shards, and the samples of each."""
    edges = np.linspace(0, len(data), shards + 1).astype(int).tolist()
    return {
        folder / f"shard-{i:05d}-of-{shards:05d}.tfrecord": dataclasses.replace(
            data, samples=data.samples[first:end]
        )
        for i, (first, end) in enumerate(itertools.pairwise(edges))
    }


def _plan(data: DataSet, shards: int) -> dict[str, Any]:
    """The index without its shards; a part of the index has the same values."""
    plan = {
        "version": VERSION,
        "dataset": data.name,
        "split": data.split,
        "size": data.size,
        "images": len(data),
        "shard_count": shards,
        "classes": dataclasses.asdict(data.classes),
    }
    return json.loads(json.dumps(plan))  # tuples become the lists that a file gives back


def _find_parts(folder: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the index of the shards that are there.

    Raises:
        KsegError: they are of other data.
    """
    parts = []
    files = [folder / "index.json", *sorted(folder.glob("shard-*.json"))]
    for path in files:
        if not path.exists():
            continue
        try:
            found = _checked(path)
            if isinstance(found, dict) and found and "shard_count" not in found:
                raise KsegError(f"{path}: is no index of records; {_ELSEWHERE}")
            shards = found["shards"]
        except KsegError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            continue  # is written anew
        for key, value in plan.items():
            if found.get(key) != value:
                values = "" if key == "classes" else f" {found.get(key)!r}, not {value!r}"
                what = key.replace("_", " ")
                raise KsegError(f"{path}: holds records of another {what}{values}; {_ELSEWHERE}")
        with contextlib.suppress(*_DAMAGED):  # is written anew
            _records_of(folder, found)
            parts += shards
    return parts


def _checked(path: Path) -> Any:
    """JSON of this folder; ValueError where it is not what was written."""
    value = read_json(path)
    # An earlier kseg kept no checksum, and another version may keep another.
    checksum = value.pop("checksum", None) if isinstance(value, dict) else None
    known = checksum is not None and value.get("version") == VERSION
    if known and checksum != json_checksum(value):
        raise ValueError("damaged")
    return value


def _is_whole(folder: Path, part: dict[str, Any]) -> bool:
    try:
        return _checksum(folder / part["file"]) == part["crc32"]
    except (OSError, KeyError):  # an index of an earlier kseg
        return False


def _checksum(path: Path) -> int:
    """CRC-32 of a file of any length."""
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(2**20):
            checksum = zlib.crc32(content, checksum)
    return checksum


def _write_shards(
    todo: list[tuple[Path, DataSet]], plan: dict[str, Any], workers: int
) -> Iterator[dict[str, Any]]:
    """The parts of the index as they are done."""
    if min(workers, len(todo)) <= 1:
        for path, data in todo:
            yield _write_shard(path, data, plan)
        return
    try:
        # Not fork: the caller may have threads, TensorFlow's for one, which a forked process
        # lacks.
        pool = concurrent.futures.ProcessPoolExecutor(
            min(workers, len(todo)), multiprocessing.get_context("spawn"), _start_worker
        )
    except OSError as error:
        raise KsegError(
            f"workers is {workers}, and the system has no room for more processes "
            f"({error.strerror}, perhaps of /dev/shm); run it again with workers 1"
        ) from error
    with pool:
        futures = [pool.submit(_write_shard, path, data, plan) for path, data in todo]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, concurrent.futures.BrokenExecutor):
                raise KsegError(
                    "a worker died, which lack of memory may cause; run it again with fewer workers"
                ) from error
            raise


def _start_worker() -> None:
    """Ignores Ctrl-C, which the parent handles, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_shard(path: Path, data: DataSet, plan: dict[str, Any]) -> dict[str, Any]:
    """One shard and its part of the index."""
    # Digests first: a file that changes after this is another one next time.
    sources = _sources(data.samples)
    records, counts, offset = [], LabelCounts(), 0
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            for sample, source in zip(data.samples, sources, strict=True):
                image, label = data.labelled(sample)
                content = serialized_example(
                    image=_jpeg(sample.image, image), label=_png(label), name=sample.name.encode()
                )
                file.write(framed(content))
                pixels = np.bincount(label.ravel(), minlength=256)
                records.append(
                    {
                        "name": sample.name,
                        "offset": offset + HEADER,
                        "bytes": len(content),
                        "crc32": zlib.crc32(content),
                        "size": label.shape,
                        "source": source,
                        "class_pixels": pixels[: data.classes.num_classes].tolist(),
                    }
                )
                offset += HEADER + len(content) + FOOTER
                counts += LabelCounts.of(pixels)
        part = {
            "file": path.name,
            "bytes": temporary.stat().st_size,
            "crc32": _checksum(temporary),
            "class_pixels": counts.pixels[: data.classes.num_classes].tolist(),
            "masks": [counts.masks, counts.edged],
            "records": records,
        }
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(_json({**plan, "shards": [part]}))
    return part


def _json(value: dict[str, Any]) -> str:
    """Of an index or a part of it, with a checksum."""
    return json.dumps({**value, "checksum": json_checksum(value)}, separators=(",", ":")) + "\n"


def _jpeg(path: Path, image: np.ndarray) -> bytes:
    """The file if it is an upright JPEG whose windows are cheap to decode, else a new one."""
    with Image.open(path) as file:
        taken = file.format == "JPEG" and file.mode == "RGB" and not file.info.get("progressive")
    if taken and orientation_of(path)[0] == 1:
        return path.read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _png(label: np.ndarray) -> bytes:
    """A grey PNG, every row as its difference from the one above.

    In a label map these are mostly zeros, which decode three times as fast as what the
    usual choice of filters by rows gives (PNG, Sections 9 and 12.8), and are no larger.
    """
    height, width = label.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = label[0]
    np.subtract(label[1:], label[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        png += struct.pack(">I", len(content)) + kind + content + checksum
    return png


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        index = _checked(path)
        version, _ = index["version"], index["shards"]
    except OSError:
        raise KsegError(
            f"{path}: cannot be read; `kseg prepare` writes it when all shards are done"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise KsegError(f"{path}: is damaged; {_AGAIN}") from None
    if version != VERSION:
        raise KsegError(
            f"{path}: is of version {shown(version)}, this kseg reads {VERSION}; "
            "prepare the records again in another folder"
        )
    return index
