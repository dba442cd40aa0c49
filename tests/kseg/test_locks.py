"""Two processes at one thing: the second is refused in one line, unless the first is dead."""

import json
import os
import signal
import subprocess
import sys

import pytest

import kseg
from kseg.evaluation import SavedScores, evaluate
from kseg.files import locked
from support import write_maps

HELD = """
import sys, time
from kseg.files import locked
with locked(sys.argv[1]):
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lock_ends_with_its_process(kind, tmp_path):
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    child = subprocess.Popen([sys.executable, "-c", HELD, path], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        with (
            pytest.raises(kseg.KsegError, match=f"{path}: process {child.pid} on .* works on it; "),
            locked(path),
        ):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    (left,) = tmp_path.rglob(".*lock")
    for _ in range(2):
        with locked(path):
            assert f"process {os.getpid()} on" in left.read_text()
            # Of the same process too.
            with pytest.raises(kseg.KsegError, match="works on it"), locked(path):
                pass
        assert not left.exists()


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
