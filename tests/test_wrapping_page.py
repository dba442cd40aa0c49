"""The script and the commands of docs/wrapping.md are what they say."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.cli import parser
from kseg.file_card import FileCard
from support import ROOT, write_camvid

PAGE = (ROOT / "docs/wrapping.md").read_text()


@pytest.mark.filterwarnings("ignore::kseg.errors.KsegWarning")
def test_script(tmp_path, monkeypatch):
    """As printed, on eight small images."""
    (script,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("camvid").mkdir()
    write_camvid(Path("camvid"), {"train": 8})
    exec(compile(script, "wrapping.md", "exec"), {})
    image = np.zeros((48, 64, 3), np.uint8)
    predictor = kseg.tflite.TFLitePredictor("mine.tflite")
    assert predictor(image).shape == (48, 64, 11)
    assert predictor.card.class_names == kseg.data.CAMVID.names
    assert kseg.tflite.TFLitePredictor("small.tflite")(image).shape == (24, 32, 11)


def test_card_and_commands():
    (text,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    assert FileCard(**json.loads(text)).channels == 2
    lines = [line for line in PAGE.splitlines() if line.startswith("kseg ")]
    assert len(lines) == 2
    for line in lines:
        argv = shlex.split(line)[1:]
        parser(argv).parse_args(argv)
