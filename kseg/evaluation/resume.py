"""Counts kept in a file, so that an interrupted evaluation continues from them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kseg import shipped
from kseg.data import DataSet
from kseg.errors import KsegError
from kseg.evaluation.counts import Counts
from kseg.files import atomic_write

INTERVAL = 10.0
"""Seconds between two writes."""


class SavedScores:
    """A file of the counts so far.

    Args:
        path: of the file; need not exist.
        scored: the model file, shipped weights or folder of label maps, whose content must
            be the same to continue. None compares nothing but the model's card.
    """

    def __init__(self, path: str | Path, scored: Path | None = None) -> None:
        self._path = Path(path)
        self._content = scored and _content(scored)
        self._run: dict[str, Any] = {}
        self._written = time.monotonic()

    def load(self, run: dict[str, Any], data: DataSet, counts: Counts) -> float:
        """Reads the counts of this run; without a file writes an empty one.

        Args:
            run: all that decides the score, as JSON; "runtime" is required.
            data: the split.
            counts: empty; gets what the file has.

        Returns:
            Seconds that were spent on the counts.

        Raises:
            KsegError: the file is of another run or cannot be read, or a file cannot be
                written there.
        """
        # The number of threads, which follows the comma, does not change a score.
        run = {
            **run,
            "runtime": run["runtime"].partition(", ")[0],
            "content": self._content,
            "names": _digest(s.name for s in data.samples),
        }
        # With the types that JSON gives back, for the comparison.
        self._run = json.loads(json.dumps(run))
        if not self._path.exists():
            self.save(counts, 0.0)
            return 0.0
        try:
            state = json.loads(self._path.read_text())
            there = dict(state["run"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise self._unfit(error) from error
        both = {key: (there.get(key), self._run.get(key)) for key in there | self._run}
        others = [
            f"{key} {json.dumps(a)} there and {json.dumps(b)} here"
            for key, (a, b) in sorted(both.items())
            if a != b
        ]
        if others:
            raise KsegError(
                f"{self._path}: is of another score: {', '.join(others)}; "
                "name another file or delete this one"
            )
        try:
            counts.restore(state["scores"])
            return float(state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._unfit(error) from error

    def save(self, counts: Counts, seconds: float) -> None:
        """Writes the counts and the seconds that were spent on them.

        Raises:
            KsegError: the file cannot be written.
        """
        state = {"run": self._run, "seconds": seconds, "scores": counts.to_json()}
        with atomic_write(self._path) as path:
            path.write_text(json.dumps(state))
        self._written = time.monotonic()

    def save_sometimes(self, counts: Counts, seconds: float) -> None:
        """``save``, but not within ``INTERVAL`` of the last write."""
        if time.monotonic() - self._written >= INTERVAL:
            self.save(counts, seconds)

    def _unfit(self, error: Exception) -> KsegError:
        return KsegError(
            f"{self._path}: is no score that was left ({error!r}); name another file or delete it"
        )

    def remove(self) -> None:
        """Deletes the file, once the complete score is kept elsewhere."""
        self._path.unlink(missing_ok=True)


def _content(path: Path) -> str:
    """A digest of a file or shipped weights, or of a folder's names, sizes and times of change."""
    path = shipped.file_of(path)
    if path.is_dir():
        files = sorted(path.rglob("*.png"))
        stats = [(str(file.relative_to(path)), file.stat()) for file in files]
        return _digest(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
