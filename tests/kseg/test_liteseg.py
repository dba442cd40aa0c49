"""LiteSeg: its options, sizes and costs; its layers against their plain forms."""

import json
import math
from pathlib import Path

import keras
import make_weights
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.backbones.darknet import darknet19
from kseg.cost import multiply_adds
from kseg.errors import KsegError
from kseg.layers import ChannelShuffle, GroupedPointwiseConv
from kseg.zoo import find_variant
from support import outputs_of

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
LOW_LEVEL_STRIDES = {"liteseg_mobilenet_v2": 4, "liteseg_shufflenet": 8, "liteseg_darknet19": 4}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Weights for the MobileNetV2 variant that make every branch matter."""
    return make_weights.make_weights(
        json.loads((FIXTURES / "liteseg_mobilenetv2_a.json").read_text())
    )


def random_image(height: int, width: int) -> np.ndarray:
    image = np.random.default_rng(3).integers(0, 256, (1, height, width, 3))
    return image.astype("float32")


def taps(model: keras.Model, *names: str) -> keras.Model:
    return keras.Model(model.inputs, [model.get_layer(name).output for name in names])


def copy_all_but(source: keras.Model, target: keras.Model, *names: str) -> None:
    for layer in target.layers:
        if layer.weights and layer.name not in names:
            layer.set_weights(source.get_layer(layer.name).get_weights())


@pytest.mark.parametrize(
    ("row", "parameters", "statistics", "unused", "billions"),
    [
        ("liteseg_mobilenet_v2", 4_382_707, 36_224, 1_281_000, (4.31, 1.94, 17.22)),
        ("liteseg_shufflenet", 3_508_451, 41_328, 1_537_000, (2.25, 1.01, 8.98)),
        ("liteseg_darknet19", 20_545_459, 16_576, 0, (57.13, 25.35, 222.56)),
    ],
)
def test_cost(row: str, parameters: int, statistics: int, unused: int, billions: tuple):
    """Against the fixtures' table, whose parameters include the unused classifiers."""
    for size, billion in zip(((512, 1024), (360, 640), (1024, 2048)), billions, strict=True):
        model = kseg.create_model(row, input_shape=(*size, 3))
        assert round(multiply_adds(model) / 1e9, 2) == billion
    assert sum(math.prod(v.shape) for v in model.trainable_variables) == parameters - unused
    assert sum(math.prod(v.shape) for v in model.non_trainable_variables) == statistics
    fixture = row.replace("net_v2", "netv2")
    params = json.loads((FIXTURES / f"{fixture}_a.json").read_text())["params"]
    prefixes = find_variant(row).unused
    left = [shape for name, shape, *_ in params if name.startswith(prefixes)]
    assert sum(math.prod(shape) for shape in left) == unused


@pytest.mark.parametrize("row", LOW_LEVEL_STRIDES)
@pytest.mark.parametrize("size", [(97, 161), (100, 150), (90, 33)])
def test_decoder_size(row: str, size: tuple[int, int]):
    model = kseg.create_model(row, num_classes=5, input_shape=(*size, 3))
    stride = LOW_LEVEL_STRIDES[row]
    rows, columns = (-(-n // stride) for n in size)
    assert model.get_layer("last_conv.6").output.shape == (None, rows, columns, 5)
    assert model.output.shape == (None, *size, 5)


def test_sizes_may_change_between_images():
    """The pooled image is 1x1 in every trace, also in one for any size."""
    model = kseg.create_model("liteseg_mobilenet_v2", num_classes=2)
    infer = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for size in ((64, 96), (33, 70)):
        image = random_image(*size)
        np.testing.assert_allclose(infer(image), model(image), atol=1e-5)


def test_plain_aspp_is_the_dilated_half_with_activations(tensors):
    deep = kseg.create_model("liteseg_mobilenet_v2", input_shape=(64, 96, 3))
    kseg.checkpoints.assign(deep, tensors)
    plain = kseg.create_model("liteseg_mobilenet_v2", input_shape=(64, 96, 3), aspp="plain")
    copy_all_but(deep, plain)
    image = random_image(64, 96)
    names = [f"aspp{i}" for i in (1, 2, 3, 4)]
    before = outputs_of(taps(deep, *(f"{name}.bn" for name in names)), image)
    after = outputs_of(taps(plain, *(f"{name}.relu" for name in names)), image)
    for want, got in zip(before, after, strict=True):
        assert want.min() < -0.1
        np.testing.assert_allclose(got, np.maximum(want, 0), atol=1e-4)
    # Three times: separable 3x3 of 96 channels and its BatchNorm.
    assert deep.count_params() - plain.count_params() == 3 * (9 * 96 + 96 * 96 + 4 * 96)


@pytest.mark.parametrize(
    ("option", "depthwise", "pointwise", "kept"),
    [
        # The backbone's 1280 channels come first in conv1's input.
        ("short_residual", "conv1.conv1", "conv1.pointwise", slice(1280, None)),
        # The low level's 24 come last in the decoder's.
        ("long_residual", "last_conv.0.conv1", "last_conv.0.pointwise", slice(0, 96)),
    ],
)
def test_residuals(tensors, option: str, depthwise: str, pointwise: str, kept: slice):
    """Without a residual is with one whose channels have no weight."""
    full = kseg.create_model("liteseg_mobilenet_v2", input_shape=(64, 96, 3))
    kseg.checkpoints.assign(full, tensors)
    image = random_image(64, 96)
    with_residual = outputs_of(full, image)

    without = kseg.create_model("liteseg_mobilenet_v2", input_shape=(64, 96, 3), **{option: False})
    copy_all_but(full, without, depthwise, pointwise)
    (scale,) = full.get_layer(depthwise).get_weights()
    (kernel,) = full.get_layer(pointwise).get_weights()
    without.get_layer(depthwise).set_weights([scale[:, :, kept]])
    without.get_layer(pointwise).set_weights([kernel[:, :, kept]])
    got = outputs_of(without, image)

    silenced = np.zeros_like(kernel)
    silenced[:, :, kept] = kernel[:, :, kept]
    full.get_layer(pointwise).set_weights([silenced])
    np.testing.assert_allclose(got, outputs_of(full, image), atol=1e-3)
    assert np.abs(got - with_residual).max() > 1


def test_low_level_projections_belong_to_the_long_residual():
    names = {"conv2.conv1", "conv2.pointwise", "bn2", "relu2", "concat"}
    full = kseg.create_model("liteseg_shufflenet")
    without = kseg.create_model("liteseg_shufflenet", long_residual=False)
    assert {layer.name for layer in full.layers} - {layer.name for layer in without.layers} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aspp": "wide"}, "aspp is 'wide'"),
        ({"filters": 0}, "filters is 0"),
    ],
)
def test_bad_options(options: dict, message: str):
    with pytest.raises(KsegError, match=message):
        kseg.create_model("liteseg_mobilenet_v2", **options)


def test_darknet_maps_grow_and_shrink():
    """The rows of layers 13 to 23 over those of the input at 1/16."""
    image = keras.Input((160, 224, 3))
    model = keras.Model(image, darknet19(image).output)
    grown = {13: 0, 14: 2, 15: 2, 16: 4, 17: 4, 19: 2, 20: 4, 21: 2, 22: 2, 23: 0}
    for number, more in grown.items():
        layer = model.get_layer(f"resnet_features.layers.{number}_convbatch.layers.2")
        assert layer.output.shape[1:3] == (10 + more, 14 + more), number


@pytest.mark.parametrize("size", [(None, None), (5, 7)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_grouped_pointwise_conv_is_a_grouped_convolution(size: tuple, use_bias: bool):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 48)).astype("float32")
    plain = keras.layers.Conv2D(32, 1, groups=8, use_bias=use_bias, bias_initializer="uniform")
    image = keras.Input((*size, 48))
    layer = GroupedPointwiseConv(32, 8, use_bias=use_bias)
    model = keras.Model(image, layer(image))
    want = plain(x)
    assert layer.kernel.shape == plain.kernel.shape == (1, 1, 6, 32)
    layer.set_weights(plain.get_weights())
    np.testing.assert_allclose(model.predict(x, verbose=0), want, atol=1e-5)


@pytest.mark.parametrize("filters", [30, 32])
def test_grouped_pointwise_conv_refuses_groups_that_do_not_divide(filters: int):
    with pytest.raises(ValueError, match="groups is 8"):
        GroupedPointwiseConv(filters, 8)(np.zeros((1, 2, 2, 20), "float32"))


@pytest.mark.parametrize("shape", [(2, 5, 7), (None, 5, 7), (None, None, None), (None, 5, None)])
def test_channel_shuffle_is_a_transposition_of_groups(shape: tuple):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 48)).astype("float32")
    image = keras.Input(batch_shape=(*shape, 48))
    model = keras.Model(image, ChannelShuffle(8)(image))
    assert model.output.shape == (*shape, 48)
    want = x.reshape(2, 5, 7, 8, 6).swapaxes(3, 4).reshape(2, 5, 7, 48)
    np.testing.assert_array_equal(model.predict(x, batch_size=2, verbose=0), want)


@pytest.mark.parametrize("layer", [GroupedPointwiseConv(32, 8, use_bias=False), ChannelShuffle(4)])
def test_layers_survive_a_file(layer: keras.layers.Layer, tmp_path):
    x = np.random.default_rng(0).normal(size=(1, 5, 7, 48)).astype("float32")
    image = keras.Input((None, None, 48))
    model = keras.Model(image, layer(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
