"""Models that kseg never saw, to the phone: every precision, on the CPU and the accelerator."""

import keras
import numpy as np
import pytest
from foreign_models import attention, hub_deeplab, hub_segformer, two_outputs, unet
from keras import layers as kl

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.model import fixed_size
from kseg.predictor import KerasPredictor
from kseg.streets import draw_scene
from kseg.tflite.flatbuffer import int8_ranges, operator_outputs, operators
from kseg.tflite.gpu import GpuPredictor, NoAccelerator, compare

SIZE = (48, 64)

# Least decibels against Keras: float32's sums in another order; half precision's rounding;
# 8 bits of weights, and of activations too, in networks of random weights.
LEAST = {"fp32": 100, "fp16": 55, "w8": 35, "int8": 20}

MAKERS = {
    "unet": unet,
    "attention": attention,
    "two": two_outputs,
    "deeplab": hub_deeplab,
    "segformer": hub_segformer,
}


@pytest.fixture(scope="module", params=MAKERS)
def wrapped(request) -> kseg.SegmentationModel:
    keras.utils.set_random_seed(1)
    chosen = {"output": "large"} if request.param == "two" else {}
    return kseg.wrap(MAKERS[request.param](), **chosen)


@pytest.fixture(scope="module")
def files(wrapped, tmp_path_factory):
    """The image, Keras' logits, and a file of each precision."""
    folder = tmp_path_factory.mktemp("wrapped")
    height, width = (a or b for a, b in zip(fixed_size(wrapped), SIZE, strict=True))
    image = draw_scene(3, height, width).image
    want = KerasPredictor(wrapped)(image)
    paths = {precision: folder / f"{precision}.tflite" for precision in LEAST}
    kseg.tflite.convert_each(wrapped, paths, input_size=(height, width), calibration=[image])
    return image, want, paths


def decibels(want, got) -> float:
    return 10 * np.log10((want**2).mean() / ((want - got) ** 2).mean())


def test_files_agree_with_keras(files):
    image, want, paths = files
    for precision, path in paths.items():
        got = kseg.tflite.TFLitePredictor(path)(image)
        assert decibels(want, got) > LEAST[precision], precision


def test_the_accelerator_agrees_with_the_cpu(files):
    image, _, paths = files
    try:
        GpuPredictor(paths["fp32"]).close()
    except NoAccelerator:
        pytest.skip("no Vulkan driver; .ci/run installs the one of Debian's chromium")
    for precision, path in paths.items():
        result = compare(path, [image])
        # Small maps of random weights: in 8 bits a step of the last scale turns more of their
        # pixels than the hundredth that a trained network's may.
        least = 25 if precision == "int8" else 100
        assert result.decibels > least, (precision, result)


@pytest.mark.parametrize("make", [attention, hub_deeplab])
def test_files_of_other_outputs(make, tmp_path):
    keras.utils.set_random_seed(1)
    wrapped, size = kseg.wrap(make()), SIZE
    image = draw_scene(3, *SIZE).image
    want = KerasPredictor(wrapped)(image)
    kseg.tflite.convert(wrapped, tmp_path / "a.tflite", output="argmax", input_size=size)
    labels = kseg.tflite.TFLitePredictor(tmp_path / "a.tflite")(image)
    # Ties of float32's roundings
    assert (labels == want.argmax(-1)).mean() > 0.999
    kseg.tflite.convert(wrapped, tmp_path / "x.onnx", input_size=size)
    got = kseg.tflite.OnnxPredictor(tmp_path / "x.onnx")(image)
    assert decibels(want, got) > LEAST["fp32"]


@pytest.mark.parametrize(("make", "stride"), [(hub_deeplab, 4), (unet, None)])
def test_stride_logits(make, stride, tmp_path):
    """Of a network that ends in a resizing; of keras-hub's the classifier is behind it."""
    ours = kseg.wrap(make())
    path = tmp_path / "s.tflite"
    options = dict(output="stride-logits", input_size=SIZE)
    if stride is None:
        with pytest.raises(kseg.KsegError, match="unet has no low-resolution logits"):
            kseg.tflite.convert(ours, path, **options)
        return
    kseg.tflite.convert(ours, path, **options)
    predictor = kseg.tflite.TFLitePredictor(path)
    assert predictor.card.output_stride == stride
    image = draw_scene(3, *SIZE).image
    assert predictor(image).shape == (SIZE[0] // stride, SIZE[1] // stride, 11)
    whole = KerasPredictor(ours)(image)
    enlarged = kseg.predictor.resize_bilinear(predictor(image), SIZE)
    assert decibels(whole, enlarged) > LEAST["fp32"]


def test_a_fixed_size_takes_no_other(tmp_path):
    ours = kseg.wrap(unet(size=SIZE))
    with pytest.raises(kseg.KsegError, match=r"takes images of 48x64 \(HxW\) alone"):
        kseg.tflite.convert(ours, tmp_path / "x.tflite", input_size=(64, 64))
    kseg.tflite.convert(ours, tmp_path / "x.tflite")
    assert kseg.tflite.TFLitePredictor(tmp_path / "x.tflite").input_size == SIZE


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda x: keras.ops.concatenate(keras.ops.split(x, 2, -1)[::-1], -1),
            r"SPLIT \(behind first\) would not run on the GPU delegate; write instead of SPLIT "
            r"slices x\[..., a:b\]",
        ),
        (
            kl.GroupNormalization(2, name="norm"),
            r"of 5 dimensions \(norm\).* would not run .* instead of five dimensions four",
        ),
        (
            lambda x: keras.ops.matmul(keras.ops.transpose(x, (0, 1, 3, 2)), x),
            r"BATCH_MATMUL of a tensor with itself \(.+\) would not run .* two tensors",
        ),
        (
            lambda x: keras.ops.matmul(x, x[:, :1, :8]),
            r"BATCH_MATMUL of unequal batches \(behind first\) would not run .* equal batches",
        ),
        (
            lambda x: x[:, :, ::-1],
            r"STRIDED_SLICE backwards \(behind first\) would not run .* a Concatenate of slices",
        ),
        (
            lambda x: x[..., 6:12],
            r"STRIDED_SLICE beyond the end \(behind first\) would not run .* x\[..., 8:\] in place",
        ),
        (
            lambda x: keras.ops.log_softmax(x),
            r"LOG_SOFTMAX \(behind first\) would not run .* instead of LOG_SOFTMAX the logits",
        ),
    ],
)
def test_an_operator_is_named_with_its_layer(layer, message, tmp_path):
    x = keras.Input((None, None, 3))
    y = kl.Conv2D(8, 3, padding="same", name="first")(x)
    ours = kseg.wrap(keras.Model(x, kl.Conv2D(3, 1, name="last")(layer(y))))
    with pytest.raises(kseg.KsegError, match=message) as error:
        kseg.tflite.convert(ours, tmp_path / "x.tflite", input_size=SIZE)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A U-Net with CamVid's classes, as its user would save it."""
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("saved") / "unet.keras"
    kseg.wrap(unet(), class_names=kseg.data.CAMVID.names).save(path)
    return path


def test_the_command(saved, tiny_camvid, tmp_path, capsys):
    """Each subcommand that takes a .keras file takes this one."""
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    calibration = ["--calibration-dataset", "camvid", "--calibration-dir", str(tiny_camvid)]
    size = ["--input-size", "48", "64"]
    file, int8 = str(tmp_path / "x.tflite"), str(tmp_path / "i.tflite")
    image = str(next((tiny_camvid / "val").iterdir()))
    for command in (
        ["evaluate", str(saved), *data],
        ["predict", str(saved), image, "--out", str(tmp_path / "p")],
        ["convert", str(saved), file, *size],
        ["convert", str(saved), int8, *size, "--precision", "int8", *calibration],
        ["compare", str(saved), file, *data],
        ["benchmark", str(saved), file, *size, "--runs", "1", "--warm-up", "0"],
        ["quantisation-report", str(saved), *size, *calibration],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)


def test_quantisation_aware_training(saved, tiny_camvid, tmp_path):
    """The int8 file of the calibrated model, before any step, says what the model says."""
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid), "--crop", "48", "64"]
    command = ["qat", str(saved), str(tmp_path / "q.tflite"), *data, "--input-size", "48", "64"]
    assert main([*command, "--steps", "1", "--batch-size", "2"]) == 0
    image = kseg.data.read_image(next((tiny_camvid / "val").iterdir()))
    want = KerasPredictor(saved)(image)
    got = kseg.tflite.TFLitePredictor(tmp_path / "q.tflite")(image)
    assert decibels(want, got) > LEAST["int8"]
    assert "QUANTIZE" in operators((tmp_path / "q.tflite").read_bytes())


def test_the_last_layer_kept_in_float(tmp_path):
    """Behind it stands a resize to the size that is there, which has no operator."""
    x = keras.Input((*SIZE, 3))
    y = kl.Conv2D(8, 3, padding="same", activation="relu", name="body")(x)
    model = kseg.wrap(keras.Model(x, kl.Conv2D(4, 1, name="head")(y)))
    image = draw_scene(3, *SIZE).image
    path = tmp_path / "x.tflite"
    kseg.tflite.convert(model, path, precision="int8", calibration=[image], keep_float=["head"])
    content = path.read_bytes()
    outputs = [name for kind, name in operator_outputs(content).values() if kind == "CONV_2D"]
    assert [name in int8_ranges(content) for name in outputs] == [True, False]
