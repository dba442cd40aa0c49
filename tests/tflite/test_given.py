"""What conversion is given: images, weights, models, policies; and files of other tools."""

import dataclasses
import warnings

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from onnxruntime.transformers import float16

import kseg
import kseg.tflite.gpu
from kseg.cli import main
from kseg.errors import KsegWarning
from kseg.evaluation import compare as compare_files
from kseg.evaluation import format_comparison
from kseg.model import dtype_policy
from kseg.predictor import KerasPredictor
from kseg.streets import draw_scene
from kseg.tflite import benchmark, cluster, convert, prune, quantisation_noise, train_quantised
from kseg.tflite.export import export_graph
from kseg.tflite.flatbuffer import Flatbuffer, read_card
from kseg.tflite.metadata import with_metadata
from kseg.tflite.predictors import OnnxPredictor, TFLitePredictor
from kseg.tflite.profile import operator_profile
from kseg.tflite.quantise import calibration_images
from kseg.tflite.timing import Spread, Timing, format_timings
from kseg.training.losses import cross_entropy

SIZE = (48, 64)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
UNIT = IMAGE.astype(np.float32) / 255
NAN = np.where(np.arange(3) == 1, np.nan, IMAGE.astype(np.float32))
PRECISIONS = ("fp32", "fp16", "w8", "int8", "onnx")

# float32 sums in another order, on logits of size 10
FLOAT32 = 1e-4


def copy_of(model) -> kseg.SegmentationModel:
    """Weights of its own."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return kseg.SegmentationModel(copy.inputs, copy.outputs[0], card=model.card)


def convert_to(precision, model, folder, **options):
    """The file of a precision, or of "onnx"."""
    path = folder / ("x.onnx" if precision == "onnx" else "x.tflite")
    if precision == "int8":
        options.setdefault("calibration", [IMAGE])
    if precision != "onnx":
        options["precision"] = precision
    convert(model, path, **options)
    return path


def batches(images, labels=None):
    labels = np.zeros(images.shape[:3], np.uint8) if labels is None else labels
    return tf.data.Dataset.from_tensors((images, labels))


# ---- calibration images


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (UNIT, "reaches from 0 to 1; it must be RGB 0..255"),
        (UNIT * 2 - 1, "reaches from -1 to 1; it must be RGB 0..255"),
        (UNIT * 2, "reaches from 0 to 2"),
        (UNIT.astype(np.float16), "reaches from 0 to 1"),
        ((UNIT - 0.45) / 0.225, "reaches from -2 to 2.4"),
        (IMAGE.astype(np.int16) - 128, "reaches from -128 to 127"),
        (IMAGE.astype(np.uint16) * 257, "reaches from 0 to 6.5.*e.04"),
        (NAN, "has values that are not finite"),
        (np.where(IMAGE > 250, np.inf, 1.0), "has values that are not finite"),
        (IMAGE > 127, "is of bool"),
        ((IMAGE > 127).astype(np.uint8), "reach from 0 to 1"),
        (np.array([["a"]]), r"is \(1, 1\)"),
        ((IMAGE, IMAGE[..., 0]), r"is a tuple of 2, as of \(image, label\); give the images alone"),
        ([IMAGE, IMAGE[..., 0]], r"is a list of 2, as of \(image, label\)"),
        ({"image": IMAGE, "label": 0}, "is a dict of image, label; give the images alone"),
        (IMAGE[None], r"is \(1, 48, 64, 3\); .* give the images of a batch one by one"),
        (np.stack([IMAGE] * 4), r"is \(4, 48, 64, 3\)"),
        (IMAGE[..., 0], r"is \(48, 64\); it must be \(H, W, 3\)"),
        (np.dstack([IMAGE, IMAGE[..., 0]]), r"is \(48, 64, 4\); it must be \(H, W, 3\)"),
        (IMAGE.transpose(2, 0, 1), r"is \(3, 48, 64\); .* the channels come last"),
        (IMAGE[:0], r"is \(0, 64, 3\)"),
        ("photo.png", "is 'photo.png', a name"),
    ],
)
def test_calibration_with_something_else(item, message, tiny_model, tmp_path):
    with pytest.raises(kseg.KsegError, match=message) as error:
        convert_to("int8", tiny_model, tmp_path, calibration=[item])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(kseg.KsegError, match=message):
        quantisation_noise(tiny_model, [item])


@pytest.mark.parametrize("images", ["images/*.png", {"image": [IMAGE]}, 100, IMAGE])
def test_calibration_that_is_no_list_of_images(images):
    with pytest.raises(kseg.KsegError, match=r"calibration (is a|image is \(64, 3\))"):
        calibration_images(images)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros_like(IMAGE),
        np.zeros_like(UNIT),
        IMAGE.astype(np.float32),
        IMAGE.astype(np.int64),
        IMAGE / 2 + 0.25,
        np.minimum(IMAGE, 7),
        tf.constant(IMAGE),
    ],
)
def test_calibration_images(image):
    """8-bit values of any type, dark ones too."""
    (got,) = calibration_images([image])
    np.testing.assert_array_equal(got, image)


def test_a_data_set_of_batches(tiny_model, tmp_path):
    """Of tf.data, of images alone and with labels."""
    images = tf.data.Dataset.from_tensor_slices(np.stack([IMAGE, IMAGE[::-1]]))
    convert_to("int8", tiny_model, tmp_path, calibration=images)
    for bad in (images.batch(2), images.map(lambda x: (x, x)), images.map(lambda x: {"x": x})):
        with pytest.raises(kseg.KsegError, match="a calibration image is"):
            convert_to("int8", tiny_model, tmp_path, calibration=bad)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (batches(UNIT[None]), "a batch of images reaches from 0 to 1"),
        (batches(NAN[None]), "a batch of images has values that are not finite"),
        (batches(IMAGE[None, ..., :1]), r"must be of images \(N, H, W, 3\)"),
        (tf.data.Dataset.from_tensors(IMAGE[None]), r"must be of images \(N, H, W, 3\) and labels"),
        (tf.data.Dataset.from_tensors({"x": IMAGE[None]}), r"must be of images \(N, H, W, 3\)"),
    ],
)
def test_training_with_something_else(given, message, tiny_model, tmp_path):
    path = tmp_path / "x.tflite"
    with pytest.raises(kseg.KsegError, match=message):
        train_quantised(tiny_model, path, batches=given, loss=cross_entropy, steps=0)
    assert not path.exists()


# ---- weights


def poison(layer, value):
    """One of the layer's first weight."""
    first, *others = layer.get_weights()
    first.flat[-1] = value
    layer.set_weights([first, *others])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "value"), [("level1_1.conv", np.nan), ("b1.bn", np.inf)])
def test_weights_that_are_no_numbers(precision, name, value, tiny_model, tmp_path):
    model = copy_of(tiny_model)
    poison(model.get_layer(name), value)
    with pytest.raises(kseg.KsegError, match=f"the weights of layer {name} are not finite"):
        convert_to(precision, model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_in_training(tiny_model, tmp_path):
    model = copy_of(tiny_model)
    poison(model.get_layer("level1_1.conv"), np.nan)
    given = batches(IMAGE[None].astype(np.float32))
    with pytest.raises(kseg.KsegError, match=r"the weights of layer level1_1.conv are not finite"):
        train_quantised(model, tmp_path / "x.tflite", batches=given, loss=cross_entropy, steps=0)
    with pytest.raises(kseg.KsegError, match=r"the weights of layer level1_1.conv are not finite"):
        quantisation_noise(model, [IMAGE])


@pytest.mark.parametrize(
    ("train", "options"), [(prune, {"sparsity": 0.5}), (cluster, {"clusters": 8})]
)
def test_smaller_models_of_weights_that_are_no_numbers(train, options, tiny_model):
    model = copy_of(tiny_model)
    poison(model.get_layer("level1_1.conv"), np.nan)
    given = batches(IMAGE[None].astype(np.float32))
    with pytest.raises(kseg.KsegError, match=r"the weights of layer level1_1.conv are not finite"):
        train(model, batches=given, loss=cross_entropy, steps=4, **options)


def test_a_variance_below_zero(tiny_model, tmp_path):
    model = copy_of(tiny_model)
    norm = model.get_layer("level1_0.bn")
    norm.moving_variance.assign(norm.moving_variance - 100)
    with pytest.raises(kseg.KsegError, match=r"the weights of layer level1_0.bn are not finite"):
        convert_to("fp32", model, tmp_path)


def test_activations_that_are_no_numbers(tiny_model, tmp_path):
    """Of finite weights, whose products are beyond float32."""
    model = copy_of(tiny_model)
    for name in ("level1_0.conv", "level1_1.conv"):
        layer = model.get_layer(name)
        layer.set_weights([weight * 1e30 for weight in layer.get_weights()])
    with pytest.raises(kseg.KsegError, match="whose values are not finite"):
        convert_to("int8", model, tmp_path)
    given = batches(IMAGE[None].astype(np.float32))
    with pytest.raises(kseg.KsegError, match="whose values are not finite"):
        train_quantised(model, tmp_path / "x.tflite", batches=given, loss=cross_entropy, steps=0)


def scale(layer, factor):
    layer.set_weights([layer.get_weights()[0] * factor, *layer.get_weights()[1:]])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        # No normalisation behind it; then one that the converter folds into the kernel.
        ({"classifier.0.conv": 1e7}, r"largest weight of layer classifier.0.conv is \d.*e.06"),
        ({"level1_1.bn": 1e7}, r"largest weight of layer level1_1.\w+ is"),
        ({"classifier.0.conv": 1e-9}, None),
    ],
)
def test_weights_beyond_half_precision(factors, message, tiny_model, tmp_path):
    """Too large ones are refused, too small ones warned of; float32 has room for both."""
    model = copy_of(tiny_model)
    for name, factor in factors.items():
        scale(model.get_layer(name), factor)
    if message is None:
        with pytest.warns(KsegWarning, match="loses small weights of classifier.0.conv"):
            convert_to("fp16", model, tmp_path)
    else:
        with pytest.raises(kseg.KsegError, match=message):
            convert_to("fp16", model, tmp_path)
        assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", KsegWarning)
        convert_to("fp32", model, tmp_path)


def test_weights_that_a_normalisation_brings_back(tiny_model, tmp_path):
    """What the file holds counts: the kernel with its normalisation."""
    for factor in (1e7, 1e-9):
        model = copy_of(tiny_model)
        scale(model.get_layer("level1_1.conv"), factor)
        norm = model.get_layer("level1_1.bn")
        gamma, beta, mean, variance = norm.get_weights()
        norm.set_weights([gamma, beta, mean * factor, variance])
        scale(norm, 1 / factor)
        with warnings.catch_warnings():
            warnings.simplefilter("error", KsegWarning)
            path = convert_to("fp16", model, tmp_path)
        want = np.asarray(tiny_model(IMAGE[None]))[0]
        # Half precision's rounding of the weights, as of the model without the factors.
        assert decibels(TFLitePredictor(path)(IMAGE), want) > 45


def decibels(got, want):
    return 10 * np.log10((want**2).mean() / ((got - want) ** 2).mean())


# ---- the model


@pytest.mark.parametrize("precision", ["fp32", "onnx"])
def test_the_users_own_layers(precision, tiny_model, tmp_path):
    ours = kseg.SegmentationModel(
        tiny_model.inputs, keras.layers.Softmax()(tiny_model.output), card=tiny_model.card
    )
    with pytest.raises(kseg.KsegError, match=r"is not the network of its card .it has Softmax"):
        convert_to(precision, ours, tmp_path)
    assert list(tmp_path.iterdir()) == []
    given = batches(IMAGE[None].astype(np.float32))
    with pytest.raises(kseg.KsegError, match=r"is not the network of its card .it has Softmax"):
        train_quantised(ours, tmp_path / "x.tflite", batches=given, loss=cross_entropy, steps=0)


@pytest.mark.parametrize(
    ("policy", "source", "suffix"),
    [
        ("mixed_float16", "made under it", ".tflite"),
        ("mixed_float16", "a file", ".onnx"),
        ("mixed_bfloat16", "from before", ".onnx"),
        ("float64", "made under it", ".tflite"),
    ],
)
def test_any_policy(policy, source, suffix, tiny_model, tiny_keras, tmp_path):
    path = tmp_path / f"x{suffix}"
    with dtype_policy(policy):
        model = {"from before": tiny_model, "a file": tiny_keras}.get(source)
        if model is None:
            model = of_size(tiny_model, (None, None))
            model.set_weights(tiny_model.get_weights())
        convert(model, path)
    predictor = kseg.open_predictor(path)
    assert predictor.io.input_type == predictor.io.output_type == np.float32
    want = np.asarray(tiny_model(IMAGE[None]))[0]
    np.testing.assert_allclose(predictor(IMAGE), want, atol=FLOAT32)


def of_size(model, size) -> kseg.SegmentationModel:
    """The same network with other weights, for a size."""
    card = model.card
    options = dict(num_classes=card.num_classes, input_shape=(*size, 3), **card.options)
    made = kseg.create_model(card.name, **options)
    made.card = card
    return made


def test_quantised_training_under_any_policy(tiny_model, tmp_path):
    given = batches(IMAGE[None].astype(np.float32))
    path = tmp_path / "x.tflite"
    with dtype_policy("mixed_float16"):
        train_quantised(tiny_model, path, batches=given, loss=cross_entropy, steps=0)
    want = np.asarray(tiny_model(IMAGE[None]))[0]
    # As in test_convert.py: a lost weight or a wrong scale is at 0 dB.
    assert decibels(TFLitePredictor(path)(IMAGE), want) > 8


def test_channels_first(tiny_model, tiny_keras, tmp_path, capsys):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(kseg.KsegError, match="image_data_format"):
            convert(tiny_model, tmp_path / "x.tflite")
        assert main(["convert", str(tiny_keras), str(tmp_path / "x.tflite")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "image_data_format of Keras is 'channels_first' (in keras.json" in line
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    ("shape", "asked", "size"),
    [
        ((40, 72), None, (40, 72)),
        ((None, 72), None, (48, 72)),
        ((40, None), None, (40, 64)),
        ((40, 72), (56, 64), (56, 64)),
        ((None, None), None, (48, 64)),
    ],
)
def test_the_models_own_size(shape, asked, size, tiny_model):
    """Before the card's, which is (48, 64)."""
    model = of_size(tiny_model, shape)
    graph, found = export_graph(model, "logits", asked)
    assert graph.input_shape[1:3] == found.input_size == size


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        ("deeplab_v3_mobilenet_v2", 16, (33, 65)),
        ("deeplab_v3_mobilenet_v2", 16, (97, 47)),
        ("liteseg_mobilenet_v2", 4, (33, 33)),
        ("pspnet_resnet50", 8, (33, 65)),
    ],
)
def test_strides_of_small_sizes(name, stride, size):
    model = kseg.create_model(name, num_classes=3)
    assert export_graph(model, "stride-logits", size)[1].output_stride == stride


def test_sizes_that_differ_are_said(tiny_model, tiny_camvid):
    spread = Spread(0.1, 0.1)
    timing = Timing("x.tflite", "m", "cpu", 1, SIZE, "logits", 1, *[spread] * 4, 1, 1, 1)
    other = dataclasses.replace(timing, input_size=(64, 96))
    note = "the files take images of different sizes, so their times do not compare"
    assert format_timings([timing, other]).endswith(note)
    assert note not in format_timings([timing, timing])
    data = kseg.data.open_dataset("camvid", tiny_camvid, "val")
    a, b = (KerasPredictor(of_size(tiny_model, size)) for size in (SIZE, (64, 96)))
    said = "the networks' inputs differ: A takes 48x64, B 64x96"
    assert said in format_comparison(compare_files(a, b, data))
    assert "inputs differ" not in format_comparison(compare_files(a, a, data))


@pytest.mark.parametrize("command", ["convert", "predict", "evaluate", "benchmark", "check-gpu"])
def test_a_saved_model(command, tiny_camvid, tmp_path, capsys):
    folder = tmp_path / "saved"
    tf.saved_model.save(tf.Module(), str(folder))
    rest = {
        "convert": [tmp_path / "x.tflite"],
        "predict": [tmp_path / "x.png", "--out", tmp_path / "out"],
        "evaluate": ["--dataset", "camvid", "--data-dir", tiny_camvid],
    }.get(command, [])
    assert main([command, str(folder), *map(str, rest)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{folder}: is a folder with a SavedModel of TensorFlow, which has no card" in line


# ---- files of kseg's model that another tool made

KERNEL = np.random.default_rng(0).normal(size=(1, 1, 3, 11)).astype(np.float32)
# Drawn, since every tool takes its ranges from what it is shown.
SCENES = [draw_scene(seed, *SIZE).image for seed in range(3)]


def quantised(folder, card, dtype, images=SCENES):
    """TensorFlow's own converter makes the file, and the ranges of its tensors."""
    spec = tf.TensorSpec((1, *SIZE, 3), tf.float32, name="image")
    function = tf.function(
        lambda image: tf.nn.conv2d(image, KERNEL, 1, "SAME"), input_signature=[spec]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None].astype(np.float32)] for x in images)
    ops = tf.lite.OpsSet
    if dtype == tf.int16:
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    else:
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = dtype
    path = folder / f"{dtype.name}.tflite"
    path.write_bytes(with_metadata(Flatbuffer(converter.convert()), card))
    return path


# Steps of 8 bits: of the input (1 of 255, by a kernel of size 1 and three channels), of the
# weights and of the output (1 of 255); 16 bits have those of the weights alone.
@pytest.mark.parametrize(("dtype", "least"), [("int8", 30), ("uint8", 30), ("int16", 35)])
def test_the_tensors_own_scales(dtype, least, tiny_model, tmp_path):
    path = quantised(tmp_path, tiny_model.card, tf.as_dtype(dtype))
    predictor = TFLitePredictor(path)
    assert predictor.io.input_type == dtype
    assert predictor.io.input_scale != 0
    for image in SCENES:
        got = predictor(image)
        assert got.dtype == np.float32
        assert decibels(got, image.astype(np.float32) @ KERNEL[0, 0]) > least
    assert benchmark([path], runs=1, warm_up=0)[0].input_size == SIZE
    assert operator_profile(path, runs=1, warm_up=0).operators


def test_scales_on_the_accelerator(tiny_model, tmp_path, monkeypatch):
    """It is fed as the CPU is, and judged as a file of integers."""

    class Cpu(TFLitePredictor):
        def __init__(self, path, timeout, stated=None):
            super().__init__(path, stated=stated)

        def __call__(self, image):
            # A step of the output, which float32 would not be off.
            output = super().__call__(image)
            output.flat[0] += self.io.scale
            return output

        def close(self):
            pass

    monkeypatch.setattr(kseg.tflite.gpu, "GpuPredictor", Cpu)
    path = quantised(tmp_path, tiny_model.card, tf.int8)
    agreement = kseg.tflite.gpu.compare(path, SCENES)
    assert agreement.quantised
    assert agreement.agrees


def test_a_range_that_is_not_of_pixels(tiny_model, tmp_path):
    units = [scene / np.float32(255) for scene in SCENES]
    path = quantised(tmp_path, tiny_model.card, tf.int8, units)
    with pytest.raises(kseg.KsegError, match=r"its int8 input stands for 0 to 1, where pixels"):
        TFLitePredictor(path)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "bool"])
def test_integers_without_a_scale(dtype, tiny_model, tmp_path):
    spec = tf.TensorSpec((1, *SIZE, 3), dtype, name="image")
    function = tf.function(
        lambda image: tf.nn.conv2d(tf.cast(image, tf.float32), KERNEL, 1, "SAME"),
        input_signature=[spec],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    content = with_metadata(Flatbuffer(converter.convert()), tiny_model.card)
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(kseg.KsegError, match=f"its input is {dtype} without a scale"):
        TFLitePredictor(tmp_path / "x.tflite")


def test_an_output_that_the_card_contradicts(tiny_model, tmp_path):
    convert(tiny_model, tmp_path / "x.tflite")
    content = (tmp_path / "x.tflite").read_bytes()
    card = read_card(content).replace(output="argmax")
    (tmp_path / "x.tflite").write_bytes(with_metadata(Flatbuffer(content), card))
    with pytest.raises(kseg.KsegError, match=r"its output is float32 .* but its card says argmax"):
        TFLitePredictor(tmp_path / "x.tflite")


@pytest.fixture(scope="module")
def onnx_file(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "x.onnx"
    convert(tiny_model, path)
    return path


@pytest.mark.parametrize("keep_io_types", [False, True])
def test_onnx_in_half_precision(keep_io_types, onnx_file, tiny_model, tmp_path):
    """By ONNX Runtime's own tool."""
    path = tmp_path / "half.onnx"
    onnx.save(
        float16.convert_float_to_float16(onnx.load(onnx_file), keep_io_types=keep_io_types), path
    )
    predictor = OnnxPredictor(path)
    assert predictor.io.input_type == (np.float32 if keep_io_types else np.float16)
    got = predictor(IMAGE)
    assert got.dtype == np.float32
    # 11 bits a number, through some 50 layers
    assert decibels(got, np.asarray(tiny_model(IMAGE[None]))[0]) > 30
    assert benchmark([path], runs=1, warm_up=0)[0].input_size == SIZE


def with_integers(path, out, kind, scales):
    """The file with an input and an output of integers, and what says what they stand for."""
    model = onnx.load(path)
    graph = model.graph
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    (source,), (result,) = graph.input, graph.output
    for end, (scale, zero_point) in zip(("in", "out"), scales, strict=True):
        graph.initializer.append(helper.make_tensor(f"{end}.scale", TensorProto.FLOAT, (), [scale]))
        zero = np.array(zero_point, dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(zero, f"{end}.zero"))
    first = ["DequantizeLinear", ["q.in", "in.scale", "in.zero"], [source.name]]
    last = ["QuantizeLinear", [result.name, "out.scale", "out.zero"], ["q.out"]]
    graph.node.insert(0, helper.make_node(*first))
    graph.node.append(helper.make_node(*last))
    shapes = [[d.dim_value for d in end.type.tensor_type.shape.dim] for end in (source, result)]
    graph.input.remove(source)
    graph.output.remove(result)
    graph.input.append(helper.make_tensor_value_info("q.in", kind, shapes[0]))
    graph.output.append(helper.make_tensor_value_info("q.out", kind, shapes[1]))
    onnx.save(model, out)


@pytest.mark.parametrize(
    ("kind", "zero"), [(TensorProto.UINT8, 0), (TensorProto.INT8, -128), (TensorProto.UINT8, 3)]
)
def test_onnx_with_scales(kind, zero, onnx_file, tiny_model, tmp_path):
    want = np.asarray(tiny_model(IMAGE[None]))[0]
    low, high = float(want.min()), float(want.max())
    step = (high - low) / 255
    # The logits' lowest value is the type's.
    first = 0 if kind == TensorProto.UINT8 else -128
    scales = ((1.25, zero), (step, round(first - low / step)))
    path = tmp_path / "q.onnx"
    with_integers(onnx_file, path, kind, scales)
    predictor = OnnxPredictor(path)
    rounded = np.clip(np.rint(IMAGE / np.float32(1.25)), 0, 255) * np.float32(1.25)
    exact = np.asarray(tiny_model(rounded[None]))[0]
    # Half a step of the output; what lies beyond its ends, by the zero point's rounding, one.
    np.testing.assert_allclose(predictor(IMAGE), exact, atol=step + FLOAT32)


def test_onnx_with_integers_that_nothing_explains(onnx_file, tiny_model, tmp_path):
    path = tmp_path / "q.onnx"
    model = onnx.load(onnx_file)
    source = model.graph.input[0]
    model.graph.node.insert(0, helper.make_node("Cast", ["q"], [source.name], to=TensorProto.FLOAT))
    model.graph.input.remove(source)
    shape = (1, *SIZE, 3)
    model.graph.input.append(helper.make_tensor_value_info("q", TensorProto.INT8, shape))
    onnx.save(model, path)
    with pytest.raises(kseg.KsegError, match="its input is int8 without a scale"):
        OnnxPredictor(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BOOL
    onnx.save(model, path)
    with pytest.raises(kseg.KsegError, match=r"q is tensor\(bool\); kseg runs files of float"):
        OnnxPredictor(path)


def test_onnx_with_channels_first(onnx_file, tmp_path):
    path = tmp_path / "nchw.onnx"
    model = onnx.load(onnx_file)
    source = model.graph.input[0]
    turn = helper.make_node("Transpose", ["planes"], [source.name], perm=[0, 2, 3, 1])
    model.graph.node.insert(0, turn)
    model.graph.input.remove(source)
    shape = (1, 3, *SIZE)
    model.graph.input.append(helper.make_tensor_value_info("planes", TensorProto.FLOAT, shape))
    onnx.save(model, path)
    with pytest.raises(kseg.KsegError, match=r"its input is \(1, 3, 48, 64\), not one image"):
        OnnxPredictor(path)
