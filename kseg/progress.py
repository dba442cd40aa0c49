"""How much of a long command is done, and how much time is left.

All of it goes to standard error: on a terminal one line that changes in place, elsewhere plain
lines.
"""

from __future__ import annotations

import contextlib
import contextvars
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")

_BAR = 20

_quiet = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet(chosen: bool) -> Iterator[None]:
    """Within it nothing is told of progress, if so chosen."""
    token = _quiet.set(chosen)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_live() -> bool:
    """Whether lines of progress change in place."""
    return sys.stderr.isatty()


def tell(text: str, *, changing: bool = False) -> None:
    """Prints a line of progress in place of the one that stands there.

    Args:
        text: is cut where the terminal ends.
        changing: the next line takes its place; for a terminal only.
    """
    if _quiet.get():
        return
    clear()
    if is_live():
        text = text[: shutil.get_terminal_size().columns - 1]
    print(text, end="" if changing else "\n", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Prints a line that is no progress to standard error, where no line of progress stands."""
    clear()
    print(text, file=sys.stderr, flush=True)


def clear() -> None:
    """Takes a changing line of progress away, so that another can stand there."""
    if is_live():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def counted(items: Sequence[_Item], progress: Callable[[int, int], None]) -> Iterator[_Item]:
    """The items; ``progress`` is called when the next one is asked for."""
    for done, item in enumerate(items):
        yield item
        progress(done + 1, len(items))


def duration(seconds: float) -> str:
    """The time as text: 12 s, 3 min 20 s or 2 h 05 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Stages:
    """Announces the stages of a command with the time left for all of them.

    Args:
        seconds: by stage, in their order, the time planned for it. The time left is this
            plan at the pace seen so far.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = dict(seconds)
        self._begin = time.monotonic()

    def begin(self, stage: str, text: str) -> None:
        """Prints that a stage begins; the stages before it are done or were left out."""
        names = list(self._seconds)
        place = names.index(stage)
        planned = [self._seconds[name] for name in names]
        elapsed = time.monotonic() - self._begin
        # The first seconds say little about the pace, so 30 s at the planned pace are added.
        pace = (elapsed + 30) / (sum(planned[:place]) + 30)
        left = duration(sum(planned[place:]) * pace)
        tell(f"[{place + 1}/{len(names)}] {text}; about {left} left")


class Countdown:
    """The ``progress`` of a long call: prints how many are done, and the time left.

    On a terminal it is one line that changes, with a bar; elsewhere a new line each minute, so
    that a short call prints nothing.

    Args:
        what: the name of what is counted.
    """

    def __init__(self, what: str = "images") -> None:
        self._what = what
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Prints the state; the pace is measured from the first call on.

        Args:
            done: how many are done, at the first call perhaps by an earlier run.
            total: how many there are.
        """
        now = time.monotonic()
        if self._first is None:
            # The first one takes longer than those after it, or an earlier run did it.
            self._first, self._begin, self._shown = done, now, now
        live = is_live()
        if not live and now - self._shown < 60:
            return
        self._shown = now
        text = f"{done}/{total} {self._what}"
        if self._first < done < total:
            pace = (now - self._begin) / (done - self._first)
            text += f", {duration(pace * (total - done))} left"
        if live:
            full = _BAR * done // total
            text = f"[{'#' * full}{'.' * (_BAR - full)}] {text}"
        tell(text, changing=live and done < total)
