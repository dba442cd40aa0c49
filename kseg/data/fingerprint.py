"""What files hold, in a few characters: the identity of a data set for whoever keeps results."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

_digests: dict[tuple[str | int, ...], str] = {}
_lock = threading.Lock()


def file_digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of every file's bytes, "missing" where one cannot be read.

    A file that this process has read is read again only if its size, or a time that no
    program can set back, changed.
    """
    # Reading and hashing release Python's lock.
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_file_digest, paths))


def _file_digest(path: Path) -> str:
    try:
        status = path.stat()
        times = status.st_mtime_ns, status.st_ctime_ns
        key = (str(path.absolute()), status.st_ino, status.st_size, *times)
        with _lock:
            known = _digests.get(key)
        if known is None:
            with path.open("rb") as file:
                known = hashlib.file_digest(file, "sha256").hexdigest()
            with _lock:
                _digests[key] = known
    except OSError:
        return "missing"
    return known


def joint_digest(parts: Iterable[str]) -> str:
    """One digest, 32 hexadecimal digits, of texts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:32]
