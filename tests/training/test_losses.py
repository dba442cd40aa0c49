"""Losses and metrics against numpy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.training.losses import (
    LOSSES,
    DistillationLoss,
    SegmentationLoss,
    class_weights,
    cross_entropy,
    distillation,
    share_of,
)
from kseg.training.metrics import MeanIoU

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 4, 5, 3)).astype("float32")
LABELS = RNG.choice([0, 1, 2, 255], (2, 4, 5)).astype("uint8")


def reference(weights=(1, 1, 1)) -> np.ndarray:
    """(2, 4, 5): the definition, in float64."""
    logits = LOGITS.astype("float64")
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = np.where(LABELS == 255, 0, LABELS).astype(int)
    losses = -np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    return losses * np.asarray(weights, "float64")[labels] * (LABELS != 255)


@pytest.mark.parametrize("weights", [None, (1.0, 2.5, 0.5)])
def test_cross_entropy(weights):
    got = np.asarray(cross_entropy(LABELS, LOGITS, class_weights=weights))
    np.testing.assert_allclose(got, reference(weights or (1, 1, 1)), atol=1e-6)


def probabilities() -> np.ndarray:
    """(2, 4, 5, 3) float64."""
    exponents = np.exp(LOGITS.astype("float64"))
    return exponents / exponents.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(temperature):
    """The divergence by its definition; its gradient is T (q - p), Hinton's Equation 2."""

    def soft(logits):
        exponents = np.exp(logits.astype("float64") / temperature)
        return exponents / exponents.sum(-1, keepdims=True)

    targets = RNG.normal(size=LOGITS.shape).astype("float32")
    p, q = soft(targets), soft(LOGITS)
    want = temperature**2 * (p * np.log(p / q)).sum(-1)
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        got = distillation(targets, logits, temperature=temperature)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(got, logits), temperature * (q - p), atol=1e-5)
    mean = DistillationLoss(temperature)((LABELS, targets), LOGITS)
    assert (LABELS == 255).any()
    np.testing.assert_allclose(mean, (want * (LABELS != 255)).mean(), rtol=1e-5)


def test_distillation_of_a_certain_teacher():
    """Probabilities that float32 has as zero are no NaN."""
    targets = np.array([[[[200.0, 0, -200]]]], "float32")
    got = np.asarray(distillation(targets, -targets))
    np.testing.assert_allclose(got, 400, rtol=1e-6)


def test_focal():
    p = np.exp(-reference())
    np.testing.assert_allclose(
        LOSSES["focal"](LABELS, LOGITS), (1 - p) ** 2 * reference(), atol=1e-6
    )
    weighted = LOSSES["focal"](LABELS, LOGITS, gamma=0.5, class_weights=(1, 2, 3))
    np.testing.assert_allclose(weighted, (1 - p) ** 0.5 * reference((1, 2, 3)), atol=1e-5)


def test_focal_of_an_almost_certain_answer():
    """1 - p of about 6e-6 to its digits, which 1 - (1 - 6e-6) in float32 has lost.

    The cross-entropy itself has two digits there, so it is taken as it comes.
    """
    logits = np.array([[[[12.0, 0], [11, 0], [8, 0]]]], "float32")
    labels = np.zeros((1, 1, 3), "uint8")
    losses = np.asarray(cross_entropy(labels, logits)).astype("float64")
    got = LOSSES["focal"](labels, logits, gamma=1.0)
    np.testing.assert_allclose(got, -np.expm1(-losses) * losses, rtol=1e-5)


def test_focal_has_a_gradient_where_the_answer_is_certain():
    logits = tf.constant([[[[50.0, 0, 0]]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = LOSSES["focal"](np.array([[[0]]]), logits, gamma=0.5)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_ohem():
    """The pixels below the probability of 0.5, or where these are few the hardest quarter."""
    losses, weighted = (reference(w).reshape(2, 20) for w in ((1, 1, 1), (1, 2, 3)))
    for threshold in (0.5, 1e-9):
        want = []
        for plain, values in zip(losses, weighted, strict=True):
            hard = plain >= min(-np.log(threshold), np.sort(plain)[-5])
            want.append(values[hard].mean())
        got = LOSSES["ohem"](
            LABELS, LOGITS, threshold=threshold, fraction=0.25, class_weights=(1, 2, 3)
        )
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_ohem_by_default():
    """Below a probability of 0.7, and the hardest sixteenth of the image at least."""
    p = np.array([0.2, 0.5, 0.6, 0.65, 0.75, 0.8, 0.85, 0.9] * 4)
    easy = np.linspace(0.75, 0.95, 32)
    probabilities = np.stack([p, easy]).reshape(2, 4, 8)
    logits = np.log(np.stack([probabilities, 1 - probabilities], -1)).astype("float32")
    got = LOSSES["ohem"](np.zeros((2, 4, 8), "uint8"), logits)
    want = [-np.log(p[p < 0.7]).mean(), -np.log(easy[:2]).mean()]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_ohem_leaves_ignored_pixels_out():
    """Also where fewer pixels have a label than it takes at least."""
    labels = np.full(LABELS.shape, 255)
    labels[:, :1, :2] = 1
    got = LOSSES["ohem"](labels, LOGITS, fraction=0.5)
    want = -np.log(probabilities()[:, 0, :2, 1]).mean(1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_dice():
    want = []
    for label, p in zip(LABELS, probabilities(), strict=True):
        valid = label != 255
        scores = []
        for c in sorted(set(label[valid])):
            truth = label[valid] == c
            q = p[valid][:, c]
            scores.append(1 - 2 * q[truth].sum() / ((q**2).sum() + truth.sum()))
        want.append(np.mean(scores))
    np.testing.assert_allclose(LOSSES["dice"](LABELS, LOGITS), want, rtol=1e-5)


def test_lovasz_of_a_certain_answer_is_the_jaccard_loss():
    """The extension equals the set function at 0 and 1: one less the IoU of each class."""
    found = RNG.integers(0, 3, LABELS.shape)
    got = LOSSES["lovasz"](LABELS, np.eye(3)[found].astype("float32") * 200)
    for value, label, answer in zip(np.asarray(got), LABELS, found, strict=True):
        valid = label != 255
        losses = []
        for c in sorted(set(label[valid])):
            truth, guess = label[valid] == c, answer[valid] == c
            losses.append(1 - (truth & guess).sum() / (truth | guess).sum())
        assert value == pytest.approx(np.mean(losses), abs=1e-6)


@pytest.mark.parametrize("kind", ["dice", "lovasz"])
def test_classes_that_the_label_lacks_do_not_count(kind):
    """Though they are predicted: each certain answer's mean is over the label's two classes."""
    labels = np.where(LABELS == 2, 1, LABELS)
    found = np.random.default_rng(8).integers(0, 3, labels.shape)
    got = LOSSES[kind](labels, np.eye(3)[found].astype("float32") * 200)
    for value, label, answer in zip(np.asarray(got), labels, found, strict=True):
        valid, losses = label != 255, []
        for c in (0, 1):
            truth, guess = label[valid] == c, answer[valid] == c
            hits, both = (truth & guess).sum(), truth.sum() + guess.sum()
            losses.append(1 - (2 * hits / both if kind == "dice" else hits / (both - hits)))
        assert value == pytest.approx(np.mean(losses), abs=1e-6)


def test_lovasz_between():
    """The definition: errors by rank times what each rank adds to the Jaccard loss."""
    want = []
    for label, p in zip(LABELS, probabilities(), strict=True):
        valid = label != 255
        losses = []
        for c in sorted(set(label[valid])):
            truth = label[valid] == c
            errors = np.abs(truth - p[valid][:, c])
            order = np.argsort(-errors)
            sets = [set()]
            for i in order:
                sets.append(sets[-1] | {i})
            # The Jaccard loss when the pixels of a set are wrong, the others right.
            jaccard = [
                len(s) / len(set(np.flatnonzero(truth)) | s) if len(s) else 0.0 for s in sets
            ]
            losses.append(np.dot(errors[order], np.diff(jaccard)))
        want.append(np.mean(losses))
    np.testing.assert_allclose(LOSSES["lovasz"](LABELS, LOGITS), want, rtol=1e-5)


def test_lovasz_of_many_pixels():
    """By a sort, the loss and its gradient: bins of 2^-14 change neither but in the last digits."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (1, 60, 80))
    labels[rng.random(labels.shape) < 0.1] = 255
    logits = tf.constant(2 * rng.standard_normal((1, 60, 80, 3)), "float32")

    def by_sorting() -> tf.Tensor:
        total = 0.0
        valid = labels.ravel() != 255
        p = tf.boolean_mask(tf.reshape(tf.nn.softmax(logits), (-1, 3)), valid)
        for c in range(3):
            truth = labels.ravel()[valid] == c
            errors = tf.abs(truth.astype("float32") - p[:, c])
            order = np.argsort(-errors.numpy())
            missed, wrong = truth[order].cumsum(), (~truth[order]).cumsum()
            jaccard = 1 - (truth.sum() - missed) / (truth.sum() + wrong)
            steps = np.diff(jaccard, prepend=0).astype("float32")
            total += tf.reduce_sum(tf.gather(errors, order) * steps) / 3
        return total

    results = []
    for function in (lambda: tf.reduce_sum(LOSSES["lovasz"](labels, logits)), by_sorting):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = function()
        results.append((value.numpy(), tape.gradient(value, logits).numpy()))
    (got, gradient), (want, sorted_gradient) = results
    assert got == pytest.approx(want, abs=2**-14)
    # Pixels of one bin have the step of the bin, which is near each one's own.
    difference = np.linalg.norm(gradient - sorted_gradient)
    assert difference < 1e-3 * np.linalg.norm(sorted_gradient)


def test_ohem_takes_its_least_share():
    """Of 1000 pixels that are all easy, the hardest thousandth is one, a five hundredth two."""
    margins = np.linspace(5, 9, 1000, dtype="float32")
    logits = np.stack([margins, np.zeros_like(margins)], axis=-1).reshape(1, 25, 40, 2)
    labels = np.zeros((1, 25, 40), "uint8")
    losses = np.log1p(np.exp(-margins.astype("float64")))
    for fraction, kept in ((0.0, 1), (1 / 1000, 1), (1 / 500, 2), (1 / 16, 63)):
        got = LOSSES["ohem"](labels, logits, fraction=fraction)
        np.testing.assert_allclose(got, losses[:kept].mean(), rtol=1e-5)


@pytest.mark.parametrize("pixels", [1, 40, 2048 * 4096])
@pytest.mark.parametrize("fraction", ["0", "0.0004", "0.0625", "0.999", "1"])
def test_a_share_of_the_pixels(pixels, fraction):
    """Rounded up, also of more than 32 bits hold times a numerator."""
    want = max(1, math.ceil(Fraction(fraction) * pixels))
    assert share_of(pixels, float(fraction)) == want
    assert int(share_of(tf.constant(pixels), float(fraction))) == want


@pytest.mark.parametrize("kind", LOSSES)
def test_sizes_that_are_not_known_before(kind):
    """As of validation images, which are whole and of several sizes."""
    sizes = tf.TensorSpec((None, None, None), "uint8"), tf.TensorSpec((None, None, None, 3))
    loss = tf.function(SegmentationLoss(kind), input_signature=sizes)
    # float32 sums in another order
    assert float(loss(LABELS, LOGITS)) == pytest.approx(
        float(SegmentationLoss(kind)(LABELS, LOGITS)), rel=1e-6
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_ignored_images_add_nothing(kind):
    ignored = np.full((1, 4, 5), 255, "uint8")
    assert float(np.max(LOSSES[kind](ignored, LOGITS[:1]))) == 0
    loss = SegmentationLoss(kind)
    assert float(loss(ignored[:0], LOGITS[:0])) == 0


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_numbers(kind):
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SegmentationLoss(kind)(LABELS, logits)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all()
    assert (gradient[LABELS == 255] == 0).all()
    assert np.abs(gradient).max() > 1e-4


def test_loss_averages_over_all_pixels():
    loss = SegmentationLoss(class_weights=(1.0, 2.0, 3.0))
    assert float(loss(LABELS, LOGITS)) == pytest.approx(reference((1, 2, 3)).mean(), rel=1e-6)
    copy = SegmentationLoss.from_config(loss.get_config())
    assert float(copy(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))


def test_class_weights_that_do_not_fit():
    for weights in ((1.0, 2.0), (1.0, 2.0, 3.0, 4.0)):
        with pytest.raises(kseg.KsegError, match=f"has {len(weights)} weights and .* 3 channels"):
            SegmentationLoss(class_weights=weights)(LABELS, LOGITS)
    for wrong, message in ((-2, "-2; 0 is the least"), (np.nan, "nan; it must be finite")):
        with pytest.raises(kseg.KsegError, match=f"class_weights has {message}"):
            SegmentationLoss(class_weights=(1, wrong, 3))


def test_losses_add_up():
    both = SegmentationLoss("cross_entropy+dice", class_weights=(1.0, 2.0, 3.0))
    parts = float(np.mean(LOSSES["dice"](LABELS, LOGITS))) + reference((1, 2, 3)).mean()
    assert float(both(LABELS, LOGITS)) == pytest.approx(parts, rel=1e-6)
    by_name = SegmentationLoss(name="cross_entropy+dice", class_weights=(1.0, 2.0, 3.0))
    assert float(by_name(LABELS, LOGITS)) == float(both(LABELS, LOGITS))
    assert SegmentationLoss("dice", name="focal").kind == "dice"
    assert SegmentationLoss(name="total").kind == "cross_entropy"
    with pytest.raises(kseg.KsegError, match="'cross_entropy\\+hinge'; its parts"):
        SegmentationLoss("cross_entropy+hinge")


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "ohem"])
def test_class_weights_of_every_kind(kind):
    weights = (1.0, 2.0, 3.0)
    loss = SegmentationLoss(kind, class_weights=weights)
    want = np.mean(LOSSES[kind](LABELS, LOGITS, class_weights=weights))
    assert float(loss(LABELS, LOGITS)) == pytest.approx(want, rel=1e-6)
    assert want > 1.2 * np.mean(LOSSES[kind](LABELS, LOGITS))


def test_logits_of_half_precision():
    """They are taken to float32 first: sums in float16 have three digits."""
    half = tf.constant(LOGITS, "float16")
    loss = SegmentationLoss()(LABELS, half)
    assert loss.dtype == tf.float32
    # Logits of 2 to 4 keep 11 bits.
    assert float(loss) == pytest.approx(reference().mean(), rel=1e-3)
    wide = SegmentationLoss()(LABELS, tf.cast(half, "float32"))
    assert float(loss) == float(wide)


@pytest.mark.parametrize("kind", LOSSES)
def test_ignore_id(kind):
    """The same as of labels that say 255; also from a loss that was saved and loaded."""
    labels = np.where(LABELS == 255, 0, LABELS)
    want = LOSSES[kind](np.where(labels == 2, 255, labels), LOGITS)
    np.testing.assert_array_equal(LOSSES[kind](labels, LOGITS, ignore_id=2), want)
    loss = SegmentationLoss(kind, ignore_id=2)
    copy = SegmentationLoss.from_config(loss.get_config())
    assert copy.kind == kind
    for made in (loss, copy):
        assert float(made(labels, LOGITS)) == pytest.approx(np.mean(want), rel=1e-6)


def test_class_weights():
    # p = 0.9 and 0.1: 1 / ln(2.0) and 1 / ln(1.2)
    assert class_weights([900, 100]) == pytest.approx([1.4426950408889634, 5.484814947])
    assert class_weights([1, 0], 1.02)[1] == pytest.approx(1 / np.log(1.02))
    with pytest.raises(kseg.KsegError, match="c = 1"):
        class_weights([1, 2], 1)
    with pytest.raises(kseg.KsegError, match="every label is ignored"):
        class_weights([0, 0])


# Labelled pixels of the 367 images by class, 60.9 of their 63.4 million
CAMVID_PIXELS = [
    *(10_682_767, 14_750_079, 623_349, 20_076_880, 2_845_085, 6_166_762),
    *(743_859, 714_595, 3_719_877, 405_385, 184_967),
]
# 1 / ln(1.10 + p), three decimals, as others counted it on CamVid's 367 images of train
CAMVID_WEIGHTS = [4.111, 3.398, 9.563, 2.798, 7.305, 5.454, 9.403, 9.441, 6.696, 9.868, 10.197]


def test_class_weights_of_camvid(camvid):
    """From the labels: their pixels, and the weights that these give."""
    from kseg.data import open_dataset

    pixels = open_dataset("camvid", camvid, "train").class_pixels()
    assert pixels.tolist() == CAMVID_PIXELS
    np.testing.assert_allclose(class_weights(pixels), CAMVID_WEIGHTS, atol=6e-4)


def test_class_weights_from_camvids_pixels():
    np.testing.assert_allclose(class_weights(CAMVID_PIXELS), CAMVID_WEIGHTS, atol=6e-4)


def test_mean_iou():
    metric = MeanIoU(4)
    labels = np.array([[0, 0, 1, 1, 1, 255, 255, 0]])
    predictions = np.array([[0, 1, 1, 2, 5, 0, 3, 0]])
    metric.update_state(labels, np.eye(6)[predictions])
    assert float(metric.result()) == pytest.approx((2 / 3 + 1 / 4 + 0) / 3)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_mean_iou_adds_up_and_is_saved():
    """Two updates are one of both; another id is ignored; a class that is absent counts not."""
    rng = np.random.default_rng(4)
    labels, predictions = rng.integers(0, 3, (2, 2, 5, 6))
    metric = MeanIoU(5, ignore_id=2)
    assert metric.name == "mean_iou"
    for made in (metric, MeanIoU.from_config(metric.get_config())):
        for label, prediction in zip(labels, predictions, strict=True):
            made.update_state(label[None], np.eye(5)[prediction][None])
        valid = labels != 2
        scores = [
            ((labels == c) & (predictions == c))[valid].sum()
            / ((labels == c) | (predictions == c))[valid].sum()
            for c in range(3)
        ]
        assert scores[2] == 0
        assert float(made.result()) == pytest.approx(np.mean(scores), rel=1e-6)
        assert made.num_classes == 5


def test_mean_iou_of_one_pixel():
    metric = MeanIoU(3)
    metric.update_state(np.ones((1, 1, 1)), np.eye(3)[[[[1]]]])
    assert float(metric.result()) == 1


@pytest.mark.parametrize("count", [2**24, 2**31])
def test_mean_iou_counts_beyond_float32_and_int32(count):
    metric = MeanIoU(2)
    metric.confusion.assign([[count, 0, 0], [0, 0, 0]])
    metric.update_state(np.zeros((1, 1)), np.eye(2)[[[0]]])
    assert int(metric.confusion[0, 0]) == count + 1
