"""Scores of parts of a split, counted by several processes, and the score of all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data import ClassTable, Shard, joint_digest
from kseg.errors import KsegError
from kseg.evaluation.counts import Counts
from kseg.evaluation.scores import Scores, warn_of_labels, without_threads

# What a file says it is; another number where its meaning changes.
_FORMAT = "kseg score shard 1"


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

    def to_json(self) -> dict[str, Any]:
        """What ``read_shard`` takes, as plain JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {
            "shard": str(self.shard),
            "classes": dataclasses.asdict(self.classes),
            "counts": self.counts.to_json(),
        }
        state = {"format": _FORMAT, **fields}
        return {**state, "checksum": _checksum(state)}

    def identity(self) -> dict[str, str]:
        """What the shards of one score share, each with what to say of it."""
        facts = {**self.facts, "runtime": without_threads(self.facts["runtime"]), **self.kinds}
        said = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
        classes = json.dumps(dataclasses.asdict(self.classes))
        return {**said, "content": str(self.content), "classes": classes, "names": self.names}


def read_shard(path: str | Path) -> ScoreShard:
    """A file of ``kseg evaluate --shard``.

    Raises:
        KsegError: it cannot be read, or is no such file, damaged or of another kseg.
    """
    path = Path(path)
    try:
        state = json.loads(path.read_text())
        written = state["format"]
    except OSError as error:
        raise KsegError(
            f"{path}: cannot be read ({error.strerror}); name a file of `kseg evaluate --shard`"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError):
        written = None
    if written != _FORMAT:
        what = f"a {written!r}" if isinstance(written, str) else "no shard of a score"
        raise KsegError(
            f"{path}: is {what}; name files that this kseg's `kseg evaluate --shard` wrote"
        )
    damaged = KsegError(f"{path}: is damaged; score this shard again")
    if state.pop("checksum", None) != _checksum(state):
        raise damaged
    del state["format"]
    try:
        classes = ClassTable.from_json(state["classes"])
        counts = Counts(classes, **state["kinds"])
        counts.restore(state["counts"])
        return ScoreShard(
            **state | {"shard": Shard.parse(state["shard"]), "classes": classes, "counts": counts}
        )
    except KsegError:  # boundaries, without SciPy
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged from error


def merge_shards(paths: Sequence[str | Path]) -> tuple[Scores, str | None]:
    """The score of a split from the files of all its shards, to the bit that of one run.

    ``seconds`` are those of all shards together; ``runtime`` is the first one's.

    Args:
        paths: in any order.

    Returns:
        The score, and the file that was scored.

    Raises:
        KsegError: as ``read_shard``; a shard that is missing or there twice, or shards of
            different scores.
    """
    if not paths:
        raise KsegError("there are no shards; name the files of `kseg evaluate --shard`")
    files = sorted(
        ((read_shard(path), Path(path)) for path in paths), key=lambda pair: pair[0].shard.number
    )
    (first, first_path), *others = files
    for (one, path), (other, other_path) in zip(files, others, strict=False):
        if other.shard.count != first.shard.count:
            raise KsegError(
                f"{other_path}: is shard {other.shard}, but {first_path} is {first.shard}; "
                "score all shards with the same N"
            )
        _check_same(first, first_path, other, other_path)
        if one.shard == other.shard:
            raise KsegError(
                f"{other_path}: is shard {other.shard}, and {path} is too; leave one of them out"
            )
    there = {shard.shard.number for shard, _ in files}
    if missing := [n for n in range(1, first.shard.count + 1) if n not in there]:
        numbers = ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)
        raise KsegError(
            f"{first_path}: is shard {first.shard}, and of the others {numbers} "
            f"{'are' if len(missing) > 1 else 'is'} missing; name their files too, or score "
            f"them: `kseg evaluate --shard {missing[0]}/{first.shard.count}`"
        )
    counts = Counts(first.classes, **first.kinds)
    for shard, _ in files:
        counts.merge(shard.counts)
    if joint_digest(counts.names) != first.names:
        raise KsegError(f"{first_path}: the shards lack images of the split; score them again")
    warn_of_labels(first.facts, counts)
    seconds = sum(shard.seconds for shard, _ in files)
    return Scores.from_json({**counts.figures(), **first.facts, "seconds": seconds}), first.file


def _check_same(first: ScoreShard, first_path: Path, other: ScoreShard, path: Path) -> None:
    """Raises KsegError where two shards are parts of different scores."""
    there, here = first.identity(), other.identity()
    for name, value in there.items():
        if here.get(name) == value:
            continue
        texts = {
            "content": "the file that was scored had another content",
            "classes": "the data set had other classes",
            "names": "the split had other images",
        }
        text = texts.get(name, f"{name} {here.get(name)} here and {value} there")
        raise KsegError(
            f"{path}: is of another score than {first_path} ({text}); score all shards with "
            "the same file, data, settings and kseg"
        )


def _checksum(state: dict[str, Any]) -> str:
    """Of the values as JSON gives them back."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
