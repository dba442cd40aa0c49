"""The table of encoders: every module of ``kseg.backbones`` adds its own."""

from __future__ import annotations

import importlib
import pkgutil

from kseg import backbones
from kseg.backbones import Encoder

ENCODERS: dict[str, Encoder] = {}
for _module in pkgutil.iter_modules(backbones.__path__, f"{backbones.__name__}."):
    if _module.name != __name__:
        ENCODERS |= getattr(importlib.import_module(_module.name), "ENCODERS", {})
