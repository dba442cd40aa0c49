"""What every row of the zoo keeps: representatives, or all rows with --all-rows."""

import functools
import math
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.checkpoints import assign, count_classes, published_shapes
from kseg.cost import multiply_adds
from kseg.data import CITYSCAPES
from kseg.zoo import VARIANTS
from support import varied

# No stride above 4 divides the second and third.
SIZES = ((96, 160), (97, 161), (100, 150))


def photo(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (1, *size, 3)).astype("float32")


@functools.lru_cache(maxsize=1)
def built(name: str) -> kseg.SegmentationModel:
    # Some starts leave all units of a narrow ReLU at zero.
    keras.utils.set_random_seed(0)
    return varied(kseg.create_model(name))


@pytest.fixture
def model(name: str) -> Iterator[kseg.SegmentationModel]:
    """The row; every test finds the same weights."""
    found = built(name)
    weights = found.get_weights()
    yield found
    found.set_weights(weights)


@functools.lru_cache(maxsize=1)
def _shapes(name: str) -> list[dict[str, tuple[int, ...]]]:
    """The checkpoint's for 19 classes, as there are without saying, and for 7."""
    models = built(name), kseg.create_model(name, num_classes=7)
    return [published_shapes(model) for model in models]


def shapes(name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Where the two differ there are as many as there are classes."""
    many, few = _shapes(name)
    return {
        tensor: tuple(
            size if size == other else num_classes
            for size, other in zip(shape, few[tensor], strict=True)
        )
        for tensor, shape in many.items()
    }


def published(name: str, num_classes: int) -> dict[str, np.ndarray]:
    """A checkpoint's names and shapes for that many classes."""
    tensors = shapes(name, num_classes).items()
    return {tensor: np.full(shape, 0.5, "float32") for tensor, shape in tensors}


def test_facts(name: str):
    variant = VARIANTS[name]
    for size, want in variant.multiply_adds.items():
        shape = (*size, 3)
        model = kseg.create_model(name, num_classes=variant.num_classes, input_shape=shape)
        assert sum(math.prod(w.shape) for w in model.trainable_weights) == variant.parameters
        # Published to two decimals of a billion.
        assert multiply_adds(model) == pytest.approx(want, abs=5.1e6)


def test_multiply_adds_of_other_layers():
    """9 taps of 3 channels and 3 x 5 on 4 x 4 pixels; then 5 x 7 once."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(5, 3, strides=2, padding="same")(image)
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))
    assert multiply_adds(keras.Model(image, x)) == 16 * (9 * 3 + 3 * 5) + 5 * 7


def test_sizes_and_file(name: str, model, tmp_path):
    """Any size, the same as a model built for it; the same again from a file."""
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.card == model.card
    statistics = [np.array(v) for v in model.non_trainable_variables]
    # Called, not predicted: most of the time would go into a trace for every size.
    outputs = {size: np.asarray(model(photo(size))) for size in SIZES}
    for size, logits in outputs.items():
        assert logits.shape == (1, *size, 19)
        assert logits.dtype == "float32"
    # Inference leaves the BatchNorm statistics alone.
    for was, variable in zip(statistics, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(np.array(variable), was)
    size = SIZES[1]
    fixed = kseg.create_model(name, input_shape=(*size, 3), batch_size=1)
    fixed.set_weights(model.get_weights())
    for other in (fixed, loaded):
        got = np.asarray(other(photo(size)))
        # float32 sums in another order
        atol = 1e-5 * np.abs(outputs[size]).max()
        np.testing.assert_allclose(got, outputs[size], atol=atol, rtol=0)


def without_gradient(model: kseg.SegmentationModel, image: np.ndarray) -> set[str]:
    """The weights that an image's gradient does not reach."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(image, training=False)))
    weights = model.trainable_weights
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    return {
        weight.path
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is None or not np.abs(gradient).max() > 0
    }


def test_gradients_reach_every_weight(model):
    image = photo(SIZES[1])
    lost = without_gradient(model, image)
    if lost:
        # Random weights hold PIDNet's gates at their ends, where they have no slope; those of a
        # faint image are in between.
        mean = np.asarray(model.card.normalization.rgb_mean, "float32")
        lost &= without_gradient(model, mean + (image - mean) / 100)
    assert not lost


def test_classes(name: str, model):
    """19 without weights, by name; what the checkpoint has with them."""
    card = model.card
    assert (card.num_classes, card.dataset, card.void_channels) == (19, "cityscapes", ())
    assert card.class_names == CITYSCAPES.names
    for classes in (7, 19, 20):
        assert count_classes(name, published(name, classes)) == classes


def test_parts(name: str, model):
    """Of a checkpoint with other classes all but the classifier fits, and no more."""
    tensors = published(name, 7)
    before = [np.array(weight) for weight in model.weights]
    with pytest.raises(kseg.KsegError, match="misshapen"):
        assign(model, tensors)
    for weight, want in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, want)

    variant = VARIANTS[name]
    # The second part has the first, so both may go into one model.
    for part, prefixes in (("backbone", variant.backbone), ("all-but-classifier", ("",))):
        assign(model, tensors, part=part)
        assigned = {
            layer.name
            for layer in model.layers
            if layer.weights and all(np.all(np.equal(w, 0.5)) for w in layer.weights)
        }
        want = {
            layer.name
            for layer in model.layers
            if layer.weights
            and f"{layer.name}.".startswith(prefixes)
            and not layer.name.startswith(variant.classifier)
        }
        assert assigned == want
