"""The program that measures training on a GPU, as a whole, on a CPU at tiny sizes."""

import json

import pytest

from kseg.errors import KsegError

pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")

import gpu
import table

TINY = [
    *("--models", "cgnet_m3n21", "--options", '{"m": 2, "n": 2}', "--precisions", "float32"),
    *("--size", "32", "40", "--batch-size", "2", "--steps", "2"),
    *("--check-size", "24", "32", "--check-steps", "3", "--compiled", "no"),
]


def test_the_whole_program(tmp_path, monkeypatch, capsys):
    """Rows of TensorFlow and PyTorch, each in a process, and a second call that has no work."""
    monkeypatch.setattr(gpu, "read_time", lambda *_: 0.25)
    path = tmp_path / "gpu_training.csv"
    arguments = [*TINY, "--runtimes", "tensorflow", "torch", "--table", str(path)]
    assert gpu.main(arguments) == 0
    rows = table.read(path)
    assert [row["runtime"] for row in rows] == ["tensorflow", "torch"]
    for row in rows:
        assert row["note"] == ""
        assert row["device"] == "CPU"
        speeds = [float(row[name]) for name in ("slowest", "images_per_second", "fastest")]
        assert speeds == sorted(speeds)
        # Within the rounding of the cells.
        assert float(row["input_share"]) == pytest.approx(0.25 * speeds[1], rel=0.1)
        assert float(row["first_step"]) > 0
        assert float(row["memory_mib"]) > 100
    # The same process again, and PyTorch's sums in another order.
    assert float(rows[0]["loss_difference"]) < 1e-6
    assert float(rows[1]["loss_difference"]) < 1e-3
    assert "torch" in json.loads(path.with_suffix(".json").read_text())["versions"]
    capsys.readouterr()
    assert gpu.main(arguments) == 0
    assert "every row is there" in capsys.readouterr().out


def test_rows_that_are_asked_for():
    every = list(gpu.cases(gpu.MODELS, gpu.COMPILED, gpu.PRECISIONS, "both"))
    # TensorFlow and PyTorch with and without, JAX always compiled.
    assert len(every) == len(set(every)) == len(gpu.MODELS) * len(gpu.PRECISIONS) * 5
    compiled = list(gpu.cases(["enet"], ["jax", "torch"], ["float32"], "yes"))
    assert [case.key for case in compiled] == [
        ("enet", "jax", "float32", "yes"),
        ("enet", "torch", "float32", "yes"),
    ]


def test_a_row_that_fails_says_why_and_is_tried_again(tmp_path, monkeypatch):
    answers = iter([{"losses": [2.0, 1.0]}, "out of memory"])
    monkeypatch.setattr(gpu, "read_time", lambda *_: None)
    monkeypatch.setattr(gpu, "ask", lambda *_, **__: next(answers))
    path = tmp_path / "gpu_training.csv"
    arguments = [*TINY, "--runtimes", "tensorflow", "--table", str(path)]
    assert gpu.main(arguments) == 0
    (row,) = table.read(path)
    assert (row["note"], row["images_per_second"]) == ("out of memory", "")
    facts = {"losses": [2.0, 1.1], "seconds": [0.5, 1.0, 0.25], "first_step": 9.0}
    facts |= {"memory_mib": 10.0, "device": "G"}
    answers = iter([{"losses": [2.0, 1.0]}, facts])
    assert gpu.main(arguments) == 0
    (row,) = table.read(path)
    # Batches of two; the median step takes half a second.
    wanted = {"images_per_second": "4", "slowest": "2", "fastest": "8", "loss_difference": "0.1"}
    assert {name: row[name] for name in wanted} == wanted
    assert row["input_share"] == row["note"] == ""


def test_an_error_of_a_process_is_one_line(tmp_path):
    case = gpu.Case("no_such_model", "tensorflow", "float32", False)
    reason = gpu.ask(case, ["--check-steps", "1"], timeout=120)
    assert "unknown model 'no_such_model'" in reason
    assert "\n" not in reason
    assert KsegError.__name__ in reason
