"""A disk without room: one line that names the file, nothing half-written, nothing lost."""

import pytest

from kseg.cli import main
from kseg.errors import KsegError
from kseg.files import check_room
from support import room_for, write_camvid, write_maps


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data sets and label maps that are read, two shards of their score, and a user's files."""
    folder = tmp_path_factory.mktemp("root")
    write_camvid(folder, {"train": 4, "val": 2})
    _, maps = write_maps(folder / "frames", 3)
    for number in (1, 2):
        command = f"evaluate {maps.folder} --dataset cityscapes --data-dir {folder}/frames"
        shard = f"--shard {number}/2 --json {folder}/{number}.json"
        assert main(f"{command} {shard}".split()) == 0
    return folder


CAMVID = "--dataset camvid --data-dir {root}"
MAPS = "evaluate {root}/frames/maps --dataset cityscapes --data-dir {root}/frames"


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "command",
    [
        MAPS + " --json {out}/kept",
        MAPS + " --resume {out}/saved.json --json {out}/kept",
        MAPS + " --shard 1/2 --json {out}/kept",
        "merge {root}/1.json {root}/2.json --json {out}/kept",
        "check-data " + CAMVID + " --split val --out {out}/o",
        "check-data " + CAMVID + " --shard 1/2 --json {out}/kept",
        "prepare " + CAMVID + " {out}/o --shards 2 --workers 1",
        "streets {out}/o --count 2 --size 32 64",
    ],
)
def test_no_room(command, root, tmp_path, capsys):
    """No room at all, and a little too little for the largest file; then the same with room."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    for folder in (whole, out):
        folder.mkdir()
        (folder / "kept").write_bytes(b"mine")
    assert main(command.format(root=root, out=whole).split()) == 0
    want = files_in(whole)
    argv = command.format(root=root, out=out).split()
    largest = max(map(len, want.values()))
    for size in (0, 40, largest - 30):
        capsys.readouterr()
        with room_for(size):
            assert main(argv) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written (File too large)" in line
        assert line.startswith(f"kseg: {out}/")
        left = files_in(out)
        assert left.pop("kept") == b"mine"
        # What was complete before stays: shards of records, pictures, counts.
        assert all(want.get(name, content) == content for name, content in left.items())
        assert not any(".kseg-" in name or name.endswith("lock") for name in left)
    assert main(argv) == 0
    assert files_in(out).keys() == want.keys()


def test_room_is_looked_for(tmp_path):
    check_room(tmp_path / "a", 1000)
    with room_for(999), pytest.raises(KsegError, match=rf"{tmp_path}/a: cannot be written \("):
        check_room(tmp_path / "a", 1000)
    assert not list(tmp_path.iterdir())


def test_no_room_for_processes(root, tmp_path, capsys):
    """Their semaphores are files of /dev/shm."""
    command = ["prepare", *CAMVID.format(root=root).split(), str(tmp_path / "o"), "--shards", "2"]
    with room_for(0):
        assert main([*command, "--workers", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "workers is 2, and the system has no room for more processes (File too large" in line
    assert not list((tmp_path / "o").iterdir())
