"""HDF5 files as Keras writes weights."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from kseg.checkpoints.room import Room
from kseg.errors import KsegError

if TYPE_CHECKING:
    import h5py


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a file under "layer/variable"; an optimizer's and texts are left out.

    Raises:
        KsegError: as ``find_datasets``, or no numbers.
    """
    tensors: dict[str, np.ndarray] = {}
    import h5py

    with h5py.File(path) as file:
        for name, item in find_datasets(file, Room(path)).items():
            if name.startswith("optimizer") or item.dtype.kind not in "biufc":
                continue
            *groups, variable = name.split("/")
            # Of ``layers/conv2d/vars/0`` the layer's name is an attribute of ``vars``.
            layer = item.parent.attrs.get("name") if groups[-1:] == ["vars"] else groups[-1]
            tensors[f"{layer}/{variable.removesuffix(':0')}"] = item[()]
    if not tensors:
        raise KsegError("it holds no tensors; name a file of weights")
    return tensors


def count_numbers(content: IO[bytes], room: Room) -> int:
    """How many numbers a file has, before another program reads it.

    Raises:
        KsegError, ValueError: as ``find_datasets``, or what h5py raises.
    """
    import h5py

    with h5py.File(content) as file:
        return sum(int(item.size or 0) for item in find_datasets(file, room).values())


def find_datasets(file: h5py.File, room: Room) -> dict[str, h5py.Dataset]:
    """The datasets of a file by name.

    Raises:
        KsegError: one that lies in another file.
        ValueError: they stand for more than there is room for.
    """
    import h5py

    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise KsegError(f"{name} lies in another file; save the weights in one")
            room.take(item.nbytes)
            found[name] = item

    file.visititems(visit)
    return found
