"""Jobs that several processes do: the same to the bit as one process."""

import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest

import kseg
from kseg.cli import main
from kseg.data import Shard
from kseg.evaluation import evaluate, evaluate_shard, merge_shards, resume
from kseg.evaluation.sums import ExactSums
from kseg.files import write_json
from support import without_time, write_maps


@pytest.mark.parametrize(("count", "items"), [(1, 5), (3, 7), (4, 3), (9, 0), (7, 1000)])
def test_shards_cover_everything_once(count, items):
    parts = [Shard(n, count).of(range(items)) for n in range(1, count + 1)]
    assert list(itertools.chain(*parts)) == list(range(items))
    assert {len(part) for part in parts} <= {items // count, -(-items // count)}
    assert Shard.parse(f"{count}/{count}") == Shard(count, count)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "a/b", "1/4/2", "", "²/4"])
def test_texts_that_are_no_shard(text):
    with pytest.raises(kseg.KsegError, match=r"write I/N with I from 1 to N"):
        Shard.parse(text)


def test_sums_do_not_depend_on_the_order():
    """The exact sum, by fractions, rounded once."""
    rng = random.Random(3)
    values = [rng.choice((-1, 1)) * rng.random() * 10.0 ** rng.randint(-20, 20) for _ in range(300)]
    values += [1e16, 1.0, -1e16, 0.1, 0.2]
    want = float(sum(map(Fraction, values)))
    assert math.fsum(values) == want != sum(values)
    for _ in range(3):
        rng.shuffle(values)
        parts = [ExactSums(2), ExactSums(2)]
        for value in values:
            rng.choice(parts).add(np.array([value, 0.0]))
        whole = ExactSums(2)
        whole.restore(json.loads(json.dumps(parts[1].to_json())))
        whole.merge(parts[0])
        assert whole.values().tolist() == [want, 0.0]
    for wrong in ([[1.0]], [[1.0], [math.nan]], [["a"], []], 3):
        with pytest.raises((TypeError, ValueError)):
            whole.restore(wrong)


def shards_of(folder, maps, data, count, **way):
    """Files of all shards."""
    files = []
    for number in range(1, count + 1):
        shard = evaluate_shard(
            maps, data, Shard(number, count), file=maps.folder, boundaries=True, **way
        )
        files.append(folder / f"{number}-of-{count}.json")
        write_json(files[-1], shard.to_json())
    return files


def test_the_score_of_shards_is_that_of_one_run(tmp_path):
    """With instances and boundaries; two empty shards, files in any order."""
    data, maps = write_maps(tmp_path, 7)
    want = evaluate(maps, data, boundaries=True)
    assert 0 < want.class_iiou["car"] < 1
    assert 0 < want.boundary_f["car"] < 1
    for count in (1, 3, 9):
        files = shards_of(tmp_path, maps, data, count)
        scores, file = merge_shards(files[::-1])
        assert file == str(maps.folder)
        got, whole = (json.dumps(without_time(s.to_json())) for s in (scores, want))
        assert got == whole


def test_a_killed_shard_goes_on(tmp_path, monkeypatch):
    """Another shard does not take its counts."""
    monkeypatch.setattr(resume, "INTERVAL", 0)
    data, maps = write_maps(tmp_path, 5)
    saved = resume.SavedScores(tmp_path / "saved.json", maps.folder)

    def leave(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_shard(maps, data, Shard(1, 2), saved=saved, boundaries=True, progress=leave)
    done = []
    way = dict(saved=saved, boundaries=True, progress=lambda *counts: done.append(counts))
    with pytest.raises(kseg.KsegError, match=r"is of another score: .*shard \"1/2\" there and"):
        evaluate_shard(maps, data, Shard(2, 2), **way)
    again = evaluate_shard(maps, data, Shard(1, 2), **way)
    assert done == [(2, 2)]
    first = evaluate_shard(maps, data, Shard(1, 2), boundaries=True)
    assert again.counts.to_json() == first.counts.to_json()


def edited(path, **changes):
    """The file of a shard with other fields, as if it had been written so."""
    from kseg.evaluation.shards import _checksum

    state = json.loads(path.read_text())
    del state["checksum"]
    for name, value in changes.items():
        state[name] = state[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps({**state, "checksum": _checksum(state)}))


def test_shards_that_are_not_of_one_score(tmp_path, capsys):
    """In the command: one line that names the file, and nothing is written."""
    data, maps = write_maps(tmp_path, 4)
    files = shards_of(tmp_path, maps, data, 3)
    texts = [file.read_text() for file in files]
    of_two = shards_of(tmp_path, maps, data, 2)
    copy, other = tmp_path / "copy.json", tmp_path / "other.json"
    copy.write_text(texts[1])
    out = tmp_path / "out.json"

    def fails(*files):
        assert main(["merge", *map(str, files), "--json", str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists()
        return line

    missing = f"{files[1]}: is shard 2/3, and of the others 1, 3 are missing; name their files"
    assert missing in fails(files[1])
    assert "`kseg evaluate --shard 3/3`" in fails(*files[:2])
    assert f"{copy}: is shard 2/3, and {files[1]} is too" in fails(*files, copy)
    assert f"{of_two[1]}: is shard 2/2, but {files[0]} is 1/3" in fails(files[0], of_two[1])
    for changes, text in (
        ({"facts": {"model": "b"}}, f'model "b" here and "{maps.folder}" there'),
        ({"facts": {"scales": [0.5]}}, "scales [0.5] here and null there"),
        ({"facts": {"split": "test"}}, 'split "test" here and "val" there'),
        ({"facts": {"kseg": "0.0.1"}}, 'kseg "0.0.1" here'),
        ({"content": "0"}, "the file that was scored had another content"),
        ({"names": "0"}, "the split had other images"),
        ({"classes": {"void_ids": [0]}}, "the data set had other classes"),
    ):
        other.write_text(texts[2])
        edited(other, **changes)
        line = fails(*files[:2], other)
        assert f"{other}: is of another score than {files[0]} ({text}" in line
    other.write_text(texts[2])
    edited(other, format="kseg score shard 2")
    assert f"{other}: is a 'kseg score shard 2'; name files that" in fails(*files[:2], other)
    other.write_text(texts[2].replace('"seconds": ', '"seconds": 1'))
    assert f"{other}: is damaged; score this shard again" in fails(*files[:2], other)
    for text in ("{", "[]", "{}", "[" * 100_000):
        other.write_text(text)
        assert f"{other}: is no shard of a score" in fails(*files[:2], other)
    assert "no.json: cannot be read" in fails(files[0], tmp_path / "no.json")

    assert main(["merge", *map(str, files), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["file"] == str(maps.folder)


def test_shards_in_the_command(tmp_path, capsys):
    _, maps = write_maps(tmp_path, 2)
    command = ["evaluate", str(maps.folder), "--dataset", "cityscapes", "--data-dir", str(tmp_path)]
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    assert main([*command, "--boundaries", "--json", str(whole)]) == 0
    report = capsys.readouterr().out
    files = [str(tmp_path / f"{n}.json") for n in (1, 2, 3)]
    for number, file in enumerate(files, 1):
        way = ["--boundaries", "--shard", f"{number}/3", "--json", file]
        assert main([*command, *way, "--resume", f"{file}.saved"]) == 0
    assert "shard 1/3, 0 of 2 images" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.saved"))
    assert main(["merge", *files, "--json", str(out)]) == 0
    assert capsys.readouterr().out == report
    got, want = (json.loads(path.read_text()) for path in (out, whole))
    assert without_time(got) == without_time(want)
    assert list(got) == list(want)
    for way, text in (
        (["--shard", "1/2"], "needs a file for its counts; give --json F"),
        (["--shard", "1/2", "--json", files[0], "--report", str(tmp_path)], "leave it out"),
        (["--shard", "3/2", "--json", files[0]], "shard is 3/2; write I/N with I from 1 to N"),
    ):
        assert main([*command, *way]) == 1
        assert text in capsys.readouterr().err
