"""What tests share beside fixtures."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from kseg import checkpoints

ROOT = Path(__file__).parents[1]


def write_camvid(folder: Path, counts: dict[str, int], size: tuple[int, int] = (48, 64)) -> None:
    """Sky (0) above a random horizon, road (3) below it, a void (11) column."""
    rng = np.random.default_rng(7)
    for split, count in counts.items():
        (folder / split).mkdir()
        (folder / f"{split}annot").mkdir()
        for i in range(count):
            label = np.full(size, 3, np.uint8)
            label[: rng.integers(12, 36)] = 0
            label[:, :3] = 11
            image = np.where(label[..., None] == 0, 200, 60) + rng.integers(0, 40, (*size, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / split / f"{i:03d}.png")
            Image.fromarray(label).save(folder / f"{split}annot" / f"{i:03d}.png")


def run_kseg(*args: object, **kwargs) -> subprocess.CompletedProcess:
    """`python -m kseg ARGS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kseg", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=600,
        **kwargs,
    )


def randomize_statistics(model) -> None:
    """Moving statistics as after training, so that no normalisation is the identity."""
    rng = np.random.default_rng(2)
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def varied(model: keras.Model) -> keras.Model:
    """BatchNorm statistics and offsets that show a wrong border or a lost layer."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(weight + 0.1 * np.abs(rng.standard_normal(weight.shape)))
    return model


def random_tensors(model) -> dict[str, np.ndarray]:
    """A published checkpoint for the model, values 0.1..1."""
    rng = np.random.default_rng(0)
    shapes = checkpoints.published_shapes(model)
    return {name: rng.uniform(0.1, 1, shape).astype("float32") for name, shape in shapes.items()}
