"""Calibration, layers kept in float, and the noise of each layer."""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.data import open_dataset
from kseg.tflite import convert, quantisation_noise
from kseg.tflite.export import to_flatbuffer
from kseg.tflite.flatbuffer import int8_ranges, operator_outputs, operators
from kseg.tflite.noise import LayerNoise
from kseg.tflite.options import CALIBRATION_METHODS
from kseg.tflite.predictors import TFLitePredictor
from kseg.tflite.quantise import activations, quantise_int8, quantise_weights


@pytest.fixture(scope="module")
def images(tiny_camvid) -> list[np.ndarray]:
    data = open_dataset("camvid", tiny_camvid, "train")
    return [data.labelled(sample)[0] for sample in data.samples]


def test_layers_kept_in_float(tiny_model, images, tmp_path):
    """A convolution, and a BatchNorm that has become two; their neighbours are int8.

    But for the BatchNorms between sums and PReLU, which are float by themselves.
    """
    path = tmp_path / "x.tflite"
    convert(
        tiny_model,
        path,
        precision="int8",
        calibration=images,
        keep_float=["level2_0.reduce.conv", "b1.bn"],
    )
    content = path.read_bytes()
    rounded = int8_ranges(content)
    convolutions = {
        name: name in rounded
        for operator, name in operator_outputs(content).values()
        if operator in ("CONV_2D", "DEPTHWISE_CONV_2D")
    }
    floats = {layer for layer, is_rounded in convolutions.items() if not is_rounded}
    between = {f"bn_prelu_{level}.bn.branch{i}" for level in (2, 3) for i in (0, 1)}
    assert floats - between == {"level2_0.reduce.conv", "b1.bn.branch0", "b1.bn.branch1"}
    assert between < floats
    assert len(convolutions) > 30


def test_layers_without_an_operator_are_refused(tiny_model, images, tmp_path):
    layer = "level2_0.reduce.conw"
    with pytest.raises(kseg.KsegError, match=f"{layer}: no operator .*level2_0.reduce.conv"):
        convert(
            tiny_model,
            tmp_path / "x.tflite",
            precision="int8",
            calibration=images,
            keep_float=[layer],
        )
    assert list(tmp_path.iterdir()) == []


def test_only_int8_keeps_layers_in_float(tiny_model, tmp_path):
    with pytest.raises(kseg.KsegError, match="precision w8 keeps all in float"):
        convert(tiny_model, tmp_path / "x.tflite", precision="w8", keep_float=["level1_0.conv"])


def test_calibration_methods(tiny_model, images, tmp_path):
    """The logits' ranges against the float32 file's on the same images."""
    convert(tiny_model, tmp_path / "float.tflite", output="stride-logits")
    exact = TFLitePredictor(tmp_path / "float.tflite")
    logits = np.stack([exact(image) for image in images])
    highs = logits.max((1, 2, 3))
    average = highs[0]
    for high in highs[1:]:
        average = 0.95 * average + 0.05 * high
    want = {
        "min-max": highs.max(),
        "moving-average": average,
        "percentile": np.mean([np.percentile(x, 99.99) for x in logits]),
    }
    for method, high in want.items():
        path = tmp_path / f"{method}.tflite"
        convert(
            tiny_model,
            path,
            precision="int8",
            output="stride-logits",
            calibration=images,
            calibration_method=method,
        )
        io = TFLitePredictor(path).io
        # The zero point is rounded: the range ends within a step.
        assert (127 - io.zero_point) * io.scale == pytest.approx(high, abs=io.scale)
    with pytest.raises(kseg.KsegError, match="calibration_method is 'mean'"):
        quantisation_noise(tiny_model, images, calibration_method="mean")


def test_percentiles_of_large_tensors():
    """Of all channels, though only some values are looked at: the k-th has k times the values."""
    x = keras.Input((512, 512, 3), batch_size=1)
    model = keras.Model(x, keras.layers.Conv2D(16, 1, use_bias=False)(x))
    kernel = np.outer([0.0, 0.0, 1.0], np.arange(1, 17))
    model.set_weights([kernel.reshape(1, 1, 3, 16)])
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    rounded = quantise_int8(to_flatbuffer(model).content, [image], (512, 512))
    *_, limits = int8_ranges(rounded).values()
    want = np.percentile(np.asarray(model(image[None])), 99.99)
    # 26 of the values looked at lie above it; from one to the next there are 16 at most.
    assert limits[1] == pytest.approx(want, abs=32)


def differences(size: tuple[int, int], factor: float = 1.0) -> keras.Model:
    """Red minus green, times a factor."""
    x = keras.Input((*size, 3), batch_size=1)
    model = keras.Model(x, keras.layers.Conv2D(1, 1, use_bias=False, name="conv")(x))
    model.set_weights([np.reshape([factor, -factor, 0.0], (1, 1, 3, 1))])
    return model


def output_range(content: bytes) -> tuple[float, float]:
    """What the last tensor can hold."""
    *_, (_, name) = operator_outputs(content).values()
    return int8_ranges(content)[name]


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        # Means over images, of the second value from each end.
        ({}, -70, 35),
        ({"calibration": "percentile"}, -70, 35),
        ({"calibration": "min-max"}, -240, 220),
        ({"calibration": "moving-average"}, -201.05, 116.45),
    ],
    ids=str,
)
def test_ranges_by_their_definition(options, low, high):
    """Ten of 10,000 differences are not zero at either end, one the most."""
    images = []
    ends = ((200, 120, 110, 60), (180, 60, 130, 30), (240, 30, 220, 15))
    for lowest, second_lowest, highest, second_highest in ends:
        image = np.zeros((100, 100, 3), np.uint8)
        image[0, 0, 1], image[0, 1:10, 1] = lowest, second_lowest
        image[9, 0, 0], image[9, 1:10, 0] = highest, second_highest
        images.append(image)
    content = quantise_int8(
        to_flatbuffer(differences((100, 100))).content, images, (100, 100), **options
    )
    # A step: the zero point is rounded.
    step = (high - low) / 255
    assert output_range(content) == (
        pytest.approx(low, abs=step),
        pytest.approx(high, abs=step),
    )


def test_images_of_another_size_are_resized_by_half_pixel_centres():
    """Half the size: every pixel is the mean of four; those of a checkerboard are grey."""
    image = np.zeros((16, 48, 3), np.uint8)
    image[::2, ::2, 0] = image[1::2, 1::2, 0] = 255
    content = to_flatbuffer(differences((8, 24))).content
    content = quantise_int8(content, [image], (8, 24), calibration="min-max")
    assert output_range(content)[1] == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("second", [(0, 255, 0), (0, 102, 0)])
@pytest.mark.parametrize("calibration", CALIBRATION_METHODS)
def test_ranges_of_one_sign_end_at_zero(calibration, second):
    """Also that of what is the same everywhere."""
    image = np.full((8, 8, 3), (0, 255, 0), np.uint8)
    image[4:] = second
    content = to_flatbuffer(differences((8, 8), 1 / 255)).content
    content = quantise_int8(content, [image], (8, 8), calibration=calibration)
    assert output_range(content) == (pytest.approx(-1, abs=0.01), pytest.approx(0, abs=0.01))


def test_activations_are_the_numbers_that_int8_stands_for():
    """Also at a zero point of 0."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[0], image[1] = (127, 0, 0), (0, 128, 0)
    content = to_flatbuffer(differences((8, 8), 0.5)).content
    content = quantise_int8(content, [image], (8, 8), calibration="min-max")
    ((*_, (_, got)),) = map(list, activations(content, [image[None] - 128.0]))
    assert output_range(content) == (-64, 63.5)
    # A difference of one is a step.
    want = (image[..., 0] - image[..., 1].astype(int)) / 2
    np.testing.assert_allclose(got[0, ..., 0], want, atol=1e-4)


def test_channels_of_a_bias_alone():
    """A kernel that weight decay has driven to nothing: the bias does not overflow."""
    x = keras.Input((8, 8, 3), batch_size=1)
    model = keras.Model(x, keras.layers.Conv2D(3, 1)(x))
    kernel = np.eye(3, dtype="float32") / 64
    kernel[:, 1] *= 1e-30
    model.set_weights([kernel[None, None], np.float32([0, 2.5, 1])])
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    content = quantise_int8(to_flatbuffer(model).content, [image], (8, 8), calibration="min-max")
    low, high = output_range(content)
    ((*_, (_, got)),) = map(list, activations(content, [image[None] - 128.0]))
    # Half a step of the output; a kernel of 127 steps is exact, a bias counts in fine steps.
    np.testing.assert_allclose(got, model(image[None]), atol=0.51 * (high - low) / 255)


@pytest.mark.parametrize("keep_float", [(), ("kept.b",)])
def test_everything_else_is_int8(keep_float):
    """Sums where there is no PReLU; of two layers with nearly one name the other."""
    x = keras.Input((8, 8, 3), batch_size=1)
    y = keras.layers.Conv2D(4, 3, padding="same", name="kept.b")(x)
    z = keras.layers.Conv2D(4, 3, padding="same", name="kept_b")(x)
    model = keras.Model(x, keras.layers.Conv2D(2, 1, name="last")(keras.layers.Add()([y, z])))
    content = to_flatbuffer(model).content
    names = [name for _, name in operator_outputs(content).values()]
    kept = [name for name in names if any(f"/{layer}" in name for layer in keep_float)]
    assert len(kept) == len(keep_float)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    rounded = quantise_int8(content, [image], (8, 8), keep_float=kept)
    assert set(names) - set(int8_ranges(rounded)) == set(kept)
    interpreter = Interpreter(model_content=rounded)
    kernels = [
        interpreter.get_tensor(operator["inputs"][1])
        for operator in interpreter._get_ops_details()
        if operator["op_name"] == "CONV_2D"
    ]
    assert [kernel.dtype for kernel in kernels].count(np.int8) == 3 - len(kept)
    # Of 108 weights: 4 bits have 15 values.
    assert max(np.unique(kernel).size for kernel in kernels if kernel.dtype == np.int8) > 15
    assert set(operators(rounded)) <= {"ADD", "CONV_2D", "QUANTIZE", "DEQUANTIZE"}


def test_the_quantisation_library_stays_as_it_is():
    original = uniform_quantize_tensor.uniform_quantize
    content = to_flatbuffer(differences((8, 8))).content
    quantise_weights(content)
    quantise_int8(content, [np.zeros((8, 8, 3), np.uint8)], (8, 8))
    assert uniform_quantize_tensor.uniform_quantize is original


@pytest.mark.parametrize("calibration", CALIBRATION_METHODS)
def test_comparisons_have_no_range(calibration):
    """As in ENet's unpooling: what is compared becomes int8, the truth value stays one."""
    x = keras.Input((8, 8, 3), batch_size=1)
    y = keras.layers.Conv2D(3, 1)(x)
    kept = keras.ops.where(keras.ops.greater_equal(y, x), y, x)
    content = to_flatbuffer(keras.Model(x, keras.layers.Conv2D(2, 1)(kept))).content
    assert "GREATER_EQUAL" in operators(content)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    rounded = quantise_int8(content, [image], (8, 8), calibration=calibration)
    assert all(low < high for low, high in int8_ranges(rounded).values())


def test_noise_of_each_layer(tiny_model, images, tmp_path):
    """The last row is what the files' outputs show; the report is sorted."""
    seen = []
    rows = quantisation_noise(tiny_model, images, progress=lambda *counts: seen.append(counts))
    # Images are calibrated with, then measured on.
    assert seen == [(done + 1, 2 * len(images)) for done in range(2 * len(images))]
    decibels = [row.decibels for row in rows]
    assert decibels == sorted(decibels)
    by_layer = {row.layer: row for row in rows}
    convert(tiny_model, tmp_path / "float.tflite")
    convert(tiny_model, tmp_path / "int8.tflite", precision="int8", calibration=images)
    exact, rounded = (TFLitePredictor(tmp_path / f"{kind}.tflite") for kind in ("float", "int8"))
    signal = sum(np.square(exact(x).astype(float)).sum() for x in images)
    noise = sum(np.square(exact(x).astype(float) - rounded(x)).sum() for x in images)
    logits = by_layer["logits"]
    # Both sum the same float32 values.
    assert logits.decibels == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    assert (logits.operator, logits.dtype) == ("RESIZE_BILINEAR", "int8")
    assert by_layer["level1_0.act"].dtype == "float32"
    # Every layer of the network with an operator of its own.
    named = {name for row in rows for name in row.layer.split()}
    assert {"level1_0.conv", "b1.bn.branch0", "level3.0.sum", "classifier.0.conv"} <= named


def test_report(tiny_keras, tiny_camvid, tmp_path, capsys):
    args = [
        "--calibration-dir",
        tiny_camvid,
        "--calibration-count",
        2,
        "--json",
        tmp_path / "r.json",
    ]
    args += ["--calibration", "min-max", "--keep-float", "classifier.0.conv"]
    assert main(["quantisation-report", *map(str, [tiny_keras, *args])]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[1].split()[0] == rows[0]["layer"].split()[0]
    kept = next(row for row in rows if row["layer"] == "classifier.0.conv")
    assert (kept["operator"], kept["dtype"]) == ("CONV_2D", "float32")


def test_a_report_of_layers_without_noise_or_signal(tiny_keras, tiny_camvid, tmp_path, monkeypatch):
    """JSON has no infinity."""
    ends = float("-inf"), 3.5, float("inf")
    rows = [LayerNoise("a", "RELU", "int8", 0.0, 1.0, decibels) for decibels in ends]
    monkeypatch.setattr(kseg.tflite, "quantisation_noise", lambda *_args, **_options: rows)
    args = ["--calibration-dir", tiny_camvid, "--json", tmp_path / "r.json"]
    assert main(["quantisation-report", *map(str, [tiny_keras, *args])]) == 0
    rows = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert [row["decibels"] for row in rows] == ["-inf", 3.5, None]
