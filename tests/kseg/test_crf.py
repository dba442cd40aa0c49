"""The lattice and the mean field against sums over all pairs of pixels."""

import json

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.cli import main
from kseg.crf import DenseCRF, _simplices, lattice_filter, mean_field, normalized

pytest.importorskip("scipy")

RNG = np.random.default_rng(0)


def exact_filter(features: np.ndarray):
    squares = ((features[:, None] - features[None]) ** 2).sum(-1)
    kernel = np.exp(-squares / 2)
    return lambda values: kernel @ values


@pytest.mark.parametrize("dimensions", [2, 5])
def test_filter_is_a_gaussian(dimensions):
    """Up to a factor the lattice's response to a point falls off as the Gaussian does.

    Averaged over many places of the point in its simplex: the lattice is not the same
    everywhere (Section 4 of its paper).
    """
    distances = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    responses = []
    for _ in range(100):
        start = RNG.uniform(-3, 3, dimensions)
        direction = RNG.normal(size=dimensions)
        direction /= np.linalg.norm(direction)
        features = start + distances[:, None] * direction
        responses.append(lattice_filter(features)(np.eye(len(distances), 1))[:, 0])
    mean = np.mean(responses, 0)
    np.testing.assert_allclose(mean / mean[0], np.exp(-(distances**2) / 2), atol=0.15)


def test_filter_keeps_sums_and_symmetry():
    """Barycentric weights lie in 0..1 and sum up to 1; <a, F b> is about <F a, b>."""
    features = RNG.uniform(-5, 5, (200, 5))
    vertices, weights = _simplices(features)
    assert weights.min() > -1e-9
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert not vertices.sum(-1).any()
    # The weighted vertices are the point, on the lattice's plane.
    back = (weights[..., None] * vertices).sum(1)
    distance = np.linalg.norm(back[:, None] - back[None], axis=-1)
    want = np.linalg.norm(features[:, None] - features[None], axis=-1)
    np.testing.assert_allclose(distance, want * 6 * np.sqrt(2 / 3), rtol=1e-9, atol=1e-9)
    a, b = RNG.uniform(size=(2, 200, 3)).astype(np.float32)
    apply = lattice_filter(features)
    # Blurs along different directions do not quite commute where vertices are missing.
    assert (a * apply(b)).sum() == pytest.approx((apply(a) * b).sum(), rel=0.03)


def street(height: int = 20, width: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of three areas with noise, its label, and logits that are wrong in places."""
    label = np.zeros((height, width), int)
    label[height // 2 :] = 1
    label[height // 3 : -3, width // 3 : width // 2] = 2
    colours = np.array([[60, 90, 200], [120, 120, 120], [190, 40, 30]])
    image = np.clip(colours[label] + RNG.normal(0, 6, (height, width, 3)), 0, 255)
    logits = 2 * np.eye(3)[label] + RNG.normal(0, 1.5, (height, width, 3))
    return image.astype(np.uint8), label, logits


def test_against_all_pairs():
    image, label, logits = street()
    crf = DenseCRF(appearance_xy=20, appearance_rgb=20)
    got = crf(image, logits)
    places = np.indices(label.shape).reshape(2, -1).T
    features = np.hstack([places / 20, image.reshape(-1, 3) / 20])
    exact = [
        (crf.appearance_weight, normalized(exact_filter(features))),
        (crf.smoothness_weight, normalized(exact_filter(places / 3))),
    ]
    want = mean_field(logits, exact, 10)
    # The lattice's kernel is not quite Gaussian; wherever the sum is sure, so is it.
    assert (got.argmax(-1) == want.argmax(-1)).mean() > 0.99
    np.testing.assert_allclose(np.exp(got), np.exp(want), atol=0.2)
    assert np.abs(np.exp(got) - np.exp(want)).mean() < 0.02
    # What it is for.
    assert (logits.argmax(-1) == label).mean() < 0.9
    assert (got.argmax(-1) == label).mean() > 0.97


def test_no_iterations_are_the_softmax():
    image, _, logits = street(5, 6)
    got = DenseCRF(iterations=0)(image, logits)
    want = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(got), want, rtol=1e-5)


def test_sizes_must_fit():
    image, _, logits = street(5, 6)
    with pytest.raises(kseg.KsegError, match=r"image \(4, 6\) and logits \(5, 6\) differ"):
        DenseCRF()(image[1:], logits)


def test_evaluate_and_predict_take_it(tiny_keras, tiny_camvid, tmp_path, capsys):
    """A label map of a random network gets smoother; the score names the CRF."""
    image = next((tiny_camvid / "val").iterdir())
    edges = []
    for extra in ([], ["--crf"]):
        out = tmp_path / f"out{len(extra)}"
        assert main(["predict", str(tiny_keras), str(image), "--out", str(out), *extra]) == 0
        labels = np.asarray(Image.open(out / f"{image.stem}.png")).astype(int)
        edges.append((np.diff(labels, axis=0) != 0).sum())
    assert edges[1] < edges[0]
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    score = tmp_path / "score.json"
    assert main(["evaluate", str(tiny_keras), *data, "--crf", "--json", str(score)]) == 0
    assert json.loads(score.read_text())["crf"]["iterations"] == 10
    assert "dense CRF" in capsys.readouterr().out
