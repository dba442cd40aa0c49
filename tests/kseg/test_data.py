"""Data sets from files, and what is said when the files are wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import CAMVID, CITYSCAPES, open_dataset
from kseg.data.check import check_data
from kseg.data.datasets import read_label
from support import write_camvid


@pytest.fixture
def folder(tmp_path) -> Path:
    write_camvid(tmp_path, {"train": 2})
    return tmp_path


def test_class_tables():
    assert (CITYSCAPES.num_classes, CAMVID.num_classes) == (19, 11)
    table = CITYSCAPES.label_table()
    # labels.py: 7 is road, 33 is bicycle, 0..6 are void, 34 does not exist
    assert [int(table[i]) for i in (7, 33, 0, 6, 255, 34)] == [0, 18, 255, 255, 255, 254]
    assert CITYSCAPES.colors[0] == (128, 64, 128)
    assert sum(table < 19) == 19
    assert sum(table == 254) == 256 - 34 - 1


def test_camvid(folder):
    data = open_dataset("camvid", folder, "train")
    image, label = data.labelled(data.samples[0])
    assert [s.name for s in data.samples] == ["000", "001"]
    assert image.shape == (48, 64, 3)
    assert image.dtype == label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 3, 255}
    pixels = data.class_pixels()
    assert pixels.sum() == 2 * 48 * 61
    assert pixels[[0, 3]].sum() == pixels.sum()


def test_cityscapes(cityscapes_mini, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_DATASET", str(cityscapes_mini))
    data = open_dataset("cityscapes", None, "val")
    assert [s.name for s in data.samples] == [
        "frankfurt_000000_000294",
        "frankfurt_000000_000576",
    ]
    image, label = data.labelled(data.samples[0])
    assert image.shape == (1024, 2048, 3)
    # ids 0 7 8 11 13 17 20 21 23 24 26 stand in the file
    assert set(np.unique(label)) == {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255}


def test_a_split_without_labels(folder):
    for path in (folder / "trainannot").iterdir():
        path.unlink()
    data = open_dataset("camvid", folder, "train")
    with pytest.raises(kseg.KsegError, match=r"000\.png: has no label"):
        data.labelled(data.samples[0])


def break_nothing(folder):
    pass


def lose_label(folder):
    (folder / "trainannot/001.png").unlink()


def lose_images(folder):
    for path in (folder / "train").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("name", "split", "damage", "message"),
    [
        ("kitti", "train", break_nothing, "unknown data set 'kitti'; kseg knows camvid, city"),
        ("camvid", "val", break_nothing, "val: no such folder; camvid keeps the images"),
        ("camvid", "train", lose_label, r"train/001\.png: has no label"),
        ("camvid", "train", lose_images, "train: has no images"),
    ],
)
def test_unusable(name, split, damage, message, folder):
    damage(folder)
    with pytest.raises(kseg.KsegError, match=message):
        open_dataset(name, folder, split)


def test_cityscapes_needs_a_folder(monkeypatch):
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    with pytest.raises(kseg.KsegError, match="--data-dir or set CITYSCAPES_DATASET"):
        open_dataset("cityscapes", None, "val")


def other_size(folder):
    Image.new("L", (10, 10)).save(folder / "trainannot/000.png")


def truncate(folder):
    path = folder / "train/000.png"
    path.write_bytes(path.read_bytes()[:-200])


def bad_id(folder):
    Image.new("L", (64, 48), 77).save(folder / "trainannot/000.png")


def colours(folder):
    Image.new("RGB", (64, 48)).save(folder / "trainannot/000.png")


DAMAGES = [
    (other_size, r"trainannot/000\.png: is 10x10 but its image is 48x64"),
    (truncate, r"train/000\.png: not a readable image"),
    (bad_id, r"trainannot/000\.png: has ids \[77\]"),
    (colours, r"trainannot/000\.png: is a label of mode RGB"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_sample(damage, message, folder):
    damage(folder)
    data = open_dataset("camvid", folder, "train")
    with pytest.raises(kseg.KsegError, match=message) as error:
        data.labelled(data.samples[0])
    assert "\n" not in str(error.value)


def test_palette_labels_are_ids(tmp_path):
    image = Image.new("P", (4, 2), 3)
    image.putpalette([200] * 768)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png", CAMVID), np.full((2, 4), 3))


def test_check_data_finds_everything(folder, tmp_path):
    bad_id(folder)
    (folder / "train/009.png").write_bytes((folder / "train/001.png").read_bytes())
    (folder / "trainannot/010.png").write_bytes((folder / "trainannot/001.png").read_bytes())
    report = check_data("camvid", folder, "train", out=tmp_path / "out", pictures=2)
    text = "\n".join(report.problems)
    assert len(report.problems) == 3
    assert "009.png: has no label" in text
    assert "010.png: has no image" in text
    assert "000.png: has unknown ids [77] on 100.00 % of its pixels" in text
    assert report.sizes == {(48, 64): 2}
    assert report.pixels.sum() == 48 * 61
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "train_000.png",
        "train_001.png",
    ]


def test_check_data_survives_damage(folder):
    truncate(folder)
    other_size_path = folder / "trainannot/001.png"
    Image.new("L", (10, 10)).save(other_size_path)
    report = check_data("camvid", folder, "train")
    assert len(report.problems) == 2
    assert report.images == 1
