"""Files against the Keras model they come from, and what is inside them."""

import sys

import keras
import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.tflite.flatbuffer import operators, read_card
from kseg.tflite.predictors import TFLitePredictor

# float32 sums in another order, on logits of size 10
FLOAT32 = 1e-4

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for output in ("logits", "stride-logits", "argmax"):
        paths[output] = folder / f"{output}.tflite"
        kseg.tflite.convert(tiny_model, paths[output], output=output)
    return paths


def test_logits(tiny_model, files):
    want = np.asarray(tiny_model(IMAGE[None]))[0]
    np.testing.assert_allclose(TFLitePredictor(files["logits"])(IMAGE), want, atol=FLOAT32)


def test_stride_logits(tiny_model, files):
    low = keras.Model(tiny_model.input, tiny_model.get_layer("classifier.0.conv").output)
    want = np.asarray(low(IMAGE[None]))[0]
    got = TFLitePredictor(files["stride-logits"])(IMAGE)
    assert got.shape == (6, 8, 11)
    np.testing.assert_allclose(got, want, atol=FLOAT32)


def test_argmax(tiny_model, files):
    logits = np.asarray(tiny_model(IMAGE[None]))[0]
    got = TFLitePredictor(files["argmax"])(IMAGE)
    assert got.dtype == np.uint8
    ordered = np.sort(logits, -1)
    clear = ordered[..., -1] - ordered[..., -2] > FLOAT32
    np.testing.assert_array_equal(got[clear], logits.argmax(-1)[clear])


def test_the_card_travels(tiny_model, files):
    for output, path in files.items():
        card = read_card(path.read_bytes())
        stride = 8 if output == "stride-logits" else 1
        assert card == tiny_model.card.replace(output=output, output_stride=stride)


def test_dilated_convolutions_stay_whole(files):
    counts = operators(files["logits"].read_bytes())
    assert "SPACE_TO_BATCH_ND" not in counts
    # 2 blocks a stage, local and surrounding; 3 pooled images (one of them twice pooled)
    assert counts["DEPTHWISE_CONV_2D"] == 2 * 2 * 2 + 2
    assert counts["RESIZE_BILINEAR"] == 1


def test_other_input_size(tiny_model, tmp_path):
    kseg.tflite.convert(tiny_model, tmp_path / "x.tflite", input_size=(40, 72))
    predictor = TFLitePredictor(tmp_path / "x.tflite")
    assert predictor.input_size == (40, 72)
    assert predictor.card.input_size == (40, 72)
    image = np.zeros((40, 72, 3), np.uint8)
    want = np.asarray(tiny_model(image[None]))[0]
    np.testing.assert_allclose(predictor(image), want, atol=FLOAT32)


def test_operators_that_no_gpu_runs_are_refused(tiny_model, tmp_path, monkeypatch):
    module = sys.modules["kseg.tflite.convert"]  # the function hides its module
    allowed = module.GPU_OPERATORS - {"PRELU", "MEAN"}
    monkeypatch.setattr(module, "GPU_OPERATORS", allowed)
    with pytest.raises(kseg.KsegError, match="MEAN, PRELU would not run on the GPU"):
        kseg.tflite.convert(tiny_model, tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_card_is_refused(tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((8, 8, 3), batch_size=1), keras.layers.ReLU()])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(kseg.KsegError, match=r"x\.tflite: has no card"):
        TFLitePredictor(tmp_path / "x.tflite")


@pytest.mark.parametrize("kept", [0, 7, 300, 100_000])
def test_damaged_file(kept, files, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(files["logits"].read_bytes()[:kept])
    with pytest.raises(kseg.KsegError, match=r"cut\.tflite: not a readable .tflite file"):
        TFLitePredictor(path)
