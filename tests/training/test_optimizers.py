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


def test_cosine():
    """arXiv:1608.03983, Equation 5, over the whole run."""
    want = [1e-3 * (1 + np.cos(np.pi * step / 100)) / 2 for step in range(100)]
    assert rates(100, schedule="cosine") == pytest.approx(want, rel=1e-5, abs=1e-9)


def test_a_later_optimizer_goes_on_with_the_schedule():
    chosen = config(schedule="cosine", warmup_steps=40)
    whole = learning_rate(chosen, steps=100, epoch_steps=10)
    rest = learning_rate(chosen, steps=100, epoch_steps=10, first_step=30)
    assert [float(rest(s)) for s in range(70)] == [float(whole(s)) for s in range(30, 100)]


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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_encoder_has_a_rate_of_its_own(optimizer):
    """Two convolutions in a row, y = head (encoder x), by the optimizers' formulas."""
    inputs = keras.Input((1, 1, 2))
    encoder = keras.layers.Conv2D(2, 1, use_bias=False)
    head = keras.layers.Conv2D(1, 1, use_bias=False)
    network = keras.Model(inputs, head(encoder(inputs)))
    e, h = np.array([[1.0, -0.5], [0.3, 0.8]]), np.array([0.7, -1.2])
    network.set_weights([e.reshape(1, 1, 2, 2), h.reshape(1, 1, 2, 1)])
    chosen = config(
        optimizer=optimizer, schedule="step", learning_rate=0.05, weight_decay=0.2, encoder_rate=0.1
    )
    network.compile(make_optimizer(chosen, network, 10, 10, encoder=[encoder]), "mse")
    m = v = np.zeros(6)
    w = np.append(e.ravel(), h)
    rate = np.repeat([0.005, 0.05], [4, 2])
    for step, (x, y) in enumerate(STEPS, 1):
        network.train_on_batch(x.reshape(1, 1, 1, 2), np.full((1, 1, 1, 1), y))
        e, h = w[:4].reshape(2, 2), w[4:]
        error = 2 * (x @ e @ h - y)
        g = error * np.append(np.outer(x, h).ravel(), x @ e)
        if optimizer == "sgd":
            m = 0.9 * m + g + 0.2 * w
            w = w - rate * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            change = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
            w = w - rate * 0.2 * w - rate * change
    got = np.concatenate([weight.ravel() for weight in network.get_weights()])
    # float32 of a few products
    np.testing.assert_allclose(got, w, rtol=1e-5)


def test_an_optimizer_can_be_saved():
    """With a model that its user saves as it is, compiled."""
    network = model()
    made = make_optimizer(config(encoder_rate=0.5), network, 10, 10, encoder=[network.layers[1]])
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert (copy.rates, copy.decays) == (made.rates, made.decays)
    assert set(copy.rates) == {0.5, 1.0}
    assert set(copy.decays) == {0.0, 1e-2}


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
