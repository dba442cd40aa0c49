"""What training and evaluation say of labels that cannot mean what they seem, and of names."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import LabelCounts, label_doubts, open_dataset
from kseg.evaluation import LabelMaps, evaluate
from kseg.pictures import overlay
from kseg.report import class_bars, rendered
from kseg.training.run_folder import warn_of_labels
from support import run_kseg


def write_labels(root, names, labels):
    """A `folder` data set of 8 x 8 images with these labels."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for i, label in enumerate(labels):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"images/val/{i}.png")
        Image.fromarray(label).save(root / f"labels/val/{i}.png")
    return open_dataset("folder", root, "val")


HALF = np.repeat(np.uint8([[0, 255]]), 4, 1).repeat(8, 0)
CASES = {
    "mask": (["ground", "thing"], HALF, "1 of 2 classes never occur: thing; 255 is ignored"),
    "third": (["a", "b", "c"], HALF & 1, "1 of 3 classes never occur: c"),
    "one class": (["thing"], HALF, "one class alone has loss 0 and IoU 1"),
    "void": (["a", "b"], HALF | 255, "all pixels of the labels are ignored"),
    "some masks": (["a", "b"], HALF, "1 labels have 0 and 255 alone, and 255 is ignored; if it"),
    "fine": (["a", "b"], HALF & 1, None),
}


@pytest.mark.parametrize("kind", CASES)
def test_doubtful_labels(kind, tmp_path):
    names, label, message = CASES[kind]
    first = HALF & 1 if kind == "some masks" else label
    data = write_labels(tmp_path / "data", names, [first, label])
    counts = data.label_counts().pixels
    assert counts.sum() == 128
    assert counts[255] == (first == 255).sum() + (label == 255).sum()
    records = kseg.training.prepare(data, tmp_path / "records", workers=1)
    (tmp_path / "maps").mkdir()
    for i in range(2):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"maps/{i}.png")
    for work in (
        lambda: evaluate(LabelMaps(tmp_path / "maps"), data),
        lambda: warn_of_labels(data, None),
        lambda: warn_of_labels(records, None),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
        texts = [str(w.message) for w in caught if w.category is kseg.errors.KsegWarning]
        assert len(texts) == (message is not None)
        assert all(text.startswith(f"folder val: {message}") for text in texts)


def test_train_ids_of_ids_from_one(tmp_path, recwarn):
    """What `kseg predict --out` writes begins at 0: scored as ids it would be off by one."""
    data = write_labels(tmp_path / "data", ["ignore", "a", "b"], [1 + (HALF & 1)])
    for folder, ids in (("ids", 1 + (HALF & 1)), ("train ids", HALF & 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(ids).save(tmp_path / folder / "0.png")
    assert evaluate(LabelMaps(tmp_path / "ids"), data).mean_iou == 1
    assert not [w for w in recwarn.list if w.category is kseg.errors.KsegWarning]
    with pytest.warns(kseg.errors.KsegWarning, match=r"0\.png: has ids that look like train ids"):
        assert evaluate(LabelMaps(tmp_path / "train ids"), data).mean_iou == 0


def test_a_part_of_a_published_set_may_lack_classes():
    some, none = np.zeros((2, 256), np.int64)
    some[:10], some[255], none[255] = 1, 3, 3
    assert label_doubts(kseg.data.CAMVID, LabelCounts(some)) == []
    assert len(label_doubts(kseg.data.CAMVID, LabelCounts(none))) == 1


def test_names_that_a_terminal_lacks(tmp_path):
    """The score is written and printed, with escapes."""
    write_labels(tmp_path / "data", ["地面", "車"], [HALF & 1])
    (tmp_path / "maps").mkdir()
    Image.fromarray(HALF & 1).save(tmp_path / "maps/0.png")
    result = run_kseg(
        *("evaluate", tmp_path / "maps", "--dataset", "folder", "--data-dir", tmp_path / "data"),
        *("--json", tmp_path / "score.json"),
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert result.returncode == 0, result.stderr
    assert "\\u5730\\u9762 100.00" in result.stdout
    assert json.loads((tmp_path / "score.json").read_text())["class_iou"] == {"地面": 1, "車": 1}


def test_names_that_a_font_lacks():
    """The plot shows what its font has: no picture of a missing character."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = class_bars({"file": {"\U000f0000a": 0.5, "Straße": 1.0}})
        rendered(figure)
    assert not [w for w in caught if "missing from font" in str(w.message)]
    (said,) = [w for w in caught if w.category is kseg.errors.KsegWarning]
    assert "no font here has all characters" in str(said.message)
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert shown == ["\\U000f0000a", "Straße"]
    image, labels = np.zeros((40, 200, 3), np.uint8), np.zeros((40, 200), np.uint8)
    pictures = [overlay(image, labels, [name], [(9, 9, 9)]) for name in ("\u8eca", "\\u8eca")]
    np.testing.assert_array_equal(*map(np.asarray, pictures))
