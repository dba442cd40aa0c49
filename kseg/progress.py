"""How much of a long command is done, and how much time is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping


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
        print(f"[{place + 1}/{len(names)}] {text}; about {left} left", file=sys.stderr, flush=True)


class Countdown:
    """The ``progress`` of a long call: prints how many are done, and the time left.

    On a terminal it is one line that changes; elsewhere a new line each minute, so that a
    short call prints nothing.

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
        live = sys.stderr.isatty()
        if not live and now - self._shown < 60:
            return
        self._shown = now
        text = f"{done}/{total} {self._what}"
        if self._first < done < total:
            pace = (now - self._begin) / (done - self._first)
            text += f", {duration(pace * (total - done))} left"
        start, end = ("\r", "\033[K" + "\n" * (done == total)) if live else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
