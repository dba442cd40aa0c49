"""The command: what it writes, and one line for every bad input."""

import json
import stat

import numpy as np
import pytest
from PIL import Image

from evaluation import peak_of
from kseg.cli import SUBCOMMANDS, main
from kseg.streets import write_streets
from support import run_kseg, write_camvid


def fails(capsys, *args: object) -> str:
    """The one line on standard error of a command that must fail."""
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("kseg: ")
    return lines[0]


def test_help_and_version(capsys):
    for args in (["--help"], ["--version"], *([name, "--help"] for name in SUBCOMMANDS)):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 0
    assert "check-data" in capsys.readouterr().out


def test_command_alone_on_stderr():
    """As a process: the error is all that standard error has, whatever the backend prints."""
    result = run_kseg("evaluate", "none.keras", "--dataset", "camvid", "--data-dir", "nowhere")
    assert result.returncode == 1
    assert (
        result.stderr
        == "kseg: nowhere/val: no such folder; camvid keeps the images of split 'val' there\n"
    )
    assert result.stdout == ""


def test_models(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("cgnet_m3n21 ")]
    assert "496,306" in row
    assert "6.76 G at 512x1024" in row
    assert "64.8 Cityscapes test" in row


def test_check_data(capsys, tiny_camvid, tmp_path):
    args = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    assert main(["check-data", *args, "--out", str(tmp_path)]) == 0
    assert "no problems" in capsys.readouterr().out
    assert len(list(tmp_path.glob("val_*.png"))) == 2
    bad = tmp_path / "bad"
    bad.mkdir()
    write_camvid(bad, {"train": 2})
    (bad / "trainannot/000.png").unlink()
    args = ["--dataset", "camvid", "--data-dir", str(bad), "--split", "train"]
    assert main(["check-data", *args]) == 1
    assert "000.png: has no label" in capsys.readouterr().out


def test_predict(capsys, tiny_keras, tiny_camvid, tmp_path):
    image = tiny_camvid / "val/000.png"
    assert main(["predict", str(tiny_keras), str(image), "--out", str(tmp_path / "out")]) == 0
    labels = np.asarray(Image.open(tmp_path / "out/000.png"))
    assert labels.shape == (48, 64)
    assert labels.dtype == np.uint8
    assert Image.open(tmp_path / "out/000_overlay.png").width == 64


def test_predict_refuses_to_write_twice(capsys, tiny_keras, tiny_camvid, tmp_path):
    images = [tiny_camvid / split / "000.png" for split in ("train", "val")]
    text = fails(capsys, "predict", tiny_keras, *images, "--out", tmp_path)
    assert f"{tmp_path}/000.png: more than one of the images would be written there" in text
    assert not list(tmp_path.iterdir())


def test_predict_options_between_file_and_images(tiny_keras, tiny_camvid, tmp_path):
    image = tiny_camvid / "val/000.png"
    args = ["predict", tiny_keras, "--out", tmp_path, image, "--flip", "--window", 32, 32]
    assert main([str(a) for a in args]) == 0
    assert (tmp_path / "000.png").exists()


def test_submission(capsys, tiny_keras, tiny_camvid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--split", "val"]
    args = ["predict", tiny_keras, "--submission", "ids", *data]
    assert main([str(a) for a in args]) == 0
    assert "2 files" in capsys.readouterr().out
    files = sorted(tmp_path.glob("ids/*"))
    assert [file.name for file in files] == ["000_pred_labelIds.png", "001_pred_labelIds.png"]
    assert main(["predict", str(tiny_keras), str(tiny_camvid / "val/000.png"), "--out", "out"]) == 0
    # CamVid's ids are its train ids
    np.testing.assert_array_equal(Image.open(files[0]), Image.open("out/000.png"))
    for extra in (["--out", "o"], ["--submission", "s"], ["--submission", "s", *data, "x.png"]):
        text = fails(capsys, "predict", tiny_keras, *extra)
        assert "images" in text
    other = ["--dataset", "streets", "--data-dir", tiny_camvid]
    fails(capsys, "predict", tiny_keras, "--submission", tmp_path / "t", *other)
    assert not (tmp_path / "t").exists()


def test_the_settings_are_in_the_score(capsys, tiny_keras, tiny_camvid, tmp_path):
    settings = ["--scales", "0.75", "1", "--flip", "--window", "32", "40", "--overlap", "0.5"]
    report = score(tiny_keras, tiny_camvid, tmp_path, *settings)
    assert report["scales"] == [0.75, 1]
    assert report["flip"] is True
    assert report["window"] == [32, 40]
    assert report["overlap"] == 0.5
    assert "scales 0.75 1, with flip, windows 32x40 overlap 0.50," in capsys.readouterr().out
    data = ["--dataset", "camvid", "--data-dir", tiny_camvid]
    text = fails(capsys, "evaluate", tiny_keras, *data, "--output-stride", 8)
    assert "no option '--output-stride'" in text
    (tmp_path / "x.tflite").touch()
    text = fails(capsys, "evaluate", tmp_path / "x.tflite", *data, "--output-stride", 8)
    assert "x.tflite: --output-stride is for .keras" in text


def test_errors_of_the_settings_name_flags(capsys, tiny_keras, tiny_camvid):
    command = ["evaluate", tiny_keras, "--dataset", "camvid", "--data-dir", tiny_camvid]
    text = fails(capsys, *command, "--pad-to", 32, 32)
    assert "000.png: --pad-to (32, 32) is smaller than the image (48, 64) (H, W)" in text
    text = fails(capsys, *command, "--window", 32, 0)
    assert "a size is 32 x 0; both sides must be at least 1" in text


def test_report_and_boundaries(capsys, tiny_keras, tiny_camvid, tmp_path):
    out = tmp_path / "runs" / "page"
    report = score(tiny_keras, tiny_camvid, tmp_path, "--boundaries", "--report", str(out))
    assert len(report["trimap_iou"]) == 40
    assert report["category_iou"] is report["class_iiou"] is None
    page = (out / "report.html").read_text()
    assert f"{100 * report['mean_iou']:.2f}" in page
    assert str(out / "report.html") in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_known_first(capsys, tiny_camvid, tiny_keras, tmp_path):
    (tmp_path / "file").touch()
    data = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--json", tmp_path / "s.json"]
    text = fails(capsys, "evaluate", tiny_keras, *data[:-1], tmp_path / "nowhere/s.json")
    assert "nowhere/s.json: cannot be written" in text
    text = fails(capsys, "evaluate", tiny_keras, *data[:-1], tmp_path)
    assert f"{tmp_path}: is a folder; name a file" in text
    text = fails(capsys, "evaluate", tiny_keras, *data, "--report", tmp_path / "file")
    assert "file: cannot be written" in text
    assert not (tmp_path / "s.json").exists()


def test_bad_data_to_score_on(capsys, tiny_keras, tmp_path):
    """A label that cannot be read, one of another size, a split without images."""
    write_camvid(tmp_path, {"val": 2})
    (tmp_path / "test").mkdir()
    data = ["--dataset", "camvid", "--data-dir", tmp_path]
    text = fails(capsys, "evaluate", tiny_keras, *data, "--split", "test")
    assert "test: has no images" in text
    label = tmp_path / "valannot/001.png"
    Image.open(label).resize((60, 48)).save(label)
    text = fails(capsys, "evaluate", tiny_keras, *data)
    assert "001.png: is 48x60 but its image is 48x64" in text
    label.write_bytes(label.read_bytes()[:60])
    text = fails(capsys, "evaluate", tiny_keras, *data)
    assert "001.png: not a readable image" in text
    streets = ["--dataset", "streets", "--data-dir", tmp_path / "streets"]
    assert main(["streets", str(tmp_path / "streets"), "--count", "2", "--size", "32", "48"]) == 0
    capsys.readouterr()
    text = fails(capsys, "evaluate", tiny_keras, *streets)
    assert "the classes of camvid; streets has 19 classes" in text


@pytest.mark.usefixtures("small_row")
def test_convert_and_evaluate_agree(capsys, small_keras, tiny_camvid, tmp_path):
    scores = {}
    for name in ("logits.tflite", "stride-logits.tflite", "argmax.tflite", "logits.onnx"):
        file = tmp_path / name
        assert main(["convert", str(small_keras), str(file), "--output", file.stem]) == 0
        scores[name] = score(file, tiny_camvid, tmp_path)
    scores["keras"] = score(small_keras, tiny_camvid, tmp_path)
    reference = scores["keras"]["confusion_matrix"]
    for name, report in scores.items():
        # float32 noise can turn a pixel where two logits are equal
        moved = np.abs(np.subtract(report["confusion_matrix"], reference)).sum() // 2
        assert moved <= 3, name
    assert scores["stride-logits.tflite"]["output_stride"] == 4
    assert scores["logits.onnx"]["runtime"].startswith("onnxruntime")


def score(file, folder, tmp_path, *options: str) -> dict:
    path = tmp_path / "score.json"
    args = ["--dataset", "camvid", "--data-dir", str(folder), "--json", str(path), *options]
    assert main(["evaluate", str(file), *args]) == 0
    return json.loads(path.read_text())


def test_import(capsys, tmp_path):
    from safetensors.numpy import save_file

    import kseg
    from support import random_tensors

    model = kseg.create_model("cgnet_m3n21", num_classes=4)
    tensors = random_tensors(model)
    save_file(tensors, tmp_path / "x.safetensors")
    out = tmp_path / "x.keras"
    assert main(["import", "cgnet_m3n21", str(tmp_path / "x.safetensors"), str(out)]) == 0
    assert "4 classes" in capsys.readouterr().out
    del tensors["b1.act.weight"]
    save_file(tensors, tmp_path / "y.safetensors")
    out = tmp_path / "y.keras"
    text = fails(capsys, "import", "cgnet_m3n21", tmp_path / "y.safetensors", out)
    assert "1 missing (b1.act.weight)" in text
    assert "y.safetensors" in text
    assert not out.exists()


def test_damaged_files(capsys, tiny_keras, tiny_camvid, tmp_path):
    data = ["--dataset", "camvid", "--data-dir", tiny_camvid]
    for name in ("cut.keras", "cut.tflite", "cut.onnx"):
        (tmp_path / name).write_bytes(tiny_keras.read_bytes()[:5000])
        text = fails(capsys, "evaluate", tmp_path / name, *data)
        assert f"{name}: not a readable" in text
    assert "no such file" in fails(capsys, "evaluate", tmp_path / "none.keras", *data)
    assert "neither .keras nor .tflite nor .onnx" in fails(
        capsys, "evaluate", tmp_path / "x.h5", *data
    )
    text = fails(capsys, "convert", tmp_path / "cut.keras", tmp_path / "o.tflite")
    assert "cut.keras" in text
    assert not (tmp_path / "o.tflite").exists()


def test_bad_values(capsys, tiny_keras, tiny_camvid, tmp_path):
    out = tmp_path / "o.tflite"
    assert "precision is 'fp8'" in fails(capsys, "convert", tiny_keras, out, "--precision", "fp8")
    assert "output is 'mask'" in fails(capsys, "convert", tiny_keras, out, "--output", "mask")
    assert "must end in .tflite" in fails(capsys, "convert", tiny_keras, tmp_path / "o.lite")
    assert "must be at least 32" in fails(capsys, "convert", tiny_keras, out, "--input-size", 8, 8)
    assert "must end in .keras" in fails(capsys, "import", "cgnet_m3n21", "a.pth", "b.h5")
    image = tiny_camvid / "val/none.png"
    assert "none.png: no such file" in fails(
        capsys, "predict", tiny_keras, image, "--out", tmp_path / "p"
    )
    assert list(tmp_path.glob("*.tflite")) == []


def test_folder_that_cannot_be_written(capsys, tiny_keras, tiny_camvid, tmp_path, monkeypatch):
    """A full disk; a read-only folder would not stop the root user that CI runs as."""
    import tempfile

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    out = tmp_path / "o.tflite"
    data = ["--dataset", "camvid", "--data-dir", tiny_camvid]
    commands = (
        ["predict", tiny_keras, tiny_camvid / "val/000.png", "--out", tmp_path / "p"],
        ["evaluate", tiny_keras, *data, "--json", tmp_path / "s.json"],
        ["train", "--model", "cgnet_m3n15", *data, "--run-dir", tmp_path / "r", "--batch-size", 2],
    )
    for command in commands:
        text = fails(capsys, *command)
        assert "cannot be written (No space left on device)" in text
        assert str(tmp_path) in text
    assert not out.exists()


def test_missing_output_folder(capsys, tiny_keras, tmp_path):
    out = tmp_path / "none" / "o.tflite"
    assert "cannot be written (No such file or directory)" in fails(
        capsys, "convert", tiny_keras, out
    )


def test_files_are_readable_by_others(tiny_keras, tmp_path):
    main(["convert", str(tiny_keras), str(tmp_path / "o.tflite"), "--input-size", "32", "32"])
    assert stat.S_IMODE((tmp_path / "o.tflite").stat().st_mode) & 0o044


def test_full_cityscapes_frames_fit_in_memory(tmp_path):
    """1024 x 2048 natively, in a process of its own; the logits alone are 159 MB an image."""
    import kseg

    write_streets(tmp_path / "streets", 2, size=(1024, 2048))
    kseg.create_model("cgnet_m3n21").save(tmp_path / "x.keras")
    data = ["--dataset", "streets", "--data-dir", tmp_path / "streets"]
    peak = peak_of("evaluate", tmp_path / "x.keras", *data, "--json", tmp_path / "s.json")
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["images"] == 1
    assert report["input_size"] is None
    assert peak < 2 * 2**30
