"""What a report holds can be read back from it."""

import base64
import io
import re

import numpy as np
from PIL import Image

from kseg.report import Report, class_bars, training_curve


def test_file(tmp_path):
    report = Report("a < b")
    report.heading("Scores")
    report.line("1 & 2")
    report.table(["class", "IoU"], [["<road>", "90 %"], ["sky", "-"]])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    report.picture(Image.fromarray(pixels), "a street")
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<h1>a &lt; b</h1>" in text
    assert "<h2>Scores</h2>" in text
    assert "1 &amp; 2" in text
    assert "<tr><td>&lt;road&gt;</td><td>90 %</td></tr>" in text
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_training_curve():
    """Epochs without a score on validation leave no point there."""
    figure = training_curve(
        [
            {"step": "10", "loss": "2.5", "mean_iou": "0.1", "val_mean_iou": ""},
            {"step": "20", "loss": "1.5", "mean_iou": "0.3", "val_mean_iou": "0.2"},
        ]
    )
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    assert lines["loss, training"].get_xydata().tolist() == [[10, 2.5], [20, 1.5]]
    assert lines["mean IoU, training"].get_xydata().tolist() == [[10, 0.1], [20, 0.3]]
    assert lines["mean IoU, validation"].get_xydata().tolist() == [[20, 0.2]]


def test_class_bars():
    figure = class_bars({"fp32": {"road": 0.9, "sky": None}, "int8": {"road": 0.8, "sky": 0.1}})
    (axes,) = figure.axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"fp32": [0.9, 0], "int8": [0.8, 0.1]}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["road", "sky"]
