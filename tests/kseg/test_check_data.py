"""What `kseg check-data` says of data that can be read but may mean something else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kseg.cli import main
from kseg.data.check import check_data


@pytest.fixture
def own(tmp_path):
    """Makes a data set of these classes and labels."""

    def make(text: str, labels, split="train") -> Path:
        (tmp_path / "classes.txt").write_text(text)
        for number, label in enumerate(labels):
            label = np.asarray(label, np.uint8)
            for kind, pixels in (
                ("images", np.zeros((*label.shape, 3), np.uint8)),
                ("labels", label),
            ):
                folder = tmp_path / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        return tmp_path

    return make


def test_masks_of_0_and_255(own, capsys):
    root = own("ground\nthing\n", [[[0, 255]], [[0, 0]]])
    report = check_data("folder", root, "train")
    assert report.problems == []
    assert report.warnings == [
        "1 of 2 classes never occur: thing; 255 is ignored, so save masks of 0 and 255 with the "
        "ids 0 and 1"
    ]
    assert (
        main(["check-data", "--dataset", "folder", "--data-dir", str(root), "--split", "train"])
        == 0
    )
    out = capsys.readouterr().out
    assert "warning: 1 of 2 classes never occur: thing" in out
    assert "no problems" not in out


def test_some_masks_of_0_and_255(own):
    """Beside right ones nothing is missing, but the foreground of these is ignored."""
    root = own("ground\nthing\n", [[[0, 255]], [[0, 1]], [[0, 255]]])
    (warning,) = check_data("folder", root, "train").warnings
    assert warning.endswith(
        "0.png: has 0 and 255 alone (2 such labels), and 255 is ignored; if it means 'thing', "
        "save it as 1"
    )
    # 255 around objects is what it is for.
    root = own("ground\nthing\n", [[[0, 255]], [[0, 1]], [[1, 255]]])
    assert check_data("folder", root, "train").warnings == []


def test_classes_that_never_occur(own):
    root = own("a\nb\nc\nd\n", [[[1, 2]], [[3, 255]]])
    assert check_data("folder", root, "train").warnings == [
        "1 of 4 classes never occur: a; if the ids start at 1, make `ignore` the first line of "
        "classes.txt"
    ]
    root = own("a\nb\nc\nd\n", [[[0, 2]], [[0, 0]]])
    assert check_data("folder", root, "train").warnings == ["2 of 4 classes never occur: b, d"]


def test_published_classes_may_be_missing(tiny_camvid):
    report = check_data("camvid", tiny_camvid, "train")
    assert (report.problems, report.warnings) == ([], [])
    assert report.notes[0].startswith("9 of 11 classes never occur: building, pole, pavement")


def test_ids_from_one(own):
    root = own("a\nb\n", [[[0, 1, 2]]])
    (problem,) = check_data("folder", root, "train").problems
    assert "33.33 % of its pixels have ids [2]" in problem
    assert problem.endswith("if ids start at 1, make `ignore` the first line of classes.txt")
    report = check_data("folder", own("ignore\na\nb\n", [[[0, 1, 2]]]), "train")
    assert (report.pixels.tolist(), report.ignored) == ([1, 1], 1)
    assert str(report).endswith("no problems")


def test_one_class(own):
    (warning,) = check_data("folder", own("thing\n", [[[0, 255]]]), "train").warnings
    assert warning.startswith("one class alone has loss 0 and IoU 1 whatever a network learns")


def test_labels_that_are_ignored_altogether(own, capsys):
    void = [[[255, 255]], [[255, 255]]]
    root = own("a\nb\n", void)
    text = "all pixels of the labels are ignored; nothing can be learnt or scored"
    report = check_data("folder", root, "train")
    assert (report.problems, report.warnings) == ([text], [])
    own("a\nb\n", void, split="test")
    report = check_data("folder", root, "test")
    assert (report.problems, report.warnings) == ([], [text])
    arguments = ["check-data", "--dataset", "folder", "--data-dir", str(root), "--split"]
    assert [main([*arguments, split]) for split in ("train", "test")] == [1, 0]
    assert capsys.readouterr().out.count(text) == 2
    # As other commands take both.
    assert main([*arguments, "train+test", "test"]) == 1
    assert capsys.readouterr().out.count(text) == 2


def test_lossy_labels_are_named_each(own):
    root = own("a\nb\n", [[[0, 1]], [[0, 1]], [[0, 1]]])
    Image.new("L", (2, 1)).save(root / "labels/train/0.png", "JPEG")
    Image.new("L", (2, 1)).save(root / "labels/train/1.jpg")
    (root / "labels/train/1.png").unlink()
    report = check_data("folder", root, "train")
    assert [problem.split(":")[0][-5:] for problem in report.problems] == ["0.png", "1.jpg"]
    assert all("holds JPEG; labels are PNG" in problem for problem in report.problems)
    assert report.pixels.tolist() == [1, 1]


def test_palettes_that_differ(own):
    """Without colours in classes.txt nothing says which palette has the ids as indices."""
    root = own("a\nb\n", [[[0, 1]], [[1, 0]], [[0, 1]]])
    for number, colors in enumerate(
        ((9, 9, 9, 200, 0, 0), (200, 0, 0, 9, 9, 9), (9, 9, 9, 200, 0, 0))
    ):
        path = root / f"labels/train/{number}.png"
        with Image.open(path) as image:
            image = image.copy()
        image.putpalette(colors)
        image.save(path)
    report = check_data("folder", root, "train")
    (warning,) = report.warnings
    assert "1.png: has a palette with another colour at index 0 than" in warning
    assert warning.endswith("write those of the classes in classes.txt (NAME #RRGGBB)")
    own("a #090909\nb #C80000\n", [])
    assert check_data("folder", root, "train").pixels.tolist() == [3, 3]


def test_unknown_colours_have_a_share(own):
    root = own("a #102030\nb #405060\n", [[[0, 1]]])
    picture = np.array([[(16, 32, 48), (64, 80, 96), (1, 2, 3), (64, 80, 96)]], np.uint8)
    Image.fromarray(picture).save(root / "labels/train/0.png")
    Image.fromarray(picture).save(root / "images/train/0.png")
    report = check_data("folder", root, "train")
    (problem,) = report.problems
    assert "0.png: 25.00 % of its pixels have the colours #010203 that no class has" in problem
    assert report.pixels.tolist() == [1, 2]


def test_the_command_warns_in_one_line(own, tmp_path, capsys):
    """A KsegWarning of any command: no file of kseg's own, no source line."""
    root = own("1 a\n2 b\n", [[[0, 1]]])
    assert (
        main(["check-data", "--dataset", "folder", "--data-dir", str(root), "--split", "train"])
        == 0
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "warning" in line.lower()] == [
        f"kseg: warning: {root / 'classes.txt'}: '1 a' is read as the name of id 0; if the "
        "numbers are the ids, write a colon behind them (ID: NAME)"
    ]


def test_a_split_that_is_missing(own, tmp_path, capsys):
    """By default it is left out; one that is named is an error before any image is read."""
    root = own("a\nb\n", [[[0, 1]]])
    command = ["check-data", "--dataset", "folder", "--data-dir", str(root)]
    missing = f"{root / 'images/val'}: no such folder; folder keeps the images of split 'val' there"
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("train: 1 images (1 of 1x2)\n")
    assert err == f"kseg: warning: {missing}; the split is left out\n"
    file = tmp_path / "part.json"
    assert main([*command, "--shard", "1/1", "--json", str(file)]) == 0
    capsys.readouterr()
    assert main(["merge", str(file)]) == 0
    assert capsys.readouterr().out == out
    assert main([*command, "--split", "train", "val"]) == 1
    assert capsys.readouterr() == ("", f"kseg: {missing}\n")
    # Another fault of a default split is an error, and so is a folder without any split.
    (root / "images/val").mkdir()
    assert main(command) == 1
    assert "images/val: has no images" in capsys.readouterr().err
    assert main([*command[:-1], str(root / "images")]) == 1
    assert "images/images/train: no such folder" in capsys.readouterr().err
