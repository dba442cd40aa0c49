"""The demo on four small scenes; training itself has its own tests."""

import json

import keras
import pytest
from PIL import Image

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.data import CITYSCAPES
from kseg.streets import write_streets
from kseg.tflite import options
from support import randomize_statistics

pytestmark = pytest.mark.usefixtures("small_row")


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """In Cityscapes' layout, where the official scripts' variable says."""
    write_streets(tmp_path / "scenes", 10, size=(64, 128))
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path / "scenes"))
    # Files would otherwise have the size of Cityscapes' images, halved.
    monkeypatch.setattr("kseg.training.inputs.default_crop", lambda data: (64, 128))


@pytest.fixture
def trained(monkeypatch):
    """In place of training: a small model with random weights, and what a run leaves."""

    def train(config, data_dir, run_dir):
        assert (config.model, config.init) == ("deeplab_v3_plus_efficientnet_lite0", "imagenet")
        assert (config.dataset, config.steps) == ("cityscapes", 3)
        run_dir.mkdir(parents=True)
        (run_dir / "history.csv").write_text("step,loss,mean_iou,val_mean_iou\n3,2.5,0.1,0.05\n")
        keras.utils.set_random_seed(8)
        model = kseg.create_model("small")
        model.card = model.card.replace(dataset="cityscapes", class_names=CITYSCAPES.names)
        randomize_statistics(model)
        return model

    monkeypatch.setattr("kseg.training.train", train)


def test_demo(scenes, trained, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "3"]) == 0
    written = capsys.readouterr()
    stages = [line[:5] for line in written.err.splitlines() if line.startswith("[")]
    # No streets are drawn when there is Cityscapes.
    assert stages == ["[2/5]", "[3/5]", "[4/5]", "[5/5]"]
    rows = json.loads((out / "demo.json").read_text())["rows"]
    names = ["model.keras", "fp32.tflite", "fp16.tflite", "w8.tflite", "int8.tflite"]
    assert [row["file"] for row in rows] == names
    scores = [row["mean_iou"] for row in rows]
    # fp32 is the same function as the model: a tie a pixel may fall the other way.
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    for row in rows[1:]:
        assert row["bytes"] == (out / row["file"]).stat().st_size
        assert row["cpu_seconds"] > 0
    table = written.out.splitlines()[:7]
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in names]
    report = (out / "report.html").read_text()
    assert report.count("data:image/png") == 2 + 2  # two scenes, two plots
    assert "traffic light" in report
    # Image, label, fp32 and int8 side by side, two scenes, with gaps of 4.
    assert Image.open(out / "scenes.png").size == (4 * 128 + 3 * 4, 2 * 64 + 4)


def test_without_an_accelerator(scenes, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "no-driver.json"))
    monkeypatch.setattr(options, "PRECISIONS", ("fp32", "int8"))
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "3"]) == 0
    written = capsys.readouterr().out
    assert "the GPU columns are empty" in written
    assert "no GPU accelerator" in written
