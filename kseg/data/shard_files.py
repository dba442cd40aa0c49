"""Files of the parts of a job, each written by one of its processes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kseg.data.shards import Shard
from kseg.errors import KsegError
from kseg.files import json_checksum, read_json, write_json

VERSION = 1
"""Of the format and of what is counted; files of another version are not merged."""


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """What a process found in its part of a job.

    Attributes:
        path: of the file.
        kind: of the job: "score" or "data".
        shard: the part.
        job: what all parts of one job share, plain JSON by name.
        found: plain JSON.
    """

    path: Path
    kind: str
    shard: Shard
    job: dict[str, Any]
    found: dict[str, Any]

    def write(self) -> None:
        """Writes the file.

        Raises:
            KsegError: it cannot be written.
        """
        state = {
            "format": f"kseg {self.kind} shard {VERSION}",
            "shard": str(self.shard),
            "job": self.job,
            "found": self.found,
        }
        write_json(self.path, {**state, "checksum": json_checksum(state)})

    def damaged(self) -> KsegError:
        """The error of a file whose content cannot be what was written."""
        return _damaged(self.path)


def read_shards(paths: Sequence[str | Path]) -> list[ShardFile]:
    """The parts of one job, in their order.

    Args:
        paths: at least one, in any order.

    Raises:
        KsegError: a file that cannot be read, is no such file or damaged, parts of different
            jobs, or one that is missing or there twice.
    """
    first, *others = files = sorted(map(_read, paths), key=lambda file: file.shard.number)
    for one, other in zip(files, others, strict=False):
        if other.shard.count != first.shard.count:
            raise KsegError(
                f"{other.path}: is shard {other.shard}, but {first.path} is {first.shard}; "
                "make all shards with the same N"
            )
        if difference := _difference(other, first):
            raise KsegError(
                f"{other.path}: is of another job than {first.path} ({difference}); make all "
                "shards with the same files, data, settings and kseg"
            )
        if one.shard == other.shard:
            raise KsegError(
                f"{other.path}: is shard {other.shard}, and {one.path} is too; leave one out"
            )
    there = {file.shard.number for file in files}
    if missing := [n for n in range(1, first.shard.count + 1) if n not in there]:
        numbers = ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)
        raise KsegError(
            f"{first.path}: is shard {first.shard}, and of the others {numbers} "
            f"{'are' if len(missing) > 1 else 'is'} missing; name their files too, or make them: "
            f"the same command with --shard {missing[0]}/{first.shard.count}"
        )
    return files


def _read(path: str | Path) -> ShardFile:
    path = Path(path)
    way_out = "name files that `kseg evaluate --shard` or `kseg check-data --shard` wrote"
    state: dict[str, Any] = {}
    written = None
    try:
        state = read_json(path)
        written = re.fullmatch(r"kseg (score|data) shard ([0-9]+)", state["format"])
    except OSError as error:
        raise KsegError(f"{path}: cannot be read ({error.strerror}); {way_out}") from error
    except (KeyError, TypeError, ValueError):
        pass
    if written is None:
        raise KsegError(f"{path}: is no file of a shard; {way_out}")
    if int(written[2]) != VERSION:
        raise KsegError(
            f"{path}: is of version {written[2]}, this kseg merges {VERSION}; make all shards "
            "with one kseg"
        )
    checksum = state.pop("checksum", None)
    try:
        file = ShardFile(
            path, written[1], Shard.parse(state["shard"]), state["job"], state["found"]
        )
    except (KeyError, TypeError, ValueError):
        file = None
    if file and not (isinstance(file.job, dict) and isinstance(file.found, dict)):
        file = None
    if file is None or checksum != json_checksum(state):
        raise _damaged(path)
    return file


def _damaged(path: Path) -> KsegError:
    return KsegError(f"{path}: is damaged; make this shard again")


# What is said of a difference that is too long to show.
_TEXTS = {
    "content": "the file that was scored had another content",
    "classes": "the data set had other classes",
    "names": "the data set had other images",
}


def _difference(here: ShardFile, there: ShardFile) -> str | None:
    """The first thing in which two parts are of different jobs; None if none."""
    if here.kind != there.kind:
        return f"one is a {here.kind} shard, the other a {there.kind} shard"
    for name, value in there.job.items():
        if here.job.get(name) != value:
            own = json.dumps(here.job.get(name))
            return _TEXTS.get(name, f"{name} {own[:200]} here and {json.dumps(value)[:200]} there")
    return None
