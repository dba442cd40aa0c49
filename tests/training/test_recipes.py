"""Every recipe trains: a few steps on small pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.cli import main
from kseg.streets import write_streets
from kseg.training import RECIPES
from support import write_camvid

# What is tried are the recipes, not their networks, whose graphs take long to make.
OTHER = ("--model", "small")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set each of CamVid's, Cityscapes' and VOC's layout."""
    root = tmp_path_factory.mktemp("data")
    (root / "camvid").mkdir()
    write_camvid(root / "camvid", {"train": 2, "val": 1})
    write_streets(root / "cityscapes", 4, size=(64, 128))
    rng = np.random.default_rng(0)
    voc = root / "voc"
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(voc / f"JPEGImages/{name}.jpg")
        labels = Image.fromarray(rng.integers(0, 21, (60, 70), np.uint8))
        labels.save(voc / f"SegmentationClassAug/{name}.png")
    (voc / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\n")
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, folders, tmp_path, capsys):
    values = RECIPES[name].values
    arguments = ["train", "--recipe", name, "--run-dir", str(tmp_path / "run"), "--steps", "2"]
    arguments += ["--data-dir", str(folders / values["dataset"]), "--val-split", "none"]
    arguments += ["--batch-size", "2", "--crop", "65", "65", *OTHER]
    # Another network's part by that name.
    arguments += ["--init-part", "all"]
    assert main(arguments) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert record["recipe"] == name
    kept = set(values) - {"model", "steps", "batch_size", "crop", "init_part"}
    plain = json.loads(json.dumps({key: values[key] for key in kept}))
    assert {key: record[key] for key in kept} == plain
    assert (tmp_path / "run/model.keras").is_file()


def test_list(capsys):
    assert main(["train", "--recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(RECIPES)
    assert "arXiv:1811.08201" in lines[3]
