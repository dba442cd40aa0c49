"""The README's script and commands are what they say."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import kseg
from kseg.zoo import VARIANTS
from support import ROOT, write_camvid

README = (ROOT / "README.md").read_text()


def test_script(tmp_path, monkeypatch):
    """As printed, but on eight small images, for one epoch, with fewer blocks."""
    (script,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
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


def test_demo_table():
    """What the demo wrote, in the form that it prints."""
    from kseg.demo_report import table_text

    rows = json.loads((ROOT / "results/demo.json").read_text())["rows"]
    assert f"<!-- demo -->\n{table_text(rows)}\n<!-- /demo -->" in README


def test_camvid_table():
    """IoU on val of the shipped weights, as scored."""
    lines = (ROOT / "results/camvid.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines]
    table = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    assert "<!-- camvid -->\n" + "\n".join(table) + "\n<!-- /camvid -->" in README


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


@pytest.mark.parametrize("name", VARIANTS)
def test_table(name):
    variant = VARIANTS[name]
    (height, width), count = next(iter(variant.multiply_adds.items()))
    cost = f"{count / 1e9:.2f} G at {height}x{width}"
    row = f"| {name} | {variant.parameters:,} | {cost} | {variant.mean_iou or '-'} |"
    assert row in README
