"""The run folder: complete, resumable to the same bits, and its own."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.cli import main
from kseg.data import open_dataset
from kseg.training import TrainingConfig, train
from kseg.training.run import default_crop
from support import random_tensors, run_kseg, write_camvid


def arguments(folder: Path, run_dir: Path, *extra: object) -> list[str]:
    base = [
        *("train", "--model", "cgnet_m3n21", "--options", '{"m": 2, "n": 2}'),
        *("--dataset", "camvid", "--data-dir", folder, "--run-dir", run_dir),
        *("--batch-size", 2, "--crop", 32, 40, "--epochs", 3),
    ]
    return [str(a) for a in (*base, *extra)]


def weights(path: Path) -> list[np.ndarray]:
    return keras.models.load_model(path).get_weights()


@pytest.fixture(scope="module")
def undisturbed(tiny_camvid, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = run_kseg(*arguments(tiny_camvid, run_dir))
    assert result.returncode == 0, result.stderr
    assert "images/s" in result.stderr
    assert "left, val mIoU" in result.stderr
    return run_dir


def test_run_folder(undisturbed):
    names = {p.name for p in undisturbed.iterdir()}
    assert names == {"config.json", "history.csv", "tensorboard", "checkpoints", "model.keras"}
    checkpoints = sorted(p.name for p in (undisturbed / "checkpoints").iterdir())
    assert checkpoints == ["best.keras", "step-00000009.weights.h5"]
    record = json.loads((undisturbed / "config.json").read_text())
    assert record["config"]["seed"] == 0
    assert record["config"]["crop"] == [32, 40]
    assert record["versions"]["keras"] == keras.__version__
    rows = list(csv.DictReader((undisturbed / "history.csv").open()))
    assert [(r["epoch"], r["step"]) for r in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    # poly: (1 - 3/9) ** 0.9 of the start after the first epoch, zero at the end
    rates = [float(r["learning_rate"]) for r in rows]
    assert rates == pytest.approx([1e-3 * (2 / 3) ** 0.9, 1e-3 * (1 / 3) ** 0.9, 0])
    best = max(float(r["val_mean_iou"]) for r in rows)
    assert 0 <= best <= 1
    assert list((undisturbed / "tensorboard/validation").iterdir())


def test_model_is_for_inference(undisturbed):
    model = keras.models.load_model(undisturbed / "model.keras")
    assert isinstance(model, kseg.SegmentationModel)
    assert model.card.dataset == "camvid"
    assert model.card.class_names[3] == "road"
    assert model.card.input_size == (360, 480)
    assert model.card.weights == "trained by kseg on camvid train"
    assert not model.compiled


def test_killed_run_ends_where_the_undisturbed_did(undisturbed, tiny_camvid, tmp_path):
    run_dir = tmp_path / "killed"
    command = [sys.executable, "-m", "kseg", *arguments(tiny_camvid, run_dir)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = run_dir / "checkpoints/step-00000003.weights.h5"
    deadline = time.monotonic() + 300
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run_dir / "model.keras").exists()

    result = run_kseg(*arguments(tiny_camvid, run_dir))
    assert result.returncode == 0, result.stderr
    for a, b in zip(
        weights(run_dir / "model.keras"), weights(undisturbed / "model.keras"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    columns = ("epoch", "step", "learning_rate", "loss", "mean_iou", "val_loss", "val_mean_iou")
    histories = [
        [[row[c] for c in columns] for row in csv.DictReader((d / "history.csv").open())]
        for d in (run_dir, undisturbed)
    ]
    assert histories[0] == histories[1]


def test_a_complete_run_stays(undisturbed, tiny_camvid, capsys):
    before = (undisturbed / "model.keras").read_bytes()
    assert main(arguments(tiny_camvid, undisturbed)) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert (undisturbed / "model.keras").read_bytes() == before


def test_another_configuration_is_refused(undisturbed, tiny_camvid, capsys):
    assert main(arguments(tiny_camvid, undisturbed, "--seed", 5, "--epochs", 4)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "epochs was 3 and is 4, seed was 0 and is 5" in line


def test_a_damaged_state_is_named(undisturbed, tiny_camvid, tmp_path, capsys):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "config.json").write_bytes((undisturbed / "config.json").read_bytes())
    (run_dir / "checkpoints/step-00000003.weights.h5").write_bytes(b"nothing")
    assert main(arguments(tiny_camvid, run_dir)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "step-00000003.weights.h5: cannot be restored" in line
    (run_dir / "config.json").write_text("{")
    assert main(arguments(tiny_camvid, run_dir)) == 1
    assert "config.json: is damaged" in capsys.readouterr().err


def test_steps_may_end_within_an_epoch(tiny_camvid, tmp_path):
    config = TrainingConfig(
        model="cgnet_m3n21",
        options={"m": 2, "n": 2},
        dataset="camvid",
        batch_size=2,
        crop=(32, 40),
        steps=4,
        val_split=None,
        class_weights=None,
    )
    train(config, tiny_camvid, tmp_path)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [(r["epoch"], r["step"], r["val_mean_iou"]) for r in rows] == [
        ("1", "3", ""),
        ("2", "4", ""),
    ]


def test_the_last_epochs_may_have_another_crop(tiny_camvid, tmp_path, monkeypatch):
    """5 steps are 2 epochs, the last one short; resumed, the stream starts at its step."""
    module = sys.modules["kseg.training.run"]
    streams = []
    real = module.augmented

    def augmented(*args, **options):
        streams.append((options["crop"], options["start_step"]))
        return real(*args, **options)

    monkeypatch.setattr(module, "augmented", augmented)
    extra = ("--final-crop", 48, 64, "--final-epochs", 1, "--steps", 5, "--val-split", "none")
    assert main(arguments(tiny_camvid, tmp_path, *extra)) == 0
    assert streams == [((32, 40), 0), ((48, 64), 3)]
    (state,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    assert state.name == "step-00000005.weights.h5"


def test_init_starts_from_a_checkpoint(tiny_model, tiny_camvid, tmp_path):
    """A learning rate of nearly nothing leaves the imported kernels as they were."""
    from safetensors.numpy import save_file

    tensors = random_tensors(tiny_model)
    save_file(tensors, tmp_path / "x.safetensors")
    extra = ("--init", tmp_path / "x.safetensors", "--steps", 1, "--learning-rate", 1e-30)
    assert main(arguments(tiny_camvid, tmp_path / "run", *extra, "--val-split", "none")) == 0
    model = keras.models.load_model(tmp_path / "run/model.keras")
    want = tensors["level1_0.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(model.get_layer("level1_0.conv").kernel, want, rtol=1e-6)


def test_the_average_is_scored_and_kept(tiny_camvid, tmp_path, monkeypatch):
    """Four steps' weights, averaged here; the last state holds the raw ones."""
    steps = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([w.numpy() for w in self.model.trainable_variables])

    module = sys.modules["kseg.training.run"]
    monkeypatch.setattr(module, "ScoreAverage", lambda: Record())
    config = TrainingConfig(
        model="cgnet_m3n21",
        options={"m": 2, "n": 2},
        dataset="camvid",
        batch_size=2,
        crop=(32, 40),
        steps=4,
        ema=0.75,
    )
    model = train(config, tiny_camvid, tmp_path)
    want = steps[0]
    for values in steps[1:]:
        want = [0.75 * a + 0.25 * b for a, b in zip(want, values, strict=True)]
    for got, average, last in zip(model.trainable_variables, want, steps[-1], strict=True):
        # float32 sums
        np.testing.assert_allclose(got, average, atol=1e-6)
        assert np.abs(average - last).max() > 1e-5

    monkeypatch.undo()
    run_dir = tmp_path / "again"
    train(config, tiny_camvid, run_dir)
    evaluate = module.whole_images(module.open_dataset("camvid", tiny_camvid, "val"), 1)
    model.compile(metrics=[module.MeanIoU(11)], loss=module.CrossEntropy())
    rows = list(csv.DictReader((run_dir / "history.csv").open()))
    score = model.evaluate(evaluate, verbose=0, return_dict=True)["mean_iou"]
    assert float(rows[-1]["val_mean_iou"]) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((360, 480), (360, 480)),
        ((1024, 2048), (512, 1024)),
        ((300, 4096), (75, 1024)),
        (None, (512, 512)),
    ],
)
def test_default_crop(size, crop, tiny_camvid):
    data = open_dataset("camvid", tiny_camvid, "train")
    assert default_crop(dataclasses.replace(data, size=size)) == crop


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--ema", 1), "ema is 1.0"),
        (("--epochs", 0), "epochs is 0"),
        (("--steps", -1), "steps is -1"),
        (("--learning-rate", 0), "learning-rate is 0"),
        (("--weight-decay", -1), "weight-decay is -1"),
        (("--final-epochs", 2), "final-crop is None and final-epochs 2; give both or none"),
        (("--class-weights", 0.9), "c = 0.9"),
        (("--class-weights", "many"), "--class-weights is 'many'"),
        (("--options", "[1]"), "must be a JSON object"),
        (("--batch-size", 99), "fewer than the batch size 99"),
        (("--dataset", "kitti"), "unknown data set 'kitti'"),
        (("--model", "vnet"), "unknown model 'vnet'"),
        (("--data-dir", "/nowhere"), "/nowhere/train: no such folder"),
    ],
)
def test_refusals(extra, message, tiny_camvid, tmp_path, capsys):
    assert main(arguments(tiny_camvid, tmp_path / "run", *extra)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run/model.keras").exists()


def test_a_damaged_image_is_named(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    write_camvid(folder, {"train": 2, "val": 1})
    path = folder / "train/001.png"
    path.write_bytes(path.read_bytes()[:-300])
    assert main(arguments(folder, tmp_path / "run")) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "train/001.png: not a readable image" in last
    Image.new("L", (64, 48), 77).save(folder / "trainannot/000.png")
    assert main(arguments(folder, tmp_path / "run2")) == 1
    assert "trainannot/000.png: has ids [77]" in capsys.readouterr().err
