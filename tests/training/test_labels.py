"""Labels and weights in Keras' shapes, held to Keras' own loss and metric."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.errors import KsegWarning
from kseg.training.losses import LOSSES, SegmentationLoss
from kseg.training.metrics import MeanIoU
from kseg.training.pipeline import reader_errors

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(2, 4, 5, 3)).astype("float32")
LABELS = RNG.integers(0, 3, (2, 4, 5)).astype("uint8")
# float32 sums in another order
CLOSE = 1e-6

WEIGHTS = {
    "scalar": np.float32(1.5),
    "one an image": np.array([0.0, 2.0]),
    "one an image, (N, 1)": np.array([[0.5], [2.0]]),
    "one a pixel": RNG.uniform(0, 3, LABELS.shape),
    "one a pixel, (N, H, W, 1)": RNG.uniform(0, 3, (*LABELS.shape, 1)),
    "none counts": np.zeros(2),
}


def by_pixel(weights: np.ndarray, labels: np.ndarray = LABELS) -> np.ndarray:
    """What Keras takes without doubt: a weight for every pixel."""
    weights = np.asarray(weights)
    if weights.size in (1, len(labels)):
        weights = weights.reshape(-1, 1, 1)
    return np.broadcast_to(weights.reshape(weights.shape[:3]), labels.shape).astype("float32")


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_weighted_cross_entropy_is_keras_own(weights, graph):
    loss = SegmentationLoss()
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    want = float(own(LABELS, LOGITS, sample_weight=by_pixel(weights)))
    got = (tf.function(loss) if graph else loss)(LABELS, LOGITS, sample_weight=weights)
    assert float(got) == pytest.approx(want, rel=CLOSE)


def test_weights_beside_ignored_pixels():
    """Keras' sum over the valid pixels, divided by all of them."""
    labels = np.where(RNG.random(LABELS.shape) < 0.3, 255, LABELS)
    own = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=255, reduction="sum"
    )
    for weights in WEIGHTS.values():
        want = float(own(labels, LOGITS, sample_weight=by_pixel(weights))) / labels.size
        got = float(SegmentationLoss()(labels, LOGITS, sample_weight=weights))
        assert got == pytest.approx(want, rel=CLOSE)


@pytest.mark.parametrize("kind", LOSSES)
def test_weights_of_images(kind):
    """The mean of the images' losses, each times its weight; and the sum of two losses."""
    weights = np.array([0.5, 3.0])
    losses = np.asarray(LOSSES[kind](LABELS, LOGITS)).reshape(2, -1).mean(1)
    got = float(SegmentationLoss(kind)(LABELS, LOGITS, sample_weight=weights))
    assert got == pytest.approx((losses * weights).mean(), rel=CLOSE)
    both = float(SegmentationLoss(f"cross_entropy+{kind}")(LABELS, LOGITS, sample_weight=weights))
    alone = float(SegmentationLoss()(LABELS, LOGITS, sample_weight=weights))
    assert both == pytest.approx(got + alone, rel=CLOSE)


@pytest.mark.parametrize("kind", ["ohem", "dice", "lovasz", "cross_entropy+dice"])
def test_weights_of_pixels_are_refused_where_they_have_no_meaning(kind):
    name = kind.split("+")[-1]
    with pytest.raises(kseg.KsegError, match=rf"\(2, 4, 5\).*weight an image.*{name} has one val"):
        SegmentationLoss(kind)(LABELS, LOGITS, sample_weight=np.ones(LABELS.shape))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 4), (2, 4, 5, 3), (2, 4, 6)])
def test_weights_of_another_shape(shape):
    for function in (SegmentationLoss(), MeanIoU(3).update_state):
        with pytest.raises(
            kseg.KsegError, match=r"sample_weight is of shape .* one weight an image"
        ):
            function(LABELS, LOGITS, sample_weight=np.ones(shape))


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weighted_metric_is_keras_own(weights):
    metric, own = MeanIoU(3), keras.metrics.MeanIoU(3, sparse_y_pred=False, dtype="float32")
    for part in (slice(0, 1), slice(0, 2)):
        each = np.asarray(weights)
        metric.update_state(LABELS[part], LOGITS[part], each if each.ndim == 0 else each[part])
        own.update_state(LABELS[part], LOGITS[part], by_pixel(weights)[part])
    assert float(metric.result()) == pytest.approx(float(own.result()), rel=CLOSE)


def test_weighted_and_plain_updates_add_up():
    metric, plain = MeanIoU(3), MeanIoU(3)
    metric.update_state(LABELS, LOGITS)
    metric.update_state(LABELS[:1], LOGITS[:1], np.array([2.0]))
    for part in (slice(0, 2), slice(0, 1), slice(0, 1)):
        plain.update_state(LABELS[part], LOGITS[part])
    assert float(metric.result()) == pytest.approx(float(plain.result()), rel=CLOSE)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_axes_that_change():
    """TensorFlow's trace for labels (N, H, W) in one call and (N, H, W, 1) in the next."""
    specs = tf.TensorSpec(None, tf.uint8), tf.TensorSpec((None, 4, 6, 3), tf.float32)
    for function in (SegmentationLoss(), MeanIoU(3).update_state):
        with pytest.raises(kseg.KsegError, match="another number of axes than in an earlier call"):
            tf.function(function, autograph=False).get_concrete_function(*specs)
    with pytest.raises(kseg.KsegError, match="num_classes is '3'; it must be a whole number"):
        MeanIoU("3")


def test_images_that_are_scaled(recwarn):
    inputs = keras.Input((None, None, 3))
    model = kseg.wrap(keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs)))
    model.compile("sgd", SegmentationLoss())
    image, labels = np.full((1, 32, 32, 3), 250.0), np.zeros((1, 32, 32), np.uint8)
    calls = [
        lambda x: model.fit(x, labels, verbose=0),
        lambda x: model.evaluate(x=x, y=labels, verbose=0),
        lambda x: model.predict(x, verbose=0),
    ]
    for call in calls:
        for fine in (image, 0 * image, image.astype(np.uint8) // 250):
            call(fine)
        assert not [w for w in recwarn.list if w.category is KsegWarning]
        with pytest.warns(KsegWarning, match="from 0.98 to 0.98, and the model takes RGB 0..255"):
            call(image / 255)
        with pytest.warns(KsegWarning, match="from -2 to 2.6, and the model takes RGB 0..255"):
            call(np.stack([image[..., 0] / 250 * at for at in (-2, 1, 2.6)], axis=-1))
        recwarn.clear()


def test_batches_that_are_scaled(recwarn):
    """A data set is looked at when its first batch comes, and is what it was."""
    inputs = keras.Input((None, None, 3))
    model = kseg.wrap(keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs)))
    model.compile("sgd", SegmentationLoss())
    images = RNG.uniform(0, 1, (5, 4, 6, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, TRUTH)).batch(2)
    calls = [
        lambda x: model.fit(x, epochs=2, verbose=0),
        lambda x: model.evaluate(x=x, verbose=0),
        lambda x: model.predict(x, verbose=0),
    ]
    for call in calls:
        for scale in (255, 0):
            call(data.map(lambda image, label, scale=scale: (scale * image, label)))
        assert not [w for w in recwarn.list if w.category is KsegWarning]
        with pytest.warns(KsegWarning, match="and the model takes RGB 0..255"):
            call(data)
        recwarn.clear()
    got = model.predict(data, verbose=0)
    np.testing.assert_array_equal(got, model.predict(images, batch_size=2, verbose=0))


def compiled(
    loss: keras.losses.Loss, metric: keras.metrics.Metric, **options
) -> kseg.SegmentationModel:
    """A convolution with the same weights every time."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    model = kseg.SegmentationModel(inputs, keras.layers.Conv2D(3, 1)(inputs))
    model.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=[metric], **options)
    return model


IMAGES = RNG.normal(size=(5, 4, 6, 3)).astype("float32")
TRUTH = RNG.integers(0, 3, (5, 4, 6)).astype("uint8")


@pytest.mark.parametrize("shape", [(5,), (5, 4, 6), (5, 4, 6, 1)])
@pytest.mark.parametrize("labels", [TRUTH, TRUTH[..., None]], ids=["(N, H, W)", "(N, H, W, 1)"])
def test_weights_through_fit_and_evaluate(labels, shape):
    """Two epochs of two batches; tf.data triples and arrays."""
    weights = np.random.default_rng(1).uniform(0, 2, shape).astype("float32")
    ours = compiled(SegmentationLoss(), MeanIoU(3))
    own = compiled(
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.metrics.MeanIoU(3, sparse_y_pred=False, dtype="float32", name="mean_iou"),
    )
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels, weights)).batch(3)
    plain = tf.data.Dataset.from_tensor_slices((IMAGES, TRUTH, by_pixel(weights, TRUTH))).batch(3)
    got = ours.fit(data, epochs=2, verbose=0).history
    want = own.fit(plain, epochs=2, verbose=0).history
    assert got["loss"] == pytest.approx(want["loss"], rel=CLOSE)
    assert got["mean_iou"] == pytest.approx(want["mean_iou"], rel=CLOSE)
    for a, b in zip(ours.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=CLOSE)
    arrays = dict(x=IMAGES, y=labels, sample_weight=weights, batch_size=3, verbose=0)
    assert ours.evaluate(data, verbose=0) == ours.evaluate(**arrays)
    assert ours.evaluate(data, verbose=0) == pytest.approx(
        own.evaluate(plain, verbose=0), rel=CLOSE
    )


def test_class_weight_is_refused():
    """Keras would take the argmax along the width for the class of a row."""
    data = tf.data.Dataset.from_tensor_slices((IMAGES, TRUTH)).batch(2)
    for x in (data, IMAGES):
        model = compiled(SegmentationLoss(), MeanIoU(3))
        with pytest.raises(kseg.KsegError, match=r"SegmentationLoss\(class_weights"):
            model.fit(x, TRUTH if x is IMAGES else None, class_weight={0: 1.0, 1: 2.0, 2: 1.0})


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("size", [(1, 8, 8), (8, 8, 8), (2, 3, 5)])
def test_labels_with_a_last_axis_of_one(kind, size):
    labels = RNG.choice([0, 1, 2, 255], size)
    logits = RNG.normal(size=(*size, 3)).astype("float32")
    got, want = (float(SegmentationLoss(kind)(y, logits)) for y in (labels[..., None], labels))
    assert got == want
    np.testing.assert_array_equal(
        LOSSES[kind](labels[..., None], logits), LOSSES[kind](labels, logits)
    )
    scores = []
    for y in (labels, labels[..., None]):
        metric = MeanIoU(3)
        metric.update_state(y, logits)
        scores.append(float(metric.result()))
    assert scores[0] == scores[1] > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 5, 3), r"are of shape \(2, 4, 5, 3\) .*\(2, 4, 5\), one id.*argmax"),
        ((2, 5, 4), r"are of shape \(2, 5, 4\) and the model's output of \(2, 4, 5, 3\)"),
        ((2, 8, 10), r"are of shape \(2, 8, 10\)"),
        ((1, 4, 5), r"are of shape \(1, 4, 5\)"),
        ((4, 5), r"are of shape \(4, 5\)"),
        ((2, 20, 1), r"are of shape \(2, 20, 1\)"),
    ],
)
def test_labels_of_another_shape(shape, message):
    for function in (*LOSSES.values(), SegmentationLoss(), MeanIoU(3).update_state):
        with pytest.raises(kseg.KsegError, match=message):
            function(np.zeros(shape, "uint8"), LOGITS)


def test_sizes_that_only_the_step_knows():
    """As many pixels, turned."""
    sizes = tf.TensorSpec((None, None, None), "uint8"), tf.TensorSpec((None, None, None, 3))
    step = tf.function(SegmentationLoss(), input_signature=sizes)
    with (
        pytest.raises(kseg.KsegError, match=r"another height or width.*found 2 5 4"),
        reader_errors(),
    ):
        step(np.zeros((2, 5, 4), "uint8"), LOGITS)


BAD = [
    (7, "uint8"),
    (3, "uint8"),
    (254, "int32"),
    (-1, "int32"),
    (2**32, "int64"),
    (0.5, "float32"),
]


@pytest.mark.parametrize(("value", "kind"), BAD)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_label_beyond_the_classes(value, kind, graph):
    """One pixel of many, in every loss and in the metric."""
    labels = LABELS.astype(kind)
    labels[1, 2, 3] = value
    metric = MeanIoU(3)
    for function in (*LOSSES.values(), metric.update_state):
        function = tf.function(function) if graph else function
        with (
            pytest.raises(kseg.KsegError, match=rf"0 to 2, for 3 classes, or 255.*found {value}"),
            reader_errors(),
        ):
            function(tf.constant(labels), LOGITS)
    assert int(np.sum(metric.confusion)) == 0


def test_another_ignored_id_makes_255_a_bad_label():
    labels = np.where(LABELS == 2, 255, LABELS)
    with pytest.raises(kseg.KsegError, match=r"or -1, which is ignored.*found 255"):
        SegmentationLoss(ignore_id=-1)(labels, LOGITS)
    ignored = np.where(LABELS == 2, -1, LABELS.astype(int))
    want = SegmentationLoss()(labels, LOGITS)
    assert float(SegmentationLoss(ignore_id=-1)(ignored, LOGITS)) == float(want)


@pytest.mark.parametrize("kind", LOSSES)
def test_what_xla_compiles_is_no_number(kind):
    """It cannot raise, on no device; a run stops at such a loss."""
    step = tf.function(SegmentationLoss(kind), jit_compile=True)
    assert np.isfinite(step(LABELS, LOGITS))
    assert np.isnan(step(np.where(LABELS == 2, 3, LABELS), LOGITS))
    metric = MeanIoU(3)
    count = tf.function(metric.update_state, jit_compile=True)
    count(LABELS, LOGITS)
    assert np.isfinite(metric.result())
    count(np.where(LABELS == 2, 9, LABELS), LOGITS)
    assert np.isnan(metric.result())


def test_fit_stops_at_a_label_beyond_the_classes():
    model = compiled(SegmentationLoss(), MeanIoU(3))
    with pytest.raises(kseg.KsegError, match=r"for 3 classes.*found 3"), reader_errors():
        model.fit(IMAGES, TRUTH + 1, verbose=0)


def test_one_channel_says_what_to_do():
    for function in (*LOSSES.values(), SegmentationLoss(), MeanIoU(1).update_state):
        with pytest.raises(
            kseg.KsegError, match=r"one class; .* 0 for the rest and 1 for the class"
        ):
            function(np.zeros((2, 4, 5), "uint8"), LOGITS[..., :1])


def test_reductions():
    assert SegmentationLoss(reduction="mean").reduction == "mean"
    for reduction in ("sum", "none", None, "mean_with_sample_weight"):
        with pytest.raises(kseg.KsegError, match=f"reduction is {reduction!r}"):
            SegmentationLoss(reduction=reduction)
