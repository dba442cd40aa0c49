"""One contract for every row of the zoo, and what create_model refuses."""

import keras
import numpy as np
import pytest

import kseg
from kseg.cost import multiply_adds
from kseg.zoo import VARIANTS

SIZES = [(64, 96), (65, 97), (90, 60)]


@pytest.fixture(scope="module", params=["cgnet_m3n15"])
def model(request):
    """A representative of every family; `make matrix` runs all rows."""
    keras.utils.set_random_seed(0)
    return kseg.create_model(request.param, num_classes=7)


@pytest.mark.parametrize("size", SIZES)
def test_logits_have_the_input_size(model, size):
    logits = model(np.zeros((2, *size, 3), np.uint8))
    assert tuple(logits.shape) == (2, *size, 7)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_round_trip_keeps_card_and_numbers(model, tmp_path):
    model.save(tmp_path / "x.keras")
    copy = keras.models.load_model(tmp_path / "x.keras")
    assert isinstance(copy, kseg.SegmentationModel)
    assert copy.card == model.card
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(copy(image)), np.asarray(model(image)))


def test_inference_leaves_the_statistics_alone(model):
    before = [np.asarray(v).copy() for v in model.non_trainable_variables]
    image = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    model(image)
    model.predict(image, verbose=0)
    for was, variable in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), was)


def test_gradients_reach_every_weight(model):
    import tensorflow as tf

    image = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    with tf.GradientTape() as tape:
        logits = model(image, training=True)
        # Distances to random targets: a sum would be blind before a normalisation.
        target = np.random.default_rng(1).normal(size=logits.shape).astype("float32")
        loss = tf.reduce_mean((logits - target) ** 2)
    variables = [v.value for v in model.trainable_variables]
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, variables), strict=True
    ):
        assert gradient is not None, variable.path
        assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.path


@pytest.mark.parametrize("name", VARIANTS)
def test_published_facts(name):
    variant = VARIANTS[name]
    (height, width), published = next(iter(variant.multiply_adds.items()))
    model = kseg.create_model(
        name, num_classes=variant.num_classes, input_shape=(height, width, 3), batch_size=1
    )
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == variant.parameters
    # The table has two decimals of 1e9.
    assert multiply_adds(model) == pytest.approx(published, abs=0.005e9)


def test_multiply_adds_scale_with_the_area():
    for size, published in VARIANTS["cgnet_m3n21"].multiply_adds.items():
        model = kseg.create_model("cgnet_m3n21", input_shape=(*size, 3), batch_size=1)
        assert multiply_adds(model) == pytest.approx(published, abs=0.005e9)


def test_preprocessing_is_the_published_normalisation():
    raw = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2, preprocessing=False)
    whole = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2)
    whole.set_weights(raw.get_weights())
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    mean = np.float32([72.39239876, 82.90891754, 73.15835921])
    want = np.asarray(raw(image.astype("float32") - mean))
    np.testing.assert_allclose(np.asarray(whole(image)), want, atol=1e-6)


def test_default_is_cityscapes():
    card = kseg.create_model("cgnet_m3n15").card
    assert (card.num_classes, card.dataset) == (19, "cityscapes")
    assert card.class_names[6] == "traffic light"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="cgnet"), "unknown model 'cgnet'; did you mean cgnet_m3n"),
        (dict(name="cgnet_m3n21", rate=2), "has no option 'rate'"),
        (dict(name="cgnet_m3n21", output_stride=8), "has no option 'output_stride'"),
        (dict(name="cgnet_m3n21", auxiliary=True), "has no option 'auxiliary'"),
        (dict(name="cgnet_m3n21", residual="big"), "residual is 'big'"),
        (dict(name="cgnet_m3n21", m=1), "m is 1"),
        (dict(name="cgnet_m3n21", num_classes=0), "num_classes is 0"),
        (dict(name="cgnet_m3n21", input_shape=(64, 64, 1)), "input_shape is"),
        (dict(name="cgnet_m3n21", weights="none.pth"), "none.pth: no such checkpoint"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(kseg.KsegError, match=message) as error:
        kseg.create_model(**arguments)
    assert "\n" not in str(error.value)
