"""A file on a phone: what goes over adb, played by a program here."""

import os
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.cli import main
from kseg.file_card import FileCard
from kseg.tflite import TFLitePredictor, convert
from kseg.tflite.phone import check_phone

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)

# A phone whose /data/local/tmp is a folder; nothing else of it is touched.
ADB = """
    import os, shlex, shutil, subprocess, sys
    root = os.environ["PHONE"]
    def local(text):
        return text.replace("/data/local/tmp", root)
    arguments = sys.argv[1:]
    if arguments[:1] == ["-s"]:
        arguments = arguments[2:]
    with open(root + "/log", "a") as log:
        print(*arguments, file=log)
    if arguments[0] == "shell":
        sys.exit(subprocess.run(["sh", "-c", local(arguments[1])]).returncode)
    shutil.copy(*map(local, arguments[1:]))
"""

# benchmark_model, as far as kseg uses it: TensorFlow Lite's flags, with half precision as an error
# of a hundredth of the range.
TOOL = """
    import sys
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
    assert flags["use_gpu"] == flags["require_full_delegation"] == "true"
    model = Interpreter(flags["graph"])
    model.allocate_tensors()
    (source,), (result,) = model.get_input_details(), model.get_output_details()
    name, file = flags["input_layer_value_files"].rsplit(":", 1)
    assert name == flags["input_layer"] == source["name"].replace(":", "::")
    shape = [int(n) for n in flags["input_layer_shape"].split(",")]
    model.set_tensor(source["index"], np.fromfile(file, source["dtype"]).reshape(shape))
    model.invoke()
    output = model.get_tensor(result["index"])
    if flags["gpu_precision_loss_allowed"] == "true":
        output[0, 0, 0, 0] += np.ptp(output) / 100
    output.tofile(flags["output_filepath"])
"""


def program(path, code):
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
    path.chmod(0o755)
    return path


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """Its folder, and the tool."""
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/adb", ADB)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "phone"
    folder.mkdir()
    monkeypatch.setenv("PHONE", str(folder))
    return folder, program(tmp_path / "tool", TOOL)


def test_a_phone(phone, small_model, small_row, tmp_path, capsys):
    folder, tool = phone
    path = tmp_path / "x.tflite"
    convert(small_model, path)
    found = check_phone(path, IMAGE, tool)
    assert found["float32"].difference < 1e-6
    # the tool's error on one pixel, of 48 x 64 pixels and 11 classes
    assert found["half"].difference == pytest.approx(0.01, rel=1e-3)
    logits = TFLitePredictor(path)(IMAGE)
    noise = (np.ptp(logits) / 100) ** 2 / logits.size
    want = 10 * np.log10(np.square(logits, dtype=np.float64).mean() / noise)
    assert found["half"].decibels == pytest.approx(want, abs=0.01)
    # nothing is left there
    assert [each.name for each in folder.iterdir()] == ["log"]

    Image.fromarray(IMAGE).save(tmp_path / "x.png")
    command = ["check-phone", str(path), str(tmp_path / "x.png"), "--tool", str(tool)]
    assert main([*command, "--serial", "R5"]) == 0
    text = capsys.readouterr().out
    assert "in half on the phone: largest difference 1.0000 % of the range" in text


def test_a_file_of_others(phone, weights):
    """Without a signature; its input has the tensor's own name."""
    _, tool = phone
    card = FileCard(mean=(127.5,) * 3, std=(127.5,) * 3, num_classes=21)
    found = check_phone(weights / "deeplabv3_257_mv_gpu.tflite", IMAGE, tool, stated=card)
    assert found["float32"].difference < 1e-6


def test_what_fails_on_the_way(phone, small_model, small_row, tmp_path, monkeypatch):
    folder, tool = phone
    path = tmp_path / "x.tflite"
    convert(small_model, path)
    program(tool, "import sys; sys.exit('ERROR: Restored original execution plan')")
    with pytest.raises(kseg.KsegError, match="adb shell: ERROR: Restored original"):
        check_phone(path, IMAGE, tool)
    assert [each.name for each in folder.iterdir()] == ["log"]
    # The output of the run before is not taken for this one's.
    program(tool, TOOL.replace("    output.tofile", "    else: sys.exit()\n    output.tofile"))
    with pytest.raises(kseg.KsegError, match=r"adb pull: .*output\.bin"):
        check_phone(path, IMAGE, tool)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(kseg.KsegError, match="adb is not there; install Android's"):
        check_phone(path, IMAGE, tool)
