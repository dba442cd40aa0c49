"""The network that most tests of training train."""

from pathlib import Path

import keras
import pytest

import kseg
from kseg.zoo import VARIANTS
from support import SMALL, randomize_statistics


@pytest.fixture(scope="session", autouse=True)
def small_row():
    """The zoo has the row "small" too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in SMALL.items():
            patch.setitem(VARIANTS, name, variant)
        yield


@pytest.fixture(scope="session")
def small_keras(small_row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "small" with random weights and CamVid's number of classes."""
    keras.utils.set_random_seed(1)
    model = kseg.create_model("small", num_classes=11)
    randomize_statistics(model)
    path = tmp_path_factory.mktemp("small") / "small.keras"
    model.save(path)
    return path
