"""A folder that is read-only: one line that names it, before anything is read or computed."""

import pytest

import kseg.importing
import kseg.streets
import kseg.tflite.conversion
from kseg.cli import main
from kseg.data import reading
from support import permissions_hold, write_camvid, write_maps


@pytest.fixture(scope="module")
def root(tmp_path_factory, small_model):
    """A data set, label maps and a model, which are read, and folders that are read-only."""
    folder = tmp_path_factory.mktemp("root")
    write_camvid(folder, {"train": 4, "val": 2})
    _, maps = write_maps(folder / "frames", 3)
    small_model.save(folder / "model.keras")
    command = f"evaluate {maps.folder} --dataset cityscapes --data-dir {folder}/frames"
    assert main(f"{command} --shard 1/1 --json {folder}/1.json".split()) == 0
    (folder / "locked").mkdir()
    (folder / "locked/model.keras").write_bytes(b"mine")
    (folder / "locked/empty").mkdir(0o555)
    (folder / "locked").chmod(0o555)
    yield folder
    (folder / "locked").chmod(0o755)


CAMVID = " --dataset camvid --data-dir {root} "
MAPS = "evaluate {root}/frames/maps --dataset cityscapes --data-dir {root}/frames "
SCORE = "evaluate {root}/model.keras" + CAMVID
PREDICT = "predict {root}/model.keras "
TRAIN = "train --model small --crop 32 32 --batch-size 2 --epochs 1" + CAMVID
SMALLER = " {root}/model.keras {out}/model.keras --epochs 1 --crop 32 32 --batch-size 2" + CAMVID


@pytest.mark.usefixtures("small_row")
@pytest.mark.parametrize(
    "command",
    [
        MAPS + "--json {out}/score.json",
        MAPS + "--resume {out}/saved.json",
        MAPS + "--report {out}/new",
        MAPS + "--report {out}/empty",
        MAPS + "--shard 1/2 --json {out}/shard.json",
        SCORE + "--json {out}/score.json",
        "merge {root}/1.json --json {out}/score.json",
        "compare {root}/model.keras {root}/model.keras --out {out}/new" + CAMVID,
        "compare {root}/model.keras {root}/model.keras --json {out}/a.json" + CAMVID,
        PREDICT + "{root}/val/000.png --out {out}",
        PREDICT + "{root}/val/000.png --out {out}/new",
        PREDICT + "--submission {out}/empty --split val" + CAMVID,
        "check-data --split val --out {out}/empty" + CAMVID,
        "check-data --shard 1/2 --json {out}/a.json" + CAMVID,
        "prepare {out}/new" + CAMVID,
        "prepare {out}/empty --shards 2 --shard 1/2" + CAMVID,
        "streets {out}/new --count 2",
        "streets {out}/empty --count 2",
        TRAIN + "--run-dir {out}/new",
        TRAIN + "--run-dir {out}/empty",
        "import small {root}/model.keras {out}/model.keras",
        "convert {root}/model.keras {out}/model.tflite",
        "convert {root}/model.keras {out}/model.onnx",
        "qat {root}/model.keras {out}/model.tflite --epochs 1 --batch-size 2" + CAMVID,
        "prune --sparsity 0.5" + SMALLER,
        "cluster" + SMALLER,
        "quantisation-report {root}/model.keras --json {out}/a.json",
        "check-half {root}/model.tflite --json {out}/a.json",
        "benchmark {root}/model.keras --json {out}/a.json",
        "demo --out {out}/new",
    ],
)
def test_read_only(command, root, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("it works before it looks")

    for module, name in (
        (reading, "_loaded"),
        (kseg.importing, "import_checkpoint"),
        (kseg.streets, "draw_scene"),
        (kseg.tflite.conversion, "_Exporter"),
    ):
        monkeypatch.setattr(module, name, work)
    out = root / "locked"
    before = sorted(root.rglob("*"))
    with permissions_hold():
        assert main(command.format(root=root, out=out).split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kseg: {out}")
    assert "cannot be written (Permission denied); choose a folder with" in line
    assert sorted(root.rglob("*")) == before
    assert (out / "model.keras").read_bytes() == b"mine"
