"""Weights that come with the package, and how they are put there."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import kseg
from kseg import checkpoints, shipped
from kseg.card import Card
from kseg.cli import main
from kseg.data import open_dataset
from kseg.evaluation import SavedScores
from kseg.evaluation.counts import Counts
from kseg.loading import load, ship


@pytest.fixture
def folder(tiny_model, tmp_path, monkeypatch):
    """A folder of weights with the tiny model alone."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    facts = {"mean_iou": 0.5, "trained_on": "two images", "licence": "none"}
    path = ship(tiny_model, "tiny", facts)
    assert path.name == "cgnet_m3n21.safetensors"
    return tmp_path


def test_a_model_comes_back(folder, tiny_model):
    assert shipped.list_shipped() == ["tiny:cgnet_m3n21"]
    model = load("tiny:cgnet_m3n21")
    assert model.card == tiny_model.card.replace(weights="tiny:cgnet_m3n21")
    for variable, wanted in zip(model.weights, tiny_model.get_weights(), strict=True):
        assert variable.dtype == "float32"
        # A kernel is within half of float16's last digit, and of its smallest number.
        close = {"rtol": 2**-11, "atol": 2**-25} if variable.name == "kernel" else {"rtol": 0}
        np.testing.assert_allclose(variable, wanted, **close)


def test_only_kernels_in_the_range_of_float16_are_halved():
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 0.1, (8, 4, 3, 3)).astype(np.float32)
    kernel[0, 0, 0] = 0, 1e-6, -1e-8  # below float16's normal numbers
    full = {
        "large": np.float32([[1.0, 7e4]]),
        "small": np.float32([[5e-5, 0]]),
        "running_var": np.float32([1e-9, 0.3, 85_080]),
        "bias": np.float32([0.1, 0.2]),
    }
    kept = checkpoints.with_half_kernels({"kernel": kernel, **full})
    halved = kept.pop("kernel")
    assert halved.dtype == np.float16
    np.testing.assert_allclose(halved, kernel, rtol=2**-11, atol=2**-25)
    for name, tensor in kept.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, full[name])


@pytest.mark.parametrize("name", shipped.list_shipped())
def test_facts_are_of_the_file(name):
    path = shipped.weights_file(name)
    content, file = path.read_bytes(), shipped.facts(name)["file"]
    assert len(content) == file["bytes"] < 8e6
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    tensors = load_file(path).values()
    kernels = [str(tensor.dtype) for tensor in tensors if tensor.ndim > 1]
    assert Counter(kernels) == file["kernels"]
    assert {str(tensor.dtype) for tensor in tensors if tensor.ndim == 1} == {"float32"}
    stated, _, parts = shipped.facts(name)["trained_on"].partition(" ")
    splits = [f"{stated} {part}" for part in parts.split("+")]
    assert sorted(Card.from_json(shipped.facts(name)["card"]).trained_splits) == splits


@pytest.mark.parametrize("path", [":x.keras", "/tmp:1/x.keras", "other:x.keras"])
def test_paths_with_a_colon_are_paths(folder, path):
    with pytest.raises(kseg.KsegError, match=r"no such file; name a \.keras file"):
        load(path)


def test_the_tensors_have_their_published_names(folder, tiny_model):
    tensors = checkpoints.read(folder / "weights/tiny/cgnet_m3n21.safetensors")
    assert {n: t.shape for n, t in tensors.items()} == checkpoints.published_shapes(tiny_model)


def test_by_the_argument_of_create_model(folder):
    model = kseg.create_model("cgnet_m3n21", weights="tiny", input_shape=(48, 64, 3), batch_size=1)
    assert model.input_shape == (1, 48, 64, 3)
    assert model.card.dataset == "camvid"
    image = np.random.default_rng(0).uniform(0, 255, (1, 48, 64, 3)).astype("float32")
    np.testing.assert_allclose(model(image), load("tiny:cgnet_m3n21")(image), atol=1e-5)
    with pytest.raises(kseg.KsegError, match="tiny:cgnet_m3n21: has 11 classes, not 19"):
        kseg.create_model("cgnet_m3n21", weights="tiny:cgnet_m3n21", num_classes=19)
    with pytest.raises(kseg.KsegError, match=r"tiny:enet: no such weights; kseg ships tiny:cgnet"):
        kseg.create_model("enet", weights="tiny")


def test_the_command_takes_the_name(folder, tiny_camvid, tmp_path, capsys):
    image = tiny_camvid / "val/000.png"
    assert main(["predict", "tiny:cgnet_m3n21", str(image), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/000_overlay.png").is_file()
    assert main(["predict", "tiny:cgnet_m3n21", "sample", "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out/sample.png").size == (480, 360)
    arguments = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    arguments += ["--json", str(tmp_path / "x.json"), "--resume", str(tmp_path / "state")]
    assert main(["evaluate", "tiny:cgnet_m3n21", *arguments]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["weights"] == "tiny:cgnet_m3n21"
    assert main(["models"]) == 0
    assert "tiny:cgnet_m3n21: trained on two images; mean IoU 50.0 %" in capsys.readouterr().out
    assert main(["predict", "tiny:vnet", str(image), "--out", str(tmp_path / "out")]) == 1
    assert "tiny:vnet: no such weights; kseg ships tiny:cgnet_m3n21" in capsys.readouterr().err
    assert main(["predict", "other:enet", str(image), "--out", str(tmp_path / "out")]) == 1
    assert "other:enet: is neither .keras nor" in capsys.readouterr().err


def test_a_score_left_with_other_weights(folder, tiny_camvid, tiny_model):
    """The name is the same, what it stands for is not."""
    data = open_dataset("camvid", tiny_camvid, "val")

    def load():
        saved = SavedScores(folder / "state", Path("tiny:cgnet_m3n21"))
        saved.load({"runtime": "a"}, data, Counts(data.classes, instances=False, boundaries=False))

    load()
    load()
    weights = [2 * weight for weight in tiny_model.get_weights()]
    other = keras.models.clone_model(tiny_model)
    other.set_weights(weights)
    other.card = tiny_model.card
    ship(other, "tiny", {})
    with pytest.raises(kseg.KsegError, match="is of another score: content"):
        load()


def test_without_a_folder_of_weights(tmp_path, monkeypatch):
    """As in an installation that left them out: names are files then."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    assert shipped.list_shipped() == []
    assert not shipped.is_name("camvid:cgnet_m3n21")
    with pytest.raises(kseg.KsegError, match="camvid:cgnet_m3n21: no such file"):
        kseg.load("camvid:cgnet_m3n21")
