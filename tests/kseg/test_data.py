"""Data sets from files, and what is said when the files are wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import CAMVID, CITYSCAPES, VOC, list_datasets, open_dataset
from kseg.data.check import check_data
from kseg.data.reading import read_label
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


def test_some_are_spread_over_the_split(tmp_path):
    write_camvid(tmp_path, {"val": 10}, size=(36, 4))
    data = open_dataset("camvid", tmp_path, "val")
    for count, places in (
        (1, [0]),
        (2, [0, 9]),
        (3, [0, 4, 9]),
        (4, [0, 3, 6, 9]),
        (10, range(10)),
        (99, range(10)),
    ):
        assert data.some(count).samples == tuple(data.samples[i] for i in places)
    with pytest.raises(kseg.KsegError, match="0 images are asked for"):
        data.some(0)


def test_two_splits_at_once(tmp_path):
    write_camvid(tmp_path, {"train": 2, "val": 1})
    both = open_dataset("camvid", tmp_path, "train+val")
    assert [sample.image.parent.name for sample in both.samples] == ["train", "train", "val"]
    assert (both.split, both.size) == ("train+val", (360, 480))
    with pytest.raises(kseg.KsegError, match=r"split 'val\+val' names a part twice"):
        open_dataset("camvid", tmp_path, "val+val")


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
        ("camvid", None, break_nothing, "split is None; it must be a name such as 'train' or"),
    ],
)
def test_unusable(name, split, damage, message, folder):
    damage(folder)
    with pytest.raises(kseg.KsegError, match=message):
        open_dataset(name, folder, split)


def test_cityscapes_needs_a_folder(monkeypatch):
    monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
    with pytest.raises(kseg.KsegError, match="give data_dir or set CITYSCAPES_DATASET"):
        open_dataset("cityscapes", None, "val")


def other_size(folder):
    Image.new("L", (10, 10)).save(folder / "trainannot/000.png")


def truncate(folder, split="train"):
    path = folder / split / "000.png"
    path.write_bytes(path.read_bytes()[:-200])


def bad_id(folder):
    Image.new("L", (64, 48), 77).save(folder / "trainannot/000.png")


def empty(folder):
    (folder / "trainannot/000.png").write_bytes(b"")


def sixteen_bits(folder):
    Image.fromarray(np.full((48, 64), 4000, np.uint16)).save(folder / "train/000.png")


def colours(folder):
    Image.new("RGB", (64, 48)).save(folder / "trainannot/000.png")


DAMAGES = [
    (other_size, r"trainannot/000\.png: is 10x10 but its image is 48x64"),
    (truncate, r"train/000\.png: not a readable image"),
    (empty, r"trainannot/000\.png: not a readable image \(empty, or of no format"),
    (bad_id, r"trainannot/000\.png: has ids \[77\]"),
    (sixteen_bits, r"train/000\.png: is an image of mode I;16 with 16 bits; images are 8-bit"),
    (colours, r"trainannot/000\.png: has the colours #000000 that no class has"),
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
    assert "000.png: 100.00 % of its pixels have ids [77] that the data set does not know" in text
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


def test_check_data_of_a_split_without_labels(folder):
    """Right for the images of a test server, wrong for what is to be trained on."""
    for path in (folder / "trainannot").iterdir():
        path.unlink()
    assert len(check_data("camvid", folder, "train").problems) == 2
    (folder / "train").rename(folder / "test")
    report = check_data("camvid", folder, "test")
    assert (report.images, report.labelled, report.problems) == (2, False, [])
    assert str(report).splitlines()[1:] == [
        "  no labels: only the images were read",
        "  no problems",
    ]
    truncate(folder, split="test")
    assert "not a readable image" in check_data("camvid", folder, "test").problems[0]


def test_every_data_set_has_a_name():
    names = ["camvid", "cityscapes", "cityscapes_coarse", "folder", "streets", "voc"]
    assert list_datasets() == names


def save(path: Path, pixels, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8), **options).save(path)


def test_voc_colours():
    """The devkit's VOClabelcolormap: the bits of an id, three by three, from the top."""
    assert VOC.num_classes == 21
    for number, color in enumerate(VOC.colors):
        want = [
            sum(((number >> (3 * i + channel)) & 1) << (7 - i) for i in range(8))
            for channel in range(3)
        ]
        assert list(color) == want, VOC.names[number]
    assert VOC.names[15] == "person"
    assert VOC.label_table()[[0, 20, 21, 255]].tolist() == [0, 20, 254, 255]
    assert VOC.file_table()[[20, 255]].tolist() == [20, 255]


@pytest.fixture
def voc(tmp_path) -> Path:
    """Three images of two sizes; labels in palette colours, more of them without."""
    palette = [value for color in VOC.colors for value in color]
    for name, size in (("a", (30, 40)), ("b", (40, 30)), ("c", (40, 30))):
        save(tmp_path / f"JPEGImages/{name}.jpg", np.full((*size, 3), 90))
        ids = np.zeros(size, np.uint8)
        ids[:, 20:] = 20
        ids[:, 19] = 255
        if name != "c":
            image = Image.fromarray(ids)
            image.putpalette(palette)
            (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
            image.save(tmp_path / f"SegmentationClass/{name}.png")
        save(tmp_path / f"SegmentationClassAug/{name}.png", ids // 2 * 2)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "trainaug.txt").write_text(
        "/JPEGImages/c.jpg /SegmentationClassAug/c.png\n"
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n"
    )
    (lists / "test.txt").write_text("c\n")
    return tmp_path


def test_voc(voc):
    data = open_dataset("voc", voc, "train")
    assert [s.name for s in data.samples] == ["a", "b"]
    assert data.size is None
    for sample, size in zip(data.samples, ((30, 40), (40, 30)), strict=True):
        image, label = data.labelled(sample)
        assert image.shape == (*size, 3)
        assert np.unique(label).tolist() == [0, 20, 255]
    assert data.class_pixels()[[0, 20]].tolist() == [19 * 70, 30 * 20 + 40 * 10]
    assert open_dataset("voc", voc, "val").size == (40, 30)
    assert check_data("voc", voc, "train").problems == []


def test_voc_trainaug(voc):
    """Labels come from SegmentationClassAug where it is there; lists may name pairs."""
    samples = open_dataset("voc", voc, "trainaug").samples
    folder = voc / "SegmentationClassAug"
    assert [s.label for s in samples] == [folder / "a.png", folder / "c.png"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(kseg.KsegError, match=r"c\.jpg: has no label in .*SegmentationClass \(1"):
        open_dataset("voc", voc, "trainaug")


def test_voc_lists(voc):
    (sample,) = open_dataset("voc", voc, "test").samples
    assert (sample.name, sample.label) == ("c", None)
    with pytest.raises(kseg.KsegError, match=r"trainval\.txt: no such file; voc lists the images"):
        open_dataset("voc", voc, "trainval")
    (voc / "ImageSets/Segmentation/val.txt").write_text("b\nd\n")
    with pytest.raises(kseg.KsegError, match=r"val\.txt: lists 'd', which .*JPEGImages does not"):
        open_dataset("voc", voc, "val")


def test_cityscapes_coarse(tmp_path):
    """Cityscapes' layout with gtCoarse, whose train_extra has no fine labels."""
    for split in ("train_extra", "train"):
        stem = f"{split}/ulm/ulm_000000_000019"
        save(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", np.zeros((4, 6, 3)))
        save(tmp_path / f"gtCoarse/{stem}_gtCoarse_labelIds.png", np.full((4, 6), 26))
        save(tmp_path / f"gtCoarse/{stem}_gtCoarse_instanceIds.png", np.full((4, 6), 26))
        data = open_dataset("cityscapes_coarse", tmp_path, split)
        assert data.size == (1024, 2048)
        assert data.classes is CITYSCAPES
        assert not data.has_instances
        assert data.class_pixels()[13] == 24
    # The same images have no fine labels here.
    assert open_dataset("cityscapes", tmp_path, "train").samples[0].label is None


@pytest.fixture
def own(tmp_path) -> Path:
    """A data set of a user's: photographs of two days, which share a file name."""
    for day in ("monday", "tuesday"):
        save(tmp_path / f"images/train/{day}/001.jpg", np.full((12, 16, 3), 90))
        save(tmp_path / f"labels/train/{day}/001.png", np.eye(12, 16) + (day == "monday"))
    (tmp_path / "classes.txt").write_text("floor\nwall #00ff7F\nThe Sky  \n")
    return tmp_path


def test_folder(own):
    data = open_dataset("folder", own, "train")
    assert data.classes.names == ("floor", "wall", "The Sky")
    assert data.classes.colors[1] == (0, 255, 127)
    assert len(set(data.classes.colors)) == 3
    assert [s.name for s in data.samples] == ["monday_001", "tuesday_001"]
    assert data.size == (12, 16)
    assert data.class_pixels().tolist() == [192 - 12, 192, 12]
    report = check_data("folder", own, "train")
    assert report.problems == []
    assert "The Sky" in str(report)
    save(own / "labels/train/monday/001.png", np.full((12, 16), 3))
    with pytest.raises(kseg.KsegError, match=r"has ids \[3\]"):
        data.labelled(data.samples[0])
    save(own / "images/train/monday/001.jpg", np.zeros((16, 16, 3)))
    assert open_dataset("folder", own, "train").size is None
    (own / "images/train/monday/001.jpg").write_bytes(b"nothing")
    assert open_dataset("folder", own, "train").size is None


def test_one_name_in_two_splits(own):
    for kind in ("images", "labels"):
        shutil.copytree(own / kind / "train", own / kind / "val")
    names = open_dataset("folder", own, "train+val").names
    assert names == ("train_monday_001", "train_tuesday_001", "val_monday_001", "val_tuesday_001")


def test_two_images_of_one_name(own):
    save(own / "images/train/monday/001.png", np.zeros((12, 16, 3)))
    with pytest.raises(kseg.KsegError, match=r"001\.png: has the name of 001\.jpg; remove one"):
        open_dataset("folder", own, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "classes.txt: has 0 lines; there can be 1 to 254"),
        ("x\n" * 255, "classes.txt: has 255 lines"),
        ("a\n\nb", "classes.txt, line 2: has no name"),
        ("#00FF00", "classes.txt, line 1: has no name"),
        ("a\nb\na", "classes.txt, line 3: 'a' is in line 1 already"),
        ("a\nb #12", "classes.txt, line 2: '#12' is no colour; write it as #RRGGBB"),
        (b"\xff", "classes.txt: cannot be read as UTF-8 text"),
        (None, "classes.txt: no such file; write the classes there"),
    ],
)
def test_bad_classes(text, message, own):
    path = own / "classes.txt"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(kseg.KsegError) as error:
        open_dataset("folder", own, "train")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
