"""Training by TensorFlow's fused operator is Keras' BatchNorm but for rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kseg.model import dtype_policy
from kseg.training.fused_batch_norm import fuse_batch_norm

MOMENTUM, EPSILON = 0.7, 1e-2


def make(policy: str = "float32", **options) -> keras.Model:
    """One BatchNorm with weights and statistics of its own."""
    image = keras.Input((None, None, 5))
    with dtype_policy(policy):
        layer = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **options)
        model = keras.Model(image, layer(image))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return model


def step(model: keras.Model, x: np.ndarray, factor: np.ndarray) -> list[np.ndarray]:
    """Output, gradients of its weighted sum by input and weights, and the new statistics."""
    source = tf.constant(x)

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(source)
            y = tf.cast(model(source, training=True), tf.float32)
            loss = tf.reduce_sum(y * factor)
        return y, tape.gradient(loss, [source, *(v.value for v in model.trainable_variables)])

    y, gradients = compute()
    return [y.numpy(), *(g.numpy() for g in gradients), *model.get_weights()[2:]]


# float32's sums in another order; a value of bfloat16 has eight bits.
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
def test_a_training_step(policy: str, tolerance: float):
    """Few pixels, so that the unbiased variance would be a fiftieth more."""
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, (2, 5, 5, 5)).astype("float32")
    factor = rng.normal(size=x.shape).astype("float32")
    model, other = make(policy), make(policy)
    assert fuse_batch_norm(other) == 1
    for got, want in zip(step(other, x, factor), step(model, x, factor), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())
    # The closed form of the statistics.
    before = make().get_weights()[2:]
    for got, old, new in zip(
        other.get_weights()[2:], before, (x.mean((0, 1, 2)), x.var((0, 1, 2))), strict=True
    ):
        want = MOMENTUM * old + (1 - MOMENTUM) * new
        np.testing.assert_allclose(got, want, rtol=max(tolerance, 1e-5))


@keras.saving.register_keras_serializable("test")
class Block(keras.layers.Layer):
    """A layer of the user's with a BatchNorm inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON)

    def build(self, input_shape):
        self.norm.build(input_shape)

    def call(self, x, training=None):
        return self.norm(x, training=training)


def test_models_and_layers_inside():
    """As in a wrapped model, whose network is one layer."""
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, (2, 5, 5, 5)).astype("float32")
    factor = rng.normal(size=x.shape).astype("float32")
    results = []
    for fused in (2, 0):
        image = keras.Input((None, None, 5))
        # Without something between, the second would undo the first, which had no gradients.
        model = keras.Model(image, Block()(keras.ops.tanh(make()(image))))
        if fused:
            assert fuse_batch_norm(model) == fused
        results.append(step(model, x, factor))
    for got, want in zip(*results, strict=True):
        # float32's sums in another order, through two layers
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_inference_and_files_are_keras(tmp_path):
    x = np.random.default_rng(2).normal(size=(1, 4, 6, 5)).astype("float32")
    model = make()
    want = model(x, training=False).numpy()
    config = model.to_json()
    fuse_batch_norm(model)
    np.testing.assert_array_equal(model(x, training=False).numpy(), want)
    assert model.to_json() == config
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x, training=False).numpy(), want)


@pytest.mark.parametrize(
    "options",
    [{"scale": False}, {"center": False}, {"axis": 1}, {"synchronized": True}],
    ids=lambda options: next(iter(options)),
)
def test_layers_that_stay_as_they_are(options: dict):
    image = keras.Input((4, 4, 4))
    model = keras.Model(image, keras.layers.BatchNormalization(**options)(image))
    assert fuse_batch_norm(model) == 0
    frozen = make()
    frozen.layers[-1].trainable = False
    assert fuse_batch_norm(frozen) == 0


def test_a_layer_that_is_frozen_later():
    """It normalises with its own statistics and keeps them."""
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 5)).astype("float32")
    model = make()
    fuse_batch_norm(model)
    before = model.get_weights()
    want = model(x, training=False).numpy()
    model.layers[-1].trainable = False
    np.testing.assert_array_equal(model(x, training=True).numpy(), want)
    for got, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, old)
