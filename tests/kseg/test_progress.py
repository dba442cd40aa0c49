"""The time left, by a clock that the tests turn."""

import pytest

from kseg.progress import Counter, Stages, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (7505, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_stages(monkeypatch, capsys):
    """At first the plan holds; then the pace that was seen, 30 s of plan mixed in."""
    now = [100.0]
    monkeypatch.setattr("kseg.progress.time.monotonic", lambda: now[0])
    stages = Stages({"draw": 30, "train": 60, "score": 10})
    stages.begin("draw", "drawing")
    now[0] += 90
    stages.begin("train", "training")
    now[0] += 10
    stages.begin("score", "scoring")
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] drawing; about 1 min 40 s left",
        # (90 + 30) / (30 + 30) times the 70 s that are planned
        "[2/3] training; about 2 min 20 s left",
        # (100 + 30) / (90 + 30) times 10 s
        "[3/3] scoring; about 10 s left",
    ]


def test_counter(monkeypatch, capsys):
    """The first takes 30 s, or was done before; those after it 2 s each."""
    now = [0.0]
    monkeypatch.setattr("kseg.progress.time.monotonic", lambda: now[0])
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda there=terminal: there)
        counter = Counter("rounds")
        now[0] += 30
        counter(40, 100)
        now[0] += 20
        counter(50, 100)
        counter(100, 100)
        lines = [line.rstrip() for line in capsys.readouterr().err.split("\r")]
        shown = ["", "40/100 rounds", "50/100 rounds, about 1 min 40 s left", "100/100 rounds"]
        assert lines == (shown if terminal else [""])
