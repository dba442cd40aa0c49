"""The one exception that kseg raises for what its user can mend."""

from __future__ import annotations


class KsegError(ValueError):
    """A wrong input: the message is one line that names it and the way out."""


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to ``limit`` characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
