"""The run folder: complete, resumable to the same bits, and its own."""

import contextlib
import csv
import dataclasses
import errno
import gc
import io
import json
import os
import shutil
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
from kseg import checkpoints, shipped
from kseg.cli import main
from kseg.data import open_dataset
from kseg.errors import KsegWarning
from kseg.files import check_room
from kseg.loading import load, ship
from kseg.training import TrainingConfig, callbacks, train
from kseg.training.callbacks import Checkpoint
from kseg.training.inputs import default_crop
from kseg.training.losses import SegmentationLoss
from kseg.training.metrics import MeanIoU
from kseg.training.optimizers import make_optimizer
from kseg.training.pipeline import whole_images
from kseg.training.run import stretches
from support import jump_clock, random_tensors, room_for, with_small, write_camvid


def arguments(folder: Path, run_dir: Path, *extra: object) -> list[str]:
    base = [
        *("train", "--model", "small", "--dataset", "camvid"),
        *("--data-dir", folder, "--run-dir", run_dir),
        *("--batch-size", 2, "--crop", 32, 40, "--epochs", 3),
    ]
    return [str(a) for a in (*base, *extra)]


RUN = sys.modules["kseg.training.run"]

TINY = dict(
    model="small",
    dataset="camvid",
    batch_size=2,
    crop=(32, 40),
)


def history(run_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run_dir / "history.csv").open()))


def weights(path: Path) -> list[np.ndarray]:
    return keras.models.load_model(path).get_weights()


@pytest.fixture(scope="module")
def undisturbed(tiny_camvid, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        assert main(arguments(tiny_camvid, run_dir)) == 0
    assert "images/s" in stderr.getvalue()
    assert "left, val mIoU" in stderr.getvalue()
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


def test_killed_run_ends_where_the_undisturbed_did(undisturbed, tiny_camvid, tmp_path, capsys):
    run_dir = tmp_path / "killed"
    command = [*with_small(), *arguments(tiny_camvid, run_dir)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = run_dir / "checkpoints/step-00000003.weights.h5"
    deadline = time.monotonic() + 300
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    before = sorted(run_dir.rglob("*"))
    assert main(arguments(tiny_camvid, run_dir)) == 1
    assert f"{run_dir}: process {process.pid} on " in capsys.readouterr().err
    assert sorted(run_dir.rglob("*")) == before
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run_dir / "model.keras").exists()
    (run_dir / "checkpoints/.kseg-unfinished-left").mkdir()
    jump_clock(run_dir)

    assert main(arguments(tiny_camvid, run_dir)) == 0
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
    assert not list(run_dir.rglob(".*"))


def test_a_complete_run_stays(undisturbed, tiny_camvid, capsys):
    before = (undisturbed / "model.keras").read_bytes()
    assert main(arguments(tiny_camvid, undisturbed)) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert (undisturbed / "model.keras").read_bytes() == before


def test_another_configuration_is_refused(undisturbed, tiny_camvid, capsys):
    assert main(arguments(tiny_camvid, undisturbed, "--seed", 5, "--epochs", 4)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "epochs was 3 and is 4, seed was 0 and is 5" in line


def test_other_data_is_refused(undisturbed, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    write_camvid(tmp_path / "data", {"train": 4, "val": 1})
    assert main(arguments(tmp_path / "data", undisturbed)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds a run of another configuration (samples were '6 (" in line


def test_changed_data_is_refused(undisturbed, tiny_camvid, tmp_path, capsys):
    """A copy elsewhere, and a file that was written again, are the same data."""
    copy, run_dir = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(tiny_camvid, copy)
    shutil.copytree(undisturbed, run_dir)
    (copy / "train/000.png").write_bytes((copy / "train/000.png").read_bytes())
    assert main(arguments(copy, run_dir)) == 0
    assert "this run is complete" in capsys.readouterr().out
    for name, which in (("train/002.png", "to train on"), ("valannot/001.png", "to score on")):
        path = copy / name
        content = path.read_bytes()
        Image.fromarray(np.array(Image.open(path))[::-1]).save(path)
        assert main(arguments(copy, run_dir)) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{run_dir}: images, labels or classes of the data {which} have changed" in line
        path.write_bytes(content)
    record = json.loads((run_dir / "config.json").read_text())
    del record["fingerprints"]
    (run_dir / "config.json").write_text(json.dumps(record))
    assert main(arguments(copy, run_dir)) == 0
    assert "an earlier kseg, which kept no fingerprint of the data" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_not_kept(small_keras, tmp_path):
    """The last update of an epoch may do it, which the next step's loss would tell."""
    model = load(small_keras)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.set_model(model)
    checkpoint.save()
    kernel = model.get_layer("classifier").kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    checkpoint.steps.done = 5
    with pytest.raises(kseg.KsegError, match="step 5: classifier/kernel is no longer finite"):
        checkpoint.save()
    assert checkpoint.steps_saved() == [0]


def test_not_every_epoch_is_scored(tiny_camvid, tmp_path):
    train(TrainingConfig(**TINY, epochs=3, validate_every=2), tiny_camvid, tmp_path)
    assert [bool(row["val_mean_iou"]) for row in history(tmp_path)] == [False, True, False]
    assert (tmp_path / "checkpoints/best.keras").exists()


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
    options = dict(val_split=None, class_weights=None, init_part="backbone")
    config = TrainingConfig(**TINY, steps=4, **options)
    with pytest.warns(KsegWarning, match="init_part is 'backbone', and the run begins with random"):
        train(config, tiny_camvid, tmp_path)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [(r["epoch"], r["step"], r["val_mean_iou"]) for r in rows] == [
        ("1", "3", ""),
        ("2", "4", ""),
    ]


def test_the_last_epochs_may_have_another_crop(tiny_camvid, tmp_path, monkeypatch):
    """5 steps are 2 epochs, the last one short; resumed, the stream starts at its step."""
    streams = []
    real = RUN.augmented

    def augmented(*args, **options):
        assert args[1].rotate == 5
        streams.append((args[1].crop, options["start_step"], options["samplers"].uniform.share))
        return real(*args, **options)

    monkeypatch.setattr(RUN, "augmented", augmented)
    extra = ("--final-crop", 48, 64, "--final-epochs", 1, "--steps", 5, "--val-split", "none")
    extra += ("--class-uniform", 0.5, "--class-mix", 0.5, "--rotate", 5, "--randaugment", 2, 9)
    extra += ("--blur", 1, "--noise", 5, "--jpeg", 50)
    assert main(arguments(tiny_camvid, tmp_path, *extra)) == 0
    assert streams == [((32, 40), 0, 0.5), ((48, 64), 3, 0.5)]
    (state,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    assert state.name == "step-00000005.weights.h5"


@pytest.mark.parametrize("shipped_name", [None, "tiny:small"])
def test_init_starts_from_weights(shipped_name, small_keras, tiny_camvid, tmp_path, monkeypatch):
    """A learning rate of nearly nothing leaves the imported kernels as they were."""
    from safetensors.numpy import save_file

    model = load(small_keras)
    tensors = random_tensors(model)
    if shipped_name:
        monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
        checkpoints.assign(model, tensors)
        ship(model, "tiny", {})
    else:
        save_file(tensors, tmp_path / "x.safetensors")
    init = shipped_name or tmp_path / "x.safetensors"
    extra = ("--init", init, "--steps", 1, "--learning-rate", 1e-30)
    assert main(arguments(tiny_camvid, tmp_path / "run", *extra, "--val-split", "none")) == 0
    model = keras.models.load_model(tmp_path / "run/model.keras")
    want = tensors["stem.conv.weight"].transpose(2, 3, 1, 0)
    if shipped_name:
        # As it is shipped.
        want = want.astype(np.float16)
    np.testing.assert_allclose(model.get_layer("stem.conv").kernel, want, rtol=1e-6)


def test_the_average_is_scored_and_kept(tiny_camvid, tmp_path, monkeypatch):
    """Four steps' weights, averaged here; the last state holds the raw ones."""
    steps = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([w.numpy() for w in self.model.trainable_variables])

    monkeypatch.setattr(RUN, "OneScore", Record)
    config = TrainingConfig(**TINY, steps=4, ema=0.75)
    model = train(config, tiny_camvid, tmp_path)
    want = steps[0]
    for values in steps[1:]:
        want = [0.75 * a + 0.25 * b for a, b in zip(want, values, strict=True)]
    for got, average, last in zip(model.trainable_variables, want, steps[-1], strict=True):
        # float32 sums
        np.testing.assert_allclose(got, average, atol=1e-6)
        assert np.abs(average - last).max() > 1e-5

    scored = whole_images(open_dataset("camvid", tiny_camvid, "val")).batch(1)
    model.compile(metrics=[MeanIoU(11)], loss=SegmentationLoss())
    score = model.evaluate(scored, verbose=0, return_dict=True)["mean_iou"]
    rows = history(tmp_path)
    assert float(rows[-1]["val_mean_iou"]) == pytest.approx(score, abs=1e-6)
    # The last state goes on from the weights themselves.
    (state,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    raw = kseg.create_model("small", num_classes=11)
    raw.compile(make_optimizer(config, raw, 4, 3))
    raw.load_weights(state)
    for got, last in zip(raw.trainable_variables, steps[-1], strict=True):
        np.testing.assert_array_equal(got, last)


def terminated(hook: str, count: int) -> type[keras.callbacks.Callback]:
    """A callback that sends SIGTERM at so many calls of a hook, counted from 1."""

    class Terminated(keras.callbacks.Callback):
        count = 0

        def _called(self, *_args, **_kwargs):
            self.count += 1
            if self.count == count:
                os.kill(os.getpid(), signal.SIGTERM)

    setattr(Terminated, hook, Terminated._called)
    return Terminated


@pytest.mark.parametrize(
    ("hook", "count", "step"),
    [
        ("on_train_batch_begin", 5, 5),
        ("on_train_batch_begin", 6, 6),
        ("on_test_batch_begin", 1, 3),
        ("on_test_batch_begin", 5, 9),
    ],
    ids=["within an epoch", "its last step", "the score", "the last score"],
)
def test_a_signal_leaves_a_run_that_goes_on(
    hook, count, step, undisturbed, tiny_camvid, tmp_path, monkeypatch, capsys
):
    """In one of three epochs; the end has the undisturbed run's bits, scores and best model."""
    monkeypatch.setattr(RUN, "OneScore", terminated(hook, count))
    config = TrainingConfig(**TINY, epochs=3)
    with pytest.raises(SystemExit) as caught:
        train(config, tiny_camvid, tmp_path)
    assert caught.value.code == 143
    (state,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    assert state.name == f"step-{step:08d}-open.weights.h5"
    assert (tmp_path / "history.csv").exists() == (step > 3)
    assert f"saved at step {step}; the same command goes on from there" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)
    monkeypatch.undo()
    train(config, tiny_camvid, tmp_path)
    for file in ("model.keras", "checkpoints/best.keras"):
        for a, b in zip(weights(tmp_path / file), weights(undisturbed / file), strict=True):
            np.testing.assert_array_equal(a, b)
    # Of an epoch that was left within, the training's own are of what came after.
    columns = ["step", "learning_rate", "val_loss", "val_mean_iou"]
    columns += ["loss", "mean_iou"] * (step % 3 == 0)
    rows, want = history(tmp_path), history(undisturbed)
    assert [[r[c] for c in columns] for r in rows] == [[r[c] for c in columns] for r in want]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_dropout_and_the_loss_scale_go_on_too(precision, tiny_camvid, tmp_path, monkeypatch):
    """Steps that overflow halve the scale; the first of them comes before the signal."""
    config = TrainingConfig(
        **TINY, steps=5, val_split=None, precision=precision, options={"dropout": 0.5}
    )
    want = train(config, tiny_camvid, tmp_path / "undisturbed").get_weights()
    monkeypatch.setattr(RUN, "OneScore", terminated("on_train_batch_begin", 2))
    with pytest.raises(SystemExit):
        train(config, tiny_camvid, tmp_path / "left")
    monkeypatch.undo()
    got = train(config, tiny_camvid, tmp_path / "left").get_weights()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    undropped = dataclasses.replace(config, options={})
    other = train(undropped, tiny_camvid, tmp_path / "undropped").get_weights()
    assert any(np.abs(a - b).max() > 0 for a, b in zip(other, want, strict=True))


def test_a_loss_that_is_no_number_stops(tiny_camvid, tmp_path):
    """The second epoch's rate throws the weights away; the first one's state stays."""
    config = TrainingConfig(**TINY, epochs=3, learning_rate=1e-3)
    train(dataclasses.replace(config, epochs=1), tiny_camvid, tmp_path / "good")
    (tmp_path / "bad/checkpoints").mkdir(parents=True)
    state = tmp_path / "bad/checkpoints/step-00000003.weights.h5"
    state.write_bytes(next((tmp_path / "good/checkpoints").glob("*.h5")).read_bytes())
    bad = dataclasses.replace(config, learning_rate=1e30)
    with pytest.raises(kseg.KsegError, match=r"step [456]: the loss is (nan|inf) on 00\d, 00\d; "):
        train(bad, tiny_camvid, tmp_path / "bad")
    assert [p.name for p in (tmp_path / "bad/checkpoints").iterdir()] == [state.name]


def test_a_full_disk_leaves_the_state_before(tiny_camvid, tmp_path, monkeypatch):
    real = kseg.SegmentationModel.save_weights
    saved = []

    def save_weights(self, path):
        saved.append(path)
        real(self, path)
        if len(saved) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kseg.SegmentationModel, "save_weights", save_weights)
    with pytest.raises(kseg.KsegError, match=r"step-00000006-open.weights.h5: cannot be written"):
        train(TrainingConfig(**TINY, epochs=3, val_split=None), tiny_camvid, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003.weights.h5"]


def test_training_heads(tiny_camvid, tmp_path, capsys):
    """Two, with weights of their own; the model that stays has one output."""
    config = TrainingConfig(
        **TINY,
        auxiliary=(0.4, 0.16),
        steps=2,
    )
    model = train(config, tiny_camvid, tmp_path)
    assert model.output_shape == (None, None, None, 11)
    (row,) = history(tmp_path)
    assert 0 <= float(row["mean_iou"]) <= 1
    assert 0 <= float(row["val_mean_iou"]) <= 1
    with pytest.raises(kseg.KsegError, match=r"has the training heads half, quarter, and each"):
        train(dataclasses.replace(config, auxiliary=(1.0,)), tiny_camvid, tmp_path / "other")


def test_frozen_batch_norm(small_keras, tiny_camvid, tmp_path):
    extra = dict(steps=2, init=str(small_keras), val_split=None)
    model = train(TrainingConfig(**TINY, **extra, batch_norm="frozen"), tiny_camvid, tmp_path)
    before = keras.models.load_model(small_keras)
    moved = 0
    for layer in model.layers:
        pairs = list(zip(layer.weights, before.get_layer(layer.name).weights, strict=True))
        if isinstance(layer, keras.layers.BatchNormalization):
            for a, b in pairs:
                np.testing.assert_array_equal(a, b)
        else:
            moved += sum(np.abs(a.numpy() - b.numpy()).max() > 1e-5 for a, b in pairs)
    assert moved == 5


def test_accumulated_batches_make_one_update(small_keras, tiny_camvid, tmp_path):
    """Two batches of two against one of four; BatchNorm frozen, or it would see the parts."""
    common = {
        **TINY,
        **dict(init=str(small_keras), val_split=None, batch_norm="frozen", schedule="step"),
        **dict(optimizer="sgd", weight_decay=0.0, learning_rate=0.1),
    }
    one = train(TrainingConfig(**{**common, "batch_size": 4}, steps=1), tiny_camvid, tmp_path / "1")
    two = train(TrainingConfig(**common, steps=2, accumulate=2), tiny_camvid, tmp_path / "2")
    start = keras.models.load_model(small_keras).get_weights()
    for a, b, c in zip(one.get_weights(), two.get_weights(), start, strict=True):
        # Sums of float32 in another order.
        np.testing.assert_allclose(a - c, b - c, atol=2e-6)
    assert max(np.abs(a - c).max() for a, c in zip(one.get_weights(), start, strict=True)) > 1e-3


def test_mixed_precision_keeps_float32(tiny_camvid, tmp_path):
    """bfloat16 has 8 bits: the loss differs from float32's, in the third digit."""
    losses = {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        # Frozen, or the statistics' gradients are most of the graph.
        config = TrainingConfig(
            **TINY, steps=1, val_split=None, precision=precision, batch_norm="frozen"
        )
        model = train(config, tiny_camvid, tmp_path / precision)
        assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}
        assert model.dtype_policy.name == "float32"
        losses[precision] = float(history(tmp_path / precision)[0]["loss"])
    assert losses["mixed_bfloat16"] != losses["float32"]
    assert losses["mixed_bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)
    assert losses["mixed_float16"] == pytest.approx(losses["float32"], rel=1e-3)


def test_init_from_a_model_with_another_head(small_keras, tiny_camvid, tmp_path):
    """19 classes from 11: all but the classifier is taken over."""
    other = kseg.create_model("small", num_classes=19)
    other.card = other.card.replace(trained_splits=("camvid val",))
    other.save(tmp_path / "other.keras")
    config = TrainingConfig(
        **TINY, steps=1, learning_rate=1e-30, init=str(tmp_path / "other.keras")
    )
    with pytest.raises(kseg.KsegError, match=r"other.keras: small with 19 classes does not"):
        train(config, tiny_camvid, tmp_path / "run")
    config = dataclasses.replace(config, init_part="all-but-classifier")
    with pytest.warns(kseg.errors.KsegWarning, match="trained on camvid val; the score on val"):
        model = train(config, tiny_camvid, tmp_path / "run")
    assert load(tmp_path / "run/model.keras").card == model.card
    assert model.card.trained_splits == ("camvid val", "camvid train")
    name = "stage.conv"
    np.testing.assert_allclose(
        model.get_layer(name).kernel, other.get_layer(name).kernel, rtol=1e-6
    )


def test_an_encoder_starts_the_network_around_it(tmp_path):
    """ESPNet's two stages: what ESPNet-C learned is the encoder of ESPNet."""
    encoder = kseg.create_model("espnet_c", num_classes=5, q=2)
    encoder.save(tmp_path / "c.keras")
    model = kseg.create_model("espnet", num_classes=5, q=2)
    checkpoints.copy(model, load(tmp_path / "c.keras"), part="backbone")
    found = [layer for layer in encoder.layers if layer.weights and "classifier" not in layer.name]
    assert len(found) > 20
    for layer in found:
        for a, b in zip(
            layer.get_weights(), model.get_layer(f"encoder.{layer.name}").get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_what_is_left_of_a_run():
    config = TrainingConfig(**TINY, epochs=5, final_epochs=2, final_crop=(64, 64))

    def left(step, steps=50):
        found = stretches(config, step=step, steps=steps, epoch_steps=10)
        return [(s.first_epoch, s.end_epoch, s.length, s.crop[0], s.step) for s in found]

    assert left(0) == [(0, 3, 10, 32, 0), (3, 5, 10, 64, 30)]
    assert left(20) == [(2, 3, 10, 32, 20), (3, 5, 10, 64, 30)]
    assert left(14) == [(1, 2, 6, 32, 14), (2, 3, 10, 32, 20), (3, 5, 10, 64, 30)]
    assert left(37) == [(3, 4, 3, 64, 37), (4, 5, 10, 64, 40)]
    assert left(0, 44) == [(0, 3, 10, 32, 0), (3, 4, 10, 64, 30), (4, 5, 4, 64, 40)]
    assert left(41, 44) == [(4, 5, 3, 64, 41)]
    assert left(50) == []


def test_pictures_for_tensorboard(undisturbed):
    """Read back from the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(undisturbed / "tensorboard/pictures"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = sorted(events.Tags()["tensors"])
    assert tags == [
        "confusion matrix",
        "image, label, prediction/000",
        "image, label, prediction/001",
    ]
    first = events.Tensors(tags[-1])
    assert [event.step for event in first] == [1, 2, 3]
    width, height, png = first[0].tensor_proto.string_val[:3]
    assert (int(width), int(height)) == (3 * 64 + 2 * 4, 48)
    assert png.startswith(b"\x89PNG")
    rates = EventAccumulator(str(undisturbed / "tensorboard/train"), size_guidance={"tensors": 0})
    rates.Reload()
    assert "epoch_learning_rate" in rates.Tags()["tensors"]


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
        (
            ("--accumulate", 4, "--steps", 3),
            "accumulate is 4; a run of 3 batches would make no update",
        ),
        (("--epochs", 0), "epochs is 0"),
        (("--steps", -1), "steps is -1"),
        (("--seed", -1), "seed is -1; it must be 0 to 4294967295"),
        (("--learning-rate", 0), "learning-rate is 0"),
        (("--weight-decay", -1), "weight-decay is -1"),
        (("--optimizer", "lion"), "optimizer is 'lion'; it must be one of adamw, adam, sgd"),
        (("--batch-norm", "group"), "batch-norm is 'group'"),
        (("--clip-norm", 0), "clip-norm is 0.0"),
        (("--warmup-steps", -1), "warmup-steps is -1"),
        (("--loss", "hinge"), "loss is 'hinge'; its parts must be of cross_entropy"),
        (("--loss", "none"), "loss is 'none'; its parts must be of cross_entropy"),
        (("--split", "none"), "keeps the images of split 'none' there"),
        (("--weight-decay", "nan"), "--weight-decay is nan; it must be a finite number"),
        (("--learning-rate", "inf"), "--learning-rate is inf; it must be a finite number"),
        (("--clip-norm", "nan"), "--clip-norm is nan; it must be a finite number or None"),
        (("--scale", "nan", "1"), "scale is (nan, 1.0); it must be two finite numbers"),
        (("--auxiliary", "inf"), "auxiliary is (inf,); it must be finite numbers"),
        (("--model", "espnet", "--auxiliary", 0.4), "no option 'auxiliary'"),
        (("--init", "/nowhere.keras"), "/nowhere.keras: no such file"),
        (("--recipe", "cgnet_kamvid"), "unknown recipe 'cgnet_kamvid'; did you mean cgnet_camvid"),
        (("--distribution", "many"), "distribution is 'many'"),
        (("--distribution", "multiworker"), "needs the variable TF_CONFIG"),
        (("--final-epochs", 2), "--final-crop is None and --final-epochs is 2; give both or none"),
        (("--class-weights", 0.9), "c = 0.9"),
        (("--batch-size", 99), "fewer than the batch size 99"),
        (("--dataset", "kitti"), "unknown data set 'kitti'"),
        (("--model", "vnet"), "unknown model 'vnet'"),
        (("--data-dir", "/nowhere"), "/nowhere/train: no such folder"),
        (("--crop", 0, 40), "crop is (0, 40)"),
        (("--scale", 2, 1), "scale is (2.0, 1.0)"),
        (("--model", "enet", "--crop", 6, 40), "enet: an input of 6x40 (HxW) is too small"),
        (("--options", '{"preprocessing": false}'), "options has preprocessing; small has"),
        (("--options", '{"auxiliary": true}'), "options has auxiliary; small has"),
    ],
)
def test_refusals(extra, message, tiny_camvid, tmp_path, capsys):
    assert main(arguments(tiny_camvid, tmp_path / "run", *extra)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    # The command with the value put right may take the folder.
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--class-weights", "many"), "invalid float value: 'many'"),
        (("--options", "[1]"), "must be a JSON object"),
    ],
)
def test_usage(extra, message, tiny_camvid, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(tiny_camvid, tmp_path / "run", *extra))
    assert message in capsys.readouterr().err


def test_a_run_that_fails_leaves_no_threads(tmp_path):
    """tf.data's iterator is gone, which would wait for its threads where the interpreter ends."""

    def iterators() -> set[int]:
        return {id(x) for x in gc.get_objects() if type(x).__name__ == "OwnedIterator"}

    write_camvid(tmp_path, {"train": 4, "val": 1})
    path = tmp_path / "train/001.png"
    path.write_bytes(path.read_bytes()[:-300])
    before = iterators()
    assert main(arguments(tmp_path, tmp_path / "run")) == 1
    assert iterators() <= before


def test_a_damaged_image_may_be_left_out(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    write_camvid(folder, {"train": 4, "val": 1})
    path = folder / "train/001.png"
    path.write_bytes(path.read_bytes()[:-300])
    Image.new("L", (64, 48), 77).save(folder / "trainannot/002.png")
    extra = ("--bad-images", "skip", "--epochs", 2)
    assert main(arguments(folder, tmp_path / "run", *extra)) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum("kseg: left out" in line and "train/001.png" in line for line in lines) == 1
    assert sum("kseg: left out" in line and "has ids [77]" in line for line in lines) == 1
    assert lines[-1] == "kseg: 2 images could not be read and were left out"


def test_a_damaged_validation_image_may_be_left_out(tmp_path, capsys):
    """Its score is that of the others; it may have the name of a training image."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_camvid(folder, {"train": 4, "val": 3})
    damaged = folder / "val/001.png"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    Image.new("L", (64, 48), 77).save(folder / "trainannot/001.png")
    extra = ("--bad-images", "skip", "--epochs", 1, "--class-weights", "none")
    assert main(arguments(folder, tmp_path / "run", *extra)) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum("kseg: left out" in line and "val/001.png" in line for line in lines) == 1
    assert lines[-1] == "kseg: 2 images could not be read and were left out"
    model = load(tmp_path / "run/model.keras")
    others = open_dataset("camvid", folder, "val")
    others = dataclasses.replace(others, samples=(others.samples[0], others.samples[2]))
    model.compile(metrics=[MeanIoU(11)], loss=SegmentationLoss())
    want = model.evaluate(whole_images(others).batch(1), verbose=0, return_dict=True)
    (row,) = history(tmp_path / "run")
    assert float(row["val_mean_iou"]) == pytest.approx(want["mean_iou"], abs=1e-6)
    assert float(row["val_loss"]) == pytest.approx(want["loss"], rel=1e-5)

    for name in ("000", "002"):
        (folder / f"val/{name}.png").write_bytes(b"")
    assert main(arguments(folder, tmp_path / "none", *extra)) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "camvid val: none of the 3 samples can be read" in last


def test_one_class_says_what_to_do(tmp_path, capsys):
    for name in ("images", "labels"):
        for split in ("train", "val"):
            (tmp_path / name / split).mkdir(parents=True)
            picture = Image.new("RGB" if name == "images" else "L", (64, 48))
            for i in range(2):
                picture.save(tmp_path / name / split / f"{i}.png")
    (tmp_path / "classes.txt").write_text("thing\n")
    extra = ("--dataset", "folder", "--data-dir", tmp_path)
    assert main(arguments(tmp_path, tmp_path / "run", *extra)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "folder has one class; " in line
    assert "make two classes, 0 for the rest and 1 for the class" in line
    assert not (tmp_path / "run").exists()


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


def test_no_room_for_a_state(small_row, tmp_path, monkeypatch):
    """HDF5 would end the process; the state before stays, and nothing half-written."""
    model = kseg.create_model("small", num_classes=2)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.set_model(model)
    asked = []
    monkeypatch.setattr(
        callbacks, "check_room", lambda *way: (asked.append(way[1]), check_room(*way))
    )
    checkpoint.save()
    (state,) = checkpoint.states()
    size = state.stat().st_size
    assert size <= asked[0]
    checkpoint.steps.done = 1
    for room in (0, size // 2, size - 1):
        with room_for(room), pytest.raises(kseg.KsegError, match=r"step-00000001.*cannot be wri"):
            checkpoint.save()
        assert list(tmp_path.iterdir()) == [state]
    checkpoint.save()
    assert checkpoint.steps_saved() == [1]
