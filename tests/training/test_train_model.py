"""Training a model at hand on data sets at hand: the run of the configuration, to the bit."""

import csv
import dataclasses
import json
import os
import random
import signal
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.data import CAMVID, open_dataset
from kseg.errors import KsegWarning
from kseg.training import TrainingConfig, prepare, train
from kseg.training import run as run_module
from kseg.training.distribution import Distribution
from kseg.training.initial import initial_model
from support import outputs_of

SETTINGS = dict(batch_size=2, crop=(32, 40), epochs=2)
# Its random state is part of the run too.
OPTIONS = {"dropout": 0.5}


def make_model(seed: int = 0, **options) -> kseg.SegmentationModel:
    keras.utils.set_random_seed(seed)
    return kseg.create_model("small", num_classes=11, **OPTIONS, **options)


@pytest.fixture
def data(tiny_camvid):
    return tuple(open_dataset("camvid", tiny_camvid, split) for split in ("train", "val"))


@pytest.fixture(scope="module")
def configured(tiny_camvid, tmp_path_factory) -> Path:
    """A run of a configuration, whose weights come of the same seed."""
    folder = tmp_path_factory.mktemp("runs") / "configured"
    train(TrainingConfig("small", "camvid", OPTIONS, **SETTINGS), tiny_camvid, folder)
    return folder


def assert_same(run_dir: Path, other: Path, *, left_within_an_epoch: bool = False) -> None:
    """Weights and scores, to the bit; the row of an epoch left within has the rest's loss."""
    for file in ("model.keras", "checkpoints/best.keras"):
        found, wanted = (keras.models.load_model(d / file).get_weights() for d in (run_dir, other))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    columns = ["step", "learning_rate", "val_loss", "val_mean_iou"]
    columns += [] if left_within_an_epoch else ["loss", "mean_iou"]
    histories = [
        [[row[c] for c in columns] for row in csv.DictReader((d / "history.csv").open())]
        for d in (run_dir, other)
    ]
    assert len(histories[0]) == 2
    assert histories[0] == histories[1]


def test_equals_the_run_of_a_configuration(configured, data, tmp_path):
    model = make_model()
    before = model.get_weights()
    trained = train(model, data, tmp_path, **SETTINGS)
    assert_same(tmp_path, configured)
    assert trained.card.dataset == "camvid"
    assert trained.card.weights == "trained by kseg on camvid train"
    # The model at hand stays as it was.
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    stored, wanted = (
        json.loads((d / "config.json").read_text())["config"] for d in (tmp_path, configured)
    )
    assert stored == {**wanted, "init": "initial.keras"}


class Killed(keras.callbacks.Callback):
    """Ends the process's run within the first epoch, before any state, as SIGKILL would."""

    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


class Terminated(keras.callbacks.Callback):
    """Sends SIGTERM in the second epoch."""

    count = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("left_by", "error"), [(Killed, KeyboardInterrupt), (Terminated, SystemExit)]
)
def test_resumes_whatever_weights_the_model_has(
    left_by, error, configured, data, tmp_path, monkeypatch, capsys
):
    """A script that makes its model anew goes on with the run that it began."""
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "OneScore", left_by)
        with pytest.raises(error):
            train(make_model(), data, tmp_path, **SETTINGS)
    assert bool(list((tmp_path / "checkpoints").iterdir())) == (left_by is Terminated)
    capsys.readouterr()
    train(make_model(seed=1), data, tmp_path, **SETTINGS)
    assert_same(tmp_path, configured, left_within_an_epoch=left_by is Terminated)
    assert "which are not used" in capsys.readouterr().err


def test_a_complete_run_stays(data, tmp_path, capsys):
    settings = {**SETTINGS, "epochs": None, "steps": 1}
    settings.pop("epochs")
    trained = train(make_model(), data[0], tmp_path, **settings)
    again = train(make_model(seed=1), data[0], tmp_path, **settings)
    assert "this run is complete" in capsys.readouterr().out
    for a, b in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(kseg.KsegError, match="loss was 'cross_entropy' and is 'dice'"):
        train(make_model(), data[0], tmp_path, loss="dice", **settings)


def test_channels_of_other_classes(data, recwarn):
    model, config = make_model(), TrainingConfig("small", "camvid", OPTIONS, **SETTINGS)
    model.card = model.card.replace(trained_splits=("voc val",))
    for names in (CAMVID.names, None):
        model.card = model.card.replace(class_names=names)
        trained_splits = initial_model(config, data[0], model).card.trained_splits
        assert trained_splits == ("voc val", "camvid train")
    model.card = model.card.replace(class_names=CAMVID.names[::-1])
    head = dataclasses.replace(config, init_part="all-but-classifier")
    initial_model(head, data[0], model)
    assert not [w for w in recwarn.list if w.category is KsegWarning]
    with pytest.warns(KsegWarning, match="class 0 is 'sky' here and 'bicyclist' there"):
        initial_model(config, data[0], model)


@pytest.mark.parametrize("way", ["model", "file"])
def test_the_normalisation_of_the_weights(way, data, tmp_path):
    """The run's model computes what the given one does, whatever the row's mean is."""
    card = make_model().card
    normalization = dataclasses.replace(card.normalization, mean=(30.0, 90.0, 150.0))
    given = kseg.zoo.build(card.replace(normalization=normalization))
    given.save(tmp_path / "given.keras")
    config = TrainingConfig("small", "camvid", OPTIONS, **SETTINGS)
    if way == "file":
        config = dataclasses.replace(config, init=str(tmp_path / "given.keras"))
    model = initial_model(config, data[0], given if way == "model" else None)
    assert model.card.normalization == normalization
    images = np.stack([*data[0].images()]).astype("float32")
    np.testing.assert_array_equal(outputs_of(model, images), outputs_of(given, images))


def test_weights_of_other_options(data):
    """What no shape shows is said, but for the encoder alone."""
    config = TrainingConfig("small", "camvid", {"dropout": 0.5}, **SETTINGS)
    given = kseg.create_model("small", num_classes=11, dropout=0.25)
    with pytest.warns(KsegWarning, match=r"made with {'dropout': 0.25}, and .* {'dropout': 0.5}"):
        initial_model(config, data[0], given)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KsegWarning)
        initial_model(dataclasses.replace(config, init_part="backbone"), data[0], given)


def test_folded_weights_whatever_their_file(data, tmp_path):
    """BatchNorm that only adds a bias gets the statistics of training images."""
    given = make_model()
    norm = next(x for x in given.layers if isinstance(x, keras.layers.BatchNormalization))
    count = norm.gamma.shape[0]
    # As ``checkpoints.assign`` makes it of a file whose BatchNorm is folded.
    norm.set_weights(
        [np.ones(count), np.full(count, 0.5), np.zeros(count), np.full(count, 1 - norm.epsilon)]
    )
    given.save(tmp_path / "given.keras")
    config = TrainingConfig(
        "small", "camvid", OPTIONS, init=str(tmp_path / "given.keras"), **SETTINGS
    )
    images = np.stack([*data[0].images()]).astype("float32")
    want = outputs_of(keras.Model(given.inputs, norm.input), images).mean((0, 1, 2))
    for source in (None, given):
        model = initial_model(config, data[0], source)
        got = model.get_layer(norm.name).moving_mean
        np.testing.assert_allclose(got, want, atol=1e-4)  # float32's sums
        # float32's roundings; the function stays.
        got = outputs_of(model, images)
        np.testing.assert_allclose(got, outputs_of(given, images), atol=1e-4)
    frozen = initial_model(dataclasses.replace(config, batch_norm="frozen"), data[0])
    assert not np.any(frozen.get_layer(norm.name).moving_mean)


def test_records_and_another_head(data, tmp_path):
    """Without scores; of a model of 19 classes all but the classifier is taken over."""
    records = prepare(data[0], tmp_path / "records", workers=1)
    keras.utils.set_random_seed(0)
    model = kseg.create_model("small", num_classes=19)
    settings = dict(batch_size=2, crop=(32, 40), steps=1, learning_rate=1e-30)
    with pytest.raises(kseg.KsegError, match="small with 19 classes does not fit small with 11"):
        train(model, records, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    trained = train(model, records, tmp_path / "run", init_part="all-but-classifier", **settings)
    assert trained.output_shape[-1] == 11
    np.testing.assert_allclose(
        trained.get_layer("stem.conv").kernel, model.get_layer("stem.conv").kernel, rtol=1e-6
    )
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert config["records"] == str(tmp_path / "records")
    assert config["val_split"] is None


def test_training_heads(data, tmp_path):
    """Their weights are the model's; one without heads lacks them."""
    settings = dict(batch_size=2, crop=(32, 40), steps=1, auxiliary=(0.4, 0.16))
    with pytest.raises(kseg.KsegError, match=r"half\.conv is missing"):
        train(make_model(), data[0], tmp_path / "without", **settings)
    trained = train(make_model(auxiliary=True), data[0], tmp_path / "with", **settings)
    assert trained.output_shape == (None, None, None, 11)


def test_refusals(data, tiny_camvid, tmp_path):
    model = make_model()
    for arguments, settings, message in (
        ((model, tiny_camvid), {}, "data must be a DataSet to train on, or a pair"),
        ((model, (data[0], data[1], data[1])), {}, "data must be a DataSet"),
        ((model, data), {"epoch": 3}, "no setting 'epoch'; did you mean epochs"),
        ((model, data), {"split": "val"}, "split is what the model or its data decides"),
        ((model, data), {"weight_decay": float("nan")}, "weight_decay is nan; it must be a finite"),
        ((TrainingConfig("small", "camvid"), data), {}, "data is a tuple; with a TrainingConfig"),
        ((TrainingConfig("small", "camvid"), tiny_camvid), {"epochs": 3}, "epochs: a Training"),
        (("small", tiny_camvid), {}, "given a str; it takes a TrainingConfig, or a model"),
    ):
        with pytest.raises(kseg.KsegError, match=message) as error:
            train(*arguments, tmp_path / "run", **settings)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


def test_workers_with_other_weights_are_refused(monkeypatch):
    """What both have gathered, without a second process."""
    devices = Distribution(None, 2, 0, 2)
    other = []
    monkeypatch.setattr(devices, "_gathered", lambda numbers: [numbers, *other])
    other[:] = [[int.from_bytes(b"1234567", "big")]]
    devices.check_same(b"12345678", "they differ")
    with pytest.raises(kseg.KsegError, match="they differ"):
        devices.check_same(b"12345078", "they differ")


def test_what_the_first_worker_knows(monkeypatch):
    devices = Distribution(None, 2, 1, 2)
    monkeypatch.setattr(devices, "_gathered", lambda numbers: [[7, -1], numbers])
    assert devices.of_first([0, 0]) == [7, -1]
    assert Distribution(None, 1, 0, 1).of_first([3, 4]) == [3, 4]


def nondeterministic() -> bool:
    """TensorFlow refuses random states without a seed where operators are deterministic."""
    try:
        tf.random.Generator.from_non_deterministic_state()
    except RuntimeError:
        return False
    return True


def test_the_process_is_left_as_it_was(data, tmp_path, monkeypatch):
    """Operators, seeds, precision; TensorFlow's seed follows from NumPy's state."""
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(nondeterministic())

    monkeypatch.setattr(run_module, "OneScore", Look)
    model = make_model()
    assert nondeterministic()
    drawn = []
    for count in range(2):
        keras.utils.set_random_seed(5)
        wanted = random.random(), np.random.random()
        keras.utils.set_random_seed(5)
        settings = dict(batch_size=2, crop=(32, 40), steps=1, precision="mixed_bfloat16")
        train(model, data[0], tmp_path / str(count), seed=count, **settings)
        assert (random.random(), np.random.random()) == wanted
        drawn.append((float(tf.random.uniform([])), float(keras.random.uniform(()))))
    assert drawn[0] == drawn[1]
    assert seen == [False, False]
    assert nondeterministic()
    assert keras.config.dtype_policy().name == "float32"
