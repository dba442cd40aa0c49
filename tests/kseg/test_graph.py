"""A graph that is no longer its card's is refused wherever it would be built again."""

import keras
import numpy as np
import pytest

import kseg
from kseg.card import IMAGENET
from kseg.model import dtype_policy
from kseg.predictor import KerasPredictor
from kseg.zoo import build

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
CLASSES = 5

# float32 sums in another order, on logits of size 10
FLOAT32 = 1e-4


def make(**options) -> kseg.SegmentationModel:
    keras.utils.set_random_seed(3)
    return kseg.create_model("cgnet_m3n21", num_classes=CLASSES, m=2, n=2, **options)


@pytest.fixture(scope="module")
def model() -> kseg.SegmentationModel:
    return make()


def behind(model):
    return model.input, keras.layers.Softmax()(model.output)


def constant_behind(model):
    return model.input, model.output * 0.5


def before(model):
    image = keras.Input((None, None, 3))
    return image, model(keras.layers.Rescaling(255)(image))


def nested(model):
    image = keras.Input((None, None, 3))
    return image, model(image)


def another(model):
    return model.input, keras.layers.Conv2D(CLASSES, 1)(model.input)


def cut(model):
    return model.input, model.layers[-2].output


def two_inputs(model):
    other = keras.Input((None, None, CLASSES))
    return [model.input, other], model.output + other


def list_of_outputs(model):
    return model.input, [model.output]


def dict_without_logits(model):
    return model.input, {"scores": model.output}


def instead_of(kind, **changes):
    """Every layer of a kind with other options or another name."""

    def change(model):
        def clone(layer):
            if type(layer) is kind:
                config = {**layer.get_config(), **changes}
                config["name"] = changes.get("name", "{}").format(layer.name)
                return kind.from_config(config)
            return layer.__class__.from_config(layer.get_config())

        copy = keras.models.clone_model(model, clone_function=clone)
        return copy.input, copy.output

    change.__name__ = f"{kind.__name__}_{'_'.join(changes)}"
    return change


@pytest.mark.parametrize(
    "change",
    [
        behind,
        constant_behind,
        before,
        nested,
        another,
        cut,
        two_inputs,
        list_of_outputs,
        dict_without_logits,
        instead_of(keras.layers.BatchNormalization, epsilon=0.5),
        instead_of(keras.layers.PReLU, name="{}.mine"),
    ],
)
def test_another_graph(change, model):
    ours = kseg.SegmentationModel(*change(model), card=model.card)
    with pytest.raises(kseg.KsegError, match="is not the network of its card") as error:
        build(model.card, weights_of=ours)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        dict(normalization=IMAGENET),
        dict(resize="align_corners"),
        dict(num_classes=CLASSES + 1),
        dict(options={"m": 2, "n": 3}),
        dict(preprocessing=False),
    ],
)
def test_another_card(changes, model):
    """Which changes what would be built, but not what the model computes."""
    ours = kseg.SegmentationModel(
        model.inputs, model.outputs[0], card=model.card.replace(**changes)
    )
    with pytest.raises(kseg.KsegError, match="is not the network of its card"):
        build(ours.card.for_inference(), weights_of=ours)


@pytest.mark.parametrize("form", ["clone", "loaded", "trained", "static"])
def test_the_same_graph(form, model, tmp_path):
    """Whatever the names of this process, and what tells in training only."""
    ours = model
    if form == "clone":
        copy = keras.models.clone_model(model)
        ours = kseg.SegmentationModel(copy.inputs, copy.outputs[0], card=model.card)
        ours.set_weights(model.get_weights())
    elif form == "loaded":
        model.save(tmp_path / "x.keras")
        ours = kseg.load(tmp_path / "x.keras")
    elif form == "static":
        ours = make(input_shape=(48, 64, 3), batch_size=1)
    elif form == "trained":
        ours = make()
        for layer in ours.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum, layer.synchronized, layer.trainable = 0.5, True, False
    twin = build(ours.card, weights_of=ours)
    np.testing.assert_allclose(twin(IMAGE[None]), ours(IMAGE[None]), atol=FLOAT32)


def test_dropout_and_training_heads():
    """Of a network whose training has more than its inference."""
    keras.utils.set_random_seed(3)
    ours = kseg.create_model("icnet_resnet50", num_classes=CLASSES, auxiliary=True)
    twin = build(ours.card.for_inference(), weights_of=ours)
    image = IMAGE[None].astype(np.float32)
    np.testing.assert_allclose(twin(image), ours(image)["logits"], atol=FLOAT32)


def test_a_predictor_that_has_to_build_again(model):
    """For the normalisation, which its model does not have; else it runs the graph itself."""
    raw = make(preprocessing=False)
    ours = kseg.SegmentationModel(*behind(raw), card=raw.card)
    with pytest.raises(kseg.KsegError, match="it has Softmax besides"):
        KerasPredictor(ours)
    own = kseg.SegmentationModel(*behind(model), card=model.card)
    want = np.asarray(keras.ops.softmax(model(IMAGE[None])))[0]
    np.testing.assert_allclose(KerasPredictor(own)(IMAGE), want, atol=FLOAT32)


def test_a_predictor_at_another_output_stride():
    keras.utils.set_random_seed(3)
    model = kseg.create_model("deeplab_v3_mobilenet_v2", num_classes=CLASSES)
    assert KerasPredictor(model, output_stride=8)(IMAGE).shape == (48, 64, CLASSES)
    ours = kseg.SegmentationModel(*behind(model), card=model.card)
    with pytest.raises(kseg.KsegError, match="it has Softmax besides"):
        KerasPredictor(ours, output_stride=8)


def test_a_predictor_keeps_the_models_own_size():
    """Also where it is built again."""
    predictor = KerasPredictor(make(preprocessing=False, input_shape=(48, 64, 3)))
    assert predictor.input_size == (48, 64)
    assert predictor(IMAGE).shape == (48, 64, CLASSES)


def test_a_predictor_of_one_fixed_side():
    predictor = KerasPredictor(make(input_shape=(None, 64, 3)))
    assert predictor(IMAGE).shape == (48, 64, CLASSES)
    with pytest.raises(
        kseg.KsegError, match=r"takes \(None, 64\) \(H, W\), None for any, not \(48, 32\)"
    ):
        predictor(IMAGE[:, ::2])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_a_predictor_computes_in_float32(policy, tmp_path):
    """Of a model that was made, or loaded, under another policy."""
    reference = make()
    want = KerasPredictor(reference)(IMAGE)
    with dtype_policy(policy):
        ours = make()
        ours.set_weights(reference.get_weights())
        ours.save(tmp_path / "x.keras")
        for source in (ours, tmp_path / "x.keras"):
            got = KerasPredictor(source)(IMAGE)
            assert got.dtype == np.float32
            # Weights of half precision have lost digits; those of the other policies have not.
            if policy != "float16":
                np.testing.assert_allclose(got, want, atol=FLOAT32)
            assert keras.config.dtype_policy().name == policy
    assert keras.config.dtype_policy().name == "float32"


def test_channels_first_is_named():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(kseg.KsegError, match="image_data_format of Keras is 'channels_first'"):
            make()
    finally:
        keras.config.set_image_data_format(before)
