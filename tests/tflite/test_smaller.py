"""Pruned models: where the zeros are, and that the file is what was trained."""

import keras
import numpy as np
import pytest

import kseg
from kseg.cli import main
from kseg.data import open_dataset
from kseg.tflite.bridge import to_tf_keras


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [
        layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
    ]


def run(tiny_keras, tiny_camvid, out, *options) -> kseg.SegmentationModel:
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--steps", 8, "--batch-size", 2]
    args += ["--crop", 48, 64, *options]
    assert main(["prune", *map(str, [tiny_keras, out, *args])]) == 0
    return kseg.model.load_model(out)


def test_share_of_zeros(tiny_keras, tiny_camvid, tiny_model, tmp_path):
    model = run(tiny_keras, tiny_camvid, tmp_path / "x.keras", "--sparsity", 0.75)
    for kernel in kernels(model):
        # The library rounds the number of zeros.
        assert (kernel == 0).sum() == pytest.approx(0.75 * kernel.size, abs=1)
    assert model.card.weights == f"{tiny_model.card.weights}; 75% of weights pruned"
    # What is left has trained.
    pairs = zip(kernels(model), kernels(tiny_model), strict=True)
    kept = [np.abs(after - before)[after != 0].max() for after, before in pairs]
    assert min(kept) > 0
    data = open_dataset("camvid", tiny_camvid, "val")
    image = data.labelled(data.samples[0])[0][None].astype("float32")
    want = np.asarray(to_tf_keras(model).model(image))
    # float32 sums of the same operators in another graph
    np.testing.assert_allclose(model(image), want, atol=1e-5 * np.abs(want).max())


def test_two_of_four(tiny_keras, tiny_camvid, tmp_path):
    """In every four consecutive input channels; the image has only three."""
    model = run(tiny_keras, tiny_camvid, tmp_path / "x.keras", "--structure", "2:4")
    for kernel in kernels(model):
        whole = kernel.shape[2] // 4 * 4
        groups = np.moveaxis(kernel[:, :, :whole], 2, -1).reshape(-1, 4)
        assert ((groups == 0).sum(-1) == 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --sparsity or --structure"),
        (["--sparsity", 1.5], "sparsity is 1.5"),
        (["--structure", "1:3"], "structure is '1:3'"),
        (["--sparsity", 0.5, "--steps", 3], "steps are 3"),
    ],
)
def test_refusals(options, message, tiny_keras, tiny_camvid, tmp_path, capsys):
    out = tmp_path / "x.keras"
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--batch-size", 2, "--crop", 48, 64]
    assert main(["prune", *map(str, [tiny_keras, out, *args, *options])]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
