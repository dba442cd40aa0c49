"""DeepLabv3 and v3+: published shapes, sizes and costs, output strides, every option."""

import functools
import json
from pathlib import Path

import keras
import make_weights
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.backbones.encoders import ENCODERS
from kseg.backbones.mobilenet_v2 import mobilenet_v2
from kseg.backbones.resnet import resnet_v1_101_beta
from kseg.backbones.xception import xception
from kseg.cost import multiply_adds
from kseg.errors import KsegError
from kseg.layers import atrous_units
from kseg.zoo import find_variant
from support import outputs_of

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
# The lightest row that has every part.
SMALL = "deeplab_v3_plus_mobilenet_v2"
OS8 = {"output_stride": 8}
HALF = {"depth_multiplier": 0.5}
# Half a unit of the last digit in tables of billions.
ROUNDED = 0.005001


def count(variables) -> int:
    return sum(int(np.prod(v.shape)) for v in variables)


@functools.cache
def parameters(**options) -> int:
    return count(kseg.create_model(SMALL, **options).trainable_variables)


def randomize(model: keras.Model, seed: int = 3) -> None:
    """Weights that keep activations near 1 and show a wrong border."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(0.3 * rng.normal(size=layer.gamma.shape))
            layer.moving_mean.assign(0.1 * rng.normal(size=layer.gamma.shape))


def noise(*size: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (1, *size, 3)).astype("float32")


# --- published shapes, sizes and costs ----------------------------------------------


# Published variables, and the fixtures' table at 21 classes and 513x513.
@pytest.mark.parametrize(
    ("published", "row", "options", "trainable", "statistics", "billions"),
    [
        ("x65_os8", "deeplab_v3_plus_xception65", {}, 41_055_413, 202_800, 54.04),
        ("x65_os8", "deeplab_v3_plus_xception65", OS8, 41_055_413, 202_800, 176.85),
        ("x41_os16", "deeplab_v3_plus_xception41", {}, 28_108_661, 132_912, 40.01),
        ("x71_os16", "deeplab_v3_plus_xception71", {}, 43_477_837, 216_576, 66.07),
        ("mnv2_os16", "deeplab_v3_mobilenet_v2", {}, 2_113_557, 33_088, 2.74),
        ("mnv2_os16", "deeplab_v3_mobilenet_v2", OS8, 2_113_557, 33_088, 8.83),
        ("mnv2_dm05_os16", "deeplab_v3_mobilenet_v2", HALF, 697_013, 17_312, 0.87),
        ("resnet101beta_os16", "deeplab_v3_plus_resnet101", {}, 45_812_037, 123_328, 65.17),
    ],
)
def test_published_variables_and_cost(
    published: str, row: str, options: dict, trainable: int, statistics: int, billions: float
):
    model = kseg.create_model(row, num_classes=21, input_shape=(513, 513, 3), **options)
    lines = (FIXTURES / f"deeplab_{published}.variables.txt").read_text().splitlines()
    want = dict(line.split(" ", 1) for line in lines)
    if published == "x71_os16":  # the only one of 19 classes
        want = {name: shape.replace("19", "21") for name, shape in want.items()}
    shapes = kseg.checkpoints.published_shapes(model)
    assert {name: str(tuple(shape)) for name, shape in shapes.items()} == want
    assert count(model.trainable_variables) == trainable
    assert count(model.weights) == trainable + statistics
    assert multiply_adds(model) / 1e9 == pytest.approx(billions, abs=ROUNDED)
    if options != HALF:
        # The row has two classes less, each with 256 weights and a bias.
        assert find_variant(row).parameters == trainable - 2 * 257


@pytest.mark.parametrize(
    ("row", "size", "billions"),
    [
        ("deeplab_v3_plus_xception65", (1025, 2049), 418.38),
        ("deeplab_v3_mobilenet_v2", (1025, 2049), 21.23),
        # Not in the fixtures' table.
        ("deeplab_v3_plus_mobilenet_v2", (513, 513), 5.89),
        ("deeplab_v3_resnet101", (513, 513), 76.05),
    ],
)
def test_cost_of_the_rows(row: str, size: tuple[int, int], billions: float):
    model = kseg.create_model(row, input_shape=(*size, 3))
    assert count(model.trainable_variables) == find_variant(row).parameters
    assert multiply_adds(model) / 1e9 == pytest.approx(billions, abs=ROUNDED)
    assert find_variant(row).multiply_adds[size] == pytest.approx(billions * 1e9)


def test_the_decoder_costs_what_the_paper_says():
    """v3+, Table 5 at output stride 16, plain convolutions: 89.76 - 68.00 billion."""
    options = {"num_classes": 21, "input_shape": (513, 513, 3), "aspp_separable": False}
    row = "deeplab_v3_plus_xception41"
    with_decoder = kseg.create_model(row, decoder_separable=False, **options)
    without = kseg.create_model(row, decoder=False, **options)
    cost = (multiply_adds(with_decoder) - multiply_adds(without)) / 1e9
    assert cost == pytest.approx(89.76 - 68.00, abs=0.01)


# --- output strides -----------------------------------------------------------------


def test_atrous_units_trade_strides_for_dilations():
    strides = [2, 2, 2, 1, 2, 1]
    assert atrous_units(strides, 16) == [(2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)]
    assert atrous_units(strides, 8) == [(2, 1), (2, 1), (2, 1), (1, 1), (1, 1), (1, 2)]
    assert atrous_units(strides, 4) == [(2, 1), (2, 1), (1, 1), (1, 2), (1, 2), (1, 4)]
    with pytest.raises(ValueError, match="output_stride is 12"):
        atrous_units(strides, 12)


@pytest.mark.parametrize(
    ("encoder", "strides"),
    [("Xception41", (32, 16, 8)), ("ResNet101Beta", (16, 8)), ("MobileNetV2Slim", (32, 16, 8))],
)
def test_features_agree_on_the_shared_grid(encoder: str, strides: tuple[int, ...]):
    """Subsampled features of a smaller output stride are those of a larger.

    The sums are the same, in another order: to 1e-5 of the largest feature.
    """
    image, weights, want = noise(65, 97), None, None
    for output_stride in strides:
        inputs = keras.Input((None, None, 3))
        features = ENCODERS[encoder].function(inputs, output_stride=output_stride)
        backbone = keras.Model(inputs, features.output)
        if weights is None:
            randomize(backbone)
            weights = backbone.get_weights()
        backbone.set_weights(weights)
        features = outputs_of(backbone, image)
        assert features.shape[1:3] == (64 // output_stride + 1, 96 // output_stride + 1)
        if want is not None:
            difference = np.abs(features[:, ::2, ::2] - want).max()
            assert difference <= 1e-5 * np.abs(want).max(), output_stride
        want = features


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_default_atrous_rates_follow_the_output_stride(output_stride: int):
    model = kseg.create_model(SMALL, output_stride=output_stride)
    rates = [model.get_layer(f"aspp{i}_depthwise").dilation_rate[0] for i in (1, 2, 3)]
    assert rates == [n * 16 // output_stride for n in (6, 12, 18)]


def test_multi_grid():
    def dilations(row: str, layers: list[str], **options) -> list[int]:
        model = kseg.create_model(row, **options)
        return [model.get_layer(name).dilation_rate[0] for name in layers]

    # Block 4 and the last module run at twice or four times the rate; 1, 2, 4 and
    # 1, 1, 1 are the published grids.
    resnet = [f"resnet_v1_101.block4.unit_{i}.bottleneck_v1.conv2" for i in (1, 2, 3)]
    assert dilations("deeplab_v3_plus_resnet101", resnet) == [2, 4, 8]
    module = "xception_41.exit_flow.block2.unit_1.xception_module"
    xception_41 = [f"{module}.separable_conv{i}_depthwise" for i in (1, 2, 3)]
    row = "deeplab_v3_plus_xception41"
    assert dilations(row, xception_41) == [2, 2, 2]
    assert dilations(row, xception_41, multi_grid=(1, 2, 4), output_stride=8) == [4, 8, 16]


# --- backbones' levels --------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "options", "low_level", "mid_level"),
    [
        (xception, {"depth": 41}, "entry_flow.block2", "entry_flow.block3"),
        (xception, {"depth": 71}, "entry_flow.block3", "entry_flow.block5"),
        (resnet_v1_101_beta, {}, "block1.unit_2", "block2.unit_3"),
        (mobilenet_v2, {}, "expanded_conv_2", "expanded_conv_5"),
    ],
)
def test_levels_are_the_published_end_points(backbone, options, low_level, mid_level):
    features = backbone(keras.Input((97, 129, 3)), output_stride=8, **options)
    for tensor, part, size in (
        (features.low_level, low_level, (25, 33)),
        (features.mid_level, mid_level, (13, 17)),
    ):
        name = tensor._keras_history.operation.name
        assert f".{part}." in name
        # Before any ReLU, but for MobileNetV2's activated depthwise output.
        end = ("pointwise.BatchNorm", "conv3.BatchNorm", "depthwise.relu6")
        assert name.endswith(end)
        assert tensor.shape[1:3] == size


# --- pyramid ------------------------------------------------------------------------


def test_image_pooling_crop_size_is_a_sliding_window():
    """97 at stride 16 is a window of 7x7, that of 9x17 features gives 3x11 means."""
    image = noise(129, 257)
    model = kseg.create_model("deeplab_v3_mobilenet_v2", image_pooling_crop_size=97)
    randomize(model)
    taps = ["MobilenetV2.expanded_conv_16.project.BatchNorm"]
    taps += [f"image_pooling.{name}" for name in ("pool", "relu", "resize")]
    outputs = [model.get_layer(name).output for name in taps]
    features, pooled, projected, resized = outputs_of(keras.Model(model.inputs, outputs), image)
    windows = np.lib.stride_tricks.sliding_window_view(features, (7, 7), axis=(1, 2))
    np.testing.assert_allclose(pooled, windows.mean((-2, -1)), atol=1e-5)

    # Resized with the corners aligned: the ends stay, 3 rows are the rows 0, 4 and 8 of 9.
    assert resized.shape == (1, 9, 17, 256)
    np.testing.assert_allclose(resized[:, ::4, ::16], projected[:, :, ::10], atol=1e-5)
    np.testing.assert_allclose(resized[:, 2, 0], projected[:, :2, 0].mean(1), atol=1e-5)


def test_image_pooling_crop_size_of_the_image_is_the_global_mean():
    image = noise(65, 97)
    whole = kseg.create_model(SMALL)
    randomize(whole)
    for crop_size in ((65, 97), (80, 112)):  # sizes that give the same window
        cropped = kseg.create_model(SMALL, image_pooling_crop_size=crop_size)
        cropped.set_weights(whole.get_weights())
        np.testing.assert_allclose(outputs_of(cropped, image), outputs_of(whole, image), atol=1e-4)


@pytest.mark.parametrize(
    ("crop_size", "output_stride", "window"),
    [(97, 16, (7, 7)), (97, 8, (13, 13)), ((769, 513), 16, (49, 33)), (100, 16, (7, 7))],
)
def test_image_pooling_window(crop_size, output_stride: int, window: tuple[int, int]):
    model = kseg.create_model(
        "deeplab_v3_mobilenet_v2",
        image_pooling_crop_size=crop_size,
        output_stride=output_stride,
    )
    assert model.get_layer("image_pooling.pool").pool_size == window


def test_pyramid_options_change_the_parameters_as_computed():
    """MobileNetV2's 320 channels into branches of 256; a BatchNorm has 2 a channel."""
    base = parameters()
    branch = 320 * 256 + 2 * 256
    joined = 256 * 256  # a branch's share of the projection
    separable = 9 * 320 + 2 * 320 + branch
    assert base - parameters(image_pooling=False) == branch + joined
    assert base - parameters(atrous_rates=(6, 12)) == separable + joined
    assert parameters(aspp_separable=False) - base == 3 * (9 * 320 * 256 + 512 - separable)
    only = parameters(atrous_rates=(), image_pooling=False)
    assert base - only == 3 * separable + branch + 4 * joined
    # Five branches, the projection of all, the decoder's first convolution.
    half = 2 * branch // 2 + 3 * (9 * 320 + 2 * 320 + branch // 2) + 5 * 128 * 128 + 2 * 128
    full = 2 * branch + 3 * separable + 5 * joined + 2 * 256
    assert base - parameters(aspp_filters=128) == full - half + 128 * (9 + 2 + 256)


def test_plain_convolutions_have_the_names_of_tf_slim():
    model = kseg.create_model(SMALL, aspp_separable=False, decoder_separable=False)
    shapes = kseg.checkpoints.published_shapes(model)
    assert shapes["aspp2/weights"] == (3, 3, 320, 256)
    assert shapes["decoder/decoder_conv0/decoder_conv0_1/weights"] == (3, 3, 304, 256)
    assert shapes["decoder/decoder_conv0/decoder_conv0_2/weights"] == (3, 3, 256, 256)


def test_dropout_after_the_projection_acts_in_training_only():
    model = kseg.create_model(SMALL)
    dropout = model.get_layer("concat_projection.dropout")
    assert dropout.rate == 0.1
    x = np.ones((1, 64, 64, 4), "float32")
    np.testing.assert_array_equal(dropout(x, training=False), x)
    assert np.mean(np.asarray(dropout(x, training=True)) == 0) == pytest.approx(0.1, abs=0.01)


# --- decoder ------------------------------------------------------------------------


def test_decoder_options_change_the_parameters_as_computed():
    """Low level of 144 channels; a separable convolution of i to o channels has
    9i + 2i + io + 2o parameters."""

    def separable(i: int, o: int, kernel: int = 3) -> int:
        return kernel**2 * i + 2 * i + i * o + 2 * o

    base = parameters()
    first, second = separable(304, 256), separable(256, 256)
    # v3+, Table 1: each low-level channel is projected and goes through the first one.
    assert parameters(low_level_channels=64) - base == 16 * (144 + 2 + 9 + 2 + 256)
    # Table 2.
    assert base - parameters(decoder_convs=1) == second
    assert parameters(decoder_convs=3) - base == second
    got = parameters(decoder_filters=128)
    want = separable(304, 128) + separable(128, 128) - 19 * 128
    assert base - got == first + second - want
    assert base - parameters(decoder_kernel=1) == (9 - 1) * (304 + 256)
    plain = 9 * 304 * 256 + 9 * 256 * 256 + 4 * 256
    assert parameters(decoder_separable=False) - base == plain - first - second
    # DeepLabv3: no decoder at all.
    assert base - parameters(decoder=False) == first + second + 144 * 48 + 2 * 48


@pytest.mark.parametrize("size", [(97, 129), (None, None)])
def test_two_low_levels_refine_at_stride_8_and_then_4(size):
    """Paper's Conv2 and Conv3; names are the code's for decoder_output_stride 8, 4."""
    model = kseg.create_model(SMALL, input_shape=(*size, 3), low_level="conv2+conv3")
    shapes = kseg.checkpoints.published_shapes(model)
    assert shapes["decoder/feature_projection0/weights"] == (1, 1, 192, 48)
    assert shapes["decoder/feature_projection0_1/weights"] == (1, 1, 144, 48)
    steps = ["decoder.decoder_conv1_pointwise", "decoder.decoder_conv1_1_pointwise"]
    outputs = [model.get_layer(name).output for name in [*steps, "logits"]]
    first, second, logits = outputs_of(keras.Model(model.inputs, outputs), noise(97, 129))
    assert first.shape == (1, 13, 17, 256)
    assert second.shape == (1, 25, 33, 256)
    assert logits.shape == (1, 97, 129, 19)


@pytest.mark.parametrize("size", [(97, 129), (None, None)])
def test_three_low_levels_refine_down_to_stride_2(size):
    """Channels of each decoder are options of the row."""
    model = kseg.create_model("deeplab_v3_plus_efficientnet_lite0", input_shape=(*size, 3))
    steps = [f"decoder.decoder_conv{last}_pointwise" for last in ("1", "1_1", "0_2")]
    outputs = [model.get_layer(name).output for name in [*steps, "logits.semantic", "logits"]]
    shapes = [x.shape for x in outputs_of(keras.Model(model.inputs, outputs), noise(97, 129))]
    assert shapes == [
        (1, 13, 17, 128),
        (1, 25, 33, 128),
        (1, 49, 65, 64),
        (1, 49, 65, 19),
        (1, 97, 129, 19),
    ]
    # The row's convention, inside as at the end; a published network's is the other.
    resizes = ["decoder.resize", "decoder.resize_1", "decoder.resize_2", "logits"]
    assert {model.get_layer(name).convention for name in resizes} == {"half_pixel"}
    small = kseg.create_model(SMALL, input_shape=(33, 33, 3))
    assert small.get_layer("decoder.resize").convention == "align_corners"
    published = kseg.checkpoints.published_shapes(model)
    for suffix, shape in {"": (48, 40), "_1": (48, 24), "_2": (16, 16)}.items():
        assert published[f"decoder.feature_projection0{suffix}.weight"] == (*shape, 1, 1)


# --- whole networks -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "sizes"),
    [
        (SMALL, [(96, 160), (97, 161), (100, 150)]),
        ("deeplab_v3_plus_xception41", [(100, 150)]),
    ],
)
def test_any_size_with_unknown_and_with_known_shape(row: str, sizes: list[tuple[int, int]]):
    model = kseg.create_model(row)
    randomize(model)
    for size in sizes:
        image = noise(*size)
        logits = outputs_of(model, image)
        assert logits.shape == (1, *size, 19)
    static = kseg.create_model(row, input_shape=(*size, 3), batch_size=1)
    static.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs_of(static, image), logits, atol=1e-5 * np.abs(logits).max())


def test_options_survive_saving(tmp_path: Path):
    options = {
        "output_stride": 8,
        "atrous_rates": (2, 4),
        "image_pooling_crop_size": (33, 65),
        "low_level": "conv2+conv3",
        "depth_multiplier": 0.5,
    }
    model = kseg.create_model(SMALL, **options)
    randomize(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.card == model.card
    assert again.card.options == options
    image = noise(65, 97)
    np.testing.assert_array_equal(outputs_of(again, image), outputs_of(model, image))


@pytest.mark.parametrize("row", [SMALL, "deeplab_v3_plus_xception41"])
def test_gradients_reach_every_weight(row: str):
    model = kseg.create_model(row, num_classes=3)
    # Two images, since the pooled branch has one value of each to normalise.
    images = np.concatenate([noise(65, 97), noise(65, 97, seed=6)])
    target = np.random.default_rng(1).normal(size=(2, 65, 97, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(images, training=True) - target) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.any(gradient != 0), variable.path


def test_imagenet_checkpoint_of_the_backbone():
    """It has the classifier of 1001 classes, counters and optimizer slots besides."""
    manifest = json.loads((FIXTURES / "deeplab_mnv2_os16_a.json").read_text())
    manifest["params"] = [p for p in manifest["params"] if p[0].startswith("MobilenetV2/")]
    tensors = make_weights.make_weights(manifest)
    name = "MobilenetV2/expanded_conv_3/expand/weights"
    imagenet = tensors | {
        "MobilenetV2/Conv_1/weights": np.zeros((1, 1, 320, 1280)),
        "MobilenetV2/Logits/Conv2d_1c_1x1/biases": np.zeros(1001),
        f"{name}/Momentum": np.zeros_like(tensors[name]),
        f"{name}/ExponentialMovingAverage": np.zeros_like(tensors[name]),
        "global_step": np.int64(1),
    }
    model = kseg.create_model(SMALL)
    head = model.get_layer("aspp0").get_weights()[0]
    kseg.checkpoints.assign(model, imagenet, part="backbone")
    kernel = model.get_layer("MobilenetV2.expanded_conv_3.expand").get_weights()[0]
    np.testing.assert_array_equal(kernel, tensors[name])
    np.testing.assert_array_equal(model.get_layer("aspp0").get_weights()[0], head)


def test_classes_are_counted_in_the_checkpoint():
    tensors = {"logits/semantic/weights": np.zeros((1, 1, 256, 21))}
    assert kseg.checkpoints.count_classes("deeplab_v3_mobilenet_v2", tensors) == 21


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (SMALL, {"output_stride": 4}, "output_stride is 4"),
        (SMALL, {"atrous_rates": (6, 0)}, "atrous_rates is (6, 0)"),
        (SMALL, {"multi_grid": (1, 2, 4)}, "has no option 'multi_grid' (given (1, 2, 4)"),
        (SMALL, {"depth_multiplier": 0}, "depth_multiplier is 0"),
        (SMALL, {"low_level": "conv1"}, "low_level is 'conv1'"),
        (SMALL, {"low_level_channels": 0}, "low_level_channels is 0"),
        (SMALL, {"decoder_filters": (64, 32)}, "decoder_filters is (64, 32)"),
        ("deeplab_v3.ShuffleNet", {"decoder": True}, "needs features at stride 4, and"),
        (SMALL, {"decoder_convs": 0}, "decoder_convs is 0"),
        (SMALL, {"decoder_resize": "nearest"}, "decoder_resize is 'nearest'"),
        (SMALL, {"image_pooling_crop_size": 0}, "image_pooling_crop_size is 0"),
        (
            SMALL,
            {"image_pooling_crop_size": 65, "image_pooling": False},
            "image_pooling_crop_size is 65, and image_pooling is False",
        ),
        (
            "deeplab_v3.ResNet50V2",
            {"decoder_filters": 64},
            "decoder_filters is 64, and decoder is False",
        ),
        (
            SMALL,
            {"image_pooling_crop_size": (97, 129), "input_shape": (97, 97, 3)},
            "image_pooling_crop_size is (97, 129)",
        ),
        (SMALL, {"backbone": "xception_65"}, "no option 'backbone'"),
        ("deeplab_v3_plus_xception41", {"multi_grid": (1, 2)}, "multi_grid is (1, 2)"),
        ("deeplab_v3_plus_xception41", {"depth_multiplier": 0.5}, "no option 'depth_multiplier'"),
    ],
)
def test_refused_options(row: str, options: dict, message: str):
    with pytest.raises(KsegError) as error:
        kseg.create_model(row, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
