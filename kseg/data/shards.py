"""Which part of a job each of several processes does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from kseg.errors import KsegError

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of a job.

    Attributes:
        number: of the part, from 1 to ``count``; of an indexed Job of Kubernetes the index
            of the pod plus one.
        count: how many parts there are.

    Raises:
        KsegError: a number out of range.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise KsegError(f"shard is {self}; write I/N with I from 1 to N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From I/N.

        Raises:
            KsegError: another text.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise KsegError(f"shard is {text!r}; write I/N with I from 1 to N, such as 1/4")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[_Item]) -> tuple[_Item, ...]:
        """The items of this part, in their order; none where there are more parts than items.

        The parts follow each other and differ by one item at most.
        """
        first, end = (len(items) * n // self.count for n in (self.number - 1, self.number))
        return tuple(items[first:end])


WHOLE = Shard(1, 1)
"""All of a job."""
