"""``config.json``: what a run's folder says of the run, and whether it is this one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

import keras

from kseg.data import DataSet
from kseg.errors import KsegError
from kseg.files import make_folder, write_json
from kseg.training.config import TrainingConfig
from kseg.training.records import Records

_FILE = "config.json"
_PACKAGES = ("kseg", "keras", "tensorflow", "jax", "numpy", "pillow")


def is_claimed(run_dir: Path) -> bool:
    """Whether the folder holds a run."""
    return (run_dir / _FILE).exists()


def check_folder(run_dir: Path, config: TrainingConfig, data: DataSet | Records) -> None:
    """Raises KsegError where the folder holds a run of another configuration or other data."""
    path = run_dir / _FILE
    if not path.exists():
        return
    samples = _samples(data)
    try:
        stored = json.loads(path.read_text())
        difference = config.difference(stored["config"])
        # A run from before this was recorded had its data.
        stored_samples = stored.get("samples", samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise KsegError(f"{path}: is damaged; remove {run_dir} to train anew") from None
    if stored_samples != samples:
        difference = difference or f"samples were {stored_samples} and are {samples}"
    if difference:
        raise KsegError(
            f"{run_dir}: holds a run of another configuration ({difference}); "
            "repeat its settings or choose another run_dir"
        )


def claim_folder(run_dir: Path, config: TrainingConfig, data: DataSet | Records) -> None:
    """Writes ``config.json``: the folder is this run's from now on.

    Raises:
        KsegError: it cannot be written.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    record = {
        "config": dataclasses.asdict(config),
        "samples": _samples(data),
        "versions": versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": sys.argv,
    }
    write_json(make_folder(run_dir) / _FILE, record)


def _samples(data: DataSet | Records) -> str:
    """How many samples there are, and a digest of their names."""
    names = hashlib.sha256("\n".join(data.names).encode()).hexdigest()[:16]
    return f"{len(data)} ({names})"
