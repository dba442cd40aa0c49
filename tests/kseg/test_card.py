"""The card: what a model is, the same from every file."""

import json
import zipfile

import numpy as np
import pytest

import kseg
from kseg.card import Card, Normalization, seen_splits
from kseg.data import CAMVID, DataSet
from kseg.errors import KsegError
from kseg.zoo import new_card


def test_a_card_equals_its_copy_from_json():
    """JSON has lists only; so may the user's options, at any depth, which stay as they are."""
    options = {"atrous_rates": [6, 12], "image_pooling_crop_size": [[33, 65], {"a": [1]}]}
    card = new_card("deeplab_v3_plus_mobilenet_v2", options=options)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert card.options["atrous_rates"] == (6, 12)
    assert card.options["image_pooling_crop_size"] == ((33, 65), {"a": (1,)})
    assert options["atrous_rates"] == [6, 12]


def test_void_channels_have_no_train_id():
    ids = new_card("espnet", 20).train_ids()
    assert ids[:20].tolist() == [*range(19), 255]
    assert set(ids[20:].tolist()) == {255}


CARD = new_card("cgnet_m3n21", 3)


@pytest.mark.parametrize(
    ("trained", "scored", "seen"),
    [
        ("camvid train+val", "camvid val", ["camvid val"]),
        ("camvid train+val", "camvid train", []),
        ("camvid train+val", "camvid test+val", ["camvid val"]),
        ("camvid train", "camvid val", []),
        ("camvid val", "voc val", []),
        ("voc trainval", "voc val", ["voc val"]),
        ("voc val", "voc trainval", ["voc val"]),
        ("voc trainaug", "voc trainaug", []),
        ("cityscapes_coarse val", "cityscapes val", ["cityscapes val"]),
    ],
)
def test_splits_that_weights_saw(trained, scored, seen):
    """VOC's trainval has the images of val, and Cityscapes' coarse labels are of the fine ones'."""
    data = [DataSet(*text.split(), CAMVID, (), None) for text in (trained, scored)]
    card = new_card("cgnet_m3n21", 11).trained_on(data[0])
    assert seen_splits(card.trained_splits, *scored.split()) == seen
    value = card.to_json()
    assert Card.from_json(value) == card
    # An earlier kseg's; pruning adds what it did.
    del value["trained_splits"]
    value["weights"] += "; pruned"
    assert Card.from_json(value).trained_splits == card.trained_splits
    # What came before is seen as well.
    assert {*card.trained_splits} <= {*card.trained_on(data[1]).trained_splits}


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_classes=1), "num_classes is 1.*for one class against the rest give 2"),
        (dict(num_classes=256), "num_classes is 256; it must be 2 to 255"),
        (dict(num_classes=3.0), "num_classes is 3.0; it must be a whole number"),
        (dict(colors=((0, 0, 0), (9, 9, 9))), "colors has 2 entries for 3 classes"),
        (dict(colors=((0, 0, 0),) * 4), "colors has 4 entries for 3 classes"),
        (dict(colors=((0, 0, 256),) * 3), r"colors has \(0, 0, 256\); each must be RGB 0..255"),
        (dict(colors=((0, 0),) * 3), r"colors has \(0, 0\); each must be RGB"),
        (dict(colors=("red", "green", "blue")), "colors is 'red'"),
        (dict(class_names=("a", "b")), "class_names has 2 entries for 3 classes"),
        (dict(class_names=("a", "b", "c", "d")), "class_names has 4 entries"),
        (dict(class_names=("a", "b", "a")), "class_names has a more than once"),
        (dict(class_names="abc"), "class_names is 'abc'; it must be names"),
        (dict(class_names=(1, 2, 3)), "class_names is 1; it must be str"),
        (dict(void_channels=(3,)), r"void_channels is \(3,\); each must be one of the 3"),
        (dict(void_channels=(-1,)), r"void_channels is \(-1,\)"),
        (dict(void_channels=(0, 0)), "once"),
        (dict(void_channels=(0, 1, 2)), "no class is left"),
        (dict(void_channels=(2,), class_names=("a", "b", "c")), "3 entries for 2 classes"),
        (dict(input_size=(48, 0)), r"input_size is \(48, 0\)"),
        (dict(input_size=48), "input_size is 48"),
        (dict(preprocessing="yes"), "preprocessing is 'yes'; it must be bool"),
        (dict(options="none"), "options is .none."),
        (dict(resize="nearest"), "resize is 'nearest'; it must be one of half_pixel"),
        (dict(output="masks"), "output is 'masks'"),
        (dict(output_stride=0), "output_stride is 0"),
        (dict(dataset=3), "dataset is 3"),
        (dict(trained_splits="camvid val"), "trained_splits is 'camvid val'"),
        (dict(normalization=(0, 1)), "normalization is"),
    ],
)
def test_a_card_that_contradicts_itself(changes, message):
    """When it is made, and when it is read."""
    with pytest.raises(KsegError, match=message) as error:
        CARD.replace(**changes)
    assert "\n" not in str(error.value)
    if "normalization" not in changes:
        with pytest.raises(KsegError, match=f"the card is damaged: .*{message}"):
            Card.from_json({**CARD.to_json(), **changes})


@pytest.mark.parametrize(
    ("mean", "std", "order", "message"),
    [
        ((0, 0, 0), (1, 0, 1), "RGB", "each must be above 0"),
        ((0, 0, 0), (1, -2, 1), "RGB", "each must be above 0"),
        ((0, 0, 0), (1, NAN, 1), "RGB", "std has nan; it must be finite"),
        ((0, float("inf"), 0), (1, 1, 1), "RGB", "mean has inf"),
        ((0, 0), (1, 1, 1), "RGB", r"mean is \(0, 0\); it must be three numbers"),
        (0.5, (1, 1, 1), "RGB", "mean is 0.5; it must be three numbers"),
        (("0", "0", "0"), (1, 1, 1), "RGB", "mean has '0'"),
        ((0, 0, 0), (1, 1, 1), "GBR", "channel_order is 'GBR'"),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB", r"look like those of pixels 0\.\.1"),
        ((0.5, 0.5, 0.5), (1, 1, 1), "RGB", "255 times as large"),
        ((0, 0, 0), (0.5, 0.5, 0.5), "RGB", "255 times as large"),
    ],
)
def test_a_normalisation_that_is_none(mean, std, order, message):
    with pytest.raises(KsegError, match=message):
        Normalization(mean, std, order)
    value = {**CARD.to_json(), "normalization": dict(mean=mean, std=std, channel_order=order)}
    with pytest.raises(KsegError, match=f"the card is damaged: .*{message}"):
        Card.from_json(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "Card is .*, not an object"),
        ({}, "Card lacks name, options"),
        ({**CARD.to_json(), "colour": 1}, "Card has no field colour"),
        ({**CARD.to_json(), "normalization": {"mean": [0, 0, 0]}}, "Normalization lacks std"),
        ({**CARD.to_json(), "normalization": None}, "Normalization is None"),
    ],
)
def test_what_is_no_card(value, message):
    with pytest.raises(KsegError, match=f"the card is damaged: {message}"):
        Card.from_json(value)


def test_numbers_of_numpy_become_pythons():
    """JSON has no others, and a card equals its copy."""
    normalization = Normalization(np.float32([1, 2, 3]), [1, np.float64(2), 3])
    card = CARD.replace(
        num_classes=np.int64(3),
        colors=np.arange(9, dtype=np.uint8).reshape(3, 3),
        class_names=["a", "b", "c"],
        input_size=np.array([48, 64]),
        normalization=normalization,
    )
    assert card.colors == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def with_damaged_card(path, out):
    """A copy of a .keras file whose card's standard deviation is 0."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["card"]["normalization"]["std"] = [1, 1, 0]
                content = json.dumps(config).encode()
            target.writestr(name, content)


def test_a_keras_file_with_a_damaged_card(tiny_keras, tmp_path):
    with_damaged_card(tiny_keras, tmp_path / "x.keras")
    with pytest.raises(KsegError, match=r"x\.keras: .*the card is damaged: std is \(1, 1, 0\)"):
        kseg.load(tmp_path / "x.keras")
