"""Paths and small models that several tests share."""

import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many workers as cores: threads of theirs would wait for each other.
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import keras
import numpy as np
import pytest

import kseg
import kseg.data
from kseg.zoo import VARIANTS
from support import ROOT, SMALL, randomize_statistics, write_camvid

# Building networks makes objects by the hundred thousand, which Python would look through
# again and again: a twelfth of the suite's time.
gc.set_threshold(100_000, 20, 50)

SHARED = ROOT.parent / "shared"

# Of kernels; a prime number of them, so that no two channels get the same ones. Twice, so that
# a kernel may begin anywhere.
_NORMAL = np.tile(np.random.default_rng(0).standard_normal(1_000_003, np.float32).clip(-2, 2), 2)


# Rows of the zoo that stand for their families in `make test`.
REPRESENTATIVES = (
    "cgnet_m3n15",
    "deeplab_v3_plus_mobilenet_v2",
    "liteseg_mobilenet_v2",
    "espnet",
    "enet",
    "erfnet",
    "icnet_resnet50",
    "pidnet_s",
    "deeplab_v3_plus_mobilenet_v3_large",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-rows", action="store_true", help="every row of the zoo")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The contract's tests, and the bridge's, take a row's name."""
    every_row = metafunc.module.__name__.endswith(("test_contract", "test_bridge"))
    if every_row and "name" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-rows")
        names = kseg.list_models() if every else REPRESENTATIVES
        # One row's tests run together, and may share a model.
        metafunc.parametrize("name", names, scope="module")


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


@pytest.fixture(scope="session")
def tiny_camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six train and two val images of 48 x 64 in CamVid's layout: bright above, dark below."""
    folder = tmp_path_factory.mktemp("tiny_camvid")
    write_camvid(folder, {"train": 6, "val": 2})
    return folder


def _quick(initializer: keras.Initializer, shape: tuple[int, ...], dtype=None):
    """What Keras' initializer draws, by its seed, with its spread, out of ``_NORMAL``."""
    if isinstance(initializer, keras.initializers.VarianceScaling):
        taps = math.prod(shape[:-2])
        fans = {"fan_in": taps * shape[-2], "fan_out": taps * shape[-1]}
        fans["fan_avg"] = (fans["fan_in"] + fans["fan_out"]) / 2
        mean, deviation = 0.0, math.sqrt(initializer.scale / fans[initializer.mode])
    else:
        mean, deviation = initializer.mean, initializer.stddev
    start = initializer.seed % (len(_NORMAL) // 2)
    values = np.resize(_NORMAL[start : start + math.prod(shape)], shape)
    return keras.ops.convert_to_tensor(mean + deviation * values, dtype)


@pytest.fixture(autouse=True)
def quick_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random kernels take a tenth of the time; drawing them is most of building a network.

    In tests alone: fixtures of a session or a module are made before, by Keras' own.
    """
    kinds = keras.initializers
    for kind in (kinds.VarianceScaling, kinds.RandomNormal, kinds.TruncatedNormal):
        monkeypatch.setattr(kind, "__call__", _quick)


def _for_camvid(name: str, **options) -> kseg.SegmentationModel:
    """A row with random weights, as one trained on the tiny images."""
    keras.utils.set_random_seed(1)
    model = kseg.create_model(name, num_classes=11, **options)
    model.card = model.card.replace(
        dataset="camvid",
        class_names=kseg.data.CAMVID.names,
        colors=kseg.data.CAMVID.colors,
        input_size=(48, 64),
    )
    randomize_statistics(model)
    return model


@pytest.fixture(scope="session")
def tiny_model() -> kseg.SegmentationModel:
    """The smallest CGNet with CamVid's classes, random weights."""
    return _for_camvid("cgnet_m3n21", m=2, n=2)


@pytest.fixture(scope="session")
def tiny_keras(
    tiny_model: kseg.SegmentationModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.keras"
    tiny_model.save(path)
    return path


@pytest.fixture(scope="module")
def small_row() -> Iterator[None]:
    """While a module's tests run, the zoo has the row "small" too."""
    with patch.dict(VARIANTS, SMALL):
        yield


@pytest.fixture(scope="session")
def small_model() -> kseg.SegmentationModel:
    """The row "small" with CamVid's classes, random weights."""
    with patch.dict(VARIANTS, SMALL):
        return _for_camvid("small")


@pytest.fixture(scope="session")
def small_keras(
    small_model: kseg.SegmentationModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.keras"
    small_model.save(path)
    return path
