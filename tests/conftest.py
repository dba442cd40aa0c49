"""Paths and small models that several tests share."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"

sys.path.insert(0, str(DATA / "fixtures"))


def _shared(path: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip("images and trained weights lie in ../shared, which is absent")
    return SHARED / path


@pytest.fixture(scope="session")
def camvid() -> Path:
    return _shared("data/camvid")


@pytest.fixture(scope="session")
def cityscapes_mini() -> Path:
    return _shared("data/cityscapes_mini")


@pytest.fixture(scope="session")
def weights() -> Path:
    return _shared("weights")
