"""BatchNorm's statistics of short runs, held to NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.training import TrainingConfig, recompute_batch_norm, train
from kseg.training.statistics import momentum_for

RNG = np.random.default_rng(6)
# Batches of several sizes, pixels far from 0 and 1.
BATCHES = [
    RNG.uniform(0, 255, (n, h, 12, 3)).astype("float32") for n, h in ((2, 8), (3, 10), (1, 6))
]
# float32 means of a hundred pixels
CLOSE = 1e-5


def network(dropout: float = 0.0, **options) -> keras.Model:
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization(name="first", momentum=0.9997, **options)(x)
    x = keras.layers.Dropout(dropout)(x)
    x = keras.layers.Conv2D(4, 1, name="conv")(x)
    x = keras.layers.BatchNormalization(name="second", momentum=0.997)(x)
    return kseg.SegmentationModel(inputs, x)


def reference(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of both layers' inputs, in float64."""
    first = np.concatenate([b.reshape(-1, 3) for b in BATCHES]).astype("float64")
    kernel, bias = (w.astype("float64") for w in model.get_layer("conv").get_weights())
    epsilon = model.get_layer("first").epsilon
    hidden = []
    for batch in BATCHES:
        pixels = batch.reshape(-1, 3).astype("float64")
        normal = (pixels - pixels.mean(0)) / np.sqrt(pixels.var(0) + epsilon)
        hidden.append(normal @ kernel[0, 0] + bias)
    second = np.concatenate(hidden)
    return {"first": (first.mean(0), first.var(0)), "second": (second.mean(0), second.var(0))}


def statistics(model: keras.Model, name: str) -> list[np.ndarray]:
    layer = model.get_layer(name)
    return [np.array(layer.moving_mean), np.array(layer.moving_variance)]


@pytest.mark.parametrize("synchronized", [False, True])
def test_statistics_are_numpys(synchronized):
    """Whatever they were before, NaN too; dropout does not change them, nor its random state."""
    model = network(dropout=0.5, synchronized=synchronized)
    model.get_layer("second").moving_mean.assign(np.full(4, np.nan))
    random = [np.array(v) for v in model.variables if "seed" in v.name]
    before = [np.array(v) for v in model.trainable_variables]
    assert recompute_batch_norm(model, BATCHES) == 2
    for name, want in reference(model).items():
        for got, expected in zip(statistics(model, name), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=CLOSE, atol=CLOSE)
    after = [np.array(v) for v in model.trainable_variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        random, [np.array(v) for v in model.variables if "seed" in v.name], strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [model.get_layer(n).momentum for n in ("first", "second")] == [0.9997, 0.997]
    # The layers are their own again: inference leaves the statistics alone.
    kept = statistics(model, "first")
    model(BATCHES[0], training=False)
    np.testing.assert_array_equal(statistics(model, "first"), kept)


def test_batches_of_every_form():
    """A tf.data set of tuples, an endless one cut short, alone; twice the same bits."""
    want = network()
    recompute_batch_norm(want, BATCHES[:1])
    labelled = tf.data.Dataset.from_tensors((BATCHES[0], np.zeros(BATCHES[0].shape[:3], "uint8")))
    for batches, limit in ((labelled, None), (labelled.repeat(), 1), (iter(BATCHES), 1)):
        model = network()
        recompute_batch_norm(model, batches, max_batches=limit)
        for a, b in zip(model.get_weights(), want.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_models_inside_models():
    inner = network()
    inputs = keras.Input((None, None, 3))
    assert recompute_batch_norm(keras.Model(inputs, inner(inputs)), BATCHES) == 2
    for name, want in reference(inner).items():
        np.testing.assert_allclose(statistics(inner, name), want, rtol=CLOSE, atol=CLOSE)


def test_frozen_layers_stay():
    model = network()
    model.get_layer("first").trainable = False
    before = statistics(model, "first")
    assert recompute_batch_norm(model, BATCHES) == 1
    np.testing.assert_array_equal(statistics(model, "first"), before)
    assert np.abs(np.array(model.get_layer("second").moving_mean)).max() > 0
    model.trainable = False
    assert recompute_batch_norm(model, []) == 0


@pytest.mark.parametrize(
    ("batches", "message"),
    [([], "batches is empty"), ([BATCHES[0] * np.nan], "inputs of first are not finite")],
)
def test_what_is_wrong_changes_nothing(batches, message):
    model = network()
    before = model.get_weights()
    with pytest.raises(kseg.KsegError, match=message):
        recompute_batch_norm(model, batches)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_after_fit_with_a_moving_average():
    """``fit`` leaves the average of the weights in the model; the statistics are of these."""
    model = network()
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    x = BATCHES[0]
    model.fit(x, np.zeros((*x.shape[:3], 4)), epochs=3, batch_size=1, verbose=0)
    recompute_batch_norm(model, BATCHES)
    np.testing.assert_allclose(
        statistics(model, "second"), reference(model)["second"], rtol=1e-4, atol=1e-4
    )
    # It trains on with its own momentum.
    before = statistics(model, "first")[0]
    model.fit(x, np.zeros((*x.shape[:3], 4)), batch_size=2, verbose=0)
    want = before * 0.9997 + x.reshape(-1, 3).mean(0) * 0.0003
    np.testing.assert_allclose(statistics(model, "first")[0], want, rtol=CLOSE)


@pytest.mark.parametrize(
    ("momentum", "steps", "want"),
    [
        (0.9997, 90_000, 0.9997),
        (0.9997, 30_000, 0.9997),
        (0.9997, 4_000, 1e-6 ** (1 / 800)),
        (0.9997, 300, 0.9),
        (0.9997, 60, 1e-6 ** (1 / 60)),
        (0.997, 2_900, 0.997),
        (0.997, 1_000, 1e-6 ** (1 / 200)),
        (0.99, 900, 0.99),
        (0.99, 300, 0.9),
        (0.9, 2, 0.9),
        (0.5, 1, 0.5),
    ],
)
def test_momentum_for_a_length(momentum, steps, want):
    assert momentum_for(momentum, steps) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("momentum", [0.99, 0.997, 0.9997])
def test_no_run_ends_with_the_initial_statistics(momentum):
    for steps in (1, 10, 60, 131, 500, 5_000, 20_000, 28_000, 40_000):
        assert momentum_for(momentum, steps) ** steps <= 2e-4
        assert momentum_for(momentum, steps) <= momentum


def deep(x, num_classes, **_options):
    """The test's network with DeepLab's momentum."""
    x = keras.layers.Conv2D(8, 3, padding="same", name="stem")(x)
    x = keras.layers.BatchNormalization(momentum=0.9997, name="stem.bn")(x)
    return keras.layers.Conv2D(num_classes, 1, name="classifier")(x)


@pytest.fixture
def deep_row(monkeypatch):
    from kseg.zoo import VARIANTS

    monkeypatch.setitem(VARIANTS, "deep", VARIANTS["small"].replace(builder=deep))


def test_a_short_run_has_the_statistics_of_its_images(deep_row, tiny_camvid, tmp_path, capsys):
    """Within a few per cent of those recomputed; with the published momentum 1 % of the way."""
    config = TrainingConfig(
        *("deep", "camvid"),
        **dict(batch_size=2, crop=(32, 40), steps=45, val_split=None, learning_rate=1e-9),
    )
    model = train(config, tiny_camvid, tmp_path / "run")
    assert (
        "45 steps are too few for BatchNorm's momentum 0.9997; it is 0.7356"
        in capsys.readouterr().err
    )
    layer = model.get_layer("stem.bn")
    assert layer.momentum == 0.9997
    got = np.array(layer.moving_variance)
    images = kseg.training.dataset(
        "camvid",
        tiny_camvid,
        "train",
        crop=(32, 40),
        batch_size=2,
        start_step=0,
        pad_value=model.card.normalization.rgb_mean,
    )
    recompute_batch_norm(model, images, max_batches=45)
    want = np.array(layer.moving_variance)
    # The last ten batches of two images are not all images: their variances scatter.
    np.testing.assert_allclose(got, want, rtol=0.5)
    assert (np.abs(want - 1) > 0.5 * want).any()  # the initial ones would not do


def test_frozen_runs_keep_momentum_and_statistics(deep_row, tiny_camvid, tmp_path, capsys):
    config = TrainingConfig(
        *("deep", "camvid"),
        **dict(batch_size=2, crop=(32, 40), steps=2, val_split=None, batch_norm="frozen"),
    )
    model = train(config, tiny_camvid, tmp_path / "run")
    assert "too few" not in capsys.readouterr().err
    np.testing.assert_array_equal(statistics(model, "stem.bn"), [np.zeros(8), np.ones(8)])
