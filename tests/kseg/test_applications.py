"""Networks of keras.applications as encoders, against keras.applications."""

import sys

import keras
import numpy as np
import pytest

import kseg
from kseg.backbones import applications
from kseg.backbones.applications import application
from kseg.backbones.encoders import ENCODERS
from kseg.data import open_dataset
from kseg.model import normalize
from kseg.training import TrainingConfig
from kseg.training.initial import initial_model
from kseg.zoo import VARIANTS, find_variant

ADAPTED = [name for name in (v.encoder.application for v in VARIANTS.values() if v.encoder) if name]
SMALL = "MobileNetV3Small"


def unmodified(name: str, size: tuple[int, int]) -> keras.Model:
    """As Keras makes it, with statistics as after training and ImageNet's normalisation."""
    function = getattr(keras.applications, name)
    model = function(include_top=False, weights=None, input_shape=(*size, 3))
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(weight + 0.1 * np.abs(rng.standard_normal(weight.shape)))
        if isinstance(layer, keras.layers.Normalization):
            mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
            layer.set_weights([mean, std**2, *layer.get_weights()[2:]])
            layer.finalize_state()
    return model


def encoder(name: str, output_stride: int) -> keras.Model:
    """From RGB to the features, for any size."""
    image = keras.Input((None, None, 3))
    features = application(
        normalize(image, ENCODERS[name].normalization), name=name, output_stride=output_stride
    )
    return keras.Model(image, [features.output, features.low_level])


def copy_weights(source: keras.Model, model: keras.Model) -> None:
    """Of the unmodified network into the encoder."""
    for operation, layer in applications._operations(source):
        normalizes = isinstance(operation, keras.layers.Normalization)
        if not normalizes and getattr(operation, "weights", None):
            model.get_layer(layer).set_weights(operation.get_weights())


@pytest.mark.parametrize("name", ADAPTED)
def test_features_are_those_of_keras_at_every_stride(name: str):
    """Of an even size, and at 32k+1 where the strides' grids meet.

    The same sums in another order: to 1e-5 of the largest feature.
    """
    preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
    rng = np.random.default_rng(0)
    models = {output_stride: encoder(name, output_stride) for output_stride in (32, 16, 8)}
    for size, strides in (((64, 96), (32,)), ((65, 97), tuple(models))):
        image = rng.uniform(0, 255, (1, *size, 3)).astype("float32")
        source = unmodified(name, size)
        want = np.asarray(source(preprocess(image.copy()), training=False))
        for output_stride in strides:
            model = models[output_stride]
            copy_weights(source, model)
            output, low_level = (np.asarray(x) for x in model(image, training=False))
            assert low_level.shape[1:3] == (-(-size[0] // 4), -(-size[1] // 4))
            got = output if output_stride == 32 else output[:, ::2, ::2]
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
            want = output


@pytest.mark.parametrize(
    ("name", "level", "channels"),
    [
        # The expansion of the first block at stride 8; a transition; a block's output.
        ("MobileNetV3Large", "ReLU_6", 72),
        ("EfficientNetB0", "block3a_expand_activation", 144),
        ("DenseNet121", "pool2_conv", 128),
        ("ResNet50", "conv2_block3_out", 256),
    ],
)
def test_low_level_feature(name: str, level: str, channels: int):
    features = application(keras.Input((64, 96, 3)), name=name, output_stride=8)
    assert features.low_level.shape[1:] == (16, 24, channels)
    assert features.low_level._keras_history.operation.name == f"encoder.{level}"
    assert features.output.shape[1:3] in ((8, 12), (5, 9))


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> tuple[keras.Model, str]:
    source = unmodified(SMALL, (64, 64))
    path = tmp_path_factory.mktemp("applications") / "small.weights.h5"
    source.save_weights(path)
    return source, path


def test_weights_come_through_keras(weights_file, monkeypatch):
    """From a file; "imagenet" is asked of keras.applications and of nothing else."""
    source, path = weights_file
    asked = []
    function = getattr(keras.applications, SMALL)

    def offline(weights, **kwargs):
        asked.append(weights)
        return function(weights=str(path) if weights == "imagenet" else weights, **kwargs)

    monkeypatch.setattr(keras.applications, SMALL, offline)
    for head, weights in (("liteseg", path), ("deeplab_v3_plus", "imagenet")):
        model = kseg.create_model(f"{head}.{SMALL}", num_classes=3, weights=weights)
        for layer in source.layers:
            if layer.weights:
                got = model.get_layer(f"encoder.{layer.name}").get_weights()
                for a, b in zip(got, layer.get_weights(), strict=True):
                    np.testing.assert_array_equal(a, b)
        assert model.card.weights.endswith("encoder alone")
    assert asked.count("imagenet") == 1
    assert set(asked) == {None, str(path), "imagenet"}


def test_training_begins_with_a_file_of_keras(weights_file, tiny_camvid):
    source, path = weights_file
    config = TrainingConfig(f"fcn.{SMALL}", "camvid", init=str(path))
    model = initial_model(config, open_dataset("camvid", tiny_camvid, "train"))
    layer = next(layer for layer in source.layers if layer.weights)
    got = model.get_layer(f"encoder.{layer.name}").get_weights()
    np.testing.assert_array_equal(got[0], layer.get_weights()[0])


def test_any_application_in_one_line():
    """And the same again from its card, which has its name alone."""
    model = kseg.create_model(f"deeplab_v3_plus.{SMALL}", num_classes=3, output_stride=8)
    assert model.card.normalization.mean == (127.5, 127.5, 127.5)
    image = np.random.default_rng(0).integers(0, 256, (1, 65, 97, 3), np.uint8)
    rebuilt = kseg.zoo.build(model.card, weights_of=model)
    want = np.asarray(model(image, training=False))
    assert want.shape == (1, 65, 97, 3)
    np.testing.assert_allclose(np.asarray(rebuilt(image, training=False)), want, atol=1e-5)


def test_normalisation_is_that_of_keras():
    """The row's card against preprocess_input, which is linear in each channel."""
    image = np.random.default_rng(0).uniform(0, 255, (1, 2, 3, 3)).astype("float32")
    for name in ("ResNet50", "ResNet50V2", "DenseNet121", "VGG16", "MobileNet", "Xception"):
        preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
        got = np.asarray(normalize(image, ENCODERS[name].normalization))
        np.testing.assert_allclose(got, preprocess(image.copy()), atol=1e-4)
    assert find_variant("liteseg.ResNet50").normalization.channel_order == "BGR"


def test_a_pooling_of_pooled_features_is_refused(monkeypatch):
    """There is nothing left that an output stride could dilate."""

    def network(include_top, weights, input_shape):
        image = keras.Input(input_shape)
        pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(image)
        features = keras.layers.MaxPooling2D(1)(pooled)
        return keras.Model(image, keras.layers.ReLU()(features))

    monkeypatch.setattr(keras.applications, SMALL, network)
    with pytest.raises(kseg.KsegError, match="has a MaxPooling2D, which has no dilated form"):
        kseg.create_model(f"deeplab_v3_plus.{SMALL}", num_classes=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplab_v3_plus.FooNet", {}, "unknown model 'deeplab_v3_plus.FooNet'"),
        (f"erfnet.{SMALL}", {}, "unknown model"),
        ("deeplab_v3_plus.InceptionV3", {}, "InceptionV3"),
        (f"liteseg.{SMALL}", {"weights": "none.h5"}, "none.h5: not weights of"),
    ],
)
def test_refusals(name: str, options: dict, message: str):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.create_model(name, **options)
