"""What every row of the zoo keeps."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.checkpoints import assign, count_classes, published_shapes
from kseg.cost import multiply_adds
from kseg.data import CITYSCAPES
from kseg.zoo import VARIANTS

# No stride above 4 divides the second and third.
SIZES = ((96, 160), (97, 161), (100, 150))

each_row = pytest.mark.parametrize("name", kseg.list_models())


def varied(model: keras.Model) -> keras.Model:
    """BatchNorm statistics and offsets that show a wrong border or a lost layer."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(weight.numpy() + 0.1 * np.abs(rng.standard_normal(weight.shape)))
    return model


def photo(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (1, *size, 3)).astype("float32")


def published(name: str, num_classes: int) -> dict[str, np.ndarray]:
    """A checkpoint's names and shapes for that many classes."""
    shapes = published_shapes(kseg.create_model(name, num_classes=num_classes))
    return {tensor: np.full(shape, 0.5, "float32") for tensor, shape in shapes.items()}


@each_row
def test_facts(name: str):
    variant = VARIANTS[name]
    for size, want in variant.multiply_adds.items():
        shape = (*size, 3)
        model = kseg.create_model(name, num_classes=variant.num_classes, input_shape=shape)
        assert sum(math.prod(w.shape) for w in model.trainable_weights) == variant.parameters
        # Published to two decimals of a billion.
        assert multiply_adds(model) == pytest.approx(want, abs=5.1e6)


@each_row
def test_sizes_and_file(name: str, tmp_path):
    """Any size from one traced graph, the same as with known sizes and from a file."""
    model = varied(kseg.create_model(name))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.card == model.card
    fixed = kseg.create_model(name, input_shape=(*SIZES[1], 3), batch_size=1)
    assert fixed.output_shape == (1, *SIZES[1], 19)
    fixed.set_weights(model.get_weights())

    unknown = tf.TensorSpec((None, None, None, 3))
    traced = tf.function(lambda image: model(image, training=False), input_signature=[unknown])
    for size in SIZES:
        image = photo(size)
        want = traced(image).numpy()
        assert want.shape == (1, *size, 19)
        assert want.dtype == "float32"
        for known in (loaded, fixed) if size == SIZES[1] else (model,):
            got = known(image, training=False)
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


@each_row
def test_gradients_reach_every_weight(name: str):
    model = varied(kseg.create_model(name))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(photo(SIZES[1]), training=False)))
    weights = model.trainable_weights
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    lost = [
        weight.path
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is None or not np.abs(gradient).max() > 0
    ]
    assert not lost


@each_row
def test_classes(name: str):
    """19 without weights, by name; what the checkpoint has with them."""
    card = kseg.create_model(name).card
    assert (card.num_classes, card.dataset, card.void_channels) == (19, "cityscapes", ())
    assert card.class_names == CITYSCAPES.names
    for classes in (12, 20):
        assert count_classes(name, published(name, classes)) == classes


@each_row
def test_parts(name: str):
    """Of a checkpoint with other classes all but the classifier fits, and no more."""
    tensors = published(name, 7)
    model = kseg.create_model(name)
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(kseg.KsegError, match="misshapen"):
        assign(model, tensors)
    for weight, want in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), want)

    variant = VARIANTS[name]
    for part, prefixes in (("backbone", variant.backbone), ("all-but-classifier", ("",))):
        model = kseg.create_model(name)
        assign(model, tensors, part=part)
        assigned = {
            layer.name
            for layer in model.layers
            if layer.weights and all(np.all(w.numpy() == 0.5) for w in layer.weights)
        }
        want = {
            layer.name
            for layer in model.layers
            if layer.weights
            and layer.name.startswith(prefixes)
            and not layer.name.startswith(variant.classifier)
        }
        assert assigned == want
