"""A layer that no GPU delegate runs: the warning, and the files for what does run it."""

from unittest.mock import patch

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg import layers
from kseg.tflite import OnnxPredictor, TFLitePredictor, convert, convert_each, train_quantised
from kseg.tflite.bridge import to_tf_keras
from kseg.tflite.flatbuffer import operators
from kseg.zoo import VARIANTS
from support import SMALL, outputs_of, varied

SIZE = (50, 62)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def network(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Both versions of deformable convolution, at stride 2."""
    x = layers.conv_bn_prelu(x, 8, 3, strides=2, epsilon=1e-3, name="stem")
    offset = layers.conv(x, 36, 3, use_bias=True, name="offset")
    mask = keras.layers.Activation("sigmoid", name="mask.sigmoid")(
        layers.conv(x, 18, 3, name="mask")
    )
    y = layers.DeformableConv2D(8, 3, offset_groups=2, name="second")(x, offset, mask)
    y = layers.bn_prelu(y, epsilon=1e-3, name="stage")
    offset = layers.conv(y, 18, 3, use_bias=True, name="offset_first")
    y = layers.DeformableConv2D(8, 3, dilation_rate=2, use_bias=False, name="first")(y, offset)
    return layers.conv(y, num_classes, 1, use_bias=True, name="classifier")


@pytest.fixture(scope="module")
def model():
    row = SMALL["small"].replace(builder=network)
    with patch.dict(VARIANTS, {"deformable": row}):
        keras.utils.set_random_seed(1)
        yield varied(kseg.create_model("deformable", num_classes=5, input_shape=(*SIZE, 3)))


@pytest.fixture(scope="module")
def want(model) -> np.ndarray:
    return outputs_of(model, IMAGE[None].astype("float32"))[0]


def decibels(got: np.ndarray, want: np.ndarray) -> float:
    return 10 * np.log10((want**2).mean() / ((got - want) ** 2).mean())


def test_files_for_the_cpu(model, want, tmp_path):
    """One line names the layers; int8 computes them in float32, places and all."""
    paths = {precision: tmp_path / f"{precision}.tflite" for precision in ("fp32", "fp16", "w8")}
    with pytest.warns(kseg.errors.KsegWarning) as warnings:
        convert_each(model, paths)
    (text,) = {str(warning.message) for warning in warnings}
    layers = "second (DeformableConv2D), first (DeformableConv2D)"
    assert text.endswith(
        f"fp32.tflite: no GPU delegate runs {layers}; the file is for the CPU, and an .onnx file "
        "is for ONNX Runtime"
    )
    assert "\n" not in text
    got = TFLitePredictor(paths["fp32"])(IMAGE)
    # float32 sums in another order
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.ptp(want))
    # Weights of 11 and of 8 bits move the places a little.
    assert decibels(TFLitePredictor(paths["fp16"])(IMAGE), want) > 50
    assert decibels(TFLitePredictor(paths["w8"])(IMAGE), want) > 25
    path = tmp_path / "int8.tflite"
    with pytest.warns(kseg.errors.KsegWarning, match="no GPU delegate runs"):
        convert(model, path, precision="int8", calibration=[IMAGE])
    assert decibels(TFLitePredictor(path)(IMAGE), want) > 20
    # Each of the two reads four pixels.
    assert operators(path.read_bytes())["GATHER"] == 8
    assert operators(path.read_bytes())["FLOOR"] == 4


def test_onnx(model, want, tmp_path, recwarn):
    convert(model, tmp_path / "x.onnx")
    assert not [w for w in recwarn if issubclass(w.category, kseg.errors.KsegWarning)]
    got = OnnxPredictor(tmp_path / "x.onnx")(IMAGE)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.ptp(want))


def test_tf_keras(model, want):
    """As pruning and clustering train it."""
    got = np.asarray(to_tf_keras(model).model(IMAGE[None].astype("float32"), training=False))[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.ptp(want))


def test_quantisation_aware_training_refuses_it(model, tmp_path):
    images = IMAGE[None].astype("float32")
    batches = tf.data.Dataset.from_tensors((images, np.zeros((1, *SIZE), np.uint8)))
    with pytest.raises(
        kseg.KsegError, match="second: a DeformableConv2D has no int8 form to train"
    ):
        train_quantised(model, tmp_path / "x.tflite", batches=batches, loss=None, steps=0)
