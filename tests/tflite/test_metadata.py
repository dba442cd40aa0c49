"""TFLite metadata, read by MediaPipe's schema, and files run in MediaPipe's ImageSegmenter."""

import json
import subprocess
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.data import CAMVID
from kseg.resize import resize_bilinear
from kseg.streets import draw_scene
from kseg.tflite.metadata import colors, labels, metadata
from kseg.tflite.predictors import TFLitePredictor
from support import ROOT, randomize_statistics

MEDIAPIPE = ROOT / ".venv-mediapipe/bin/python"

# A softmax of float32 logits of size 10, by two programs; 2e-7 seen
PROBABILITY = 1e-6

SIZE = (48, 64)
IMAGE = draw_scene(3, *SIZE).image
LARGE = draw_scene(3, 120, 150).image


@pytest.fixture(scope="module")
def model():
    """A tiny CGNet with a void channel that decides for many classes, as a trained one does."""
    keras.utils.set_random_seed(1)
    model = kseg.create_model("cgnet_m3n21", num_classes=12, m=2, n=2)
    randomize_statistics(model)
    layer = model.get_layer("classifier.0.conv")
    features = np.asarray(keras.Model(model.input, layer.input)(IMAGE[None]))[0]
    (kernel,) = layer.get_weights()
    # Logits of mean 0 in every channel, so that none is always the largest.
    mean = features.mean((0, 1))
    kernel -= mean[:, None] * (mean @ kernel) / (mean @ mean)
    logits = features @ kernel[0, 0]
    layer.set_weights([kernel * 3 / logits.std()])
    model.card = model.card.replace(
        dataset="camvid",
        class_names=CAMVID.names,
        colors=CAMVID.colors,
        void_channels=(0,),
        input_size=SIZE,
    )
    return model


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """By name: OUTPUT-INPUT-PRECISION."""
    folder = tmp_path_factory.mktemp("metadata")
    for output, source, precisions in (
        ("logits", "float", ("fp32", "fp16", "w8", "int8")),
        ("stride-logits", "uint8", ("fp32", "int8")),
        ("argmax", "uint8", ("fp32",)),
    ):
        kseg.tflite.convert_each(
            model,
            {p: folder / f"{output}-{source}-{p}.tflite" for p in precisions},
            output=output,
            input_type=source,
            calibration=[IMAGE] if "int8" in precisions else None,
        )
    return {path.stem: path for path in sorted(folder.iterdir())}


def in_mediapipe(image, paths, folder):
    if not MEDIAPIPE.exists():
        pytest.skip("no .venv-mediapipe; .ci/run makes it")
    np.save(folder / "image.npy", image)
    child = Path(__file__).parent / "mediapipe_child.py"
    command = [MEDIAPIPE, child, folder / "image.npy", folder / "out.npz", *paths]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    return np.load(folder / "out.npz")


@pytest.fixture(scope="module")
def seen(files, tmp_path_factory):
    """What MediaPipe makes of the image and the files."""
    return in_mediapipe(IMAGE, files.values(), tmp_path_factory.mktemp("mediapipe"))


# What MediaPipe takes: int8 logits it scales back by itself.
RUNS = (
    "logits-float-fp32",
    "logits-float-fp16",
    "logits-float-w8",
    "logits-float-int8",
    "stride-logits-uint8-fp32",
    "stride-logits-uint8-int8",
)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", RUNS)
def test_masks(name, files, seen):
    """Those of LiteRT on the same file; enlarged as MediaPipe enlarges.

    It takes the category from logits between corners that stay corners, and enlarges
    the probabilities from half-pixel centres.
    """
    logits = TFLitePredictor(files[name])(IMAGE)
    aligned = resize_bilinear(logits, SIZE, "align_corners")
    # No class is too rare; where the last bit decides, either may be right. int8 has ties.
    assert np.bincount(aligned.argmax(-1).ravel(), minlength=12).min() > 5
    ordered = np.sort(aligned, -1)
    clear = ordered[..., -1] - ordered[..., -2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(
        seen[f"{name}/category"][clear], aligned.argmax(-1).astype(np.uint8)[clear]
    )
    want = np.moveaxis(resize_bilinear(softmax(logits), SIZE), -1, 0)
    np.testing.assert_allclose(seen[f"{name}/confidence"], want, atol=PROBABILITY)


def test_keras_gives_the_same_mask(model, seen):
    logits = np.asarray(model(IMAGE[None]))[0]
    want = np.moveaxis(softmax(logits), -1, 0)
    # The float32 sums of the whole network in another order; 2e-6 seen.
    np.testing.assert_allclose(seen["logits-float-fp32/confidence"], want, atol=1e-4)


def test_labels_are_read_back(seen):
    want = ["void", *CAMVID.names]
    for name in RUNS:
        assert seen[f"{name}/labels"].tolist() == want


def test_channel_numbers_are_refused(seen):
    """MediaPipe would read the memory behind them as logits."""
    assert "Invalid activation type" in str(seen["argmax-uint8-fp32/error"])


def test_mediapipe_samples_corners(files, tmp_path):
    """An image of another size: it takes pixel x * scale, not x * scale + (scale - 1) / 2.

    So masks move by half of what a pixel of the file covers, and an application should
    resize by itself (docs/android.md).
    """
    name = "logits-float-fp32"
    large = draw_scene(3, 120, 150).image
    got = in_mediapipe(large, [files[name]], tmp_path)[f"{name}/confidence"]
    predictor = TFLitePredictor(files[name])

    def difference(image):
        probabilities = softmax(predictor(np.rint(image)))
        want = resize_bilinear(probabilities, large.shape[:2])
        return np.abs(np.moveaxis(want, -1, 0) - got).max()

    sampled = large
    for axis in (0, 1):
        length = large.shape[axis]
        places = np.arange(SIZE[axis]) * length / SIZE[axis]
        sampled = np.apply_along_axis(
            lambda line: np.interp(places, np.arange(len(line)), line),  # noqa: B023
            axis,
            sampled,
        )
    # OpenCV samples at a 32nd of a pixel; 0.004 seen.
    assert difference(sampled) < 0.02
    assert difference(resize_bilinear(large, SIZE)) > 0.1


def test_metadata(seen):
    """Decoded by the schema that MediaPipe brings."""
    for name in (*RUNS, "argmax-uint8-fp32"):
        model = json.loads(str(seen[f"{name}/metadata"]))
        assert model["name"] == "cgnet_m3n21"
        assert model["minParserVersion"] == "1.5.0"
        (graph,) = model["subgraphMetadata"]
        (image,), (output,) = graph["inputTensorMetadata"], graph["outputTensorMetadata"]
        # 2: ImageProperties, 1: RGB
        assert image["content"]["contentPropertiesType"] == 2
        assert image["content"]["contentProperties"] == {
            "colorSpace": 1,
            "defaultSize": {"width": 64, "height": 48},
        }
        # 1: NormalizationOptions
        assert image["processUnits"] == [
            {"optionsType": 1, "options": {"mean": [0.0], "std": [1.0]}}
        ]
        assert image["stats"] == {"min": [0.0], "max": [255.0]}
        # 2: GRAYSCALE; the picture's axes
        assert output["content"]["contentProperties"]["colorSpace"] == 2
        assert output["content"]["range"] == {"min": 1, "max": 2}
        decided = name.startswith("argmax")
        # 2: TENSOR_AXIS_LABELS, 3: TENSOR_VALUE_LABELS, 1: DESCRIPTIONS
        assert [(file["name"], file["type"]) for file in output["associatedFiles"]] == [
            ("labels.txt", 3 if decided else 2),
            ("colors.txt", 1),
        ]
        (options,) = graph["customMetadata"]
        assert options["name"] == "SEGMENTER_METADATA"
        # 2: SOFTMAX
        assert options["data"]["activation"] == (-1 if decided else 2)


def test_files_behind_the_model(files):
    for path in files.values():
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                # MediaPipe reads them where they are, and no clock gets into a file.
                assert info.compress_type == zipfile.ZIP_STORED
                assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert archive.read("labels.txt").decode().split("\n") == ["void", *CAMVID.names, ""]
            lines = archive.read("colors.txt").decode().split()
        assert lines[0] == "#000000"
        assert tuple(bytes.fromhex(lines[4][1:])) == CAMVID.colors[3]
        assert len(lines) == 12


def test_classes_without_names(model):
    card = model.card.replace(class_names=None, colors=None)
    assert labels(card)[:3] == ["void", "class 0", "class 1"]
    assert len(set(colors(card))) == 12


def test_a_card_without_an_input_size(model):
    with pytest.raises(ValueError, match="cgnet_m3n21: the card has no input_size"):
        metadata(model.card.replace(input_size=None))
