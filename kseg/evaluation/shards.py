"""Scores of parts of a split, counted by several processes, and the score of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data import ClassTable, Shard, joint_digest
from kseg.data.shard_files import ShardFile
from kseg.errors import KsegError
from kseg.evaluation.counts import Counts
from kseg.evaluation.scores import Scores, warn_of_labels, warn_of_seen, without_threads


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreShard:
    """What was counted on a part of a split, and all that decides the score.

    Attributes:
        shard: the part.
        facts: the fields of ``Scores`` that are not measured, as its ``to_json`` gives them,
            but for ``seconds``; ``images`` is of the split.
        kinds: of scores, as arguments of ``Counts``.
        names: of all samples of the split, a digest in their order.
        file: that was scored, as its user wrote it; None where there is none.
        content: a digest of the file, None where it is a folder or none.
        classes: of the data set.
        counts: of the part.
        seconds: that it took.
    """

    shard: Shard
    facts: dict[str, Any]
    kinds: dict[str, bool]
    names: str
    file: str | None
    content: str | None
    classes: ClassTable
    counts: Counts
    seconds: float

    def write(self, path: str | Path) -> None:
        """Writes a file for ``merge_shards``.

        Raises:
            KsegError: it cannot be written.
        """
        job = {
            **self.facts,
            "runtime": without_threads(self.facts["runtime"]),
            **self.kinds,
            "names": self.names,
            "content": self.content,
            "classes": dataclasses.asdict(self.classes),
        }
        found = {
            "facts": self.facts,
            "kinds": self.kinds,
            "file": self.file,
            "seconds": self.seconds,
            "counts": self.counts.to_json(),
        }
        ShardFile(Path(path), "score", self.shard, job, found).write()


def merge_shards(shards: Sequence[ShardFile]) -> tuple[Scores, str | None]:
    """The score of a split from the files of all its shards, to the bit that of one run.

    ``seconds`` are those of all shards together; ``runtime`` is the first one's.

    Args:
        shards: of ``kseg.data.read_shards``.

    Returns:
        The score, and the name of the file that was scored.

    Raises:
        KsegError: a file that is damaged, or SciPy is not installed for boundaries.
    """
    first = shards[0]
    place = first
    try:
        facts, kinds = dict(first.found["facts"]), dict(first.found["kinds"])
        classes = ClassTable.from_json(first.job["classes"])
        counts, seconds = Counts(classes, **kinds), 0.0
        for place in shards:
            part = Counts(classes, **kinds)
            part.restore(place.found["counts"])
            counts.merge(part)
            seconds += float(place.found["seconds"])
        names, file = first.job["names"], first.found["file"]
        scores = Scores.from_json({**counts.figures(), **facts, "seconds": seconds})
        warn_of_seen(scores.model, scores.trained_splits, scores.dataset, scores.split)
    except KsegError:  # boundaries, without SciPy
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise place.damaged() from error
    if joint_digest(counts.names) != names:
        raise KsegError(f"{first.path}: the shards lack images of the split; make them again")
    warn_of_labels(facts, counts)
    return scores, file
