"""A score that goes on where it was left."""

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
from kseg.evaluation.scores import Scores
from kseg.files import whole

INTERVAL = 10.0
"""Seconds between two writings."""


class SavedScores:
    """The scores so far, in a file.

    Args:
        path: of the file; need not exist.
        scored: the model file, shipped weights or folder whose content must be the same,
            None where nothing but its card can tell.
    """

    def __init__(self, path: str | Path, scored: Path | None = None) -> None:
        self._path = Path(path)
        self._content = scored and _content(scored)
        self._run: dict[str, Any] = {}
        self._written = time.monotonic()

    def load(self, run: dict[str, Any], data: DataSet, scores: Scores) -> float:
        """Takes up what is there for this run; without a file nothing, but it is writable.

        Args:
            run: all that decides the score.
            data: the split.
            scores: empty; takes the counts up.

        Returns:
            Seconds that were spent.

        Raises:
            KsegError: the file is of another run or cannot be read, or a file cannot be
                written there.
        """
        # Threads do not change a score, and another machine has another number.
        run = {
            **run,
            "runtime": run["runtime"].partition(", ")[0],
            "content": self._content,
            "names": _digest(s.name for s in data.samples),
        }
        # As it comes back from JSON.
        self._run = json.loads(json.dumps(run))
        if not self._path.exists():
            self.save(scores, 0.0)
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
            scores.restore(state["scores"])
            return float(state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._unfit(error) from error

    def save(self, scores: Scores, seconds: float) -> None:
        """Writes the counts; ``seconds`` were spent on them.

        Raises:
            KsegError: the file cannot be written.
        """
        state = {"run": self._run, "seconds": seconds, "scores": scores.to_json()}
        with whole(self._path) as path:
            path.write_text(json.dumps(state))
        self._written = time.monotonic()

    def save_sometimes(self, scores: Scores, seconds: float) -> None:
        """``save`` where the last time is long ago."""
        if time.monotonic() - self._written >= INTERVAL:
            self.save(scores, seconds)

    def _unfit(self, error: Exception) -> KsegError:
        return KsegError(
            f"{self._path}: is no score that was left ({error!r}); name another file or delete it"
        )

    def remove(self) -> None:
        """The score is complete and kept elsewhere."""
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
