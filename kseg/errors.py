"""The exception and the warning by which kseg tells its user what to mend."""

from __future__ import annotations

from typing import Any


class KsegError(ValueError):
    """A wrong input: the message is one line that names it and the way out.

    What of a file does not print, such as a line's end in a name, is escaped in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class KsegWarning(UserWarning):
    """An input that can be used, but perhaps not as its maker meant it: one line."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to ``limit`` characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit]


def shown(value: Any, limit: int = 60) -> str:
    """A value of a file in an error's line: what Python writes for it, cut to ``limit``."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
