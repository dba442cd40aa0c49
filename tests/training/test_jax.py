"""The same command on the JAX backend."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from kseg.cli import main
from support import run_kseg, run_small

# Compiling takes most of the test's time, and the steps that it would quicken are few.
ON_JAX = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def test_a_real_network_runs(tiny_keras, tiny_camvid, tmp_path):
    """CGNet's layers, forward: the label map is TensorFlow's."""
    arguments = ("predict", tiny_keras, tiny_camvid / "val/000.png", "--out")
    assert main([*map(str, arguments), str(tmp_path / "tensorflow")]) == 0
    result = run_kseg(*arguments, tmp_path / "jax", env={**os.environ, **ON_JAX})
    assert result.returncode == 0, result.stderr[-2000:]
    maps = [np.asarray(Image.open(tmp_path / name / "000.png")) for name in ("tensorflow", "jax")]
    # A pixel whose two best classes are alike to float32 may turn over.
    assert (maps[0] == maps[1]).mean() > 0.999
    assert len(np.unique(maps[0])) > 1


def test_losses_equal_tensorflows(small_keras, tiny_camvid, tmp_path):
    """Two epochs from the same weights; float32 sums in another order."""
    arguments = (
        *("train", "--model", "small", "--dataset", "camvid", "--data-dir", tiny_camvid),
        *("--batch-size", 2, "--crop", 32, 40, "--epochs", 2, "--init", small_keras, "--ema", 0.5),
        *("--batch-norm", "sync", "--teacher", small_keras, "--temperature", 2),
        *("--freeze-encoder-epochs", 1, "--encoder-rate", 0.5, "--schedule", "cosine"),
    )
    rows, weights = {}, {}
    assert main([*map(str, arguments), "--run-dir", str(tmp_path / "tensorflow")]) == 0
    result = run_small(*arguments, "--run-dir", tmp_path / "jax", env={**os.environ, **ON_JAX})
    assert result.returncode == 0, result.stderr[-2000:]
    for backend in ("tensorflow", "jax"):
        run_dir = tmp_path / backend
        rows[backend] = read(run_dir)
        weights[backend] = keras.models.load_model(run_dir / "model.keras").get_weights()
    for first, second in zip(rows["tensorflow"], rows["jax"], strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for a, b in zip(weights["tensorflow"], weights["jax"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)


def read(run_dir: Path) -> list[list[float]]:
    """Losses and scores by epoch."""
    columns = ("loss", "mean_iou", "val_loss", "val_mean_iou")
    with (run_dir / "history.csv").open() as file:
        return [[float(row[c]) for c in columns] for row in csv.DictReader(file)]


CHECKS = """
import jax, keras, numpy as np, pytest
import kseg
from kseg.training import recompute_batch_norm
from kseg.training.losses import LOSSES, SegmentationLoss
from kseg.training.metrics import MeanIoU

rng = np.random.default_rng(0)
logits = rng.normal(size=(2, 4, 5, 3)).astype("float32")
labels = rng.integers(0, 3, (2, 4, 5)).astype("uint8")
bad = np.where(labels == 2, 7, labels)
for kind in LOSSES:
    loss = SegmentationLoss(kind)
    with pytest.raises(kseg.KsegError, match="for 3 classes.*found 7"):
        loss(bad, logits)
    step = jax.jit(loss)
    assert np.isfinite(step(labels, logits)) and np.isnan(step(bad, logits))
own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
weights = rng.uniform(0, 2, labels.shape).astype("float32")
np.testing.assert_allclose(
    SegmentationLoss()(labels[..., None], logits, weights), own(labels, logits, weights), rtol=1e-6
)

inputs = keras.Input((None, None, 3))
x = keras.layers.BatchNormalization(name="norm")(inputs)
model = kseg.SegmentationModel(inputs, keras.layers.Conv2D(3, 1)(x))
model.compile("sgd", SegmentationLoss(), weighted_metrics=[MeanIoU(3)])
images = rng.uniform(0, 255, (2, 4, 5, 3)).astype("float32")
good = model.fit(images, labels, sample_weight=weights, verbose=0).history
assert np.isfinite([*good["loss"], *good["mean_iou"]]).all()
poor = model.fit(images, bad, verbose=0).history
assert np.isnan([*poor["loss"], *poor["mean_iou"]]).all()
recompute_batch_norm(model, [images[:1], images[1:]])
layer = model.get_layer("norm")
pixels = images.reshape(-1, 3)
np.testing.assert_allclose(layer.moving_mean, pixels.mean(0), rtol=1e-5)
np.testing.assert_allclose(layer.moving_variance, pixels.var(0), rtol=1e-5)
"""


def test_labels_weights_and_statistics():
    """As TensorFlow's; what is compiled cannot raise at a label that is no class, and is NaN."""
    result = subprocess.run(
        [sys.executable, "-c", CHECKS],
        env={**os.environ, **ON_JAX},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
