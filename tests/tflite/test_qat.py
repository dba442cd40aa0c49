"""Quantisation-aware training: what the file has in it, and what training is good for."""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers as kl

import kseg
from kseg.cli import main
from kseg.data import open_dataset
from kseg.tflite import convert, train_quantised
from kseg.tflite.bridge import Bridge, to_tf_keras
from kseg.tflite.export import to_flatbuffer
from kseg.tflite.flatbuffer import operator_outputs, operators, read_card
from kseg.tflite.predictors import TFLitePredictor
from kseg.tflite.rewrite import average_by_axes, split_for_quantisation
from kseg.training.losses import cross_entropy
from support import varied

SIZE = (48, 64)


@pytest.fixture(scope="module")
def images(tiny_camvid) -> np.ndarray:
    data = open_dataset("camvid", tiny_camvid, "train")
    return np.stack([data.labelled(sample)[0] for sample in data.samples])


@pytest.fixture(scope="module")
def calibrated(tiny_model, tiny_camvid, images, tmp_path_factory):
    """The file without a step of training."""
    data = open_dataset("camvid", tiny_camvid, "train")
    labels = np.stack([data.labelled(sample)[1] for sample in data.samples])
    batches = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(2)
    path = tmp_path_factory.mktemp("qat") / "calibrated.tflite"
    train_quantised(tiny_model, path, batches=batches, loss=cross_entropy, steps=0)
    return path


def decibels(path, model, images) -> float:
    """Signal to quantisation noise of the logits."""
    want = np.asarray(model(images.astype("float32")))
    got = np.stack([TFLitePredictor(path)(image) for image in images])
    return 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())


def test_only_the_input_is_float(calibrated):
    """A QUANTIZE from float32 to int8 with a step a pixel value; PRELU is int8 too."""
    content = calibrated.read_bytes()
    counts = operators(content)
    assert counts["PRELU"] == 14
    assert "DEQUANTIZE" not in counts
    # Without XNNPACK, whose delegate would stand for the operators.
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    floats = {
        (operator["op_name"], tuple(tensors[i]["quantization"] for i in operator["outputs"]))
        for operator in interpreter._get_ops_details()
        if any(tensors[i]["dtype"] == np.float32 for i in operator["inputs"] if i >= 0)
    }
    assert floats == {("QUANTIZE", ((1.0, -128),))}
    (output,) = interpreter.get_output_details()
    assert output["dtype"] == np.int8
    # Tensors have the names of the layers, here too.
    assert output["name"] == "logits"
    assert "level1_0.act" in {name for _, name in operator_outputs(content).values()}


def small(normalise, *, pooled: bool = False) -> kseg.SegmentationModel:
    """A wrapped network of four classes and any size, of random weights."""
    keras.utils.set_random_seed(4)
    image = keras.Input((None, None, 3))
    x = kl.Conv2D(8, 3, strides=2, padding="same", activation="relu")(normalise(image))
    if pooled:
        y = kl.GlobalAveragePooling2D(keepdims=True, name="mean")(x)
        x = kl.Multiply()([x, kl.Conv2D(8, 1, activation="sigmoid")(y)])
    return kseg.wrap(varied(keras.Model(image, kl.Conv2D(4, 1, name="head")(x))))


def pixels(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, *size, 3)).astype("float32")


def trained(model, path, size: tuple[int, int], **options):
    """The calibrated file, of images of this size."""
    batches = tf.data.Dataset.from_tensors((pixels(size), np.zeros((2, *size), np.uint8)))
    train_quantised(model, path, batches=batches, loss=cross_entropy, **{"steps": 0, **options})
    return path


@pytest.mark.parametrize(("crop", "size", "means"), [(32, 64, 2), (64, 32, 1)])
def test_a_file_of_another_size_than_the_batches(crop, size, means, tmp_path):
    """Means are two operators where the file's image is large, whatever the batches are."""
    model = small(kl.Rescaling(1 / 255), pooled=True)
    path = tmp_path / "x.tflite"
    trained(model, path, (crop, crop), input_size=(size, size))
    assert operators(path.read_bytes())["MEAN"] == means
    # 37 of both
    assert decibels(path, model, pixels((size, size))) > 30


def test_a_layer_without_a_range(tmp_path, monkeypatch):
    """It is refused before any step is trained."""
    monkeypatch.setattr(
        "kseg.tflite.export.average_by_axes", lambda graph, like: average_by_axes(graph)
    )
    monkeypatch.setattr(Bridge, "fit", None)
    model = small(kl.Rescaling(1 / 255), pooled=True)
    with pytest.raises(kseg.KsegError, match=r"mean\.columns: is in the file's graph and not"):
        trained(model, tmp_path / "x.tflite", (32, 32), input_size=(64, 64), steps=1)


def test_an_operator_that_no_phone_runs(tmp_path, monkeypatch):
    """It is refused before any step is trained, too."""
    monkeypatch.setattr(Bridge, "fit", None)
    model = small(lambda x: keras.ops.log_softmax(x / 255))
    with pytest.raises(kseg.KsegError, match=r"LOG_SOFTMAX .* would not run on the GPU delegate"):
        trained(model, tmp_path / "x.tflite", (32, 32), input_size=(32, 32), steps=1)


def test_an_operation_of_several_tensors(tmp_path):
    model = small(lambda x: keras.layers.Add()(keras.ops.split(keras.ops.concatenate([x, x]), 2)))
    with pytest.raises(kseg.KsegError, match=r"split.*: a Split gives several tensors, .* slices"):
        trained(model, tmp_path / "x.tflite", (32, 32), input_size=(32, 32))


@pytest.mark.parametrize(
    ("normalise", "input_type"),
    [
        (lambda x: x, "uint8"),
        (lambda x: kl.BatchNormalization()(x), "float"),
        (lambda x: x / 127.5 - 1, "float"),
    ],
    ids=["none", "batch norm", "operators"],
)
def test_a_model_without_a_layer_of_normalisation(normalise, input_type, tmp_path):
    """The image is int8 of scale 1 here too, and nothing is computed in float32."""
    model = small(normalise)
    path = tmp_path / "x.tflite"
    trained(model, path, (32, 32), input_size=(32, 32), input_type=input_type)
    content = path.read_bytes()
    assert operators(content)["QUANTIZE"] == 1
    assert "DEQUANTIZE" not in operators(content)
    (source,) = TFLitePredictor(path)._interpreter.get_input_details()
    assert source["dtype"] == {"float": np.float32, "uint8": np.uint8}[input_type]
    # 35 of all
    assert decibels(path, model, pixels((32, 32))) > 30


def test_a_float_model_gets_no_quantize():
    x = keras.Input((8, 8, 3), batch_size=1)
    model = to_flatbuffer(keras.Model(x, kl.Conv2D(2, 1)(x)))
    with pytest.raises(kseg.KsegError, match="has not scale 1 and zero point -128"):
        model.with_input_type("uint8")


def test_the_card_travels(tiny_model, calibrated):
    assert read_card(calibrated.read_bytes()) == tiny_model.card


def test_calibrated_is_as_good_as_post_training(tiny_model, images, calibrated, tmp_path):
    convert(tiny_model, tmp_path / "x.tflite", precision="int8", calibration=images)
    plain = decibels(tmp_path / "x.tflite", tiny_model, images)
    # 1 dB for the ranges, which the two take differently
    assert decibels(calibrated, tiny_model, images) > plain - 1


def test_dead_channels(tiny_model, images, tmp_path):
    """Kernels beside biases as weight decay leaves them: of scales whose inverse is infinite."""
    model = kseg.create_model("cgnet_m3n21", num_classes=11, m=2, n=2)
    model.card = tiny_model.card
    model.set_weights(tiny_model.get_weights())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, *statistics = layer.get_weights()
            gamma[:8], beta[:8] = 2 * (1e-36, 3e-37, 1e-37, 3e-38), 4 * (0.3,) + 4 * (0.0,)
            layer.set_weights([gamma, beta, *statistics])
    labels = np.zeros((2, *SIZE), np.uint8)
    batches = tf.data.Dataset.from_tensors((images[:2].astype("float32"), labels))
    path = tmp_path / "x.tflite"
    train_quantised(model, path, batches=batches, loss=cross_entropy, steps=1, learning_rate=1e-9)
    # About 33 here, 36 without dead channels.
    assert decibels(path, model, images) > 28


@pytest.mark.usefixtures("small_row")
def test_training_lowers_the_loss_of_the_file(small_keras, tiny_camvid, tmp_path):
    """By the command; a fifth less was far from being reached without training."""
    calibrated, out = tmp_path / "0.tflite", tmp_path / "30.tflite"
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--batch-size", 2]
    args += ["--learning-rate", 3e-3, "--crop", *SIZE, "--input", "uint8"]
    args += ["--learn-from", "labels"]
    for file in (calibrated, out):
        assert main(["qat", *map(str, [small_keras, file, *args, "--steps", file.stem])]) == 0
    (details,) = TFLitePredictor(out)._interpreter.get_input_details()
    assert details["dtype"] == np.uint8
    data = open_dataset("camvid", tiny_camvid, "val")

    def loss(path) -> float:
        predictor = TFLitePredictor(path)
        pairs = [data.labelled(sample) for sample in data.samples]
        return float(np.mean([cross_entropy(y[None], predictor(x)[None]) for x, y in pairs]))

    assert loss(out) < 0.8 * loss(calibrated)


def test_a_teacher_that_is_unknown(tiny_keras, tiny_camvid, tmp_path, capsys):
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--learn-from", "books"]
    assert main(["qat", *map(str, [tiny_keras, tmp_path / "x.tflite", *args])]) == 1
    assert "--learn-from is 'books'; it must be one of model, labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(steps=-1), "steps is -1"),
        (dict(learning_rate=0), "learning_rate is 0"),
        (dict(output="labels"), "output is 'labels'"),
        (dict(input_type="int4"), "input_type is 'int4'"),
        (dict(input_size=(16, 16)), "input_size is 16x16"),
        (dict(path="x.keras"), "x.keras: the file's name must end in .tflite"),
        (dict(path="none/x.tflite"), "none/x.tflite: cannot be written"),
    ],
)
def test_refusals(options, message, tiny_model, tmp_path, monkeypatch):
    """Before any step is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Bridge, "fit", None)
    batches = tf.data.Dataset.from_tensors(
        (np.zeros((1, *SIZE, 3), "float32"), np.zeros((1, *SIZE)))
    )
    with pytest.raises(kseg.KsegError, match=message):
        train_quantised(
            tiny_model,
            **{
                "path": "x.tflite",
                "batches": batches,
                "loss": cross_entropy,
                "steps": 1,
                **options,
            },
        )
    assert list(tmp_path.iterdir()) == []


@keras.saving.register_keras_serializable("kseg-tests")
def halved(x: keras.KerasTensor) -> keras.KerasTensor:
    """An activation of the user's."""
    return keras.ops.relu(x) * 0.5


def test_split_for_quantisation_is_the_same_function():
    """BGR normalisation, padded pooling, activations within convolutions, dropout."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    x = keras.Input((12, 16, 3))
    y = kseg.layers.Normalize((10, 20, 30), (50, 60, 70), "BGR", name="normalize")(x)
    y = kseg.layers.PaddedAveragePooling(name="pool")(y)
    y = layers.Conv2D(4, 3, padding="same", activation="silu", name="a")(y)
    y = layers.Dropout(0.5, name="drop")(y)
    y = layers.Conv2D(4, 1, activation="relu", name="e")(y)
    y = layers.Conv2D(5, 1, use_bias=False, name="b")(y)
    y = layers.BatchNormalization(beta_initializer="normal", name="bn")(y)
    y = layers.Activation("silu", name="c")(y)
    y = layers.Conv2D(2, 1, activation="sigmoid", name="d")(y)
    y = layers.DepthwiseConv2D(3, activation="silu", name="f")(y)
    y = layers.Conv2DTranspose(3, 3, activation=halved, name="g")(y)
    model = keras.Model(x, y)
    split = split_for_quantisation(model)
    kinds = Counter(type(layer).__name__ for layer in split.layers)
    # Three activations are x * sigmoid(x); ReLU stays in its convolution.
    assert kinds == {
        "InputLayer": 1,
        "Conv2D": 5,
        "ZeroPadding2D": 1,
        "DepthwiseConv2D": 2,
        "Conv2DTranspose": 1,
        "Activation": 5,
        "Multiply": 3,
    }
    for layer in split.layers:
        assert getattr(layer, "kernel", None) is None or layer.activation in (
            keras.activations.linear,
            keras.activations.relu,
        )
    image = np.random.default_rng(5).integers(0, 256, (1, 12, 16, 3)).astype("float32")
    # float32 on values below 10
    np.testing.assert_allclose(split(image), model(image), atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_wide_convolutions_are_sums_here_too(use_bias):
    """In layers of their own, with the BatchNorm behind them; the bridge has the same.

    Two slices are all of 1024 channels; of 512 the second is a short one.
    """
    keras.utils.set_random_seed(4)
    layers = keras.layers
    x = keras.Input((5, 7, 1024))
    options = dict(padding="same", use_bias=use_bias, bias_initializer="normal")
    y = layers.Conv2D(512, 3, name="plain", activation="relu", **options)(x)
    y = layers.Conv2D(520, 3, name="wide", **options)(y)
    y = layers.BatchNormalization(beta_initializer="normal", name="bn")(y)
    model = keras.Model(x, layers.ReLU(name="relu")(y))
    split = split_for_quantisation(model)
    kinds = Counter(type(layer).__name__ for layer in split.layers)
    assert kinds == {"InputLayer": 1, "Conv2D": 4, "Add": 2, "Activation": 1, "ReLU": 1}
    image = np.random.default_rng(5).normal(size=(1, 5, 7, 1024)).astype("float32")
    want = np.asarray(model(image))
    for got in (split(image), to_tf_keras(split).model(image)):
        # float32 sums of 10,000 products in another order
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
