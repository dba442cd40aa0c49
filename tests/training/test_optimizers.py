"""Rates, decay and clipping against their formulas."""

import keras
import numpy as np
import pytest

import kseg
from kseg.training import RECIPES, TrainingConfig, from_recipe
from kseg.training.optimizers import decayed_variables, learning_rate, make_optimizer


def config(**values) -> TrainingConfig:
    return TrainingConfig("cgnet_m3n21", "camvid", **values)


def rates(count: int, **values) -> list[float]:
    schedule = learning_rate(config(**values), steps=100, epoch_steps=10)
    return [float(schedule(step)) for step in range(count)]


def test_poly():
    want = [1e-3 * (1 - step / 100) ** 0.9 for step in range(100)]
    assert rates(100) == pytest.approx(want, rel=1e-5)


def test_step():
    got = rates(45, schedule="step", decay_epochs=2, decay_factor=0.1)
    assert got == pytest.approx([1e-3] * 20 + [1e-4] * 20 + [1e-5] * 5, rel=1e-5)


def test_warm_up():
    want = [1e-3 * min((step + 1) / 4, 1) * (1 - step / 100) ** 0.9 for step in range(8)]
    assert rates(8, warmup_steps=4) == pytest.approx(want, rel=1e-5)


def model() -> keras.Model:
    """One of everything that has weights."""
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 1, name="conv")(inputs)
    x = keras.layers.DepthwiseConv2D(1, use_bias=False, name="depthwise")(x)
    x = keras.layers.SeparableConv2D(3, 1, use_bias=False, name="separable")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.PReLU(shared_axes=[1, 2], name="slope")(x))


def test_what_is_decayed():
    def paths(which):
        return {variable.path for variable in decayed_variables(network, which)}

    network = model()
    full = {"conv/kernel", "separable/pointwise_kernel"}
    assert paths("full-kernels") == full
    assert paths("kernels") == full | {"depthwise/kernel", "separable/depthwise_kernel"}
    assert paths("all") == {variable.path for variable in network.trainable_variables}


def updated(start: list[np.ndarray], **values) -> list[np.ndarray]:
    """The kernel and bias of one convolution after two steps with gradients of the data."""
    inputs = keras.Input((1, 1, 2))
    network = keras.Model(inputs, keras.layers.Conv2D(1, 1)(inputs))
    network.set_weights(start)
    optimizer = make_optimizer(config(schedule="step", **values), network, 10, 10)
    network.compile(optimizer, "mse")
    for x, y in STEPS:
        network.train_on_batch(x.reshape(1, 1, 1, 2), np.full((1, 1, 1, 1), y))
    return network.get_weights()


RNG = np.random.default_rng(0)
STEPS = [(RNG.normal(size=2), 1.0), (RNG.normal(size=2), -1.0)]
START = [RNG.normal(size=(1, 1, 2, 1)).astype("float32"), np.ones(1, "float32")]


def gradient(w: np.ndarray, b: float, x: np.ndarray, y: float) -> tuple[np.ndarray, float]:
    error = 2 * (x @ w + b - y)
    return error * x, error


def test_sgd_decays_by_the_gradient():
    """PyTorch's SGD: the decay goes through the momentum; the bias has none."""
    w, b = START[0].ravel().astype(float), 1.0
    momentum = np.zeros(2), 0.0
    for x, y in STEPS:
        dw, db = gradient(w, b, x, y)
        momentum = 0.9 * momentum[0] + dw + 0.1 * w, 0.9 * momentum[1] + db
        w, b = w - 0.01 * momentum[0], b - 0.01 * momentum[1]
    got = updated(START, optimizer="sgd", learning_rate=0.01, weight_decay=0.1)
    np.testing.assert_allclose(got[0].ravel(), w, rtol=1e-5)
    np.testing.assert_allclose(got[1], b, rtol=1e-5)


def test_adam_decays_by_the_gradient_and_adamw_apart():
    """Adam of arXiv:1412.6980, Algorithm 1, and arXiv:1711.05101, Algorithm 2."""
    for optimizer, coupled in (("adam", True), ("adamw", False)):
        w, b = START[0].ravel().astype(float), 1.0
        m = v = np.zeros(3)
        for step, (x, y) in enumerate(STEPS, 1):
            dw, db = gradient(w, b, x, y)
            g = np.append(dw + 0.1 * w * coupled, db)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            change = 0.01 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            w = w - change[:2] - 0.01 * 0.1 * w * (not coupled)
            b = b - change[2]
        got = updated(START, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
        # AdamW has Keras' epsilon of 1e-7
        np.testing.assert_allclose(got[0].ravel(), w, rtol=1e-5, err_msg=optimizer)
        np.testing.assert_allclose(got[1], b, rtol=1e-5, err_msg=optimizer)


def test_clipping_bounds_the_step():
    """A step of plain SGD is as long as the rate times the bound."""
    one = updated(START, optimizer="sgd", learning_rate=0.01, weight_decay=0.0, clip_norm=1e-3)
    free = updated(START, optimizer="sgd", learning_rate=0.01, weight_decay=0.0)
    moved = [
        np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(w, START, strict=True)))
        for w in (one, free)
    ]
    # Two steps, the second with 0.9 of the first's momentum.
    assert moved[0] < 0.01 * 1e-3 * 2.9 * 1.01
    assert moved[1] > 100 * moved[0]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_configurations_with_sources(name):
    recipe = RECIPES[name]
    chosen = from_recipe(name)
    chosen.check()
    assert chosen.recipe == name
    assert set(recipe.notes) <= set(vars(chosen))
    assert chosen.model in kseg.list_models()


def test_flags_override_a_recipe():
    chosen = from_recipe("deeplab_v3_plus_cityscapes", epochs=3, model="liteseg_mobilenet_v2")
    assert (chosen.steps, chosen.epochs, chosen.model) == (None, 3, "liteseg_mobilenet_v2")
    assert from_recipe("deeplab_v3_plus_cityscapes").steps == 90_000
    with pytest.raises(kseg.KsegError, match="train needs a model; give one, or a recipe"):
        from_recipe(None, dataset="camvid")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_average_counts_updates_not_batches(accumulate):
    """Of the first weights an update leaves the momentum's share, in however many batches."""
    network = model()
    variables = network.trainable_variables
    values = dict(optimizer="sgd", weight_decay=0.0, ema=0.9, accumulate=accumulate)
    optimizer = make_optimizer(config(**values), network, 100, 10)
    first = [np.array(v) for v in variables]
    resting = [np.zeros(v.shape, "float32") for v in variables]
    for _ in range(3 * accumulate):
        optimizer.apply(resting, variables)
    for variable in variables:
        variable.assign(keras.ops.zeros_like(variable))
    for _ in range(2 * accumulate):
        optimizer.apply(resting, variables)
    optimizer.finalize_variable_values(variables)
    for got, was in zip(variables, first, strict=True):
        np.testing.assert_allclose(got, 0.9**2 * was, rtol=1e-5)
