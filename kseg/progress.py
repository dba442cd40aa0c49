"""How far a long command is, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s or 2 h 05 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Stages:
    """Announces the stages of a command with the time left for all of them.

    Args:
        seconds: what each stage takes, in their order; the real pace corrects them.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = dict(seconds)
        self._begin = time.monotonic()

    def begin(self, stage: str, text: str) -> None:
        """Says that a stage begins; those before it are over, done or left out."""
        names = list(self._seconds)
        place = names.index(stage)
        planned = [self._seconds[name] for name in names]
        elapsed = time.monotonic() - self._begin
        # Little has been seen at first: the plan counts as half a minute of experience.
        pace = (elapsed + 30) / (sum(planned[:place]) + 30)
        left = duration(sum(planned[place:]) * pace)
        print(f"[{place + 1}/{len(names)}] {text}; about {left} left", file=sys.stderr, flush=True)


class Countdown:
    """The ``progress`` of a long call: how many are done, and the time left.

    On a terminal a line that changes; elsewhere a line a minute, so none of a short call.

    Args:
        what: is counted.
    """

    def __init__(self, what: str = "images") -> None:
        self._what = what
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tells; what the first call counts was there before and says nothing of the pace."""
        now = time.monotonic()
        if self._first is None:
            # It took longer than those after it will, or was done by an earlier run.
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
