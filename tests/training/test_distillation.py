"""A student learns from labels and a teacher; the teacher stays as it is."""

import csv
import dataclasses
import os
import signal
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.cli import main
from kseg.data import open_dataset
from kseg.training import TrainingConfig, dataset, train
from kseg.training.distillation import Teacher
from kseg.training.losses import DistillationLoss

RUN = sys.modules["kseg.training.run"]

COMMON = dict(model="small", dataset="camvid", batch_size=2, crop=(32, 40), val_split=None)


@pytest.fixture(scope="module")
def teacher(small_row, small_model, tmp_path_factory) -> Path:
    """The random network, its answers made surer than random weights give them."""
    model = kseg.create_model("small", num_classes=11)
    model.set_weights(small_model.get_weights())
    model.card = small_model.card
    classifier = model.get_layer("classifier")
    classifier.kernel.assign(4 * classifier.kernel)
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    model.save(path)
    return path


def soft(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """(N, H, W): KL(teacher || student) of logits, by its definition."""
    p, q = soft(teacher), soft(student)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def first_loss(run_dir: Path) -> float:
    (row,) = csv.DictReader((run_dir / "history.csv").open())
    return float(row["loss"])


def test_what_a_teacher_has_seen(teacher, tiny_camvid, tmp_path):
    """A student of it says so on its card, and of its score."""
    network = kseg.load(teacher)
    network.card = network.card.replace(trained_splits=("camvid val", "camvid train"))
    network.save(tmp_path / "teacher.keras")
    config = TrainingConfig(
        **COMMON | {"val_split": "val"}, steps=1, teacher=str(tmp_path / "teacher.keras")
    )
    with pytest.warns(kseg.errors.KsegWarning, match="trained on camvid val; the score on val"):
        student = train(config, tiny_camvid, tmp_path / "run")
    assert student.card.trained_splits == ("camvid train", "camvid val")


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    # float32's sums; bfloat16 has 8 bits, and three convolutions round to it
    [("float32", 1e-4), ("mixed_bfloat16", 2e-2)],
)
def test_what_a_teacher_adds_to_the_loss(
    precision, tolerance, teacher, small_keras, tiny_camvid, tmp_path
):
    """The divergence on the first batch, before any update; BatchNorm computes as in inference."""
    config = TrainingConfig(
        **COMMON, steps=1, init=str(small_keras), batch_norm="frozen", precision=precision
    )
    train(config, tiny_camvid, tmp_path / "labels")
    taught = dataclasses.replace(config, teacher=str(teacher), distill_weight=0.5)
    train(taught, tiny_camvid, tmp_path / "both")
    images, labels = next(
        iter(dataset("camvid", tiny_camvid, "train", crop=(32, 40), batch_size=2, start_step=0))
    )
    answers, logits = (
        np.asarray(keras.models.load_model(path)(images)) for path in (teacher, small_keras)
    )
    want = 0.5 * (divergence(answers, logits) * (labels.numpy() != 255)).mean()
    added = first_loss(tmp_path / "both") - first_loss(tmp_path / "labels")
    assert want > 0.1
    assert added == pytest.approx(want, rel=tolerance)


def test_a_student_matches_its_teacher_better(teacher, tiny_camvid, tmp_path, monkeypatch):
    """On held-out images, with and without; teacher and what is kept are what they were."""
    opened = []
    real = RUN.open_teacher

    def open_teacher(*args):
        opened.append(real(*args))
        return opened[-1]

    monkeypatch.setattr(RUN, "open_teacher", open_teacher)
    config = TrainingConfig(**COMMON, steps=30, learning_rate=1e-2)
    alone = train(config, tiny_camvid, tmp_path / "labels")
    taught = dataclasses.replace(config, teacher=str(teacher), distill_weight=5.0)
    student = train(taught, tiny_camvid, tmp_path / "both")
    network = keras.models.load_model(teacher)
    images = np.stack([*open_dataset("camvid", tiny_camvid, "val").images()]).astype("float32")
    answers = np.asarray(network(images))
    without, with_teacher = (
        divergence(answers, np.asarray(model(images))).mean() for model in (alone, student)
    )
    assert with_teacher < 0.5 * without

    assert opened[0] is None
    assert not opened[1].model.trainable_variables
    for used, kept in zip(opened[1].model.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(used, kept)
    assert [layer.name for layer in student.layers] == [layer.name for layer in alone.layers]
    stored = []
    for run in ("labels", "both"):
        with h5py.File(tmp_path / run / "checkpoints/step-00000030.weights.h5") as file:
            names = []
            file.visit(names.append)
            stored.append(sorted(names))
    assert stored[0] == stored[1]


def test_a_taught_run_goes_on_to_the_bit(teacher, tiny_camvid, tmp_path, monkeypatch, capsys):
    """Left within an update of two batches; training heads, whose logits alone are taught."""
    config = TrainingConfig(
        **COMMON, steps=4, accumulate=2, auxiliary=(0.4, 0.16), teacher=str(teacher)
    )
    want = train(config, tiny_camvid, tmp_path / "undisturbed").get_weights()

    class Terminated(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RUN, "OneScore", Terminated)
        with pytest.raises(SystemExit):
            train(config, tiny_camvid, tmp_path / "left")
    content = teacher.read_bytes()
    try:
        teacher.write_bytes(content + b" ")
        with pytest.raises(
            kseg.KsegError, match=r"teacher .*teacher\.keras is missing or has chan"
        ):
            train(config, tiny_camvid, tmp_path / "left")
    finally:
        teacher.write_bytes(content)
    got = train(config, tiny_camvid, tmp_path / "left").get_weights()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_void_channels_and_a_fixed_size(small_row):
    """Of a teacher with a void channel and one input size, at another size of the images."""
    model = kseg.create_model("small", num_classes=4, input_shape=(24, 32, 3))
    model.card = model.card.replace(void_channels=(1,))
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 64, 3)).astype("float32")
    got = Teacher(model, DistillationLoss(), 1.0)(tf.constant(images))
    # Half the size by half-pixel centres is the mean of the four nearest.
    halved = images.reshape(2, 24, 2, 32, 2, 3).mean((2, 4))
    want = np.asarray(model(halved))[..., [0, 2, 3]]
    assert got.shape == (2, 48, 64, 3)
    # Twice the size has, at the inner corners of four pixels, 9/16, 3/16, 3/16 and 1/16.
    corner = (9 * want[:, 4, 6] + 3 * want[:, 4, 7] + 3 * want[:, 5, 6] + want[:, 5, 7]) / 16
    np.testing.assert_allclose(got[:, 9, 13], corner, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("--teacher", "/nowhere.keras"), "/nowhere.keras: no such file"),
        (("--teacher", "OTHER"), "class 1 is 'thing' here and 'building' there). Take a teacher"),
        (("--teacher", "camvid:cgnet_m3n15"), "camvid:cgnet_m3n15: no such weights"),
        (("--teacher", "SELF", "--temperature", 0), "temperature is 0.0; it must be above 0"),
        (("--teacher", "OWN"), "model.keras: is what the run in"),
        (("--distill-weight", "nan"), "--distill-weight is nan; it must be a finite number"),
        (("--temperature", 2), "temperature is 2.0, and there is no teacher"),
    ],
)
def test_refusals(values, message, teacher, small_model, tiny_camvid, tmp_path, capsys):
    if "OTHER" in values:
        names = (small_model.card.class_names[0], "thing", *small_model.card.class_names[2:])
        model = kseg.create_model("small", num_classes=11)
        model.card = small_model.card.replace(class_names=names)
        model.save(tmp_path / "other.keras")
    named = {
        "OTHER": tmp_path / "other.keras",
        "SELF": teacher,
        "OWN": tmp_path / "run/model.keras",
    }
    arguments = [
        *("train", "--model", "small", "--dataset", "camvid", "--data-dir", tiny_camvid),
        *("--run-dir", tmp_path / "run", "--crop", 32, 40, "--batch-size", 2, "--epochs", 1),
        *(named.get(value, value) for value in values),
    ]
    assert main([*map(str, arguments)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
