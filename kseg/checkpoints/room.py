"""How much memory a file may ask for."""

from __future__ import annotations

import zipfile
from pathlib import Path


class Room:
    """Memory for what is read of a file: 64 times its size, and 256 MiB at least.

    A small file can stand for more than any machine has, by compression, by a view of one number
    a billion times or by a shape without values. Weights that were trained do not shrink so.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._left = max(2**28, 64 * self._size)

    def take(self, size: int) -> None:
        """Takes so many bytes; ValueError where they are not there."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"{self._size} bytes that stand for many times more")

    def read(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        """An entry of the file, which is an archive.

        Raises:
            ValueError: there is no room for it, or it is said to be larger than the file.
            zipfile.BadZipFile: its checksum is another one.
        """
        self.take(entry.file_size)
        if entry.compress_size > self._size:
            raise ValueError(f"{entry.filename} is cut short")
        return archive.read(entry)
