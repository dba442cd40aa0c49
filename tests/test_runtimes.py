"""The table of runtimes: all of them on a small network."""

import csv

import pytest

pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")
pytest.importorskip("onnxruntime", reason="extra onnx is not installed")

import runtimes


def test_rows(tmp_path):
    rows = runtimes.measure("skipnet_mobilenet", "logits", 2, (32, 64), runs=1)
    milliseconds = {row["runtime"]: float(row["run_ms"]) for row in rows}
    assert list(milliseconds) == ["litert", "onnxruntime", "tensorflow", "torch"]
    best = min(milliseconds["torch"], milliseconds["onnxruntime"])
    # The ratio is of unrounded times, each up to half a tenth off, and is rounded itself.
    ratio = milliseconds["litert"] / best
    rounding = ratio * (0.05 / best + 0.05 / milliseconds["litert"]) + 0.006
    assert float(rows[0]["of_best"]) == pytest.approx(ratio, abs=rounding)
    for _ in range(2):
        runtimes.write(rows, tmp_path)
    with (tmp_path / "runtimes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_areas():
    common = {"model": "enet", "output": "logits", "threads": 2}
    rows = [
        {**common, "runtime": runtime, "size": size, "run_ms": milliseconds}
        for runtime in ("litert", "torch")
        for size, milliseconds in (("32x64", "2.0"), ("64x128", "9.0"))
    ]
    runtimes.compare_areas(rows)
    assert [row["of_smaller"] for row in rows] == ["", "4.50"] * 2
