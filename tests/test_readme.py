"""The README's scripts are what they say."""

from pathlib import Path

import numpy as np
from PIL import Image

import kseg
from kseg.zoo import VARIANTS
from support import ROOT, code_blocks, run_block, write_camvid

SCRIPTS = code_blocks(ROOT / "README.md")


def test_first_lines(tmp_path, monkeypatch):
    """As printed; they make the first picture."""
    first, _ = SCRIPTS
    monkeypatch.chdir(tmp_path)
    run_block(first, {})
    made, shown = (
        np.asarray(Image.open(path), np.int16) for path in ("street.png", ROOT / "docs/street.png")
    )
    assert made.shape == shown.shape
    # Other CPUs round otherwise, which moves a few pixels at borders of classes.
    assert (made != shown).any(-1).mean() < 0.002


def test_script(tmp_path, monkeypatch):
    """As printed, on eight small images, and with fewer blocks, which are traced in less time."""
    _, script = SCRIPTS
    row = VARIANTS["cgnet_m3n21"]
    monkeypatch.setitem(VARIANTS, "cgnet_m3n21", row.replace(options={"m": 2, "n": 2}))
    monkeypatch.chdir(tmp_path)
    Path("camvid").mkdir()
    write_camvid(Path("camvid"), {"train": 8, "val": 1})
    run_block(script, {})
    predictor = kseg.tflite.TFLitePredictor("cgnet.tflite")
    assert predictor(np.zeros((360, 480, 3), np.uint8)).shape == (360, 480, 11)
    assert predictor.card.class_names == kseg.data.CAMVID.names
