"""Keras 3 graphs in tf_keras against themselves."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers as kl

import kseg
from kseg.tflite.bridge import has_dense_kernel, to_tf_keras
from support import varied

# float32 sums of the same operators in another graph, a share of the largest value
SHARE = 1e-5


def image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (1, *size, 3)).astype("float32")


def assert_equal_outputs(model: keras.Model, size: tuple[int, int]) -> None:
    want = np.asarray(model(image(size), training=False))
    got = np.asarray(to_tf_keras(model).model(image(size), training=False))
    assert want.std() > 0
    np.testing.assert_allclose(got, want, atol=SHARE * np.abs(want).max(), rtol=0)


def test_every_row(name):
    """No stride above 4 divides the size."""
    keras.utils.set_random_seed(3)
    assert_equal_outputs(varied(kseg.create_model(name, num_classes=5)), (65, 97))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_layers_of_other_options(groups):
    """What few rows have: groups, slopes, names of activations that differ, operations."""
    keras.utils.set_random_seed(3)
    x = keras.Input((9, 11, 3))
    y = kl.Conv2D(6, 3, activation="silu", name="_conv")(x / 255)
    y = kl.LeakyReLU(negative_slope=0.1, name="leaky")(y - 0.1)
    y = kseg.layers.GroupedPointwiseConv(12, groups, name="_grouped")(y)
    y = kseg.layers.SharedPReLU(name="shared")(y)
    y = kl.Activation("silu", name="last")(1 - y)
    y = kl.Activation("hard_sigmoid", name="gate")(y)
    model = keras.Model(x, y)
    for weight in model.weights:
        weight.assign(np.random.default_rng(5).normal(size=weight.shape))
    assert_equal_outputs(model, (9, 11))
    # Back from tf_keras; the parts of the convolution train as it does.
    model.get_layer("_grouped").trainable = False
    bridge = to_tf_keras(model)
    assert len(bridge.model.trainable_weights) == len(model.trainable_weights)
    want = model.get_weights()
    model.set_weights([np.zeros_like(weight) for weight in want])
    bridge.copy_to(model)
    for got, weight in zip(model.get_weights(), want, strict=True):
        np.testing.assert_array_equal(got, weight)


def test_steps_of_adam_on_a_cosine():
    """Where the gradient stays the same, a step of Adam is as long as the rate."""
    x = keras.Input((4, 4, 3))
    model = keras.Model(x, kl.Conv2D(2, 1, use_bias=False, name="conv")(x))
    bridge = to_tf_keras(model)
    batches = tf.data.Dataset.from_tensors((np.ones((1, 4, 4, 3)), np.zeros((1, 4, 4))))
    told = []
    bridge.fit(
        batches,
        lambda _labels, logits: tf.reduce_sum(logits, -1),
        steps=4,
        learning_rate=0.01,
        progress=lambda *counts: told.append(counts),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    before = model.get_weights()[0]
    bridge.copy_to(model)
    rates = 0.01 / 2 * (1 + np.cos(np.pi * np.arange(4) / 4))
    # Adam's epsilon of 1e-7 beside a gradient of 1
    np.testing.assert_allclose(before - model.get_weights()[0], rates.sum(), rtol=1e-4)


def test_no_batch():
    x = keras.Input((4, 4, 3))
    bridge = to_tf_keras(keras.Model(x, kl.Conv2D(2, 1, name="conv")(x)))
    batches = tf.data.Dataset.from_tensors((np.ones((1, 4, 4, 3)), np.zeros((1, 4, 4)))).take(0)
    with pytest.raises(kseg.KsegError, match="there is no batch to train on"):
        bridge.fit(batches, None, steps=1, learning_rate=0.01, progress=None)


def test_dense_kernels():
    kinds = tf_keras.layers
    for kind in (kinds.Conv2D, kinds.Conv2DTranspose):
        assert has_dense_kernel(kind(2, 3))
    assert not has_dense_kernel(kinds.DepthwiseConv2D(3))
    assert not has_dense_kernel(kinds.BatchNormalization())


def test_weights_come_back():
    """Also those of convolutions that run in parts."""
    keras.utils.set_random_seed(3)
    model = kseg.create_model("skipnet_shufflenet", num_classes=5)
    want = [np.array(w) for w in model.get_weights()]
    bridge = to_tf_keras(model)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    bridge.copy_to(model)
    for got, w in zip(model.get_weights(), want, strict=True):
        np.testing.assert_array_equal(got, w)


def test_a_loss_that_is_no_number():
    x = keras.Input((8, 8, 3))
    bridge = to_tf_keras(keras.Model(x, kl.Conv2D(2, 1, name="conv")(x)))
    batches = tf.data.Dataset.from_tensors((image((8, 8)), np.zeros((1, 8, 8), np.int32)))
    with pytest.raises(kseg.KsegError, match=r"the loss is nan, .* learning rate below 0.01"):
        bridge.fit(
            batches,
            lambda _labels, logits: tf.math.log(-tf.square(logits) - 1),
            steps=2,
            learning_rate=0.01,
            progress=lambda *_: None,
        )


def test_options_that_tf_keras_lacks_are_refused():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, kl.Dense(4, lora_rank=2, name="dense")(x))
    with pytest.raises(kseg.KsegError, match="dense: Dense of tf_keras has no option lora"):
        to_tf_keras(model)


def test_layers_that_tf_keras_lacks_are_refused():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, kl.RMSNormalization(name="norm")(x))
    with pytest.raises(kseg.KsegError, match="norm: tf_keras has no RMSNormalization"):
        to_tf_keras(model)


@pytest.mark.parametrize("number", [0, 1])
def test_operations_of_several_tensors(number):
    """Each reader has the one that it reads, not the image."""
    x = keras.Input((9, 11, 3))
    mean, variance = keras.ops.moments(x, (1, 2), keepdims=True)
    y = kl.Conv2D(6, 3, name="conv")((x - mean) / keras.ops.sqrt(variance + 1))
    assert_equal_outputs(keras.Model(x, keras.ops.split(y, 2, -1)[number]), (9, 11))


@keras.saving.register_keras_serializable("kseg-tests")
def halved(x: keras.KerasTensor) -> keras.KerasTensor:
    """An activation of the user's."""
    return keras.ops.relu(x) * 0.5


@pytest.mark.parametrize("activation", [halved, "relu6"])
def test_activations_that_tf_keras_lacks(activation):
    """They are layers of their own, in tf_keras alone."""
    keras.utils.set_random_seed(3)
    x = keras.Input((9, 11, 3))
    y = kl.Conv2D(4, 3, activation=activation, name="conv")(kl.Rescaling(1 / 255)(x))
    y = kl.Dense(4, activation=activation, name="dense")(y)
    y = kl.DepthwiseConv2D(3, activation=activation, name="depthwise")(y)
    y = kl.Conv2DTranspose(4, 3, activation=activation, name="transposed")(y)
    assert_equal_outputs(keras.Model(x, y), (9, 11))


def test_layers_whose_activation_is_not_the_last():
    x = keras.Input((8, 3))
    model = keras.Model(x, kl.SimpleRNN(4, activation="relu6", name="rnn")(x))
    with pytest.raises(kseg.KsegError, match="rnn: tf_keras lacks the activation of this Simple"):
        to_tf_keras(model)


def test_layers_of_other_weights_are_refused():
    x = keras.Input((8, 3))
    model = keras.Model(x, kl.MultiHeadAttention(1, 4, name="attention")(x, x))
    with pytest.raises(kseg.KsegError, match=r"attention: MultiHeadAttention .* call_with_weights"):
        to_tf_keras(model)


def test_importing_kseg_tflite_leaves_tf_keras_alone():
    """The optimisation library would set TF_USE_LEGACY_KERAS for the whole process."""
    code = (
        "import sys, kseg.tflite, kseg.cli; kseg.tflite.convert; kseg.cli.parser(['qat']);"
        "assert not {'tf_keras', 'tensorflow_model_optimization'} & set(sys.modules)"
    )
    # Other tests of this process have imported it.
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@keras.saving.register_keras_serializable("kseg-tests")
class Gain(kl.Layer):
    """A layer as a network's file may bring it: a factor a channel, and what is said of it."""

    def build(self, shape: tuple) -> None:
        self.gain = self.add_weight(shape=shape[-1:], initializer="ones", name="gain")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self.call_with_weights(x, self.gain)

    @staticmethod
    def call_with_weights(x: keras.KerasTensor, gain: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.tanh(x) * gain


def test_a_layer_of_ones_own_trains():
    """By ``call_with_weights`` alone; its weight comes back."""
    x = keras.Input((4, 4, 3))
    layer = Gain(name="gain")
    model = keras.Model(x, layer(x))
    layer.set_weights([np.array([1.0, -2.0, 0.5], "float32")])
    assert_equal_outputs(model, (4, 4))
    bridge = to_tf_keras(model)
    pixels = image((4, 4)) / 255
    batches = tf.data.Dataset.from_tensors((pixels, np.tanh(pixels)))
    bridge.fit(
        batches,
        lambda want, got: tf.square(want - got),
        steps=200,
        learning_rate=0.1,
        progress=lambda done, total: None,
    )
    bridge.copy_to(model)
    # Adam is at the minimum, gains of one, when its rate has fallen to zero.
    np.testing.assert_allclose(layer.get_weights()[0], np.ones(3), atol=0.02)
