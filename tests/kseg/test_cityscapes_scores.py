"""Scores and files for the benchmark, by the official scripts' own code."""

import copy
import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.card import Card, Normalization
from kseg.data import CITYSCAPES, open_dataset
from kseg.errors import KsegWarning
from kseg.evaluation import LabelMaps, evaluate, format_report, write_submission
from kseg.evaluation.report import write_report
from kseg.streets import write_streets

CARD = Card(
    name="painter",
    options={},
    num_classes=20,
    dataset="cityscapes",
    class_names=CITYSCAPES.names,
    colors=CITYSCAPES.colors,
    void_channels=(19,),
    preprocessing=True,
    normalization=Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    resize="half_pixel",
    output="argmax",
)


class Painted:
    """A Predictor whose channel numbers are the image's red."""

    card, input_size, runtime = CARD, None, "test"

    def __call__(self, image):
        return image[..., 0].astype(np.uint8)


def write_frame(folder, name, image, labels=None, instances=None, split="val"):
    city = name.split("_")[0]
    for kind, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", labels),
        ("gtFine", "gtFine_instanceIds", instances),
    ):
        if pixels is not None:
            path = folder / kind / split / city / f"{name}_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def hard_cases(tmp_path_factory):
    """Every id 0..33 in blocks with ragged borders, and predictions that miss in every way.

    Blocks of things are instances, numbered or of a group (the plain id); the second
    frame has one-pixel instances, and instances that cross labels. Bus and wall occur
    nowhere, train in predictions alone, motorcycle in labels that are all missed; a quarter
    of the predictions is wrong and some are void.
    """
    folder = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(11)
    ids = [i for i in range(34) if i not in (12, 28, 31)]
    channels = [c for c in range(20) if c not in (3, 15, 17)]
    table = CITYSCAPES.label_table()
    for number in range(4):
        shape = 60 + number, 90
        rows, columns = np.indices(shape) + rng.integers(-2, 3, (2, *shape))
        block = rows.clip(0) // 7 * 20 + columns.clip(0) // 9
        labels = rng.choice(ids, block.max() + 1)[block]
        numbered = (labels >= 24) & (rng.random(block.max() + 1) < 0.8)[block]
        instances = np.where(numbered, labels * 1000 + block % 97, labels).astype(np.uint16)
        if number == 1:
            for i in range(12):
                place = tuple(rng.integers(0, shape))
                instances[place] = (24, 26, 29, 33)[i % 4] * 1000 + 100 + i
                labels[place] = instances[place] // 1000
            instances[10:20, 30:50] = 26999
        right = table[labels]
        predictions = np.where(
            (rng.random(shape) < 0.25) | (right == 255) | (right == 17),
            rng.choice(channels, shape),
            right,
        )
        image = np.repeat(predictions.astype(np.uint8)[..., None], 3, 2)
        name = f"bonn_{number:06d}_000019"
        write_frame(folder, name, image, labels.astype(np.uint8), instances)
    # Nothing to score: all void.
    void = np.full((20, 30), 4, np.uint8)
    write_frame(
        folder, "bonn_000009_000019", np.zeros((20, 30, 3), np.uint8), void, void.astype(np.uint16)
    )
    return folder


@pytest.fixture
def official(monkeypatch):
    """cityscapesScripts' evaluation of file names; it calls a function NumPy dropped."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    def run(predictions, labels):
        args = copy.copy(script.args)
        args.quiet, args.JSONOutput = True, False
        return script.evaluateImgLists([*map(str, predictions)], [*map(str, labels)], args)

    run.script = script
    return run


# Of a report: what only a network has, and the time.
WITHOUT_NETWORK = {
    *("model", "weights", "runtime", "scales", "flip", "output", "output_stride", "resize"),
    *("normalization", "void_channels", "seconds"),
}


def assert_same(ours, theirs, absent):
    """By name, theirs nan where ours is None or, for the names ``absent``, missing."""
    for name, score in theirs.items():
        if math.isnan(score):
            assert ours.get(name) is None, name
        else:
            # the order of float64 sums
            assert ours[name] == pytest.approx(score, abs=1e-9, rel=0), name
    assert set(theirs) - set(ours) <= set(absent)


def test_train_ids_in_place_of_ids(hard_cases, tmp_path):
    """As `kseg predict --out` writes them: most are ids of the data set, of other classes."""
    data = open_dataset("cityscapes", hard_cases, "val")
    for sample in data.samples:
        path = tmp_path / f"{sample.name}.png"
        Image.fromarray(np.where(data.label(sample) == 255, 0, data.label(sample))).save(path)
    with pytest.warns(
        KsegWarning, match=r"\.png: has ids that look like train ids, .* its own ids"
    ):
        evaluate(LabelMaps(tmp_path), data)


def test_equal_to_the_official_scripts(hard_cases, official, tmp_path):
    data = open_dataset("cityscapes", hard_cases, "val")
    ours = evaluate(Painted(), data)
    files = write_submission(Painted(), data, tmp_path / "results")
    theirs = official(files, [sample.label for sample in data.samples])
    # The files that the scripts read, read by kseg.
    with warnings.catch_warnings():
        warnings.simplefilter("error", KsegWarning)
        maps = evaluate(LabelMaps(tmp_path / "results"), data)
    first, second = ours.to_json(), maps.to_json()
    assert {key for key in first if second[key] != first[key]} <= WITHOUT_NETWORK

    void = {label.name for label in official.script.labels if label.ignoreInEval}
    stuff = set(CITYSCAPES.names[:11])
    assert_same(ours.class_iou, theirs["classScores"], void)
    assert_same(ours.category_iou, theirs["categoryScores"], {"void"})
    assert_same(ours.class_iiou, theirs["classInstScores"], void | stuff)
    assert_same(
        ours.category_iiou,
        theirs["categoryInstScores"],
        {"void", *CITYSCAPES.categories[:11]},
    )
    for name, official_name in {
        "mean_iou": "averageScoreClasses",
        "mean_category_iou": "averageScoreCategories",
        "mean_class_iiou": "averageScoreInstClasses",
        "mean_category_iiou": "averageScoreInstCategories",
    }.items():
        assert getattr(ours, name) == pytest.approx(theirs[official_name], abs=1e-9, rel=0)
    # The cases are the hard ones that they say they are.
    assert ours.class_iou["wall"] is ours.class_iou["bus"] is None
    assert ours.class_iou["train"] == ours.class_iou["motorcycle"] == 0
    assert 0 < ours.category_iiou["human"] < 1
    assert "human" in format_report(ours)


def test_table_is_the_official_one(official):
    script = official.script
    for train_id, name in enumerate(CITYSCAPES.names):
        label = script.name2label[name]
        assert label.trainId == train_id
        assert label.id == CITYSCAPES.file_ids[train_id]
        assert label.category == CITYSCAPES.categories[train_id]
        assert label.color == CITYSCAPES.colors[train_id]
        size = script.args.avgClassSize.get(name)
        assert CITYSCAPES.instance_sizes[train_id] == size
    ignored = {label.id for label in script.labels if label.ignoreInEval and label.id >= 0}
    assert set(CITYSCAPES.void_ids) == ignored


def test_licence_plates_are_ignored(tmp_path):
    """The official id -1 is 255 in a file of 8 bits; it scores as any other void."""
    scores = []
    for plate in (0, 255):
        folder = tmp_path / str(plate)
        labels = np.full((4, 6), 26, np.uint8)
        labels[1, 2:4] = plate
        image = np.full((4, 6, 3), 13, np.uint8)
        image[1, 2:4] = 0
        write_frame(folder, "bonn_000000_000019", image, labels)
        scores.append(evaluate(Painted(), open_dataset("cityscapes", folder, "val")))
    assert scores[0].confusion_matrix == scores[1].confusion_matrix
    assert scores[0].mean_iou == 1
    assert scores[0].class_iiou is scores[0].mean_class_iiou is None


def test_instance_scores_by_hand(tmp_path):
    """Two cars: 1 pixel hit, and 1 of 4 hit; a false alarm; persons are all missed."""
    labels = np.array([[26, 26, 26, 26, 26, 24, 7, 4]], np.uint8)
    instances = np.array([[26000, 26001, 26001, 26001, 26001, 24001, 7, 4]], np.uint16)
    predictions = np.array([[13, 13, 0, 14, 19, 12, 13, 13]], np.uint8)
    image = np.repeat(predictions[..., None], 3, 2)
    write_frame(tmp_path, "bonn_000000_000019", image, labels, instances)
    scores = evaluate(Painted(), open_dataset("cityscapes", tmp_path, "val"))
    car, person = 12794.0202738185, 3462.4756337644
    assert scores.class_iiou["car"] == pytest.approx(car * 1.25 / (2 * car + 1), rel=1e-12)
    assert scores.class_iiou["person"] == 0
    # the truck is of the car's category, the rider of the person's
    want = {"human": person / person, "vehicle": car * 1.5 / (2 * car + 1)}
    assert scores.category_iiou == pytest.approx(want, rel=1e-12)
    assert scores.category_iou["vehicle"] == 3 / 6


def test_bad_instances_are_named(tmp_path):
    labels, image = np.full((4, 6), 26, np.uint8), np.zeros((4, 6, 3), np.uint8)
    for instances, message in (
        (np.full((4, 6), 7001, np.uint16), "instance 7001 is of id 7, which has no instances"),
        (np.full((4, 5), 26001, np.uint16), "is 4x5 but its label is 4x6"),
        (np.zeros((4, 6, 3), np.uint8), "is of mode RGB"),
    ):
        write_frame(tmp_path, "bonn_000000_000019", image, labels, instances)
        with pytest.raises(kseg.KsegError, match=f"bonn_000000_000019_gtFine_inst.*{message}"):
            evaluate(Painted(), open_dataset("cityscapes", tmp_path, "val"))


def test_submission(official, tmp_path, monkeypatch):
    """The official scripts find the files of a test split that has no labels."""
    predictions = np.array([[0, 13, 18, 19]], np.uint8)
    image = np.repeat(predictions[..., None], 3, 2)
    for name in ("bonn_000000_000019", "bonn_000001_000019"):
        write_frame(tmp_path, name, image, split="test")
    data = open_dataset("cityscapes", tmp_path, "test")
    done = []
    files = write_submission(
        Painted(), data, tmp_path / "out", progress=lambda *counts: done.append(counts)
    )
    assert done == [(1, 2), (2, 2)]
    # 19 is void, which the benchmark takes as unlabelled
    np.testing.assert_array_equal(Image.open(files[0]), [[7, 26, 33, 0]])
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path / "out"))
    args = copy.copy(official.script.args)
    truth = "gtFine/test/bonn/bonn_000001_000019_gtFine_labelIds.png"
    assert official.script.getPrediction(args, truth) == str(files[1])


def test_report(hard_cases, tmp_path):
    data = open_dataset("cityscapes", hard_cases, "val")
    scores = evaluate(Painted(), data, boundaries=True)
    alone = [evaluate(Painted(), dataclasses.replace(data, samples=(s,))) for s in data.samples]
    assert list(scores.image_iou.values()) == [one.mean_iou for one in alone]
    assert scores.image_iou["bonn_000009_000019"] is None
    write_report(tmp_path / "report.html", scores, Painted(), data, pictures=1)
    page = (tmp_path / "report.html").read_text()
    # confusion matrix, trimap curve, best and worst image
    assert page.count("data:image/png;base64,") == 4
    for value in (scores.class_iou["car"], scores.mean_category_iiou):
        assert f"<td>{100 * value:.2f}</td>" in page

    for pick in (max, min):
        value = pick(one.mean_iou for one in alone if one.mean_iou is not None)
        assert f"mean IoU {100 * value:.2f} %; image, label, prediction" in page
    assert scores.boundary_f["bus"] is None

    write_submission(Painted(), data, tmp_path / "maps")
    # Label maps are scored at the labels' size; each pixel of an image is four now.
    for sample in data.samples:
        pixels = np.asarray(Image.open(sample.image))
        Image.fromarray(pixels.repeat(2, 0).repeat(2, 1)).save(sample.image)
    write_report(tmp_path / "maps.html", scores, LabelMaps(tmp_path / "maps"), data, pictures=1)
    assert (tmp_path / "maps.html").read_text() == page
    assert "40 px" in format_report(scores)
    assert json.loads(json.dumps(scores.to_json()))["trimap_iou"] == scores.trimap_iou


def test_streets_have_instances(tmp_path):
    write_streets(tmp_path / "s", 2, size=(64, 128))
    data = open_dataset("streets", tmp_path / "s", "val")
    assert data.has_instances
    (sample,) = data.samples
    _, label = data.labelled(sample)
    instances = data.instances(sample, label.shape)
    things = instances >= 1000
    assert things.any()
    ids = CITYSCAPES.label_table()[instances[things] // 1000]
    np.testing.assert_array_equal(ids, label[things])
    train = open_dataset("streets", tmp_path / "s", "train")
    train.samples[0].instances.unlink()
    train = open_dataset("streets", tmp_path / "s", "train")
    assert not train.has_instances
    with pytest.raises(kseg.KsegError, match="has no file of instances"):
        train.instances(train.samples[0], label.shape)
