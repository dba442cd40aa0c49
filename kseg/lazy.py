"""What is imported when it is first used: slow modules, and packages of the extras."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kseg.errors import KsegError


def lazy_names(
    package: str, modules: Mapping[str, str], submodules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        modules: the module below the package that has a name, by the name.
        submodules: modules below the package that are names themselves.
    """

    def getattribute(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *submodules})

    return getattribute, directory


def import_extra(package: str, extra: str, needed_for: str | Path) -> ModuleType:
    """A package that an extra of kseg installs.

    Args:
        package: to import.
        extra: of kseg's extras.
        needed_for: the file or name that needs it.

    Raises:
        KsegError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise KsegError(f"{needed_for}: needs {package}; install kseg[{extra}]") from None
