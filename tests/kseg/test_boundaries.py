"""Scores along borders, by closed forms and by every pixel's distance to every other."""

import itertools

import numpy as np
import pytest

from kseg.evaluation import ConfusionMatrix, boundaries
from kseg.evaluation.boundaries import BoundaryScores


def halves(shape, column):
    """Class 0 left of the column, class 1 from it on."""
    return np.broadcast_to(np.arange(shape[1]) >= column, shape).astype(np.uint8)


def test_a_border_that_is_three_pixels_off():
    scores = BoundaryScores(2)
    scores.update(halves((10, 200), 100), halves((10, 200), 103))
    # A band of w has w columns of each class; min(w, 3) of class 1 are taken for class 0.
    want = [(w / (w + min(w, 3)) + (w - min(w, 3)) / w) / 2 for w in range(1, 41)]
    assert scores.trimap_iou() == pytest.approx(want, rel=1e-12)


def test_the_band_begins_at_void_as_in_the_paper():
    """Within w pixels of void, void itself not scored; the prediction misses all of it."""
    labels = np.zeros((6, 30), np.uint8)
    labels[:, 10:13] = 255
    right = np.zeros_like(labels)
    wrong = right.copy()
    wrong[:, 6:10] = 1
    scores = BoundaryScores(2)
    scores.update(labels, wrong)
    # class 1 never occurs in labels; of class 0, 4 columns beside the void are missed
    want = [(2 * w - min(w, 4)) / (min(w, 10) + min(w, 17)) / 2 for w in range(1, 9)]
    assert scores.trimap_iou()[:8] == pytest.approx(want, rel=1e-12)
    # borders to void are no borders of the F-score: the label has none
    assert scores.boundary_f() == [0, 0]
    scores = BoundaryScores(2)
    scores.update(labels, right)
    assert scores.trimap_iou() == [1] * 40
    assert scores.boundary_f() == [None, None]


@pytest.mark.parametrize(("shift", "score"), [(3, 1), (4, 0)])
def test_tolerance_of_the_f_score(shift, score):
    """0.75 % of the diagonal of 240 x 320, 400 pixels, is 3; within means that or less."""
    scores = BoundaryScores(3)
    scores.update(halves((240, 320), 100), halves((240, 320), 100 + shift))
    assert scores.boundary_f() == [score, score, None]


def test_against_all_distances(monkeypatch):
    """With the tolerance of a larger image, two pixels."""
    monkeypatch.setattr(boundaries, "TOLERANCE", 0.04)
    rng = np.random.default_rng(3)
    scores, classes = BoundaryScores(4), 4
    by_class = [[] for _ in range(classes)]
    bands = [ConfusionMatrix(classes) for _ in range(40)]
    for _ in range(3):
        ids = np.array([0, 1, 2, 255], np.uint8)
        labels = rng.choice(ids, (6, 7)).repeat(6, 0).repeat(5, 1)
        predictions = np.where(
            rng.random(labels.shape) < 0.1, rng.integers(0, 6, labels.shape), labels
        )
        predictions = predictions.astype(np.uint8)
        scores.update(labels, predictions)

        border = edge_pixels(labels, np.ones(labels.shape, bool))
        distance = np.full(labels.shape, np.inf)
        for place in np.ndindex(labels.shape):
            distance[place] = np.hypot(*(np.array(border) - place).T).min()
        for width, matrix in enumerate(bands, 1):
            near = distance <= width - 1
            matrix.update(labels[near], predictions[near])

        tolerance = 0.04 * np.hypot(*labels.shape)
        edges = [edge_pixels(x, labels != 255) for x in (labels, predictions)]
        for c in range(classes):
            a, b = (
                np.array([p for p in places if x[p] == c]).reshape(-1, 2)
                for places, x in zip(edges, (labels, predictions), strict=True)
            )
            if len(a) and len(b):
                apart = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= tolerance
                recall, precision = apart.any(1).mean(), apart.any(0).mean()
                by_class[c].append(2 * precision * recall / (precision + recall))
            elif len(a) or len(b):
                by_class[c].append(0)
    assert scores.trimap_iou() == pytest.approx([m.mean_iou() for m in bands], rel=1e-12)
    want = [np.mean(x) for x in by_class]
    assert scores.boundary_f() == pytest.approx(want, rel=1e-12)
    assert 0 < want[0] < 1


def edge_pixels(ids, scored):
    """Places whose right, left, lower or upper neighbour is another id, both scored."""
    height, width = ids.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        around = [(y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)]
        inside = [(r, c) for r, c in around if 0 <= r < height and 0 <= c < width]
        if scored[y, x] and any(scored[p] and ids[p] != ids[y, x] for p in inside):
            found.append((y, x))
    return found
