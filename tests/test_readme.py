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
    """As printed, on eight small images."""
    _, script = SCRIPTS
    monkeypatch.chdir(tmp_path)
    Path("camvid").mkdir()
    write_camvid(Path("camvid"), {"train": 8, "val": 1})
    exec(compile(script, "README.md", "exec"), {})
    predictor = kseg.tflite.TFLitePredictor("cgnet.tflite")
    assert predictor(np.zeros((360, 480, 3), np.uint8)).shape == (360, 480, 11)
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
