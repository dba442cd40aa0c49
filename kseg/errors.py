"""The exception and the warning by which kseg tells its user what to mend."""

from __future__ import annotations


class KsegError(ValueError):
    """A wrong input: the message is one line that names it and the way out."""


class KsegWarning(UserWarning):
    """An input that can be used, but perhaps not as its maker meant it: one line."""


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to ``limit`` characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]
