"""Two processes at one thing: the second is refused in one line, unless the first is dead."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

import kseg
from kseg import files
from kseg.evaluation import SavedScores, evaluate
from kseg.files import atomic_write, locked, remove_left
from support import ROOT, write_maps

HELD = """
import sys, time
from kseg.files import atomic_write, locked
with {}(sys.argv[1]):
    print(flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holding(what, path):
    """A process that is within the call until it is killed, at the end."""
    command = [sys.executable, "-c", HELD.format(what), str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(60)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lock_ends_with_its_process(kind, tmp_path):
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    with (
        holding("locked", path) as child,
        pytest.raises(kseg.KsegError, match=f"{path}: process {child.pid} on .* works on it; "),
        locked(path),
    ):
        pass
    (left,) = tmp_path.rglob(".*lock")
    for _ in range(2):
        with locked(path):
            assert f"process {os.getpid()} on" in left.read_text()
            # Of the same process too.
            with pytest.raises(kseg.KsegError, match="works on it"), locked(path):
                pass
        assert not left.exists()


def test_what_a_killed_writer_left_is_removed(tmp_path, monkeypatch):
    """Not what another one is writing."""
    monkeypatch.setattr(files, "_looked_in", set())
    path = tmp_path / "a.txt"
    with holding("atomic_write", path):
        (used,) = tmp_path.iterdir()
        with atomic_write(path) as temporary:
            temporary.write_text("a")
        remove_left(tmp_path)
        assert sorted(tmp_path.iterdir()) == [used, path]
    (used / "a.txt").write_text("half")
    files._looked_in.clear()
    with atomic_write(tmp_path / "b.txt") as temporary:
        temporary.write_text("b")
        assert not used.exists()
        with atomic_write(tmp_path / "c.txt") as other:
            other.write_text("c")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


def test_the_clock_decides_nothing():
    """It may jump; what is timed is timed by time.monotonic or perf_counter.

    Times of files are looked at once: whether one is still what this process has read.
    """
    for folder in ("kseg", "training", "tflite"):
        for path in (ROOT / folder).rglob("*.py"):
            found = re.findall(r"time\.time\(|time_ns\(|datetime|mtime", path.read_text())
            assert found == ["mtime"] * (path.name == "fingerprint.py"), path


def test_some_share_a_lock(tmp_path):
    with locked(tmp_path, shared=True):
        with locked(tmp_path, shared=True):
            pass
        with pytest.raises(kseg.KsegError, match="works on it"), locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())
    with (
        locked(tmp_path),
        pytest.raises(kseg.KsegError, match="works on it"),
        locked(tmp_path, shared=True),
    ):
        pass


def test_one_score_at_a_time_in_a_file(tmp_path):
    """The second changes nothing in the counts of the first."""
    data, maps = write_maps(tmp_path, 2)
    saved = SavedScores(tmp_path / "saved.json", maps.folder)

    def second(done, total):
        before = saved.path.read_bytes()
        with pytest.raises(kseg.KsegError, match=rf"saved\.json: process {os.getpid()} on"):
            evaluate(maps, data, saved=SavedScores(saved.path, maps.folder))
        assert saved.path.read_bytes() == before

    evaluate(maps, data, saved=saved, progress=second)
    assert len(json.loads(saved.path.read_text())["scores"]["image_iou"]) == 2
    assert not list(tmp_path.glob(".*"))
