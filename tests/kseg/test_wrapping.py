"""Models of plain Keras with a card: the same function, in files too."""

import warnings

import keras
import numpy as np
import pytest
from foreign_models import two_outputs, unet
from keras import layers as kl

import kseg
from kseg.card import IMAGENET, UNIT_RANGE
from kseg.errors import KsegWarning
from kseg.model import leaf_layers
from kseg.predictor import KerasPredictor
from kseg.resize import resize_bilinear
from kseg.zoo import build
from support import outputs_of

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.float32)

# float32 sums in another order, on logits of size 1
FLOAT32 = 1e-5


def simple(*layers, size=(None, None)) -> keras.Model:
    """A chain of layers behind the image."""
    x = image = keras.Input((*size, 3))
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x, name="simple")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    return unet()


def test_the_same_function_in_files(model, tmp_path):
    ours = kseg.wrap(model, class_names=[f"c{i}" for i in range(11)])
    want = outputs_of(model, IMAGE)
    np.testing.assert_allclose(outputs_of(ours, IMAGE), want, atol=FLOAT32)
    ours.save(tmp_path / "x.keras")
    for load in (kseg.load, keras.models.load_model):
        again = load(tmp_path / "x.keras")
        np.testing.assert_allclose(outputs_of(again, IMAGE), want, atol=FLOAT32)
        assert again.card == ours.card
    assert ours.card.wrapped
    assert (ours.card.name, ours.card.num_classes) == ("unet", 11)
    assert len(set(ours.card.colors)) == 11


def test_normalised_twice(recwarn):
    model = simple(kl.Rescaling(1 / 127.5, -1), kl.Conv2D(3, 1))
    kseg.wrap(model)
    kseg.wrap(simple(kl.Conv2D(3, 1)), normalization=IMAGENET)
    assert not [w for w in recwarn.list if w.category is KsegWarning]
    with pytest.warns(KsegWarning, match="simple: begins with the Rescaling 'rescaling.*' and is"):
        kseg.wrap(model, normalization=IMAGENET)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_sequential(activation, tmp_path):
    model = keras.Sequential([keras.Input((48, 64, 3)), kl.Conv2D(3, 3, activation=activation)])
    ours = kseg.wrap(model, probabilities=bool(activation))
    want = keras.ops.convert_to_numpy(model(IMAGE / 255))[0]
    if activation:
        want = np.log(want)
    got = outputs_of(
        kseg.wrap(model, normalization=UNIT_RANGE, probabilities=bool(activation)), IMAGE
    )
    resized = resize_bilinear(want, (48, 64))
    if activation:
        got, resized = got - got.max(-1, keepdims=True), resized - resized.max(-1, keepdims=True)
    np.testing.assert_allclose(got[0], resized, atol=FLOAT32)
    ours.save(tmp_path / "x.keras")
    again = kseg.load(tmp_path / "x.keras")
    np.testing.assert_array_equal(outputs_of(again, IMAGE), outputs_of(ours, IMAGE))


def test_it_is_a_copy(model):
    """Training the one leaves the other as it is."""
    ours = kseg.wrap(model)
    before = outputs_of(model, IMAGE)
    ours.set_weights([0 * weight for weight in ours.get_weights()])
    np.testing.assert_array_equal(outputs_of(model, IMAGE), before)


def test_a_compiled_model(model, tmp_path):
    """Its loss, which no file can hold, is none of its function."""
    other = keras.models.clone_model(model)
    other.compile(loss=lambda y, p: keras.ops.mean(p))
    kseg.wrap(other).save(tmp_path / "x.keras")
    want = outputs_of(other, IMAGE)
    np.testing.assert_allclose(
        outputs_of(kseg.load(tmp_path / "x.keras"), IMAGE), want, atol=FLOAT32
    )


def test_normalisation():
    """Of a model that expects ImageNet's; the graph of the result has it."""
    plain = simple(kl.Conv2D(4, 3, strides=1, padding="same"))
    ours = kseg.wrap(plain, normalization=IMAGENET)
    want = outputs_of(plain, (IMAGE - IMAGENET.mean) / IMAGENET.std)
    np.testing.assert_allclose(outputs_of(ours, IMAGE), want, atol=FLOAT32)


def test_statistics_of_images():
    """Of a Normalization that has seen some, in the model itself, also in one inside."""
    layer = kl.Normalization()
    layer.adapt(IMAGE)
    inner = keras.Sequential([keras.Input((None, None, 3)), layer])
    plain = simple(inner, kl.Conv2D(4, 1, name="end"))
    ours = kseg.wrap(plain)
    kernel, bias = plain.get_layer("end").get_weights()
    want = (IMAGE - IMAGE.mean((0, 1, 2))) / IMAGE.std((0, 1, 2)) @ kernel[0, 0] + bias
    for model in (ours, build(ours.card, input_shape=(48, 64, 3), weights_of=ours)):
        np.testing.assert_allclose(outputs_of(model, IMAGE), want, atol=FLOAT32)


@pytest.mark.parametrize("resize", ["half_pixel", "align_corners"])
def test_logits_at_a_stride(resize):
    """At the input's size, whatever that is; NumPy resizes the reference."""
    plain = simple(kl.Conv2D(4, 3, strides=4, padding="same"))
    image = IMAGE[:, :45, :63] / 255
    ours = kseg.wrap(plain, resize=resize)
    want = resize_bilinear(outputs_of(plain, image)[0], (45, 63), resize)
    np.testing.assert_allclose(outputs_of(ours, image)[0], want, atol=FLOAT32)


@pytest.mark.parametrize(
    "end",
    [
        [kl.Conv2D(5, 1, activation="softmax", name="end")],
        [kl.Conv2D(5, 1, name="end"), kl.Softmax()],
        [kl.Conv2D(5, 1, name="end"), kl.Activation("softmax")],
    ],
    ids=["convolution", "layer", "activation"],
)
def test_softmax_is_left_out(end, tmp_path):
    plain = simple(kl.Rescaling(1 / 255), *[type(x).from_config(x.get_config()) for x in end])
    with pytest.warns(kseg.errors.KsegWarning, match="simple: its softmax is left out"):
        kseg.wrap(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = kseg.wrap(plain, probabilities=True)
    ours.save(tmp_path / "x.keras")
    kernel, bias = plain.get_layer("end").get_weights()
    want = (IMAGE / 255) @ kernel[0, 0] + bias
    np.testing.assert_allclose(
        outputs_of(kseg.load(tmp_path / "x.keras"), IMAGE), want, atol=FLOAT32
    )


def test_probabilities_that_are_resized():
    """Their logarithm is logits; they are not taken for such in silence."""
    plain = simple(kl.Conv2D(3, 4, strides=4, activation="softmax"), kl.UpSampling2D(4))
    with pytest.raises(kseg.KsegError, match=r"are probabilities .* give probabilities=True"):
        kseg.wrap(plain)
    ours = kseg.wrap(plain, probabilities=True)
    want = outputs_of(plain, IMAGE)
    np.testing.assert_allclose(np.exp(outputs_of(ours, IMAGE)), want, atol=FLOAT32)
    with pytest.raises(kseg.KsegError, match="are not probabilities"):
        kseg.wrap(simple(kl.Conv2D(3, 1)), probabilities=True)


@pytest.mark.parametrize(
    ("output", "key"),
    [("small", "small"), ("large", "large"), ("head", "small"), (0, "large"), (-1, "small")],
)
def test_one_of_several_outputs(output, key):
    """By its key, its layer's name, or its number; Keras sorts the keys of a dict."""
    plain = two_outputs()
    ours = kseg.wrap(plain, output=output)
    want = outputs_of(plain, IMAGE)[key]
    got = outputs_of(ours, IMAGE)
    assert got.shape == (1, 48, 64, want.shape[-1])
    np.testing.assert_allclose(got[0], resize_bilinear(want[0], (48, 64)), atol=1e-3)
    # The other head is not trained for nothing.
    assert ("other" in {layer.name for layer in leaf_layers(ours)}) == (key == "large")


@pytest.mark.parametrize("output", [None, "none", 2])
def test_outputs_are_listed(output):
    with pytest.raises(kseg.KsegError, match=r"0 'large' \(None, None, None, 5\), 1 'small'"):
        kseg.wrap(two_outputs(), output=output)


def test_one_size():
    ours = kseg.wrap(simple(kl.Conv2D(3, 1), size=(32, 48)))
    assert KerasPredictor(ours).input_size == (32, 48)
    with pytest.raises(kseg.KsegError, match=r"takes images of 32x48 \(HxW\) alone"):
        build(ours.card, input_shape=(64, 64, 3), weights_of=ours)
    with pytest.raises(kseg.KsegError, match="has the output_stride that it was made with"):
        KerasPredictor(ours, output_stride=8)


def test_half_precision_is_for_training():
    """A predictor computes in float32, also of layers inside a model."""
    with_policy = unet()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = unet()
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(with_policy.get_weights())
    got = KerasPredictor(kseg.wrap(half))(IMAGE[0])
    np.testing.assert_allclose(got, outputs_of(with_policy, IMAGE)[0], atol=1e-4)


@keras.saving.register_keras_serializable("test")
class Forgetful(kl.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl.Conv2D(3, 1), "model is Conv2D; wrap takes a functional model"),
        (lambda: keras.Sequential([kl.Conv2D(3, 1)]), "a Sequential model that is not built"),
        (lambda: kseg.create_model("espnet_c"), "has a card already"),
        (
            lambda: keras.Model([a := keras.Input((8, 8, 3)), b := keras.Input((8, 8, 3))], a + b),
            "has 2 inputs",
        ),
        (
            lambda: keras.Model(a := keras.Input((8, 8, 1)), kl.Conv2D(3, 1)(a)),
            r"its input is \(None, 8, 8, 1\); it must be \(N, H, W, 3\)",
        ),
        (
            lambda: simple(kl.GlobalAveragePooling2D(), kl.Dense(3)),
            r"output is \(None, 3\); it must be scores",
        ),
        (lambda: simple(kl.Conv2D(1, 1)), "num_classes is 1"),
        (lambda: simple(kl.Lambda(lambda x: x + 1)), "write the Lambda lambda.* as a layer"),
        (lambda: simple(Forgetful(3.0)), "get_config leaves an option out"),
    ],
)
def test_refused(make, message):
    with pytest.raises(kseg.KsegError, match=message) as error:
        kseg.wrap(make())
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_registered():
    class Mine(kl.Layer):
        def call(self, x):
            return x

    with pytest.raises(kseg.KsegError, match="register_keras_serializable") as error:
        kseg.wrap(simple(kl.Conv2D(3, 1), Mine()))
    assert "Mine" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [dict(normalization=IMAGENET), dict(resize="align_corners"), dict(num_classes=12)]
)
def test_another_card(changes, model):
    ours = kseg.wrap(model)
    ours.card = ours.card.replace(**{"colors": None, **changes})
    (name,) = changes
    with pytest.raises(kseg.KsegError, match=rf"not the network of its card \({name} is"):
        build(ours.card, weights_of=ours)


def test_names_and_void_channels(model):
    ours = kseg.wrap(model, class_names=list("abcdefghij"), void_channels=(10,))
    assert ours.card.train_ids()[:11].tolist() == [*range(10), 255]
    with pytest.raises(kseg.KsegError, match="class_names has 10 entries for 11 classes"):
        kseg.wrap(model, class_names=list("abcdefghij"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(class_names="abc"), "class_names is 'abc'; it must be names"),
        (dict(void_channels=2), "void_channels is 2; it must be channel numbers"),
        (dict(normalization=(0, 255)), r"normalization is \(0, 255\); it must be Normalization"),
        (dict(probabilities="no"), r"probabilities is 'no'; it must be bool \| None"),
    ],
)
def test_arguments_of_another_type(arguments, message):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.wrap(simple(kl.Conv2D(3, 1)), **arguments)


def test_a_sigmoid_is_no_logit():
    with pytest.warns(KsegWarning, match=r"simple: ends in a sigmoid, whose values 0\.\.1 are"):
        kseg.wrap(simple(kl.Conv2D(3, 1, activation="sigmoid")))
