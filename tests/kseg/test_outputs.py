"""No command writes over what it reads."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.cli import main
from kseg.data.check import check_data
from kseg.evaluation import LabelMaps, SavedScores, write_submission
from kseg.evaluation.report import write_report
from kseg.files import check_not_input
from kseg.training import TrainingConfig
from support import write_camvid


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_file_under_any_name(tmp_path):
    read, other = tmp_path / "read", tmp_path / "other"
    read.write_bytes(b"1")
    other.write_bytes(b"2")
    os.link(read, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(read)
    for name in ("read", "hard", "soft", "./x/../read"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(kseg.KsegError, match="would be written over") as error:
            check_not_input([other, tmp_path / name], [None, read])
        assert "\n" not in str(error.value)
    check_not_input([other, tmp_path / "new", None], [read], [tmp_path / "x"])
    with pytest.raises(kseg.KsegError, match="lies in"):
        check_not_input([tmp_path / "x/deep/new"], [], [tmp_path / "x"])
    with pytest.raises(kseg.KsegError, match="written twice"):
        check_not_input([tmp_path / "new", tmp_path / "x/../new"], [])


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    write_camvid(root, {"train": 2, "val": 2})
    (root / "train.txt").write_text("a list\n")
    return root


@pytest.mark.parametrize(
    "command",
    [
        "check-data {data} --split val --out {root}",
        "check-data {data} --split val --out {root}/val/pictures",
        "prepare {data} {root}",
        "prepare {data} {root}/train",
        "prepare {data} {root}/trainannot/records",
        "evaluate {model} {data} --json {root}/val/000.png",
        "evaluate {model} {data} --json {model}",
        "evaluate {model} {data} --json {card} --card {card}",
        "evaluate {model} {data} --resume {card} --card {card}",
        "evaluate {model} {data} --resume {root}/valannot/001.png",
        "evaluate {model} {data} --report {root}/valannot",
        "evaluate {root}/valannot {data} --json {root}/valannot/score.json",
        "evaluate {model} {data} --json {root}/../x --resume {root}/../x",
        "compare {model} {model} {data} --json {model}",
        "compare {model} {model} {data} --card-a {card} --json {card}",
        "compare {model} {model} {data} --card-b {card} --json {card}",
        "compare {model} {model} {data} --out {root}/val",
        "predict {model} {root}/val/000.png --out {root}/val",
        "predict {model} {data} --split val --submission {root}/valannot",
        "convert {model} {link}",
        "convert {model} {calibrated} --precision int8 --calibration-dir {root}",
        "quantisation-report {model} --json {root}/train/000.png --calibration-dir {root}",
        "train {data} --model small --crop 32 40 --run-dir {root}/train",
        "import small {model} {model}",
        "benchmark {model} --json {model}",
        "benchmark {model} --json {card} --card {card}",
        "check-half {model} --json {card} --card {card}",
        "check-half {model} --json {root}/val/000.png --images {root}/val/000.png",
        "quantisation-report {model} --json {model}",
    ],
)
def test_commands(command, root, tmp_path, tiny_keras, capsys):
    model = tmp_path / "model.keras"
    model.write_bytes(tiny_keras.read_bytes())
    card = tmp_path / "card.json"
    card.write_text("{}")
    (tmp_path / "link.tflite").symlink_to(model)
    (tmp_path / "calibrated.tflite").symlink_to(root / "train/000.png")
    before = contents(tmp_path)
    links = {name: tmp_path / f"{name}.tflite" for name in ("link", "calibrated")}
    names = {"root": root, "model": model, "card": card, **links}
    command = command.format(data=f"--dataset camvid --data-dir {root}", **names)
    assert main(command.split()) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "written over" in line or "lies in" in line or "written twice" in line
    assert contents(tmp_path) == before


def test_library_calls(root, tmp_path, tiny_keras):
    """What a script calls is held as the command is."""
    model = tmp_path / "model.tflite"
    model.write_bytes(tiny_keras.read_bytes())
    data = {split: kseg.data.open_dataset("camvid", root, split) for split in ("train", "val")}
    predictor = kseg.open_predictor(tiny_keras)
    scores = kseg.evaluation.evaluate(predictor, data["val"])
    maps = LabelMaps(root / "valannot")
    config = TrainingConfig("small", "camvid", steps=1, batch_size=2, crop=(32, 40))
    best = tmp_path / "run/checkpoints/best.keras"
    best.parent.mkdir(parents=True)
    best.write_bytes(tiny_keras.read_bytes())
    taught = dataclasses.replace(config, init=str(best))
    records = kseg.training.prepare(data["train"], tmp_path / "records", workers=1)
    before = contents(tmp_path)
    calls = [
        lambda: check_data("camvid", root, "val", out=root / "valannot"),
        lambda: kseg.training.prepare(data["train"], root / "train/records"),
        lambda: write_submission(predictor, data["val"], root / "valannot"),
        lambda: write_report(root / "val/report.html", scores, predictor, data["val"]),
        lambda: write_report(root / "valannot/a.html", scores, maps, data["train"]),
        lambda: kseg.evaluation.evaluate(
            predictor, data["val"], saved=SavedScores(tiny_keras, tiny_keras)
        ),
        lambda: kseg.evaluation.evaluate(
            maps, data["val"], saved=SavedScores(root / "val/000.png")
        ),
        lambda: kseg.tflite.convert(model, model),
        lambda: kseg.training.train(config, root, root / "val"),
        lambda: kseg.training.train(taught, root, tmp_path / "run"),
        lambda: kseg.training.train(
            kseg.load(tiny_keras), records, records.folder, steps=1, batch_size=2
        ),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(kseg.KsegError, match=r"written over|lies in|is what the run"):
            call()
        assert contents(tmp_path) == before, number


def test_the_demo_writes_beside_cityscapes(cityscapes_mini, monkeypatch, capsys):
    monkeypatch.setenv("CITYSCAPES_DATASET", str(cityscapes_mini))
    assert main(["demo", "--out", str(cityscapes_mini / "gtFine")]) == 1
    assert "gtFine: lies in" in capsys.readouterr().err


def test_a_label_beside_its_photograph_stays(tmp_path, tiny_keras, capsys):
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.png").write_bytes(b"mine")
    assert main(["predict", str(tiny_keras), f"{tmp_path}/a.jpg", "--out", str(tmp_path)]) == 1
    assert "a.png: is there already, beside its image" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_an_index_that_is_not_ours_stays(root, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.json").write_text('{"images": [1]}')
    command = f"prepare --dataset camvid --data-dir {root} {out}"
    assert main(command.split()) == 1
    assert "index.json: is no index of records" in capsys.readouterr().err
    assert (out / "index.json").read_text() == '{"images": [1]}'
