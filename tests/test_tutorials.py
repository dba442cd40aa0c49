"""The pages of the documentation: their code runs as printed, their commands are understood."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kseg
import kseg.tflite
from kseg.cli import SUBCOMMANDS, parser
from support import ROOT, code_blocks, run_block

TUTORIALS = ROOT / "docs/tutorials"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def run_page(name: str) -> dict:
    """The names that a tutorial's Python leaves."""
    names = {}
    for block in code_blocks(TUTORIALS / name):
        run_block(block, names)
    return names


def test_tutorials(tmp_path, monkeypatch):
    """One after the other in one folder, as the pages say."""
    monkeypatch.chdir(tmp_path)
    names = run_page("folder-to-phone.md")
    # All ground is 22 %; what is drawn is easy, so that a network which learns is far above.
    assert names["scores"].mean_iou > 0.6
    predictor = kseg.tflite.TFLitePredictor("leaves.tflite")
    assert predictor.card.class_names == ("ground", "leaf", "stone")
    # Half precision moves a few pixels at borders.
    label = np.asarray(Image.open("leaves/labels/val/024.png"))
    of_keras = kseg.predictor.predict_labels(
        kseg.open_predictor("runs/leaves/model.keras"), names["photo"]
    )
    assert (names["labels"] == of_keras).mean() > 0.99
    assert (names["labels"] == label).mean() > 0.8
    assert Image.open("overlay.png").width == label.shape[1]

    names = run_page("quantisation.md")
    scores, sizes = names["scores"], names["sizes"]
    assert sizes["w8"] < sizes["fp16"] < sizes["fp32"] > sizes["int8"]
    assert scores["fp16"] == pytest.approx(scores["fp32"], abs=0.01)
    assert scores["int8"] == pytest.approx(scores["fp32"], abs=0.05)
    assert 0.95 < names["comparison"].same < 1

    names = run_page("fine-tuning.md")
    assert names["scores"].mean_iou > 0.3
    assert names["model"].card.weights == "trained by kseg on folder train"


def test_tutorial_in_korean():
    """Code and commands of the tutorial in Korean are those of the English one."""
    korean, english = (
        [[block.text for block in code_blocks(page, kind)] for kind in ("", "python")]
        for page in (ROOT / "docs/ko/folder-to-phone.md", TUTORIALS / "folder-to-phone.md")
    )
    assert korean == english
    first, *_ = code_blocks(ROOT / "README.md")
    assert [block.text for block in code_blocks(ROOT / "docs/ko/index.md")] == [first.text]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_parse(path):
    """Every kseg line of a page is understood by the command."""
    for block in code_blocks(path, ""):
        for line in block.text.replace("\\\n", " ").splitlines():
            # What leaves arguments to the reader.
            if not line.startswith("kseg ") or "..." in line:
                continue
            argv = shlex.split(line, comments=True)[1:]
            assert argv[0] in SUBCOMMANDS, line
            parser(argv).parse_args(argv)


def test_machines_of_the_tutorial():
    """Its TF_CONFIG has the form that kseg's own workers take."""
    (line,) = re.findall(
        r"^export TF_CONFIG='(.+)'$", (TUTORIALS / "several-gpus.md").read_text(), re.MULTILINE
    )
    config = json.loads(line)
    assert config["task"] == {"type": "worker", "index": 0}
    assert [*config["cluster"]] == ["worker"]
    assert len(config["cluster"]["worker"]) == 2


def test_every_picture_is_in_the_gallery():
    text = (ROOT / "docs/gallery.md").read_text()
    shown = {Path(name) for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)}
    assert shown == {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").glob("**/*.png")}
