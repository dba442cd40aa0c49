"""Files that kseg did not make, with a card that says what they do not."""

import json

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import kseg
from kseg.cli import main
from kseg.file_card import FileCard, read_file_card
from kseg.importing import import_checkpoint
from kseg.predictor import KerasPredictor, predict_labels
from kseg.resize import resize_bilinear
from kseg.tflite import benchmark
from kseg.tflite.predictors import OnnxPredictor, TFLitePredictor
from kseg.tflite.profile import operator_profile

SIZE = (48, 64)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
CLASSES = 11

# float32 sums in another order, on logits of size 10
FLOAT32 = 1e-4


def parameters():
    """A 1x1 convolution of the normalised pixels, which NumPy computes too."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((CLASSES, 3)), rng.standard_normal(CLASSES)


def expected(image, order="RGB"):
    kernel, bias = parameters()
    pixels = image[..., :: -1 if order == "BGR" else 1].astype(np.float64)
    return (pixels - MEAN) / STD @ kernel.T + bias


def onnx_file(path, end="logits", stride=1, layout="NCHW", input_type="float", scale=(0.0, 0)):
    """As an exporter of PyTorch or a quantiser would write it, without metadata."""
    kernel, bias = parameters()
    constants = {"w": kernel[..., None, None].astype(np.float32), "b": bias.astype(np.float32)}
    kind = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
    shape = [1, 3, *SIZE] if layout == "NCHW" else [1, *SIZE, 3]
    nodes, x = [], "image"
    if input_type != "float":
        constants["scale"] = np.float32(scale[0])
        constants["zero"] = np.array(scale[1], input_type)
        nodes.append(helper.make_node("DequantizeLinear", [x, "scale", "zero"], ["real"]))
        x = "real"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [x], ["first"], perm=[0, 3, 1, 2]))
        x = "first"
    nodes.append(helper.make_node("Conv", [x, "w", "b"], ["scores"], strides=[stride, stride]))
    height, width = (n // stride for n in SIZE)
    out_kind, out_shape = TensorProto.FLOAT, [1, CLASSES, height, width]
    if end == "probabilities":
        nodes.append(helper.make_node("Softmax", ["scores"], ["out"], axis=1))
    elif end in ("argmax", "kept argmax"):
        keep = int(end == "kept argmax")
        nodes.append(helper.make_node("ArgMax", ["scores"], ["out"], axis=1, keepdims=keep))
        out_kind, out_shape = TensorProto.INT64, [1, *[1] * keep, height, width]
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind[input_type], shape)],
        [helper.make_tensor_value_info("out", out_kind, out_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def card_file(folder):
    """What ``stated`` says, as a file."""
    path = folder / "card.json"
    path.write_text(json.dumps({"mean": MEAN, "std": STD, "num_classes": CLASSES}))
    return path


def stated(**changes):
    return FileCard(**{"mean": MEAN, "std": STD, "num_classes": CLASSES, **changes})


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_layouts_and_channel_orders(layout, order, tmp_path):
    path = onnx_file(tmp_path / "x.onnx", layout=layout)
    predictor = kseg.open_predictor(path, card=stated(channel_order=order))
    assert predictor.input_size == SIZE
    assert predictor.card.output == "logits"
    np.testing.assert_allclose(predictor(IMAGE), expected(IMAGE, order), atol=FLOAT32)


def test_probabilities(tmp_path):
    """As logits they have the same softmax, which several scales are the mean of."""
    path = onnx_file(tmp_path / "x.onnx", "probabilities")
    got = OnnxPredictor(path, stated=stated(output="probabilities"))(IMAGE)
    want = np.exp(expected(IMAGE))
    want /= want.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(got), want, atol=FLOAT32)


def test_weights_in_a_file_of_their_own(tmp_path, monkeypatch):
    """Those beside the file, not those of the same name in the current folder."""
    for folder, factor in (("a", 1), ("b", 3)):
        (tmp_path / folder).mkdir()
        path = onnx_file(tmp_path / folder / "x.onnx")
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(factor * value, tensor.name))
        onnx.save(model, path, save_as_external_data=True, location="x.data", size_threshold=0)
    monkeypatch.chdir(tmp_path / "a")
    for path, factor in (("../b/x.onnx", 3), (tmp_path / "a/x.onnx", 1)):
        got = OnnxPredictor(path, stated=stated())(IMAGE)
        np.testing.assert_allclose(got, factor * expected(IMAGE), atol=3 * FLOAT32)
    path = tmp_path / "b/x.onnx"
    (timing,) = benchmark([path], card=card_file(tmp_path), runs=1, warm_up=0)
    assert timing.file_size == sum(file.stat().st_size for file in path.parent.iterdir())


def test_a_tflite_file_of_any_size(tmp_path):
    """LiteRT would run it at 1x1."""
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(CLASSES, 1)(image))
    path = tmp_path / "x.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with pytest.raises(kseg.KsegError, match=r"x\.tflite: its input has no fixed size; convert"):
        TFLitePredictor(path, stated=stated())


def test_pixels_as_they_are(tmp_path):
    """Integers without a scale cannot be normalised before the file."""
    model = onnx.load(onnx_file(tmp_path / "float.onnx"))
    source = model.graph.input[0]
    shape = [1, 3, *SIZE]
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    model.graph.input.remove(source)
    cast = helper.make_node("Cast", ["pixels"], [source.name], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    path = tmp_path / "x.onnx"
    onnx.save(model, path)
    with pytest.raises(kseg.KsegError, match=r"uint8 without a scale, .* state mean \[0, 0, 0\]"):
        OnnxPredictor(path, stated=stated())
    kernel, bias = parameters()
    for order in ("RGB", "BGR"):
        pixels = stated(mean=(0, 0, 0), std=(1, 1, 1), channel_order=order)
        got = OnnxPredictor(path, stated=pixels)(IMAGE)
        want = IMAGE[..., :: -1 if order == "BGR" else 1] @ kernel.T + bias
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)  # float32, sums to 1000


@pytest.mark.parametrize("end", ["argmax", "kept argmax"])
def test_channel_numbers(end, tmp_path):
    path = onnx_file(tmp_path / "x.onnx", end)
    predictor = OnnxPredictor(path, stated=stated(output="argmax"))
    np.testing.assert_array_equal(predict_labels(predictor, IMAGE), expected(IMAGE).argmax(-1))
    with pytest.raises(kseg.KsegError, match=r"output is \(1, .*48, 64\)|is int64|of int64"):
        OnnxPredictor(path, stated=stated())


def test_logits_at_a_stride(tmp_path):
    path = onnx_file(tmp_path / "x.onnx", stride=4)
    predictor = OnnxPredictor(path, stated=stated())
    assert (predictor.card.output, predictor.card.output_stride) == ("stride-logits", 4)
    want = resize_bilinear(expected(IMAGE[::4, ::4]).astype(np.float32), SIZE).argmax(-1)
    np.testing.assert_array_equal(predict_labels(predictor, IMAGE), want)


@pytest.mark.parametrize(("kind", "zero_point"), [("uint8", 128), ("int8", 0)])
def test_integers_with_a_scale(kind, zero_point, tmp_path):
    """The numbers that they stand for are the normalised pixels, to half a step."""
    path = onnx_file(tmp_path / "x.onnx", input_type=kind, scale=(0.025, zero_point))
    got = OnnxPredictor(path, stated=stated())(IMAGE)
    reach = np.abs(parameters()[0]).sum(1) * 0.025 / 2
    assert (np.abs(got - expected(IMAGE)) <= reach + FLOAT32).all()


def test_another_range_of_integers(tmp_path):
    """Of a file for pixels 0..255, with a card for what they are normalised to."""
    path = onnx_file(tmp_path / "x.onnx", input_type="uint8", scale=(1.0, 0))
    with pytest.raises(kseg.KsegError, match="uint8 input stands for 100 to 12850, where pixels"):
        OnnxPredictor(path, stated=stated())


def test_a_published_file(weights, camvid, tmp_path):
    """The labels of the same weights in kseg, on a photograph."""
    file = weights / "deeplabv3_257_mv_gpu.tflite"
    options = {
        **dict(output_stride=8, depth_multiplier=0.5),
    }
    model, _ = import_checkpoint("deeplab_v3_mobilenet_v2", file, options=options, classes="voc")
    path = tmp_path / "card.json"
    names = kseg.data.VOC.names
    path.write_text(json.dumps({"class_names": names, "mean": [127.5] * 3, "std": [127.5] * 3}))
    image = np.asarray(Image.open(sorted((camvid / "val").iterdir())[25]).convert("RGB"))
    got = predict_labels(kseg.open_predictor(file, card=path), image)
    want = predict_labels(KerasPredictor(model), image, input_size=(257, 257))
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(got)) > 1
    assert operator_profile(file, stated=read_file_card(path), runs=1, warm_up=0).operators


def test_the_command(tiny_camvid, tmp_path, capsys):
    path = onnx_file(tmp_path / "x.onnx")
    card = tmp_path / "card.json"
    names = list(kseg.data.CAMVID.names)
    card.write_text(json.dumps({"class_names": names, "mean": MEAN, "std": STD}))
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    image = str(next((tiny_camvid / "val").iterdir()))
    own = str(onnx_file(tmp_path / "y.onnx", "argmax"))
    other = tmp_path / "argmax.json"
    other.write_text(
        json.dumps({"class_names": names, "mean": MEAN, "std": STD, "output": "argmax"})
    )
    runs = ["--runs", "1", "--warm-up", "0"]
    for command in (
        ["evaluate", str(path), *data, "--card", str(card)],
        ["predict", str(path), image, "--out", str(tmp_path / "p"), "--card", str(card)],
        ["benchmark", str(path), *runs, "--card", str(card)],
    ):
        assert main(command) == 0, capsys.readouterr().err
    capsys.readouterr()
    command = ["compare", str(path), own, *data, "--card-a", str(card), "--card-b", str(other)]
    assert main([*command, "--json", str(tmp_path / "c.json")]) == 0, capsys.readouterr().err
    # Ties of float32's roundings
    assert json.loads((tmp_path / "c.json").read_text())["same"] > 0.999


def test_without_a_card(tmp_path, capsys):
    """The message has one to begin with, which is read as it stands."""
    path = onnx_file(tmp_path / "x.onnx")
    assert main(["predict", str(path), "sample", "--out", str(tmp_path / "p")]) == 1
    message = capsys.readouterr().err
    assert "has no card, so that its classes and the values that it takes are not known" in message
    assert message.count("\n") == 1
    template = message[message.index("{") : message.index("}") + 1]
    (tmp_path / "card.json").write_text(template)
    assert read_file_card(tmp_path / "card.json").class_names == ("road", "car")


def test_two_cards(tiny_model, tmp_path):
    kseg.tflite.convert(tiny_model, tmp_path / "x.tflite", input_size=SIZE)
    with pytest.raises(kseg.KsegError, match="has a card of its own; leave card out"):
        TFLitePredictor(tmp_path / "x.tflite", stated=stated())
    with pytest.raises(kseg.KsegError, match="has a card of its own; leave card out"):
        kseg.open_predictor(tiny_model, card=stated())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable card"),
        ("[]", "holds no object"),
        ('{"mean": [0, 0, 0], "num_classes": 3}', "lacks std"),
        ('{"mean": [0, 0, 0], "std": [1, 1, 1]}', "class_names or num_classes is needed"),
        ('{"mean": [0, 0, 0], "std": [1, 1, 1], "num_classes": 1}', "num_classes is 1"),
        ('{"mean": 0, "std": [1, 1, 1], "num_classes": 3}', "mean is 0; it must be three numbers"),
        (
            '{"mean": [0, 0, 0], "std": [1, 1, 1], "classes": 3}',
            "the unknown fields classes; a",
        ),
        (
            '{"mean": [0, 0, 0], "std": [1, 1, 1], "num_classes": 3, "output": "softmax"}',
            "output is 'softmax'; it must be one of logits, probabilities, argmax",
        ),
        (
            '{"mean": [0, 0, 0], "std": [1, 1, 1], "num_classes": 3, "class_names": ["a", "b"]}',
            "class_names has 2 entries for 3 classes",
        ),
    ],
)
def test_damaged_cards(text, message, tmp_path):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(kseg.KsegError, match=message) as error:
        read_file_card(tmp_path / "card.json")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "card.json") in str(error.value)


def test_another_number_of_channels(tmp_path):
    path = onnx_file(tmp_path / "x.onnx")
    with pytest.raises(kseg.KsegError, match=r"its output is .* where 7 channels are expected"):
        OnnxPredictor(path, stated=stated(num_classes=7))
    with pytest.raises(kseg.KsegError, match="in layout NHWC"):
        OnnxPredictor(path, stated=stated(layout="NHWC"))
