"""MobileNetV2's ImageNet weights out of its int8 .tflite file, against the file itself."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import kseg
import kseg.data
from kseg.checkpoints import read, unfold_batch_norm
from kseg.training.config import TrainingConfig
from kseg.training.initial import initial_model
from support import outputs_of

FILE = "mobilenet_v2_1.0_224_int8.tflite"
ESPRESSO = 967
FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A cup of coffee, (224, 224, 3) uint8."""
    return np.load(FIXTURES / "efficientnet_lite0_a.npz")["photo"][0]


def run(file: Path, photo: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of the file by name, as the numbers that their integers stand for."""
    interpreter = Interpreter(str(file), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], photo[None])
    interpreter.invoke()
    values = {}
    for details in interpreter.get_tensor_details():
        scale, zero_point = details["quantization"]
        if scale:
            value = interpreter.get_tensor(details["index"]).astype(np.float32)
            values[details["name"]] = (value - zero_point) * scale
    return values


SLIM, KERAS = "MobilenetV2.expanded_conv{}.project.BatchNorm", "encoder.{}_project_BN"


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("deeplab_v3_plus_mobilenet_v2", (SLIM.format(""), SLIM.format("_16"))),
        ("deeplab_v3.MobileNetV2", (KERAS.format("expanded_conv"), KERAS.format("block_16"))),
    ],
)
def test_the_file_and_the_encoder(name: str, layers: tuple[str, str], weights, photo):
    """In the first block and in the last, and the class, by the file's own classifier."""
    file = weights / FILE
    model = kseg.create_model(name, num_classes=3, output_stride=32, weights=file)
    assert model.card.weights == f"{FILE}, encoder alone"
    outputs = [model.get_layer(layer).output for layer in layers]
    taps = keras.Model(model.inputs, outputs)
    image = photo[None].astype("float32")
    of_file = run(file, photo)
    before = outputs_of(taps, image)
    for block, got in zip((1, 17), before, strict=True):
        (want,) = [
            value
            for tensor, value in of_file.items()
            if f"MobileNetV2/expanded_conv_{block}/project/" in tensor and value.shape == got.shape
        ]
        noise = np.square(got - want).sum() / np.square(want).sum()
        # What 8 bits in every activation cost; a wrong padding or activation makes it 1.
        assert noise < {1: 0.005, 17: 0.02}[block], noise

    tensors = read(file)
    head = {
        part: tensors[f"MobileNetV2/{part}"][0, 0]
        for part in ("Conv2d_18_1/weights", "top/Conv2d_1x1_output/weights")
    }
    x = before[1] @ head["Conv2d_18_1/weights"] + tensors["MobileNetV2/Conv2d_18_1/biases"]
    pooled = np.clip(x, 0, 6).mean((1, 2))
    scores = pooled @ head["top/Conv2d_1x1_output/weights"]
    scores += tensors["MobileNetV2/top/Conv2d_1x1_output/biases"]
    # The first of its classes is the background.
    assert scores.argmax() == ESPRESSO + 1

    count = unfold_batch_norm(model, [photo, photo[:, ::-1]])
    norms = [x for x in taps.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert count >= len(norms) == 52 - 1
    after = outputs_of(taps, image)
    for got, want in zip(after, before, strict=True):
        # Sums and factors of float32.
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    # The statistics are those of what comes in, over both images, which are one and its mirror.
    entry, last = norms[0], norms[-1]
    inputs = keras.Model(model.inputs, [entry.input, last.input])
    of_both = outputs_of(inputs, np.concatenate([image, image[:, :, ::-1]]))
    for norm, value in zip((entry, last), of_both, strict=True):
        scale = np.sqrt(value.var((0, 1, 2)))
        np.testing.assert_allclose(norm.moving_mean, value.mean((0, 1, 2)), atol=1e-4 * scale.max())
        np.testing.assert_allclose(np.sqrt(norm.moving_variance), scale, atol=1e-4 * scale.max())


def test_refusals(weights, photo):
    model = kseg.create_model("lraspp.MobileNetV2Slim", num_classes=2)
    with pytest.raises(kseg.KsegError, match="no BatchNorm that was folded"):
        unfold_batch_norm(model, [photo])
    kseg.checkpoints.assign(model, read(weights / FILE), part="backbone")
    with pytest.raises(kseg.KsegError, match="images has none"):
        unfold_batch_norm(model, [])


def test_training_begins_with_measured_statistics(weights, tiny_camvid):
    """On training images; frozen statistics stay as the file has them."""
    config = TrainingConfig(
        model="lraspp.MobileNetV2Slim",
        dataset="camvid",
        init=str(weights / FILE),
        init_part="backbone",
    )
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    model = initial_model(config, data)
    stem = keras.Model(model.inputs, model.get_layer("MobilenetV2.Conv").output)
    values = outputs_of(stem, np.stack([*data.images()]).astype("float32"))
    norm = model.get_layer("MobilenetV2.Conv.BatchNorm")
    np.testing.assert_allclose(norm.moving_mean, values.mean((0, 1, 2)), atol=1e-4)
    frozen = initial_model(dataclasses.replace(config, batch_norm="frozen"), data)
    assert not np.any(frozen.get_layer("MobilenetV2.Conv.BatchNorm").moving_mean)
