"""The script and the card of docs/wrapping.md are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.file_card import FileCard
from support import ROOT, code_blocks, run_block, write_camvid

PAGE = ROOT / "docs/wrapping.md"


@pytest.mark.filterwarnings("ignore::kseg.errors.KsegWarning")
def test_script(tmp_path, monkeypatch):
    """As printed, on eight small images."""
    (script,) = code_blocks(PAGE)
    monkeypatch.chdir(tmp_path)
    Path("camvid").mkdir()
    write_camvid(Path("camvid"), {"train": 8})
    run_block(script, {})
    image = np.zeros((48, 64, 3), np.uint8)
    predictor = kseg.tflite.TFLitePredictor("mine.tflite")
    assert predictor(image).shape == (48, 64, 11)
    assert predictor.card.class_names == kseg.data.CAMVID.names
    assert kseg.tflite.TFLitePredictor("small.tflite")(image).shape == (24, 32, 11)


def test_card():
    (block,) = code_blocks(PAGE, "json")
    assert FileCard(**json.loads(block.text)).channels == 2
