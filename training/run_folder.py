"""``config.json``: what a run's folder says of the run, and whether it is this one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
import sys
import warnings
from pathlib import Path

import keras

from kseg.data import DataSet, LabelCounts, check_outputs, file_digests, label_doubts
from kseg.errors import KsegError, KsegWarning, shown
from kseg.files import check_not_input, make_folder, read_json, write_json
from kseg.shipped import file_of, is_name
from kseg.training.config import TrainingConfig
from kseg.training.inputs import INITIAL
from kseg.training.records import Records

_FILE = "config.json"
_PACKAGES = ("kseg", "keras", "tensorflow", "jax", "numpy", "pillow")


def is_claimed(run_dir: Path) -> bool:
    """Whether the folder holds a run."""
    return (run_dir / _FILE).exists()


def check_folder(
    run_dir: Path, config: TrainingConfig, data: DataSet | Records, val_data: DataSet | None
) -> None:
    """Raises KsegError where the folder holds a run of another configuration or other data.

    Of a run that an earlier kseg began nothing but the names of its images is known; it
    resumes with a KsegWarning.
    """
    path = run_dir / _FILE
    if not path.exists():
        return
    samples = _samples(data)
    try:
        stored = read_json(path)
        difference = config.difference(stored["config"])
        # A run from before this was recorded had its data.
        stored_samples = stored.get("samples", samples)
        stored_prints = stored.get("fingerprints")
        if not isinstance(stored_prints, dict | None):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise KsegError(f"{path}: is damaged; remove {run_dir} to train anew") from None
    if stored_samples != samples:
        difference = difference or f"samples were {shown(stored_samples)} and are {shown(samples)}"
    if difference:
        raise KsegError(
            f"{run_dir}: holds a run of another configuration ({difference}); "
            "repeat its settings or choose another run_dir"
        )
    if config.teacher and stored.get("teacher") != _teacher(config):
        raise KsegError(
            f"{run_dir}: the teacher {config.teacher} is missing or has changed since this run "
            "began; restore it, or choose another run_dir"
        )
    if stored_prints is None:
        warnings.warn(
            f"{path}: was written by an earlier kseg, which kept no fingerprint of the data; the "
            "run resumes whether or not images and labels have changed",
            KsegWarning,
            stacklevel=2,
        )
    elif changed := [
        k for k, v in _fingerprints(data, val_data).items() if stored_prints.get(k) != v
    ]:
        raise KsegError(
            f"{run_dir}: images, labels or classes of the data {' and '.join(changed)} have "
            "changed since this run began; choose another run_dir to train on what they are now, "
            "or restore them"
        )


def check_run_dir(
    run_dir: Path, config: TrainingConfig, data: DataSet | Records, val_data: DataSet | None
) -> None:
    """Raises KsegError where the run would write among what it reads."""
    check_outputs([run_dir], data=[d for d in (data, val_data) if isinstance(d, DataSet)])
    if isinstance(data, Records):
        check_not_input([run_dir], [], [data.folder])
    written = {(run_dir / name).resolve() for name in ("model.keras", INITIAL, "checkpoints")}
    for file in (config.init, config.teacher):
        # A model that the run was given itself is kept as INITIAL.
        if file is None or file == INITIAL or is_name(file):
            continue
        if written & {path.resolve() for path in (Path(file), *Path(file).parents)}:
            raise KsegError(f"{file}: is what the run in {run_dir} writes; choose another run_dir")


def claim_folder(
    run_dir: Path, config: TrainingConfig, data: DataSet | Records, val_data: DataSet | None
) -> None:
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
        "fingerprints": _fingerprints(data, val_data),
        "teacher": _teacher(config),
        "versions": versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": sys.argv,
    }
    write_json(make_folder(run_dir) / _FILE, record)


def warn_of_labels(
    data: DataSet | Records, val_data: DataSet | None, counts: LabelCounts | None = None
) -> None:
    """Gives what ``label_doubts`` says of a run's labels as KsegWarning.

    Args:
        data, val_data: the run's; every label is read.
        counts: ``label_counts`` of ``data``, where they are known already.
    """
    for split, known in ((data, counts), (val_data, None)):
        if split is None:
            continue
        found = split.label_counts(skip_bad=True) if known is None else known
        for doubt in label_doubts(split.classes, found):
            warnings.warn(f"{split.name} {split.split}: {doubt}", KsegWarning, stacklevel=2)


def _samples(data: DataSet | Records) -> str:
    """How many samples there are, and a digest of their names."""
    names = hashlib.sha256("\n".join(data.names).encode()).hexdigest()[:16]
    return f"{len(data)} ({names})"


def _teacher(config: TrainingConfig) -> str | None:
    """SHA-256 of the teacher's file, "missing" where it cannot be read."""
    if config.teacher is None:
        return None
    (digest,) = file_digests([file_of(Path(config.teacher))])
    return digest


def _fingerprints(data: DataSet | Records, val_data: DataSet | None) -> dict[str, str | None]:
    """Of all that a run reads."""
    return {
        "to train on": data.fingerprint(),
        "to score on": None if val_data is None else val_data.fingerprint(),
    }
