"""The same command on the JAX backend."""

import csv
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from support import run_kseg


def test_losses_equal_tensorflows(tiny_keras, tiny_camvid, tmp_path):
    """Two epochs from the same weights; float32 sums in another order."""
    arguments = (
        *("train", "--model", "cgnet_m3n21", "--options", '{"m": 2, "n": 2}'),
        *("--dataset", "camvid", "--data-dir", tiny_camvid, "--batch-size", 2),
        *("--crop", 32, 40, "--epochs", 2, "--init", tiny_keras, "--ema", 0.5),
    )
    rows, weights = {}, {}
    for backend in ("tensorflow", "jax"):
        run_dir = tmp_path / backend
        result = run_kseg(*arguments, "--run-dir", run_dir, env=environment(backend))
        assert result.returncode == 0, result.stderr[-2000:]
        rows[backend] = read(run_dir)
        weights[backend] = keras.models.load_model(run_dir / "model.keras").get_weights()
    for first, second in zip(rows["tensorflow"], rows["jax"], strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for a, b in zip(weights["tensorflow"], weights["jax"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)


def environment(backend: str) -> dict[str, str]:
    return {**os.environ, "KERAS_BACKEND": backend}


def read(run_dir: Path) -> list[list[float]]:
    """Losses and scores by epoch."""
    columns = ("loss", "mean_iou", "val_loss", "val_mean_iou")
    with (run_dir / "history.csv").open() as file:
        return [[float(row[c]) for c in columns] for row in csv.DictReader(file)]
