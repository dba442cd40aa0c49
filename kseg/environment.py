"""What figures were measured with: versions and machine, to stand beside them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kseg._version import __version__

_PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "numpy")


def environment(*more: str) -> dict[str, Any]:
    """``versions`` by package, those installed, and ``machine``: its kind and CPU count.

    Args:
        *more: packages that mattered besides.
    """
    versions = {"kseg": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {"kind": platform.machine(), "cpus": os.cpu_count()}
    return {"versions": versions, "machine": machine}
