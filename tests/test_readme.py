"""The README's script and commands are what they say."""

import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

import kseg
from support import ROOT, write_camvid

README = (ROOT / "README.md").read_text()
SCRIPTS = re.findall(r"```python\n(.+?)```", README, re.DOTALL)


def test_first_lines(tmp_path, monkeypatch):
    """As printed; they make the first picture."""
    first, _ = SCRIPTS
    monkeypatch.chdir(tmp_path)
    exec(compile(first, "README.md", "exec"), {})
    made, shown = (
        np.asarray(Image.open(path), np.int16) for path in ("street.png", ROOT / "docs/street.png")
    )
    assert made.shape == shown.shape
    # Other CPUs round otherwise, which moves a few pixels at borders of classes.
    assert (made != shown).any(-1).mean() < 0.002


def test_script(tmp_path, monkeypatch):
    """As printed, but on eight small images, for one epoch, with fewer blocks."""
    _, script = SCRIPTS
    script = script.replace('EPOCHS = "camvid", 6', 'EPOCHS = "camvid", 1')
    script = script.replace("(176, 240)", "(32, 40)")
    script = script.replace("batch_size=8", "batch_size=4")
    script = script.replace("classes.num_classes)", "classes.num_classes, m=2, n=2)")
    script = script.replace('"cgnet.tflite")', '"cgnet.tflite", input_size=(48, 64))')
    monkeypatch.chdir(tmp_path)
    Path("camvid").mkdir()
    write_camvid(Path("camvid"), {"train": 8, "val": 1})
    exec(compile(script, "README.md", "exec"), {})
    predictor = kseg.tflite.TFLitePredictor("cgnet.tflite")
    assert predictor(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 11)
    assert predictor.card.class_names == kseg.data.CAMVID.names


def test_commands_parse():
    """Every kseg line of the README is understood by the command."""
    from kseg.cli import parser

    text = README.replace("\\\n", " ")
    lines = [
        line.split("#")[0] for line in text.splitlines() if re.match(r"(\.venv/bin/)?kseg ", line)
    ]
    assert len(lines) >= 7
    for line in lines:
        argv = shlex.split(line)[1:]
        parser(argv).parse_args(argv)
