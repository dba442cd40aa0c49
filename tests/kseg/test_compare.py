"""Two Predictors with fixed label maps, compared by hand, and the command."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.data import CAMVID, DataSet, Sample, open_dataset
from kseg.evaluation import compare, format_comparison
from kseg.predictor import KerasPredictor

SKY, ROAD, VOID = 0, 3, 11


class Fixed:
    """A Predictor of channel numbers by the image's first value."""

    def __init__(self, card, maps, input_size=None):
        self.card = card.replace(output="argmax")
        self.maps, self.input_size, self.runtime = maps, input_size, "test"
        self.seen = set()

    def __call__(self, image):
        self.seen.add(image.shape[:2])
        return np.asarray(self.maps[int(image[0, 0, 0])], np.uint8)


def rows(above, below):
    """(2, 4) train ids."""
    return np.array([above, below], np.uint8)


FIRST = [rows([SKY] * 4, [SKY] * 4), rows([SKY] * 4, [ROAD] * 4), rows([ROAD] * 4, [ROAD] * 4)]
SECOND = [
    FIRST[0],
    rows([SKY, SKY, SKY, ROAD], [ROAD] * 4),
    rows([ROAD] * 4, [VOID] * 4),
]
# The first is right everywhere, but for a pixel without a label.
LABELS = [FIRST[0], rows([SKY] * 4, [ROAD, ROAD, ROAD, VOID]), FIRST[2]]


@pytest.fixture
def data(tmp_path):
    samples = []
    for i, label in enumerate(LABELS):
        sample = Sample(f"{i}", tmp_path / f"{i}.png", tmp_path / f"{i}_label.png")
        Image.fromarray(np.full((2, 4, 3), i, np.uint8)).save(sample.image)
        Image.fromarray(label).save(sample.label)
        samples.append(sample)
    return DataSet("camvid", "val", CAMVID, tuple(samples), (2, 4))


@pytest.fixture
def pair(tiny_model):
    """The second has a channel more, for no class."""
    card = tiny_model.card.replace(input_size=None)
    void = card.replace(num_classes=12, void_channels=(VOID,))
    return Fixed(card, FIRST), Fixed(void, SECOND)


def test_by_hand(pair, data):
    counts = []
    found = compare(*pair, data, worst=2, progress=lambda *n: counts.append(n))
    assert counts == [(1, 3), (2, 3), (3, 3)]
    # all of the first image, 7 of 8 pixels of the second, 4 of 8 of the third
    assert found.same == 19 / 24
    assert found.class_same["sky"] == 11 / 12
    assert found.class_same["road"] == 8 / 12
    assert found.class_same["tree"] is None
    assert [(item.name, item.same) for item in found.worst] == [("2", 4 / 8), ("1", 7 / 8)]
    report = found.to_json()
    assert report["worst"] == [{"image": str(w.image), "same": w.same} for w in found.worst]
    first, second = found.class_iou
    assert (first["sky"], first["road"], first["tree"]) == (1, 1, None)
    # sky: 11 of 12; road: 3 + 4 right of 3 + 8, and one that is sky
    assert (second["sky"], second["road"]) == (11 / 12, 7 / 12)
    assert found.mean_iou == [1, pytest.approx(9 / 12)]
    drops = [(drop["class"], drop["drop"]) for drop in found.drops]
    assert drops == [("road", pytest.approx(5 / 12)), ("sky", pytest.approx(1 / 12))]
    assert json.loads(json.dumps(report))["class_same"] == found.class_same
    text = format_comparison(found)
    (road,) = [line.split() for line in text.splitlines() if line.startswith("road")]
    assert road == ["road", "66.67", "100.00", "58.33"]
    assert "in points: road 41.67, sky 8.33\n" in text
    assert f"50.00 % same: {found.worst[0].image}" in text


def test_picture(pair, data):
    """Image, first, second and difference, four pixels of space between."""
    (item,) = compare(*pair, data, worst=1).worst
    pixels = np.asarray(item.picture())
    assert pixels.shape == (2, 4 * 4 + 3 * 4, 3)
    image, first, second, differs = (pixels[:, i : i + 4] for i in (0, 8, 16, 24))
    assert (image == 2).all()
    np.testing.assert_array_equal(differs, rows([0] * 4, [255] * 4)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(second[1], image[1])
    assert (first[1] != image[1]).any()


def test_without_labels(pair, data):
    samples = tuple(dataclasses.replace(sample, label=None) for sample in data.samples)
    found = compare(*pair, dataclasses.replace(data, samples=samples))
    assert found.same == 19 / 24
    assert found.class_iou is found.mean_iou is found.drops is None
    assert not {"class_iou", "mean_iou", "drops"} & found.to_json().keys()
    assert "IoU" not in format_comparison(found)


def test_both_run_at_the_size_that_one_needs(pair, data):
    first, second = pair
    small = [labels[:, ::2] for labels in SECOND]
    second.maps, second.input_size = small, (2, 2)
    first.maps = small
    found = compare(first, second, data)
    assert first.seen == second.seen == {(2, 2)}
    assert found.same == 1
    assert [file["input_size"] for file in found.files] == [(2, 2), (2, 2)]


def test_refusals(pair, data):
    first, second = pair
    with pytest.raises(kseg.KsegError, match="worst is -1; it must be at least 0"):
        compare(first, second, data, worst=-1)
    other_names = tuple("abcdefghijk")
    for changes in (
        dict(num_classes=5, class_names=None, colors=None),
        dict(class_names=other_names),
    ):
        other = Fixed(second.card.replace(void_channels=(), num_classes=11), SECOND)
        other.card = other.card.replace(dataset="other", **changes)
        with pytest.raises(kseg.KsegError, match="of other; compare files of the same classes"):
            compare(first, other, data)
    both = [Fixed(p.card.replace(num_classes=11, void_channels=()), p.maps) for p in pair]
    for predictor in both:
        predictor.card = predictor.card.replace(class_names=other_names)
    with pytest.raises(kseg.KsegError, match="Name the data set"):
        compare(*both, data)
    with pytest.raises(kseg.KsegError, match=r"0\.png: the model takes \(9, 9\)"):
        compare(Fixed(first.card, FIRST, (9, 9)), second, data, input_size=(2, 4))


def test_command(tiny_model, tiny_keras, tiny_camvid, tmp_path, capsys):
    """A .keras file against its .tflite file; the same numbers from the label maps."""
    file = tmp_path / "x.tflite"
    kseg.tflite.convert(tiny_model, file, precision="w8")
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    out = tmp_path / "out"
    written = ["--json", str(tmp_path / "c.json"), "--out", str(out), "--worst", "1"]
    assert main(["compare", str(tiny_keras), str(file), *data, *written]) == 0
    report = json.loads((tmp_path / "c.json").read_text())
    assert [facts["file"] for facts in report["files"]] == [str(tiny_keras), str(file)]
    predictors = KerasPredictor(tiny_keras), kseg.tflite.TFLitePredictor(file)
    images = list(open_dataset("camvid", tiny_camvid, "val").images())
    maps = [np.stack([p(image).argmax(-1) for image in images]) for p in predictors]
    assert report["same"] == pytest.approx((maps[0] == maps[1]).mean(), abs=1e-12)
    assert report["worst"][0]["same"] == (maps[0] == maps[1]).mean((1, 2)).min()
    (picture,) = out.iterdir()
    assert picture.name == f"{report['worst'][0]['image'][-7:-4]}.png"
    assert Image.open(picture).size == (4 * 64 + 3 * 4, 48)
    assert f"{100 * report['same']:.2f}" in capsys.readouterr().out
    scores = []
    for path in (tiny_keras, file):
        assert main(["evaluate", str(path), *data, "--json", str(tmp_path / "s.json")]) == 0
        scores.append(json.loads((tmp_path / "s.json").read_text())["class_iou"])
    assert report["class_iou"] == scores
