"""Options of a run by what they do to its numbers: encoder, early end, callbacks, XLA."""

import csv
import dataclasses
import os
import shutil
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg
from kseg.cli import main
from kseg.training import TrainingConfig, train
from kseg.training.distribution import Distribution
from kseg.zoo import VARIANTS

RUN = sys.modules["kseg.training.run"]

TINY = dict(model="small", dataset="camvid", batch_size=2, crop=(32, 40))


def history(run_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run_dir / "history.csv").open()))


def assert_same(a: kseg.SegmentationModel, b: kseg.SegmentationModel) -> None:
    for first, second in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


class Terminate(keras.callbacks.Callback):
    """Sends SIGTERM at the ``count``-th call of a hook, from 1."""

    def __init__(self, hook: str, count: int) -> None:
        super().__init__()
        self.count = count
        setattr(self, hook, self._called)

    def _called(self, *_args, **_kwargs) -> None:
        self.count -= 1
        if not self.count:
            os.kill(os.getpid(), signal.SIGTERM)


class Weights(keras.callbacks.Callback):
    """What the layers have at the end of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, list[np.ndarray]]] = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({layer.name: layer.get_weights() for layer in self.model.layers})


def test_the_rate_of_the_encoder_reaches_it_alone(small_keras, tiny_camvid, tmp_path):
    """The first step of SGD is the rate times the gradient, which is the same."""
    config = TrainingConfig(
        **TINY,
        steps=1,
        val_split=None,
        init=str(small_keras),
        **dict(optimizer="sgd", learning_rate=0.1, weight_decay=0.0, schedule="step"),
    )
    start = keras.models.load_model(small_keras)
    one = train(config, tiny_camvid, tmp_path / "one")
    slow = train(dataclasses.replace(config, encoder_rate=0.1), tiny_camvid, tmp_path / "slow")
    factors = {}
    for before, a, b in zip(
        start.trainable_variables, one.trainable_variables, slow.trainable_variables, strict=True
    ):
        first, second = np.asarray(a) - before, np.asarray(b) - before
        factors[a.path] = np.sum(first * second) / np.sum(first**2)
    want = {path: 1.0 if path.startswith("classifier") else 0.1 for path in factors}
    assert len(set(want.values())) == 2
    # float32 of a difference of weights
    assert factors == pytest.approx(want, rel=1e-2)


FROZEN = TrainingConfig(**TINY, epochs=2, val_split=None, freeze_encoder_epochs=1, ema=0.9)


@pytest.fixture(scope="module")
def frozen(small_row, tiny_camvid, tmp_path_factory) -> tuple[kseg.SegmentationModel, Weights]:
    folder = tmp_path_factory.mktemp("runs") / "frozen"
    seen = Weights()
    return train(FROZEN, tiny_camvid, folder, callbacks=[seen]), seen


def test_the_encoder_stays_in_the_first_epoch(frozen, tmp_path):
    """Kernels, scales and statistics; afterwards all of them move."""
    keras.utils.set_random_seed(0)
    start = kseg.create_model("small", num_classes=11)
    first, second = frozen[1].epochs
    moved = {"first": set(), "second": set()}
    for layer in start.layers:
        for epoch, before, after in (
            ("first", layer.get_weights(), first[layer.name]),
            ("second", first[layer.name], second[layer.name]),
        ):
            changes = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
            assert not any(changes) or all(changes)
            if any(changes):
                moved[epoch].add(layer.name)
    assert moved["first"] == {"classifier"}
    assert moved["second"] == {layer.name for layer in start.layers if layer.weights}


@pytest.mark.parametrize("step", [2, 3, 5], ids=["frozen", "its last step", "not any more"])
def test_a_frozen_start_is_resumed_to_the_bit(step, frozen, tiny_camvid, tmp_path):
    with pytest.raises(SystemExit):
        train(FROZEN, tiny_camvid, tmp_path, callbacks=[Terminate("on_train_batch_begin", step)])
    (state,) = (tmp_path / "checkpoints").glob("*.weights.h5")
    assert state.name.startswith(f"step-{step:08d}")
    assert_same(train(FROZEN, tiny_camvid, tmp_path), frozen[0])


def test_a_schedule_goes_on_behind_the_frozen_epochs(frozen, tiny_camvid, tmp_path):
    """A cosine over six steps, at the end of each of two epochs."""
    config = dataclasses.replace(FROZEN, schedule="cosine", learning_rate=0.01)
    train(config, tiny_camvid, tmp_path)
    rates = [float(row["learning_rate"]) for row in history(tmp_path)]
    assert rates == pytest.approx([0.005, 0.0], abs=1e-9)


PATIENT = TrainingConfig(
    **TINY, epochs=9, patience=2, learning_rate=1e-30, batch_norm="frozen", class_weights=None
)


def test_early_end(tiny_camvid, tmp_path, capsys):
    """Weights that do not move score the same: the first is the best, and two more are waited for.

    The run is left in the second score, and once more before the model is written.
    """
    terminate = Terminate("on_test_batch_begin", 3)
    with pytest.raises(SystemExit):
        train(PATIENT, tiny_camvid, tmp_path, callbacks=[terminate])
    assert len(history(tmp_path)) == 1
    train(PATIENT, tiny_camvid, tmp_path)
    assert "2 scores no better than" in capsys.readouterr().err
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2", "3"]
    (tmp_path / "model.keras").unlink()
    train(PATIENT, tiny_camvid, tmp_path)
    assert len(history(tmp_path)) == 3
    assert (tmp_path / "model.keras").exists()


def test_a_better_score_is_waited_for_anew():
    early = RUN.EarlyStop(patience=2, best=0.5, waited=1)
    early.set_model(keras.Model())
    for score, over in ((0.6, False), (0.6, False), (None, False), (0.5, True)):
        early.on_epoch_end(0, {} if score is None else {"val_mean_iou": score})
        assert early.is_over is over
    assert early.model.stop_training


class Events(keras.callbacks.Callback):
    """What a user's callback is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def on_train_begin(self, logs=None):
        self.seen.append(("begin", self.params["epochs"], self.params["steps"]))

    def on_epoch_end(self, epoch, logs):
        self.seen.append((epoch, logs["loss"], logs["val_mean_iou"]))

    def on_train_end(self, logs=None):
        self.seen.append(("end", logs["val_mean_iou"]))


def test_callbacks_of_the_user(tiny_camvid, tmp_path):
    """A run of three calls of ``fit``, left in the second one's score and resumed."""
    config = TrainingConfig(**TINY, steps=8, final_crop=(48, 64), final_epochs=2)
    events = [Events(), Events()]
    with pytest.raises(SystemExit):
        train(
            config,
            tiny_camvid,
            tmp_path,
            callbacks=[events[0], Terminate("on_test_batch_begin", 3)],
        )
    train(config, tiny_camvid, tmp_path, callbacks=[events[1]])
    rows = [
        (int(r["epoch"]) - 1, float(r["loss"]), float(r["val_mean_iou"])) for r in history(tmp_path)
    ]
    assert len(rows) == 3
    assert events[0].seen == [("begin", 3, 3), rows[0]]
    assert events[1].seen == [("begin", 3, 3), rows[1], rows[2], ("end", rows[2][2])]


def test_a_callback_may_end_the_run(tiny_camvid, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    config = TrainingConfig(**TINY, epochs=3, final_crop=(48, 64), final_epochs=2, val_split=None)
    train(config, tiny_camvid, tmp_path, callbacks=[Stop()])
    assert len(history(tmp_path)) == 1


def test_xla_compiles_steps_and_no_score(tiny_camvid, tmp_path, monkeypatch):
    """Losses as without it; a score of three sizes is traced for sizes in general."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_camvid, folder)
    for number, size in enumerate([(64, 48), (72, 56), (80, 40)]):
        for split, kind in (("val", "RGB"), ("valannot", "L")):
            Image.new(kind, size, number).save(folder / split / f"{number:03d}.png")
    compiled, traces = [], []
    real, real_step = tf.function, kseg.SegmentationModel.test_step

    def function(step=None, **options):
        compiled.append((getattr(step, "__name__", ""), options.get("jit_compile")))
        return real(step, **options)

    def test_step(self, data):
        traces.append(data[0].shape)
        return real_step(self, data)

    monkeypatch.setattr(tf, "function", function)
    monkeypatch.setattr(kseg.SegmentationModel, "test_step", test_step)
    config = TrainingConfig(**TINY, epochs=2)
    losses = {}
    for xla in (False, True):
        compiled.clear()
        traces.clear()
        train(dataclasses.replace(config, xla=xla), folder, tmp_path / f"{xla}")
        losses[xla] = [
            float(row[name])
            for row in history(tmp_path / f"{xla}")
            for name in ("loss", "val_loss")
        ]
        # Training first, then the score.
        flags = [flag for name, flag in compiled if name == "one_step_on_data"]
        assert flags == [xla, False]
        # Once, for any size.
        assert len(traces) == 1
    # float32 sums in another order
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--freeze-encoder-epochs", -1), "--freeze-encoder-epochs is -1; it must not be negative"),
        (("--encoder-rate", 0), "--encoder-rate is 0.0; it must be above 0"),
        (("--patience", 0), "patience is 0; it must be at least 1"),
        (("--patience", 2, "--val-split", "none"), "patience is 2, and nothing is scored"),
        (("--schedule", "linear"), "schedule is 'linear'; it must be one of poly, cosine, step"),
    ],
)
def test_refusals(extra, message, tiny_camvid, tmp_path, capsys):
    arguments = [
        *("train", "--model", "small", "--dataset", "camvid", "--data-dir", tiny_camvid),
        *("--run-dir", tmp_path / "run", "--crop", 32, 40, "--batch-size", 2, "--epochs", 1),
        *extra,
    ]
    assert main([*map(str, arguments)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(xla=True), "xla compiles for one device, and here are 2 replicas"),
        (
            dict(accumulate=2),
            "accumulate is 2, and here are 2 replicas, whose batches Keras cannot",
        ),
    ],
)
def test_what_one_device_does_alone(options, message, tiny_camvid, tmp_path, monkeypatch):
    two = Distribution(tf.distribute.get_strategy(), replicas=2, rank=0, workers=1)
    monkeypatch.setattr(RUN, "open_distribution", lambda kind: two)
    with pytest.raises(kseg.KsegError, match=message):
        train(TrainingConfig(**TINY, **options), tiny_camvid, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefixes", [(), ("stem", "stage", "classifier")])
def test_no_encoder_apart(prefixes, tiny_camvid, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "small", VARIANTS["small"].replace(backbone=prefixes))
    config = TrainingConfig(**TINY, freeze_encoder_epochs=1)
    with pytest.raises(kseg.KsegError, match="small has no encoder apart from the rest; leave enc"):
        train(config, tiny_camvid, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_callback(tiny_camvid, tmp_path):
    with pytest.raises(kseg.KsegError, match="callbacks has 'wandb'; each must be a Callback"):
        train(TrainingConfig(**TINY), tiny_camvid, tmp_path / "run", callbacks=["wandb"])
