"""Imports the backend quietly when kseg runs as a command.

TensorFlow's C++ side greets on standard error before any log level is in force; a
command's errors should stand alone there. As a library kseg touches nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what this process writes to standard error; shows it if the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


# The last is what a process sees that `python -m kseg` has spawned.
if Path(sys.argv[0]).name in ("kseg", "-m") or sys.argv[0].endswith("kseg/__main__.py"):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        import keras  # noqa: F401
