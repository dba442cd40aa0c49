"""Losses of boundaries, and training heads that have them."""

import csv

import keras
import numpy as np
import pytest

import kseg
from kseg import layers
from kseg.training import TrainingConfig, dataset, train
from kseg.training.boundary_aware import BoundaryAware
from kseg.training.losses import (
    BoundaryLoss,
    SegmentationLoss,
    boundary,
    edges,
)
from kseg.zoo import VARIANTS
from support import SMALL

RNG = np.random.default_rng(0)
# Regions, so that some pixels are far from every edge; the second image has one class alone.
LABELS = np.repeat(np.repeat(RNG.choice([0, 1, 2, 255], (2, 3, 4)), 7, 1), 7, 2).astype("uint8")
LABELS[1] = 1
LOGITS = RNG.normal(size=(*LABELS.shape, 1)).astype("float32")


def band(labels: np.ndarray) -> np.ndarray:
    """Pixel by pixel: whether two neighbours of other classes are within one pixel."""
    height, width = labels.shape
    found = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            for other in ((y, x + 1), (y + 1, x)):
                if other[0] < height and other[1] < width:
                    pair = {int(labels[y, x]), int(labels[other])}
                    if len(pair) == 2 and 255 not in pair:
                        found[y, x] = found[other] = True
    wide = found.copy()
    for y, x in zip(*np.nonzero(found), strict=True):
        wide[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    return wide


def test_edges():
    want = np.stack([band(label) for label in LABELS])
    assert 0.1 < want[0].mean() < 0.9
    assert not want[1].any()
    np.testing.assert_array_equal(edges(LABELS), want)
    np.testing.assert_array_equal(edges(np.where(LABELS == 255, 9, LABELS), ignore_id=9), want)


def test_the_band_is_four_pixels_wide():
    """As the authors' edges are; on the edge of two classes, not on that to an ignored pixel."""
    labels = np.repeat([[0, 1, 255]], 9, 0).repeat(6, 1)[None]
    columns = np.flatnonzero(np.asarray(edges(labels))[0].all(0))
    np.testing.assert_array_equal(columns, [4, 5, 6, 7])
    assert np.asarray(edges(labels)).sum() == 4 * 9


def test_boundary_loss():
    """Each image's edges count as much as its other pixels; one without edges adds nothing."""
    want = np.zeros(LABELS.shape)
    for i, label in enumerate(LABELS):
        valid = label != 255
        truth = band(label) & valid
        p = 1 / (1 + np.exp(-LOGITS[i, ..., 0].astype("float64")))
        share = truth.sum() / valid.sum()
        want[i] = np.where(truth, -(1 - share) * np.log(p), -share * np.log(1 - p)) * valid
    np.testing.assert_allclose(boundary(LABELS, LOGITS), want, atol=1e-6)
    np.testing.assert_allclose(boundary(LABELS[..., None], LOGITS), want, atol=1e-6)
    np.testing.assert_allclose(BoundaryLoss()(LABELS, LOGITS), want.mean(), rtol=1e-5)
    assert BoundaryLoss()(LABELS[:0], LOGITS[:0]) == 0
    copy = BoundaryLoss.from_config(BoundaryLoss(ignore_id=2).get_config())
    want = np.mean(boundary(LABELS, LOGITS, ignore_id=2))
    np.testing.assert_allclose(copy(LABELS, LOGITS), want, rtol=1e-5)


def test_boundary_loss_refuses():
    with pytest.raises(kseg.KsegError, match="a boundary has one channel, the model's output 3"):
        boundary(LABELS, np.zeros((*LABELS.shape, 3), "float32"))
    with pytest.raises(kseg.KsegError, match="labels are of shape"):
        boundary(LABELS[:, 1:], LOGITS)


@pytest.mark.parametrize("labels", [LABELS, LABELS[..., None]])
def test_boundary_aware(labels):
    """The loss of the logits where the other head's probability is above 0.8."""
    logits = RNG.normal(size=(*LABELS.shape, 3)).astype("float32")
    heads = {"logits": logits, "edge": 3 * LOGITS}
    certain = 1 / (1 + np.exp(-3 * LOGITS[..., 0])) > 0.8
    assert 0.1 < certain.mean() < 0.5
    for kind in ("cross_entropy", "ohem"):
        loss = SegmentationLoss(kind)
        want = 0.5 * float(loss(np.where(certain, LABELS, 255), logits))
        assert want > 0.01
        got = BoundaryAware("edge", loss, 0.5)(labels, heads)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_ohem_settings():
    """Of ``ohem`` itself, and kept in the configuration."""
    logits = RNG.normal(size=(*LABELS.shape, 3)).astype("float32")
    values = {}
    for threshold, fraction in ((0.7, 1 / 16), (0.9, 1 / 16), (0.01, 1 / 16), (0.01, 1 / 4)):
        loss = SegmentationLoss("ohem", ohem_threshold=threshold, ohem_fraction=fraction)
        copy = SegmentationLoss.from_config(loss.get_config())
        values[threshold, fraction] = float(copy(LABELS, logits))
        exponents = np.exp(logits.astype("float64"))
        p = exponents / exponents.sum(-1, keepdims=True)
        want = []
        for label, probability in zip(LABELS, p, strict=True):
            valid = label != 255
            p_label = np.sort(probability[valid][np.arange(valid.sum()), label[valid]])
            kept = -(-label.size // round(1 / fraction))
            hard = p_label <= max(p_label[kept - 1], threshold)
            want.append(-np.log(p_label[hard]).mean())
        assert values[threshold, fraction] == pytest.approx(np.mean(want), rel=1e-5)
    assert len(set(values.values())) == 4
    assert float(SegmentationLoss("ohem")(LABELS, logits)) == values[0.7, 1 / 16]


# --- in a run -----------------------------------------------------------------------------


def bounded(x: keras.KerasTensor, num_classes: int, *, auxiliary: bool = False):
    """A head of classes and one of boundaries, as PIDNet has them."""
    heads = SMALL["small"].builder(x, num_classes, auxiliary=True)
    half = heads["half"]._keras_history.operation.input
    if not auxiliary:
        return heads["logits"]
    edge = layers.conv(half, 1, 1, use_bias=True, name="edge.conv")
    return {"logits": heads["logits"], "quarter": heads["quarter"], "edge": edge}


@pytest.fixture
def bounded_row(monkeypatch):
    row = SMALL["small"].replace(builder=bounded, boundary="edge")
    monkeypatch.setitem(VARIANTS, "bounded", row)


COMMON = dict(model="bounded", dataset="camvid", batch_size=2, crop=(32, 40), val_split=None)


def test_losses_of_the_heads(bounded_row, tiny_camvid, tmp_path):
    """All of PIDNet's, of the first batch before any update; BatchNorm as in inference."""
    keras.utils.set_random_seed(3)
    model = kseg.create_model("bounded", num_classes=11, auxiliary=True)
    # Sure of a boundary in some places.
    edge = model.get_layer("edge.conv")
    edge.kernel.assign(20 * edge.kernel)
    model.save(tmp_path / "first.keras")
    config = TrainingConfig(
        **COMMON,
        **dict(steps=1, init=str(tmp_path / "first.keras"), batch_norm="frozen"),
        **dict(loss="ohem", ohem_threshold=0.9, ohem_fraction=0.25, class_weights=None),
        **dict(auxiliary=(0.4, 20.0), auxiliary_loss="cross_entropy", boundary_aware=0.5),
    )
    train(config, tiny_camvid, tmp_path / "run")
    (row,) = csv.DictReader((tmp_path / "run/history.csv").open())

    images, labels = next(
        iter(dataset("camvid", tiny_camvid, "train", crop=(32, 40), batch_size=2, start_step=0))
    )
    labels = labels.numpy()
    heads = {name: np.asarray(x) for name, x in model(images, training=False).items()}
    ohem = SegmentationLoss("ohem", ohem_threshold=0.9, ohem_fraction=0.25)
    certain = heads["edge"][..., 0] > np.log(4)
    assert 0 < certain.mean() < 1
    parts = [
        ohem(labels, heads["logits"]),
        0.4 * SegmentationLoss()(labels, heads["quarter"]),
        20 * boundary(labels, heads["edge"]).numpy().mean(),
        0.5 * ohem(np.where(certain, labels, 255), heads["logits"]),
    ]
    assert min(parts) > 0.01
    # float32 sums in another order
    assert float(row["loss"]) == pytest.approx(float(sum(parts)), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(model="small", auxiliary=(1.0, 1.0)), "small has no head of boundaries"),
        (dict(auxiliary=()), "the heads of bounded are not trained; give their weights"),
        (dict(boundary_aware=-1.0), "boundary_aware is -1.0; it must not be negative"),
        (dict(auxiliary=(), boundary_aware=0.0, auxiliary_loss="dice"), "no training head has a"),
        (dict(auxiliary_loss="boundary"), "loss is 'boundary'; its parts must be of"),
        (dict(ohem_threshold=1.5), "ohem_threshold is 1.5; it must be 0 to 1"),
    ],
)
def test_refusals(values, message, bounded_row, tiny_camvid, tmp_path):
    config = TrainingConfig(
        **{**COMMON, "steps": 1, "auxiliary": (0.4, 20.0), "boundary_aware": 1.0, **values}
    )
    with pytest.raises(kseg.KsegError, match=message):
        train(config, tiny_camvid, tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()
