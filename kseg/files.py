"""Outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kseg.errors import KsegError, KsegWarning

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` that is renamed to it on success.

    The temporary name keeps the suffix, since several writers choose a format by it.
    Nothing is left behind when the block raises.

    Raises:
        KsegError: the folder is missing, read-only or full.
    """
    path = Path(path)
    try:
        with _temporary_folder(path.parent) as folder:
            yield folder / path.name
            os.replace(folder / path.name, path)
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like ``atomic_write`` for a folder that must not exist yet (or be empty)."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise KsegError(f"{path}: exists and is not an empty folder; name another or remove it")
    try:
        with _temporary_folder(path.parent) as folder:
            folder.chmod(0o755)
            yield folder
            if path.exists():
                path.rmdir()
            os.replace(folder, path)
    except OSError as error:
        raise write_error(path, error) from error


# Folders in which this process has looked for what killed ones left.
_looked_in: set[Path] = set()


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, which is removed afterwards.

    While it is in use it is locked, by which ``remove_left`` knows it from one that a killed
    process left.
    """
    if parent.absolute() not in _looked_in:
        _looked_in.add(parent.absolute())
        remove_left(parent)
    with contextlib.ExitStack() as leaving:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"{_OF_HOST}-", dir=parent))
            if sys.platform == "win32":
                break
            descriptor = os.open(folder, os.O_RDONLY)
            leaving.callback(os.close, descriptor)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            # Another process may have taken it for one that was left.
            if folder.exists():
                break
        leaving.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


_TEMPORARY = ".kseg-unfinished"
_OF_HOST = f"{_TEMPORARY}-{socket.gethostname()[:60]}"


def remove_left(*folders: Path, of_all_hosts: bool = False) -> None:
    """Removes what killed writers left in some folders, and nothing that is being written.

    Args:
        folders: may be missing.
        of_all_hosts: where no other host writes in them. Some file systems that machines share
            have no locks between them.
    """
    if sys.platform == "win32":
        return
    # Eight letters follow: of the host "a", not of "a-b".
    names = f"{_TEMPORARY}-*/" if of_all_hosts else f"{glob.escape(_OF_HOST)}-????????/"
    for path in (path for folder in folders for path in folder.glob(names)):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def locked(path: str | Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Within it no other process works on ``path``, nor another thread of this one.

    The lock is the operating system's, on a file beside or in what it is for. It ends with the
    process, however that ends, so a file that a killed process left stops nobody.

    Args:
        path: a folder, which is made and has ``.lock`` in it; else a file, which need not
            exist and has ``.NAME.lock`` beside it.
        shared: with others who share it.
        wait: for the others; else they are an error.

    Raises:
        KsegError: another process works on it, or the folder cannot be written to.
    """
    path = Path(path)
    is_folder = path.is_dir()
    place = path / ".lock" if is_folder else path.with_name(f".{path.name}.lock")
    descriptor = _open_locked(path, place, shared=shared, wait=wait)
    try:
        yield
    finally:
        if descriptor is not None:
            # Another process that shares it keeps its file.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                place.unlink()
            os.close(descriptor)


def _open_locked(path: Path, place: Path, *, shared: bool, wait: bool) -> int | None:
    """The locked file at ``place``; None where the system or the file system has no locks."""
    if sys.platform == "win32":
        return None
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            fcntl.flock(descriptor, operation | (0 if wait else fcntl.LOCK_NB))
            # Whoever had it may have removed the file just now.
            if os.path.samestat(os.fstat(descriptor), os.stat(place)):
                holder = f"process {os.getpid()} on {socket.gethostname()}"
                with contextlib.suppress(OSError):  # a full disk; the lock holds without
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, holder.encode(), 0)
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                holder = os.pread(descriptor, 200, 0).decode(errors="replace")
                os.close(descriptor)
                raise KsegError(
                    f"{path}: {holder or 'another process'} works on it; let it end, or choose "
                    "another name"
                ) from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                raise write_error(path, error) from error
            warnings.warn(
                f"{path}: its file system has no locks; let one process at a time work on it",
                KsegWarning,
                stacklevel=4,
            )
            return descriptor
        os.close(descriptor)


def suffix_of(path: str | Path) -> str:
    """The suffix of a file that is read, in small letters, as some systems write it in capitals."""
    return Path(path).suffix.lower()


@contextlib.contextmanager
def with_small_suffix(path: Path) -> Iterator[Path]:
    """The path, or a copy of the file for Keras, which knows suffixes in small letters alone."""
    if path.suffix == suffix_of(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copyfile(path, Path(folder, f"{path.stem}{suffix_of(path)}")))


def check_is_file(path: Path, name: str) -> None:
    """Raises KsegError where the path is not a file.

    Args:
        name: what to name instead, such as "a .keras file".
    """
    if (path / "saved_model.pb").is_file():
        raise KsegError(
            f"{path}: is a folder with a SavedModel of TensorFlow, which has no card; name {name}: "
            "save the kseg model that it was made of as .keras, and `kseg convert` that"
        )
    if path.is_dir():
        raise KsegError(f"{path}: is a folder; name {name}")
    if not path.is_file():
        raise KsegError(f"{path}: no such file; name {name}")


def write_json(path: str | Path, value: Any) -> None:
    """Writes what JSON can hold, whole or not at all.

    Raises:
        KsegError: as of ``atomic_write``.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


_DEPTH = 100


def read_json(path: Path) -> Any:
    """The value of a file of JSON.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested more than 100 times, where Python's own code that
            walks through it would end by a RecursionError.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """The value of JSON; ValueError as of ``read_json``."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEPTH + 1):
        if not level:
            return value
        items = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in items for v in values if isinstance(v, dict | list)]
    raise ValueError("JSON that is nested too deeply")


def json_checksum(value: Any) -> str:
    """Of plain JSON, whatever the order of its keys and the white space of its file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def check_output(path: str | Path, *suffixes: str) -> None:
    """Says at once what ``atomic_write`` would say after long work.

    Args:
        path: of a file to be written.
        *suffixes: one of which it must have; none for any.

    Raises:
        KsegError: another suffix, a folder, or one that is missing or read-only.
    """
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        small = ", in small letters" if suffix_of(path) in suffixes else ""
        raise KsegError(f"{path}: the file's name must end in {' or '.join(suffixes)}{small}")
    if path.is_dir():
        raise KsegError(f"{path}: is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise write_error(path, error) from error


def check_room(path: str | Path, size: int) -> None:
    """Says that there is no room for a file, for a writer that cannot say so itself.

    HDF5 ends the process by a segmentation fault where it finds the disk full.

    Args:
        path: of the file to be written.
        size: its bytes, at most.

    Raises:
        KsegError: there is no room, or the folder is missing or read-only.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise write_error(path, error) from error


def check_not_input(
    outputs: Iterable[str | Path | None],
    inputs: Iterable[str | Path | None],
    folders: Iterable[str | Path] = (),
) -> None:
    """Refuses to write over what is read, under whatever name: links and letters' case too.

    Args:
        outputs: files and folders to be written; they need not exist, None is left out.
        inputs: files and folders that are read; None is left out.
        folders: of inputs, in which and in whose folders nothing may be written.

    Raises:
        KsegError: an output is an input or lies in one of ``folders``, or two are one file.
    """
    written = [Path(path) for path in outputs if path is not None]
    identities = {_identity(path): path for path in inputs if path is not None}
    identities.pop(None, None)
    within = {_identity(path): path for path in folders}
    within.pop(None, None)
    seen: dict[tuple[int, int] | Path, Path] = {}
    for path in written:
        identity = _identity(path)
        if identity in identities:
            raise KsegError(
                f"{path}: is the input {identities[identity]}, which would be written over; "
                "name another output"
            )
        real = path.resolve()
        for parent in (real, *real.parents):
            if (folder := within.get(_identity(parent))) is not None:
                raise KsegError(
                    f"{path}: lies in {folder}, which is read; name an output outside of it"
                )
        other = seen.setdefault(identity or real, path)
        if other is not path:
            raise KsegError(f"{path}: is to be written twice; give each output a name of its own")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What stands for a file whatever its name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def make_folder(path: str | Path) -> Path:
    """Makes ``path`` and its parents; the folder must be writable.

    Raises:
        KsegError: it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise write_error(path, error) from error
    return path


def write_error(path: Path, error: OSError) -> KsegError:
    """One line for a failed write; ``error`` says why."""
    reason = error.strerror or str(error) or type(error).__name__
    return KsegError(
        f"{path}: cannot be written ({reason}); choose a folder with room and write access"
    )
