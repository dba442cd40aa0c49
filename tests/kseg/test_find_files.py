"""Which files belong to a data set: suffixes, links, dot-names, lists, names in subfolders."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import open_dataset
from kseg.data.check import check_data
from kseg.data.finding import find_pairs, joined_names
from kseg.errors import KsegWarning
from kseg.evaluation import LabelMaps, evaluate


def write(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def write_pair(root: Path, name: str, value: int, *, image=".png", label=".png", split="train"):
    """An image of one grey and a label of the ids 0 and 1."""
    write(root / f"images/{split}/{name}{image}", np.full((6, 8, 3), value))
    write(root / f"labels/{split}/{name}{label}", np.arange(48).reshape(6, 8) % 2)


@pytest.fixture
def own(tmp_path) -> Path:
    (tmp_path / "classes.txt").write_text("floor\nwall\n")
    write_pair(tmp_path, "a", 10)
    return tmp_path


def test_suffixes(own):
    pairs = [
        (".JPG", ".PNG"), (".jpeg", ".Bmp"), (".BMP", ".tif"), (".tif", ".TIFF"), (".Tiff", ".bmp"),
        (".PNG", ".png"), (".WebP", ".Gif"),
    ]  # fmt: skip
    for number, (image, label) in enumerate(pairs):
        write_pair(own, f"b{number}", 20 + number, image=image, label=label)
    data = open_dataset("folder", own, "train")
    assert data.names == ("a", *(f"b{number}" for number in range(len(pairs))))
    assert data.class_pixels().tolist() == [24 * 8, 24 * 8]
    values = [int(data.labelled(sample)[0].mean().round()) for sample in data.samples]
    assert values == [10, *(20 + number for number in range(len(pairs)))]
    assert str(check_data("folder", own, "train")).endswith("no problems")


def test_cityscapes_suffixes(tmp_path):
    for name, suffix in (("ulm_000000_000019", "JPG"), ("ulm_000001_000019", "png")):
        write(tmp_path / f"leftImg8bit/val/ulm/{name}_leftImg8bit.{suffix}", np.zeros((4, 6, 3)))
        for kind in ("labelIds", "color", "instanceIds", "labelTrainIds", "instanceTrainIds"):
            file = tmp_path / f"gtFine/val/ulm/{name}_gtFine_{kind}.png"
            write(file, np.full((4, 6), 7))
        (tmp_path / f"gtFine/val/ulm/{name}_gtFine_polygons.json").write_text("{}")
    (tmp_path / "leftImg8bit/val/ulm/other.png").write_bytes(b"")
    data = open_dataset("cityscapes", tmp_path, "val")
    assert [sample.image.suffix for sample in data.samples] == [".JPG", ".png"]
    assert data.has_instances
    pairs = find_pairs("cityscapes", tmp_path, "val")
    assert [path.name for path in pairs.unused_images] == ["other.png"]
    assert pairs.unused_labels == []


def test_two_labels_of_one_image(own):
    write(own / "labels/train/a.tif", np.zeros((6, 8)))
    with pytest.raises(kseg.KsegError, match=r"a\.tif: has the name of a\.png; remove one"):
        open_dataset("folder", own, "train")
    (own / "labels/train/a.tif").unlink()
    # A picture for people beside the label is none, and is named.
    write(own / "labels/train/a.jpg", np.zeros((6, 8, 3)))
    assert open_dataset("folder", own, "train").samples[0].label.name == "a.png"
    assert "a.jpg" in check_data("folder", own, "train").warnings[-1]


def test_linked_folders(own, tmp_path_factory):
    """A folder, a split and a file that are links; a link to a folder above is no loop."""
    pool = tmp_path_factory.mktemp("pool")
    write_pair(pool, "c", 30, split="x")
    for kind in ("images", "labels"):
        (own / kind / "train/linked").symlink_to(pool / kind / "x")
        (own / kind / "train/linked_too").symlink_to(pool / kind / "x")
        (own / kind / "train/up").symlink_to(own / kind)
        (own / kind / "val").symlink_to(pool / kind / "x")
        (own / kind / "train/b.png").symlink_to(own / kind / "train/a.png")
    data = open_dataset("folder", own, "train")
    assert data.names == ("a", "b", "linked_c", "linked_too_c")
    assert open_dataset("folder", own, "val").names == ("c",)
    report = check_data("folder", own, "train")
    assert (report.images, report.problems) == (4, [])
    assert any("images/train: 1 files" in line and "up" in line for line in report.warnings)
    (own / "images/train/b.png").unlink()
    (own / "images/train/b.png").symlink_to(own / "gone.png")
    (problem,) = check_data("folder", own, "train").problems
    assert problem.endswith("images/train/b.png: no such file")


def test_dot_names(own):
    for kind in ("images", "labels"):
        folder = own / kind / "train"
        for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir/a.png"):
            (folder / hidden).mkdir(parents=True)
            shutil.copy(folder / "a.png", folder / hidden / "a-checkpoint.png")
        (folder / "._a.png").write_bytes(b"Mac OS X")
        (folder / ".DS_Store").write_bytes(b"")
    assert open_dataset("folder", own, "train").names == ("a",)
    report = check_data("folder", own, "train")
    assert report.images == 1
    assert str(report).splitlines()[-2:] == [
        "  no problems",
        "  note: 10 names with a dot in front or of the system are passed over",
    ]


@pytest.mark.parametrize(("image", "label"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_as_macos_writes_them(image, label, own):
    """A file's name is other bytes there; people see the same."""
    name = {form: unicodedata.normalize(form, "Straße_Café") for form in ("NFC", "NFD")}
    write_pair(own, name[image], 20)
    (own / f"labels/train/{name[image]}.png").rename(own / f"labels/train/{name[label]}.png")
    data = open_dataset("folder", own, "train")
    assert data.names == (name["NFC"], "a")
    assert check_data("folder", own, "train").problems == []
    write(own / f"maps/{name[label]}.png", np.arange(48).reshape(6, 8) % 2)
    write(own / "maps/a.png", np.arange(48).reshape(6, 8) % 2)
    assert evaluate(LabelMaps(own / "maps"), data).mean_iou == 1
    shutil.copy(own / f"images/train/{name[image]}.png", own / f"images/train/{name[label]}.png")
    with pytest.raises(kseg.KsegError, match=r"Caf.*: has the name of .*Caf.*; remove one"):
        open_dataset("folder", own, "train")


def test_pipes_are_no_images(own):
    """To read one would wait for somebody who writes."""
    os.mkfifo(own / "images/train/b.png")
    os.mkfifo(own / "labels/train/a.tif")
    with pytest.warns(KsegWarning, match=r"b\.png: is not used"):
        assert open_dataset("folder", own, "train").names == ("a",)
    report = check_data("folder", own, "train")
    assert report.problems == []
    assert [line.rpartition(": ")[2] for line in report.warnings] == ["b.png", "a.tif"]


def test_names_that_cannot_be_used(own):
    """A link to itself is no folder; the index of records and scores are UTF-8."""
    images = own / "images/train"
    (images / "round").symlink_to("round")
    (images / "Thumbs.DB").write_bytes(b"Windows")
    report = check_data("folder", own, "train")
    assert (report.images, report.problems) == (1, [])
    assert report.warnings == [f"{images}: 1 files of suffix (none) are not used: round"]
    for kind in ("images", "labels"):
        path = os.fsencode(own / kind / "train") + b"/Stra\xdfe.png"  # Latin-1
        shutil.copy(own / kind / "train/a.png", path)
    with pytest.raises(kseg.KsegError, match=r"Stra.udcdfe\.png': the name is not UTF-8.*rename"):
        open_dataset("folder", own, "train")


def test_root_in_a_dot_folder(tmp_path):
    root = tmp_path / ".cache/data"
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("floor\nwall\n")
    write_pair(root, "a", 10)
    assert open_dataset("folder", root, "train").names == ("a",)


def test_unused_files_are_named(own):
    for name in ("b.heic", "c.gif", "sub/d.heic", "notes.txt", "noend"):
        path = own / "images/train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (own / "labels/train/a.json").write_text("{}")
    write(own / "labels/train/e.png", np.zeros((6, 8)))
    report = check_data("folder", own, "train")
    text = "\n".join(report.warnings)
    for name in ("b.heic, sub/d.heic", "c.gif", "notes.txt", "noend", "a.json"):
        assert f"are not used: {name}" in text
    assert [problem.split(": ")[1] for problem in report.problems] == [
        f"has no image in {own / 'images/train'}"
    ]
    with pytest.warns(KsegWarning) as told:
        assert [len(open_dataset("folder", own, "train")) for _ in range(2)] == [1, 1]
    lines = [str(warning.message) for warning in told]
    assert len(lines) == 2
    assert "b.heic: is not used (4 such files)" in lines[0]
    assert "e.png: has no image (1 such labels)" in lines[1]


def test_no_image_of_a_known_kind(own):
    (own / "images/train/a.png").rename(own / "images/train/a.heic")
    with pytest.raises(kseg.KsegError, match=r"has no images \(.*\); a\.heic is none of them"):
        open_dataset("folder", own, "train")


def test_names_that_meet(own):
    """a/b_c and a_b/c are a_b_c both; the names tell them apart and fit a file system."""
    for name in ("x/b_c", "x_b/c", "y/c"):
        write_pair(own, name, 1)
    (own / "images/train/a.png").unlink()
    (own / "labels/train/a.png").unlink()
    assert open_dataset("folder", own, "train").names == ("x__b_c", "x_b__c", "y__c")
    with pytest.raises(kseg.KsegError, match="have one name as files; rename one"):
        joined_names([("a", *"bcde"), ("a_b__c--d+e=f~g", "h"), ("a_b__c--d+e=f", "g~h")] * 2)


def test_splits_whose_names_meet(own):
    for split, name in (("val", "x_b"), ("val_x", "b"), ("val", "b"), ("val_x", "x_b")):
        write_pair(own, name, 1, split=split)
    names = open_dataset("folder", own, "val+val_x").names
    assert names == ("val__b", "val__x_b", "val_x__b", "val_x__x_b")


@pytest.fixture
def voc(tmp_path):
    """Makes a VOC folder of these images whose list has these lines; gives the images' greys."""

    def make(names: list[str], text: str | bytes, suffix=".jpg") -> list[tuple[str, int]]:
        shutil.rmtree(tmp_path / "voc", ignore_errors=True)
        root = tmp_path / "voc"
        for value, name in enumerate(names):
            write(root / f"JPEGImages/{name}{suffix}", np.full((6, 8, 3), 10 * value))
            write(root / f"SegmentationClass/{name}.png", np.full((6, 8), value))
        lists = root / "ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "val.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        data = open_dataset("voc", root, "val")
        pairs = [data.labelled(sample) for sample in data.samples]
        assert [image.mean().round() for image, _ in pairs] == [10 * ids.mean() for _, ids in pairs]
        return [(s.name, int(ids[0, 0])) for s, (_, ids) in zip(data.samples, pairs, strict=True)]

    return make


@pytest.mark.parametrize(
    ("names", "text", "found"),
    [
        (["2004.01.12_a", "2004.01.12_b"], "2004.01.12_a\n2004.01.12_b", [0, 1]),
        (["clip.1", "clip.2", "clip"], "clip.1\nclip.2", [0, 1]),
        (["weed (271)", "weed"], "weed (271)\n", [0]),
        (["weed (271)", "weed"], "\ufeffweed (271).jpg\r\nweed\r\n", [1, 0]),
        (["a.jpg", "a"], "a.jpg\n", [0]),
        (["v1.0", "b"], "JPEGImages/v1.0.jpg SegmentationClass/v1.0.png\r\n", [0]),
        (["a b", "a"], "/JPEGImages/a b.jpg /SegmentationClass/a b.png", [0]),
        (["a", "b"], "/data/VOC2012/JPEGImages/b.JPG\n\n b \n", [1]),
        (["a", "b"], "other/folder/b.jpg\n", [1]),
        (["a", "b"], "JPEGImages\\a.jpg SegmentationClass\\a.png\r\n\r\n", [0]),
        (["a", "b"], "D:\\VOC 2012\\JPEGImages\\b.JPG\r\n", [1]),
        (["a\\b", "b"], "a\\b\n", [0]),
        (["a\u2028b", "b"], "a\u2028b\rb\r", [0, 1]),
    ],
)
def test_listed_names(voc, names, text, found):
    assert sorted(voc(names, text)) == sorted((names[i], i) for i in found)


def test_listed_images_of_other_kinds(voc):
    assert voc(["a.b", "c"], "a.b\nc\n", suffix=".PNG") == [("a.b", 0), ("c", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weed (271)\n", r"lists 'weed \(271\)', which .* does not have \(1 such names\)"),
        ("clip.7\nclip.8\n", r"lists 'clip.7', which .* does not have \(2 such names\)"),
        ("clip 1\n", "lists 'clip 1', which"),
        ("clip\t-1\n", r"lists 'clip\\t-1', which"),
        ("Clip\n", "lists 'Clip', which"),
        ("\ufeff\r\n", "val.txt: lists no image; write a name a line"),
        ("JPEGImages/weed.jpg SegmentationClass/clip.png", "line 1: pairs JPEGImages/weed.jpg w"),
    ],
)
def test_another_image_is_never_taken(voc, text, message):
    with pytest.raises(kseg.KsegError, match=message):
        voc(["weed", "clip"], text)


def test_fingerprint(own, tmp_path_factory):
    """The same for a copy, another for other bytes, names or classes; not by size or time."""
    write_pair(own, "b", 30)
    first = open_dataset("folder", own, "train").fingerprint()
    assert len(bytes.fromhex(first)) == 16
    copy = tmp_path_factory.mktemp("copy") / "of it"
    shutil.copytree(own, copy)
    assert open_dataset("folder", copy, "train").fingerprint() == first
    seen = {first}
    for path, old, new in (
        ("labels/train/a.png", None, None),
        ("images/train/b.png", None, None),
        ("classes.txt", "wall", "Wall"),
        ("classes.txt", "floor", "floor #102030"),
    ):
        file = copy / path
        size, time = file.stat().st_size, file.stat().st_mtime_ns
        if old:
            file.write_text(file.read_text().replace(old, new))
        else:
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
            assert (file.stat().st_size, file.stat().st_mtime_ns != time) == (size, True)
        seen.add(open_dataset("folder", copy, "train").fingerprint())
    for kind in ("images", "labels"):
        (copy / kind / "train/b.png").rename(copy / kind / "train/c.png")
    seen.add(open_dataset("folder", copy, "train").fingerprint())
    assert len(seen) == 6
    assert open_dataset("folder", own, "train").some(1).fingerprint() not in seen
