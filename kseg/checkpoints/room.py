"""How much memory a file may ask for."""

from __future__ import annotations

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
