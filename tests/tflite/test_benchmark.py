"""Times that are known, turns, and the command's table and JSON."""

import json
import socket
import sys
from collections import Counter
from multiprocessing.connection import Connection

import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg import shipped
from kseg.cli import main
from kseg.loading import ship
from kseg.tflite import timing_worker
from kseg.tflite.flatbuffer import operator_outputs
from kseg.tflite.predictors import TFLitePredictor
from kseg.tflite.timing import Spread
from kseg.tflite.timing_worker import start, time_round

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


class Slow:
    """Copies for 20 ms in and 30 ms out, computes for 50 ms, by a clock of its own."""

    def __init__(self, waits_in_read: bool) -> None:
        self.now, self.busy, self.waits_in_read = 0.0, 0.0, waits_in_read

    def write(self, tensor):
        assert tensor.dtype == np.uint8
        self.now += 0.02

    def run(self):
        self.busy = 0.05
        if not self.waits_in_read:
            self._finish()

    def read(self):
        self._finish()
        self.now += 0.03
        return np.zeros((1, 48, 64, 2), np.float32)

    def _finish(self):
        self.now += self.busy
        self.busy = 0.0


@pytest.mark.parametrize("waits_in_read", [False, True])
def test_parts(waits_in_read, monkeypatch):
    """The same for a runtime that returns before it has computed, as the accelerator does."""
    runner = Slow(waits_in_read)
    monkeypatch.setattr("kseg.tflite.timing_worker.time.perf_counter", lambda: runner.now)
    _, seconds = time_round(runner, IMAGE, np.dtype(np.uint8))
    assert seconds == pytest.approx({"copy": 0.05, "run": 0.05, "argmax": 0.0})


@pytest.mark.parametrize(
    "options",
    [
        dict(output="logits"),
        dict(output="stride-logits"),
        dict(output="argmax"),
        dict(precision="int8", calibration=[IMAGE], input_type="uint8"),
    ],
)
def test_labels_at_the_inputs_size(options, tiny_model, tmp_path):
    kseg.tflite.convert(tiny_model, tmp_path / "x.tflite", **options)
    predictor = TFLitePredictor(tmp_path / "x.tflite")
    labels, _ = time_round(predictor, IMAGE, predictor.io.input_type)
    want = predictor(IMAGE)
    if options.get("output") != "argmax":
        want = want.argmax(-1)
    if options.get("output") == "stride-logits":
        want = want.repeat(8, 0).repeat(8, 1)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, want)


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, pytest.approx(2.8))


class FakeChild:
    """What answers in place of a process, but for its answers."""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass


def test_turns(tmp_path, monkeypatch):
    """Warm-up and runs take turns over the files; the warm-up is not in the figures."""
    asked = []

    class Child(FakeChild):
        def __init__(self, _module, path, options, *, timeout):
            self.path, self.seconds = path, 8.0
            assert json.loads(options)["threads"] == 1

        def receive(self):
            facts = dict(model="m", output="logits", runtime="r", input_size=[4, 6])
            return json.dumps({**facts, "memory_before": 100})

        def ask(self, _message):
            asked.append(self.path.name)
            self.seconds /= 2
            return json.dumps(dict(copy=1.0, run=self.seconds, argmax=0.5, peak_memory=130))

    monkeypatch.setattr("kseg.tflite.timing.Child", Child)
    for name in ("a.tflite", "b.tflite"):
        (tmp_path / name).write_bytes(b"12345")
    files = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    rounds = []
    timings = kseg.tflite.benchmark(
        files, threads=1, runs=2, warm_up=1, progress=lambda *counts: rounds.append(counts)
    )
    assert asked == ["a.tflite", "b.tflite"] * 3
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    for timing, file in zip(timings, files, strict=True):
        assert timing.file == str(file)
        # 4 seconds warm-up, then 2 and 1
        assert (timing.run.median, timing.run.p90) == (1.5, pytest.approx(1.9))
        assert timing.total.median == 3.0
        assert (timing.peak_memory, timing.added_memory, timing.file_size) == (130, 30, 5)


def test_command(tiny_model, tiny_keras, tmp_path, capsys):
    """A .keras and a .tflite file, as the processes run them."""
    kseg.tflite.convert(tiny_model, tmp_path / "x.tflite", output="argmax")
    files = [str(tiny_keras), str(tmp_path / "x.tflite")]
    options = ["--threads", "1", "--runs", "2", "--warm-up", "1", "--input-size", "48", "64"]
    assert main(["benchmark", *files, *options, "--json", str(tmp_path / "o.json")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:]] == files
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["versions"]["kseg"] == kseg.__version__
    assert report["machine"]["cpus"] >= 1
    for timing, output in zip(report["files"], ("logits", "argmax"), strict=True):
        assert (timing["model"], timing["output"]) == ("cgnet_m3n21", output)
        assert (timing["input_size"], timing["threads"], timing["runs"]) == ([48, 64], 1, 2)
        assert 0 < timing["run"]["median"] <= timing["run"]["p90"] <= timing["total"]["p90"]
        # The libraries alone take 500 MB and the networks, of 2 blocks a stage, a few.
        assert 0 < timing["added_memory"] < timing["peak_memory"] < 2e9
    assert report["files"][1]["runtime"].endswith("cpu, 1 threads")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_profile(precision, tiny_model, tmp_path, capsys):
    """The kernels by the interpreter's list of operators, their time by the clock around."""
    file = tmp_path / "x.tflite"
    calibration = [IMAGE] if precision == "int8" else None
    kseg.tflite.convert(tiny_model, file, precision=precision, calibration=calibration)
    options = ["--profile", "--threads", "1", "--runs", "5", "--warm-up", "1"]
    assert main(["benchmark", str(file), *options, "--json", str(tmp_path / "o.json")]) == 0
    (profile,) = json.loads((tmp_path / "o.json").read_text())["profiles"]
    assert profile["file"] == str(file)
    kinds = {operator["kind"]: operator for operator in profile["operators"]}
    assert sum(kind["seconds"] for kind in kinds.values()) <= profile["seconds"]
    found = Counter(name for name, _ in operator_outputs(file.read_bytes()).values())
    for name, kernel in (("PRELU", "PReLU"), ("DEPTHWISE_CONV_2D", "DWConv")):
        # In an int8 file a lone BatchNorm beside PReLU is float and so a kind of its own.
        assert sum(kind["count"] for label, kind in kinds.items() if kernel in label) == found[name]
    assert any("QC8" in kind for kind in kinds) == (precision == "int8")
    table = capsys.readouterr().out.splitlines()[2:]
    assert table[0].startswith(f"{file}: ")
    assert [line.split(" x ")[1] for line in table[1:]] == list(kinds)


def test_shipped_weights(tiny_model, tmp_path, monkeypatch):
    """By their name, as the command takes it and the process does; the size is their file's."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    file = ship(tiny_model, "tiny", {})
    answers = []

    class Child(FakeChild):
        def __init__(self, _module, path, options, *, timeout):
            _, _, facts = start(path, json.loads(options))
            seconds = dict(copy=1.0, run=1.0, argmax=1.0, peak_memory=2**40)
            answers.extend([facts, seconds])

        def receive(self, _message=None):
            return json.dumps(answers.pop(0))

        ask = receive

    monkeypatch.setattr("kseg.tflite.timing.Child", Child)
    report = tmp_path / "o.json"
    options = ["--runs", "1", "--warm-up", "0", "--json", str(report)]
    assert main(["benchmark", "tiny:cgnet_m3n21", *options]) == 0
    (timing,) = json.loads(report.read_text())["files"]
    assert (timing["file"], timing["model"]) == ("tiny:cgnet_m3n21", "cgnet_m3n21")
    assert timing["file_size"] == file.stat().st_size


def test_refusals(tiny_keras, tmp_path, capsys):
    with pytest.raises(kseg.KsegError, match=r"files is 'a\.tflite'; give a list of files"):
        kseg.tflite.benchmark("a.tflite")
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    cases = {
        ("none.keras",): "none.keras: no such file",
        (str(tmp_path / "x.tflite"),): "x.tflite: not a readable .tflite file",
        ("x.h5",): "x.h5: is neither .keras nor .tflite",
        ("camvid:vnet",): "camvid:vnet: no such weights",
        (str(tiny_keras), "--runtime", "litert-gpu"): "runtime is 'litert-gpu'",
        (str(tiny_keras), "--runs", "0"): "runs is 0; it must be at least 1",
        (str(tiny_keras), "--threads", "0"): "threads is 0",
        (str(tiny_keras), "--profile"): "tiny.keras: only .tflite files have a profile",
        (str(tmp_path / "x.tflite"), "--profile", "--runs", "0"): "runs is 0",
    }
    for args, message in cases.items():
        assert main(["benchmark", *args]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_what_a_runtime_says(monkeypatch):
    """An error of its own, in one line with the file's name."""
    ours, theirs = socket.socketpair()

    def fails(*_args):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(timing_worker, "start", fails)
    monkeypatch.setattr(sys, "argv", ["", "x.onnx", "{}", str(theirs.detach())])
    timing_worker.main()
    with Connection(ours.detach()) as connection:
        assert json.loads(connection.recv_bytes()) == {"error": "x.onnx: no kernel"}


def test_a_file_of_another_size(tiny_model, tmp_path):
    kseg.tflite.convert(tiny_model, tmp_path / "x.tflite")
    options = dict(runtime="cpu", threads=None, input_size=[32, 64])
    with pytest.raises(kseg.KsegError, match=r"x\.tflite: takes \(48, 64\) \(H, W\) only"):
        start(tmp_path / "x.tflite", options)
