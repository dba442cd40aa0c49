"""PyTorch checkpoints without PyTorch: zip and legacy files; tensors, containers and numbers.

A pickle is a program. This reader knows the names that a state dict needs, and those of
NumPy's numbers beside it, and refuses every other, by its name, before anything of it runs.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kseg.checkpoints import pickled_numpy
from kseg.checkpoints.pickle_limits import read_pickle
from kseg.checkpoints.room import Room
from kseg.errors import KsegError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Lists can hold each other many times: a small file can have more than any machine could walk.
_VALUES = 1_000_000

# bfloat16 has no numpy dtype: its 16 bits are read and widened to float32.
_STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "BFloat16Storage": np.dtype([("bfloat16", "<u2")]),
}


@dataclasses.dataclass
class _Storage:
    """Elements on disk; legacy files bring ``data`` only after the pickle."""

    dtype: np.dtype
    count: int
    data: np.ndarray | None = None


@dataclasses.dataclass
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, room: Room) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise ValueError("a tensor has no data")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if self.offset < 0 or min((*self.shape, *self.strides), default=0) < 0:
            raise ValueError("a tensor has a negative extent")
        if math.prod(self.shape) and last >= len(data):
            raise ValueError(f"a tensor needs element {last} of {len(data)}")
        room.take(math.prod(self.shape) * data.itemsize)
        view = np.lib.stride_tricks.as_strided(
            data[self.offset :], self.shape, [s * data.itemsize for s in self.strides]
        )
        if data.dtype.fields:
            return (np.ascontiguousarray(view["bfloat16"]).astype("<u4") << 16).view("<f4")
        return view.copy()


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor: _Tensor, *_unused: Any) -> _Tensor:
    return tensor


class _StateDict(collections.OrderedDict):
    """An OrderedDict whose pickled attributes (`_metadata`) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
    **pickled_numpy.NAMES,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, storage: Callable[..., _Storage]) -> None:
        # Python 2's bytes, of NumPy's numbers, need not be UTF-8.
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise KsegError(
                f"refused to load {module}.{name}, which may run code; "
                "save the state dict alone (torch.save(model.state_dict(), path))"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, *view = pid
        if any(part is not None for part in view):
            raise ValueError("storages that are parts of others; save it again by a newer PyTorch")
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"an unknown persistent object {kind!r}")
        return self._storage(dtype, str(key), int(count))


def read_pytorch(path: Path) -> dict[str, np.ndarray]:
    """All tensors and NumPy arrays of the file under dotted names; single values are left out."""
    value = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    tensors = dict(_flatten(value, "", Room(path), itertools.count()))
    if not tensors:
        raise KsegError("it holds no tensors; save the state dict")
    return tensors


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("no data.pkl inside (a TorchScript file or another zip)")
        folder = names[0].rpartition("/")[0]
        byteorder = f"{folder}/byteorder"
        room = Room(path)

        def content(name: str) -> bytes:
            return room.read(archive, archive.getinfo(name))

        if byteorder in archive.namelist() and content(byteorder) != b"little":
            raise ValueError("it was written on a big-endian machine")
        storages: dict[str, _Storage] = {}

        def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
            if key not in storages:
                data = np.frombuffer(content(f"{folder}/data/{key}"), dtype)
                if len(data) < count:
                    raise ValueError(f"storage {key} has {len(data)} of {count} elements")
                storages[key] = _Storage(dtype, count, data)
            return storages[key]

        return _Unpickler(read_pickle(io.BytesIO(content(names[0]))), storage).load()


def _read_legacy(path: Path) -> Any:
    storages: dict[str, _Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, count))

    with path.open("rb") as file:

        def load() -> Any:
            return _Unpickler(read_pickle(file), storage).load()

        if load() != _LEGACY_MAGIC or load() != _LEGACY_PROTOCOL:
            raise ValueError("no PyTorch file")
        if not load().get("little_endian", True):
            raise ValueError("it was written on a big-endian machine")
        value = load()
        for key in load():
            (count,) = struct.unpack("<q", file.read(8))
            entry = storages[str(key)]
            size = count * entry.dtype.itemsize
            if count < entry.count or size > path.stat().st_size:
                raise ValueError(f"storage {key} is cut short")
            entry.data = np.frombuffer(file.read(size), entry.dtype)
            if len(entry.data) < count:
                raise ValueError(f"storage {key} is cut short")
    return value


def _flatten(
    value: Any, prefix: str, room: Room, counter: Iterator[int]
) -> Iterator[tuple[str, np.ndarray]]:
    if next(counter) > _VALUES:
        raise ValueError(f"more than {_VALUES} values")
    if isinstance(value, _Tensor):
        yield prefix, value.array(room)
    elif isinstance(value, pickled_numpy.Array):
        # Texts are no tensors.
        if value.value is not None and value.value.dtype.kind in "biufc":
            yield prefix, value.value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key), room, counter)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{prefix}.{index}" if prefix else str(index), room, counter)
