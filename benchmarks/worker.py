"""Another runtime in a process of its own, which works when it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from kseg.errors import KsegError


class Worker:
    """A process that answers every line with one line of JSON.

    Args:
        what: it is, for errors.
        arguments: for Python.
        **variables: of its environment.
    """

    def __init__(self, what: str, arguments: Sequence[object], **variables: str) -> None:
        self._what = what
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables},
        )

    def step(self) -> dict[str, Any]:
        """The first answer says what it has, the others have the ``seconds`` of a step."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise KsegError(f"{self._what}: its process ended (code {self._process.wait()})")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve(make: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Is a worker until its input ends.

    Args:
        make: gives the step and what the first answer says; a step gives its ``loss``.
    """
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        step, facts = make()
        for number, _ in enumerate(sys.stdin):
            answer = facts
            if number:
                begin = time.perf_counter()
                loss = step()
                answer = {"seconds": time.perf_counter() - begin, "loss": loss}
            print(json.dumps(answer), file=answers, flush=True)
