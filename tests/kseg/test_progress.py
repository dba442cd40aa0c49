"""The time left, by a clock that the tests turn."""

import pytest

from kseg.progress import Countdown, Stages, counted, duration, note, quiet, tell


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


def test_countdown(monkeypatch, capsys):
    """100 were there; then 50 in 60 s, so the other 50 take as long. A line a minute."""
    now = [0.0]
    monkeypatch.setattr("kseg.progress.time.monotonic", lambda: now[0])
    countdown = Countdown()
    for seconds, done in ((0, 100), (30, 130), (60, 150), (61, 151), (120, 200)):
        now[0] = seconds
        countdown(done, 200)
    assert capsys.readouterr().err.splitlines() == [
        "150/200 images, 1 min 00 s left",
        "200/200 images",
    ]


def test_countdown_on_a_terminal(monkeypatch, capsys):
    """One line that is drawn again, and ends with the last."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    countdown = Countdown("files")
    for done in range(3):
        countdown(done, 2)
    lines = capsys.readouterr().err
    assert lines.count("\n") == 1
    assert lines.endswith(f"\r\033[K[{20 * '#'}] 2/2 files\n")
    assert f"\r\033[K[{10 * '#'}{10 * '.'}] 1/2 files, 0 s left\r\033[K" in lines


def test_what_stands_beside_progress(monkeypatch, capsys):
    """A note takes the place of a changing line; a line ends where the terminal does."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    tell("a long line of progress", changing=True)
    note("kseg: a long line that is an error")
    assert capsys.readouterr().err == (
        "\r\033[Ka long li\r\033[Kkseg: a long line that is an error\n"
    )


def test_quiet(monkeypatch, capsys):
    """No progress, but notes; and nothing is quiet behind it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with quiet(True):
        Countdown()(1, 2)
        Stages({"draw": 1}).begin("draw", "drawing")
        tell("epoch 1")
    assert capsys.readouterr().err == ""
    with quiet(False):
        tell("epoch 1")
    assert "epoch 1" in capsys.readouterr().err


def test_counted():
    """The progress of what takes the items: an item counts when it is done with."""
    seen = []
    for item in counted("ab", lambda *counts: seen.append(counts)):
        seen.append(item)
    assert seen == ["a", (1, 2), "b", (2, 2)]
