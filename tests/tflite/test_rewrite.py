"""Rewritten graphs against the graphs they come from."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as kl
from keras import ops

import kseg
from kseg import checkpoints
from kseg.data import open_dataset, read_image
from kseg.resize import resize_bilinear
from kseg.shipped import SAMPLE
from kseg.tflite import convert
from kseg.tflite.export import export_graph, to_flatbuffer
from kseg.tflite.flatbuffer import operator_inputs, operator_outputs, operators
from kseg.tflite.predictors import TFLitePredictor
from kseg.tflite.rewrite import (
    AxisMean,
    SlicedConv2D,
    average_by_axes,
    fold_batch_norms,
    normalise_by_convolution,
    pad_before_max_pooling,
    relu_into_branches,
    split_for_quantisation,
    split_wide_convolutions,
)
from support import randomize_statistics


def test_every_kind_of_branch():
    """Convolutions with and without bias, one with two readers, an activation, an input."""
    keras.utils.set_random_seed(4)
    x = keras.Input((9, 11, 3), batch_size=1)
    plain = kl.Conv2D(4, 3, padding="same", use_bias=False)(x)
    biased = kl.DepthwiseConv2D(3, padding="same", bias_initializer="normal")(x)
    shared = kl.Conv2D(5, 1, bias_initializer="normal")(x)
    active = kl.Conv2D(2, 1, activation="relu")(x)
    joined = kl.Concatenate()([plain, biased, shared, active, x])
    y = kl.BatchNormalization(
        beta_initializer="normal", gamma_initializer=keras.initializers.RandomUniform(0.5, 2)
    )(joined)
    model = keras.Model(x, [kl.ReLU()(y), kl.ReLU()(shared)])
    randomize_statistics(model)
    folded = fold_batch_norms(model)
    assert not [layer for layer in folded.layers if isinstance(layer, kl.BatchNormalization)]
    # Two of the branches are convolutions of their own; the others get a 1x1 one.
    assert len([layer for layer in folded.layers if isinstance(layer, kl.DepthwiseConv2D)]) == 4
    image = np.random.default_rng(5).normal(size=(1, 9, 11, 3)).astype("float32")
    for got, want in zip(folded(image), model(image), strict=True):
        # float32 on values of size 10
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"epsilon": 0.25}, {"scale": False}, {"center": False}], ids=str
)
@pytest.mark.parametrize("fold", [fold_batch_norms, split_for_quantisation])
def test_batch_norms_by_their_formula(fold, options):
    """Behind a ReLU, which leaves them alone, and in branches (Ioffe and Szegedy, Section 3.1)."""
    rng = np.random.default_rng(4)
    x = keras.Input((3, 4, 2))
    branches = [kl.Conv2D(2, 1, name="a")(x), kl.DepthwiseConv2D(1, name="b")(x), x]
    joined = kl.Concatenate(name="joined")(branches)
    y = kl.BatchNormalization(name="norm", **options)(joined)
    y = kl.BatchNormalization(name="last", **options)(kl.ReLU(name="relu")(y))
    model = keras.Model(x, y)
    for weight in model.weights:
        weight.assign(rng.uniform(0.25, 2, weight.shape))
    image = rng.normal(size=(1, 3, 4, 2)).astype("float32")

    a, b = (model.get_layer(name).get_weights() for name in "ab")
    joined = [image @ a[0][0, 0] + a[1], image * b[0][0, 0, :, 0] + b[1], image]
    want = np.concatenate(joined, -1)
    for name in ("norm", "last"):
        *affine, mean, variance = model.get_layer(name).get_weights()
        gamma = affine.pop(0) if options.get("scale", True) else 1
        beta = affine.pop(0) if options.get("center", True) else 0
        want = (want - mean) / np.sqrt(variance + options.get("epsilon", 1e-3)) * gamma + beta
        if name == "norm":
            want = np.maximum(want, 0)
    graph = fold(model)
    assert not [layer for layer in graph.layers if isinstance(layer, kl.BatchNormalization)]
    # float32 on values of size 10
    np.testing.assert_allclose(graph(image), want, atol=1e-5)


def test_a_norm_behind_rows_one_below_the_other():
    """Which all have all channels: there is no part of its numbers for each."""
    x = keras.Input((3, 4, 2))
    model = keras.Model(x, kl.BatchNormalization()(kl.Concatenate(axis=1)([x, x])))
    randomize_statistics(model)
    image = np.random.default_rng(5).normal(size=(1, 3, 4, 2)).astype("float32")
    got, want = (np.asarray(graph(image)) for graph in (fold_batch_norms(model), model))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_concatenation_with_two_readers_stays():
    """As in a DenseNet, where the next block joins it again."""
    keras.utils.set_random_seed(4)
    x = keras.Input((9, 11, 3), batch_size=1)
    joined = kl.Concatenate()([x, kl.Conv2D(4, 3, padding="same")(x)])
    normal = kl.ReLU()(kl.BatchNormalization()(joined))
    model = keras.Model(x, kl.Concatenate()([joined, normal]))
    randomize_statistics(model)
    folded = fold_batch_norms(model)
    kinds = sorted(type(layer).__name__ for layer in folded.layers)
    assert kinds == ["Concatenate"] * 2 + ["Conv2D", "DepthwiseConv2D", "InputLayer", "ReLU"]
    image = np.random.default_rng(5).normal(size=(1, 9, 11, 3)).astype("float32")
    # float32 on values of size 10
    np.testing.assert_allclose(folded(image), model(image), atol=1e-5)


@pytest.mark.parametrize("relu", [kl.ReLU(6), kl.Activation("relu")])
def test_relu_goes_into_branches(relu):
    """Not where another layer reads what is joined, and no leaky one."""
    keras.utils.set_random_seed(4)
    x = keras.Input((9, 11, 3), batch_size=1)
    moved, shared, leaky = (kl.Concatenate()([x, kl.Conv2D(4, 1)(x)]) for _ in range(3))
    other = kl.Rescaling(2.0)(shared)
    model = keras.Model(
        x, [relu(moved), kl.ReLU()(shared), other, kl.ReLU(negative_slope=0.1)(leaky)]
    )
    graph = relu_into_branches(model)
    kinds = [layer._keras_history.operation for layer in graph.outputs]
    assert [type(kind).__name__ for kind in kinds] == ["Concatenate", "ReLU", "Rescaling", "ReLU"]
    image = np.random.default_rng(5).normal(size=(1, 9, 11, 3), scale=5).astype("float32")
    for got, want in zip(graph(image), model(image), strict=True):
        np.testing.assert_array_equal(got, want)
    content = to_flatbuffer(keras.Model(graph.input, graph.outputs[0])).content
    # The convolution's has become part of it.
    assert operators(content)["RELU6" if isinstance(relu, kl.ReLU) else "RELU"] == 1


@pytest.mark.parametrize("kind", [kl.ReLU(1.0), kl.Activation("silu"), kl.Activation("sigmoid")])
def test_activations_that_convolutions_lack_stay(kind):
    x = keras.Input((9, 11, 3), batch_size=1)
    model = keras.Model(x, kind(kl.Concatenate()([x, kl.Conv2D(4, 1)(x)])))
    graph = relu_into_branches(model)
    assert graph.output._keras_history.operation is kind
    image = np.random.default_rng(5).normal(size=(1, 9, 11, 3)).astype("float32")
    np.testing.assert_array_equal(graph(image), model(image))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_normalisation_is_a_convolution(dtype, order):
    x = keras.Input((5, 7, 3), batch_size=1, dtype=dtype)
    means, deviations = (123.7, 0.0, 103.5), (58.4, 1.0, 255.0)
    model = keras.Model(x, kseg.layers.Normalize(means, deviations, order)(x))
    content = to_flatbuffer(normalise_by_convolution(model)).content
    assert operators(content) == {"CONV_2D": 1} | ({"CAST": 1} if dtype == "uint8" else {})
    image = np.random.default_rng(5).integers(0, 256, (1, 5, 7, 3)).astype(dtype)
    want = image[..., :: -1 if order == "BGR" else 1] - np.float64(means)
    got = normalise_by_convolution(model)(image)
    # float32 on values up to 255
    np.testing.assert_allclose(got, want / deviations, atol=1e-4)


@pytest.mark.parametrize(
    "deviations",
    [
        (255 * 69.85317, 255 * 72.65216, 255 * 72.06399),
        (128.0, 255 * 72.65216, 1.0),
        (255 * 65535.0, 58.4, 64.0),
    ],
)
def test_small_deviations_are_no_subnormal_numbers_in_half_precision(deviations):
    """ESPNet's of CamVid: 1 / (255 * 72), which some GPUs take for zero; and one among others.

    Nor does the first factor take another channel beyond half precision's largest number.
    """
    x = keras.Input((5, 7, 3), batch_size=1)
    means = (72.4, 82.9, 72.9)
    model = keras.Model(x, kseg.layers.Normalize(means, deviations, "BGR")(x))
    graph = normalise_by_convolution(model)
    content = to_flatbuffer(graph).content
    assert operators(content) == {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1}
    interpreter = Interpreter(model_content=to_flatbuffer(graph, half=True).content)
    tensors = interpreter.get_tensor_details()
    halves = [interpreter.get_tensor(t["index"]) for t in tensors if t["dtype"] == np.float16]
    values = np.abs(np.concatenate([half[half != 0] for half in halves]))
    # Two kernels' diagonals and the shift.
    assert len(values) == 9
    assert values.min() >= np.finfo(np.float16).smallest_normal
    assert values.max() < 255
    image = np.random.default_rng(5).integers(0, 256, (1, 5, 7, 3)).astype("float32")
    want = (image[..., ::-1] - np.float64(means)) / deviations
    # float32 on values up to 255, divided by the deviation
    assert (np.abs(graph(image) - want) < 1e-4 / np.array(deviations)).all()


# A quarter of half precision's largest number, for values that no test has seen.
LARGEST_SUM = 2**14


def averages(x):
    """Every mean over a map and every pooling that is split, of one that is not beside it."""
    pool = kl.AveragePooling2D
    large = [
        kl.GlobalAveragePooling2D(keepdims=True, name="kept")(x),
        kl.GlobalAveragePooling2D(name="flat")(x),
        ops.mean(x, axis=(-3, 2), keepdims=True),
        ops.mean(x, axis=(1, 2)),
        pool((23, 15), strides=1, name="window")(x),
        pool((23, 15), strides=(3, 2), padding="same", name="cut")(x),
    ]
    small = [pool(16)(x), pool((37, 1))(x), ops.mean(x, axis=3), ops.mean(x, axis=(0, 1, 2))]
    return large, small


def test_means_and_large_poolings_by_axes():
    """Of sides without a common divisor, and of prime ones; others stay as they are."""
    x = keras.Input((37, 41, 3), batch_size=1)
    large, small = averages(x)
    model = keras.Model(x, [*large, *small])
    graph = average_by_axes(model)
    kinds = [type(layer).__name__ for layer in graph.operations]
    assert kinds.count("AxisMean") == 8
    assert kinds.count("AveragePooling2D") == 2 + 4
    assert kinds.count("Mean") == 2
    image = np.random.default_rng(5).uniform(0, 255, (1, 37, 41, 3)).astype("float32")
    for got, want in zip(graph(image), model(image), strict=True):
        assert got.shape == want.shape
        # float32 sums of 1517 values up to 255 in another order
        np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(graph(image)[0][0, 0, 0], image.mean((0, 1, 2), float), rtol=1e-5)


def in_half(content, image):
    """A .tflite model's output in half precision, sums too, and the largest partial sum.

    Of means and products alone. Sums are made by halves, as the threads of a GPU make them.
    """
    interpreter = Interpreter(model_content=content)
    details = {tensor["name"]: tensor for tensor in interpreter.get_tensor_details()}
    (source,) = interpreter.get_input_details()
    values = {source["name"]: image.astype(np.float16)}
    inputs, largest, x = operator_inputs(content), 0.0, image
    for kind, tensor in operator_outputs(content).values():
        x, other = (
            values[name] if name in values else interpreter.get_tensor(details[name]["index"])
            for name in inputs[tensor]
        )
        if kind == "MUL":
            x = x * other
        else:
            assert kind == "MEAN"
            count = np.float16(1 / np.prod(np.take(x.shape, other)))
            for axis in other:
                while (size := x.shape[axis]) > 1:
                    assert size % 2 == 0
                    first, second = np.split(x, 2, axis)
                    x = first + second
                    largest = max(largest, float(np.abs(x).max()))
            x = x * count
        values[tensor] = x
    return x, largest


def test_a_mean_that_half_precision_cannot_hold():
    """Values about 10 over 128x128, of which the sum is 163,840."""
    x = keras.Input((128, 128, 4), batch_size=1)
    model = keras.Model(x, kl.Multiply()([x, kl.GlobalAveragePooling2D(keepdims=True)(x)]))
    image = np.random.default_rng(5).normal(10, 1, (1, 128, 128, 4))
    want = image * image.mean((1, 2))
    with np.errstate(over="ignore"):
        got, largest = in_half(to_flatbuffer(model).content, image)
    assert not np.isfinite(got).any()
    assert largest == np.inf
    got, largest = in_half(to_flatbuffer(average_by_axes(model)).content, image)
    # four roundings of 2**-11 and those of the sums, of 14 steps
    np.testing.assert_allclose(got, want, rtol=5e-3)
    assert largest < LARGEST_SUM / 8


def test_sums_of_the_shipped_cgnet():
    """On the sample street: at an eighth of 1024x2048, where rows have an eighth of the pixels."""
    size = (128, 256)
    graph, _ = export_graph(kseg.load("camvid-train:cgnet_m3n21"), "logits", size)
    means = [layer for layer in graph.layers if isinstance(layer, AxisMean)]
    assert [layer.axis for layer in means] == [2, 1] * 24
    rows = keras.Model(graph.input, [layer.input for layer in means if layer.axis == 2])
    image = resize_bilinear(read_image(SAMPLE), size)[None]
    values = [np.asarray(value) for value in rows(image)]
    # The largest of a sum in any order: of all positive or of all negative values.
    parts = [np.maximum(sign * value, 0) for value in values for sign in (1, -1)]
    whole, row, column = (max(part.sum(axes).max() for part in parts) for axes in ((1, 2), 2, 1))
    assert 64 * whole > np.finfo(np.float16).max  # what the rewrite is for
    assert 8 * max(row, column) < LARGEST_SUM / 4


def test_zeros_around_max_poolings_are_kept_apart():
    """Where values may be negative, however they are padded; a ReLU's stay as they are."""

    def padded(x):
        return kl.ZeroPadding2D(1)(x)

    def by_operation(x):
        return keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def joined(x, *layers):
        return kl.Concatenate()([kl.Dropout(0.5)(layer(x)) for layer in layers])

    x = keras.Input((6, 7, 4), batch_size=1)
    relu, leaky = kl.ReLU(6), kl.LeakyReLU(0.5)
    kept = [padded(relu(x)), padded(joined(x, relu, kl.Activation("sigmoid"))), leaky(x)]
    split = [padded(x), by_operation(x), padded(leaky(x)), padded(joined(x, relu, leaky))]
    model = keras.Model(x, [kl.MaxPooling2D(3, 2)(y) for y in (*kept, *split)])
    graph = pad_before_max_pooling(model)
    old = {layer.name for layer in model.layers}
    names = {layer.name for layer in graph.layers[1:]} - old
    pools = [tensor._keras_history.operation.name for tensor in model.outputs]
    assert names == {f"{name}.padded" for name in pools[len(kept) :]}
    image = np.random.default_rng(0).normal(size=(1, 6, 7, 4)).astype("float32")
    for got, want in zip(graph(image), model(image), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_sliced_convolution(padding, use_bias):
    """The same as a whole one, also from its configuration; the last slice is short."""
    options = dict(padding=padding, use_bias=use_bias, activation="relu")
    plain = kl.Conv2D(4, 3, **options)
    sliced = SlicedConv2D(4, 3, channels=3, **options)
    image = np.random.default_rng(5).normal(size=(1, 5, 7, 8)).astype("float32")
    plain.build(image.shape)
    weights = [np.random.default_rng(6).normal(size=weight.shape) for weight in plain.weights]
    plain.set_weights(weights)
    assert sliced.get_config()["channels"] == 3
    for layer in (sliced, SlicedConv2D.from_config(sliced.get_config())):
        layer.build(image.shape)
        layer.set_weights(weights)
        # float32 sums of 72 products in another order
        np.testing.assert_allclose(layer(image), plain(image), atol=1e-5)


def test_convolutions_as_wide_as_the_gpu_takes_them():
    x = keras.Input((4, 4, 512), batch_size=1)
    model = keras.Model(x, [kl.Conv2D(512, 3)(x), kl.Conv2D(513, 3, strides=2)(x)])
    for split in (split_wide_convolutions, split_for_quantisation):
        names = {layer.name for layer in split(model).layers}
        assert names > {layer.name for layer in model.layers[1:]}
        assert len(names) == len(model.layers)


def test_wide_convolutions_are_sums():
    """Of 1024 channels, four slices and a short one; what is small, dilated or of 1x1 stays."""
    keras.utils.set_random_seed(4)
    x = keras.Input((5, 7, 1100), batch_size=1)
    kept = [
        kl.Conv2D(512, 1),
        kl.Conv2D(512, 3, dilation_rate=2, padding="same"),
        kl.Conv2D(8, 3, padding="same"),
    ]
    wide = [
        kl.Conv2D(1024, 3, padding="same", activation="relu", bias_initializer="normal"),
        kl.Conv2D(512, 3, padding="valid", use_bias=False),
    ]
    model = keras.Model(x, [layer(x) for layer in (*kept, *wide)])
    graph = split_wide_convolutions(model)
    found = {layer.name: layer for layer in graph.layers if isinstance(layer, SlicedConv2D)}
    assert {name: layer.channels for name, layer in found.items()} == {
        wide[0].name: 256,
        wide[1].name: 512,
    }
    image = np.random.default_rng(5).normal(size=(1, 5, 7, 1100)).astype("float32")
    for got, want in zip(graph(image), model(image), strict=True):
        # float32 sums of 10,000 products in another order
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@keras.saving.register_keras_serializable("kseg-tests")
class Standardised(kl.Conv2D):
    """Of another kernel than its weight (Qiao et al., arXiv:1903.10520, Section 3.1)."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        mean, variance = ops.moments(self.kernel, (0, 1, 2))
        kernel = (self.kernel - mean) / ops.sqrt(variance + 1e-5)
        return ops.conv(x, kernel, padding=self.padding) + self.bias


@pytest.mark.parametrize(
    "rewrite", [fold_batch_norms, split_wide_convolutions, split_for_quantisation]
)
def test_a_convolution_of_the_users_stays(rewrite):
    """Before a BatchNorm, in branches before one, and as wide as the others are split."""
    keras.utils.set_random_seed(4)
    x = keras.Input((4, 5, 520), batch_size=1)
    branches = [Standardised(4, 1, name="a")(x), Standardised(4, 1, name="b")(x)]
    joined = kl.BatchNormalization(name="joined")(kl.Concatenate()(branches))
    plain = kl.BatchNormalization(name="plain")(Standardised(4, 1, name="c")(x))
    wide = Standardised(520, 3, padding="same", name="wide")(x)
    model = keras.Model(x, [joined, plain, wide])
    randomize_statistics(model)
    image = np.random.default_rng(5).normal(size=(1, 4, 5, 520)).astype("float32")
    for got, want in zip(rewrite(model)(image), model(image), strict=True):
        # float32 sums of 5,000 products in another order
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_what_does_not_train_after_splitting():
    """Normalisation, in one factor or two, and pooling: they are what they are."""
    x = keras.Input((9, 14, 3))
    for deviations in ((128.0,) * 3, (255 * 72.0,) * 3):
        y = kseg.layers.Normalize((0.0,) * 3, deviations, name="normalize")(x)
        y = kseg.layers.PaddedAveragePooling(name="pool")(y)
        y = kl.Conv2D(2, 1, name="conv")(y)
        model = keras.Model(x, kl.BatchNormalization(name="norm")(y))
        graph = split_for_quantisation(model)
        assert [weight.path for weight in graph.trainable_weights] == ["conv/kernel", "conv/bias"]
        image = np.random.default_rng(5).integers(0, 256, (1, 9, 14, 3)).astype("float32")
        # float32 on values of size 1
        np.testing.assert_allclose(graph(image), model(image), atol=1e-5)


@pytest.mark.parametrize("dropout", [kl.Dropout(0.5), kl.SpatialDropout2D(0.5)])
def test_dropout_goes_and_a_batch_norm_passes_it(dropout):
    x = keras.Input((5, 7, 3))
    y = dropout(kl.Conv2D(2, 1, name="conv")(x))
    model = keras.Model(x, kl.ReLU(name="relu")(kl.BatchNormalization(name="norm")(y)))
    randomize_statistics(model)
    graph = split_for_quantisation(model)
    assert [layer.name for layer in graph.layers[1:]] == ["conv", "relu"]
    image = np.random.default_rng(5).normal(size=(1, 5, 7, 3)).astype("float32")
    # float32 on values of size 1
    np.testing.assert_allclose(graph(image), model(image), atol=1e-5)


@pytest.mark.parametrize("dropout", [False, True])
def test_a_convolution_with_two_readers_keeps_its_batch_norm_apart(dropout):
    x = keras.Input((5, 7, 3))
    y = kl.Conv2D(2, 1, name="conv")(x)
    if dropout:
        y = kl.Dropout(0.5)(y)
    normal = kl.BatchNormalization(name="norm")(y)
    model = keras.Model(x, kl.Concatenate(name="joined")([normal, kl.ReLU(name="relu")(y)]))
    randomize_statistics(model)
    graph = split_for_quantisation(model)
    names = {layer.name for layer in graph.layers[1:]}
    assert names == {"conv", "norm.depthwise", "relu", "joined"}
    image = np.random.default_rng(5).normal(size=(1, 5, 7, 3)).astype("float32")
    # float32 on values of size 1
    np.testing.assert_allclose(graph(image), model(image), atol=1e-5)


# How many of its BatchNorms stay behind a convolution, for the converter.
@pytest.mark.parametrize(("name", "left"), [("cgnet_m3n21", 7), ("espnet_c", 1), ("enet", 85)])
def test_networks(name, left):
    keras.utils.set_random_seed(6)
    options = {"m": 2, "n": 2} if name.startswith("cgnet") else {}
    model = kseg.create_model(name, num_classes=5, **options)
    randomize_statistics(model)
    # Means of about 1 would leave nothing behind ENet's ReLUs.
    for variable in model.non_trainable_variables:
        if "moving_mean" in variable.name:
            variable.assign(variable * 0.1)
    folded, _ = export_graph(model, "logits", (48, 64))
    norms = [layer for layer in folded.layers if isinstance(layer, kl.BatchNormalization)]
    assert len(norms) == left
    image = np.random.default_rng(7).integers(0, 256, (1, 48, 64, 3)).astype("float32")
    want = np.asarray(model(image))
    assert want.std() > 0
    # float32 in another order through up to sixty layers
    np.testing.assert_allclose(folded(image), want, atol=1e-4 * np.abs(want).max())


def test_int8_of_a_trained_network(weights, cityscapes_mini, tmp_path):
    """The published ESPNet-C, whose dead channels would overflow besides."""
    model = kseg.create_model("espnet_c", num_classes=20)
    checkpoints.assign(model, checkpoints.read(weights / "espnet_encoder_p_2_q_8.pth"))
    data = open_dataset("cityscapes", cityscapes_mini, "val")
    images = [data.labelled(sample)[0][::4, ::4] for sample in data.samples]

    def classes(precision: str) -> list[np.ndarray]:
        path = tmp_path / "x.tflite"
        calibration = images if precision == "int8" else None
        convert(
            model,
            path,
            precision=precision,
            output="stride-logits",
            input_size=(256, 512),
            calibration=calibration,
        )
        return [TFLitePredictor(path)(image).argmax(-1) for image in images]

    want, got = classes("fp32"), classes("int8")
    # 0.92 was seen; 0.33 without the raised weights, 0.59 without the rewrite
    assert np.mean(np.equal(got, want)) > 0.88
