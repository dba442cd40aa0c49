"""What figures were measured with: versions and machine, to stand beside them."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kseg._version import __version__

_PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "numpy")

# What a CPU needs to be fast in float32, and, from the fourth on, faster in int8.
_INSTRUCTIONS = ("avx2", "avx512f", "asimd", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp")


def environment(*more: str) -> dict[str, Any]:
    """``versions`` by package, those installed, and ``machine``.

    The machine has its ``kind``, the count of its ``cpus``, and their ``instructions``: of
    those that decide how fast float32 and int8 are, what Linux says that they have.

    Args:
        *more: packages that mattered besides.
    """
    versions = {"kseg": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    machine = {"kind": platform.machine(), "cpus": os.cpu_count(), "instructions": _instructions()}
    return {"versions": versions, "machine": machine}


def _instructions() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    # "flags" of x86, "Features" of Arm.
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    known = flags[1].split() if flags else []
    return [name for name in _INSTRUCTIONS if name in known]
