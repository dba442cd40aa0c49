"""Counts kept in a file, so that an interrupted evaluation continues from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kseg import shipped
from kseg.data import DataSet, check_outputs, file_digests, joint_digest
from kseg.errors import KsegError, first_line
from kseg.evaluation.counts import Counts
from kseg.evaluation.scores import without_threads
from kseg.files import atomic_write, json_checksum, read_json

INTERVAL = 10.0
"""Seconds between two writes."""


class SavedScores:
    """A file of the counts so far.

    Args:
        path: of the file; need not exist.
        scored: the model file or shipped weights, whose content must be the same to
            continue; the data, and label maps in a folder, are compared as far as they were scored.
            None compares nothing but the model's card.
    """

    def __init__(self, path: str | Path, scored: Path | None = None) -> None:
        self.path = Path(path)
        self._file = scored and shipped.file_of(scored)
        self._content = self._file and content_of(self._file)
        self._run: dict[str, Any] = {}
        self._digests: list[str] = []
        self._written = time.monotonic()

    def load(
        self, run: dict[str, Any], data: DataSet, counts: Counts, maps: Sequence[Path] = ()
    ) -> float:
        """Reads the counts of this run; without a file writes an empty one.

        Args:
            run: all that decides the score, as JSON; "runtime" is required.
            data: the split, whose scored files must be what they were.
            counts: empty; gets what the file has.
            maps: files of label maps in the order of the samples, where such are scored.

        Returns:
            Seconds that were spent on the counts.

        Raises:
            KsegError: the file is of another run or cannot be read, or a file cannot be
                written there.
        """
        check_outputs([self.path], [self._file, *maps], [data])
        run = {
            **run,
            "runtime": without_threads(run["runtime"]),
            "content": self._content,
            "names": _digest(s.name for s in data.samples),
        }
        # Before any is scored: a file that changes after this is another one on resuming.
        self._digests = _digests(data, maps)
        # With the types that JSON gives back, for the comparison.
        self._run = json.loads(json.dumps(run))
        if not self.path.exists():
            self.save(counts, 0.0)
            return 0.0
        try:
            state = read_json(self.path)
            there = dict(state["run"])
            checksum = state.pop("checksum", None)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise self._unfit(error) from error
        both = {key: (there.get(key), self._run.get(key)) for key in there | self._run}
        others = [
            f"{key} {json.dumps(a)[:200]} there and {json.dumps(b)[:200]} here"
            for key, (a, b) in sorted(both.items())
            if a != b
        ]
        if others:
            raise KsegError(
                f"{self.path}: is of another score: {', '.join(others)}; "
                "name another file or delete this one"
            )
        if checksum is None:
            raise KsegError(
                f"{self.path}: was left by an earlier kseg, which kept no checksum of it; delete "
                "it to score all images anew"
            )
        if checksum != json_checksum(state):
            raise self._unfit(ValueError("it is damaged"))
        try:
            counts.restore(state["scores"])
            seconds, files = float(state["seconds"]), state["files"]
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise self._unfit(error) from error
        if files != self._scored(counts):
            raise KsegError(
                f"{self.path}: images, labels, classes or label maps were changed after they "
                "were scored; delete this file to score all of them anew"
            )
        return seconds

    def _scored(self, counts: Counts) -> str:
        return joint_digest(self._digests[: counts.images])

    def save(self, counts: Counts, seconds: float) -> None:
        """Writes the counts and the seconds that were spent on them.

        Raises:
            KsegError: the file cannot be written.
        """
        state = {
            "run": self._run,
            "seconds": seconds,
            "files": self._scored(counts),
            "scores": counts.to_json(),
        }
        with atomic_write(self.path) as path:
            path.write_text(json.dumps({**state, "checksum": json_checksum(state)}))
        self._written = time.monotonic()

    def save_sometimes(self, counts: Counts, seconds: float) -> None:
        """``save``, but not within ``INTERVAL`` of the last write."""
        if time.monotonic() - self._written >= INTERVAL:
            self.save(counts, seconds)

    def _unfit(self, error: Exception) -> KsegError:
        reason = f"{type(error).__name__}: {first_line(error)}"
        return KsegError(
            f"{self.path}: is no score that was left ({reason}); name another file or delete it"
        )

    def remove(self) -> None:
        """Deletes the file, once the complete score is kept elsewhere."""
        self.path.unlink(missing_ok=True)


def content_of(path: Path) -> str | None:
    """A digest of a file; None for a folder of label maps."""
    if path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digests(data: DataSet, maps: Sequence[Path]) -> list[str]:
    """Of all that is read of each sample."""
    data.fingerprint()  # reads all files at once, those of each sample are known then
    samples = [dataclasses.replace(data, samples=(sample,)) for sample in data.samples]
    parts = [[sample.fingerprint()] for sample in samples]
    for part, digest in zip(parts, file_digests(maps), strict=bool(maps)):
        part.append(digest)
    return [joint_digest(part) for part in parts]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
