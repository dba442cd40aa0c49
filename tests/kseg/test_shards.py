"""Jobs that several processes do: the same to the bit as one process."""

import dataclasses
import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import kseg
import kseg.opening
from kseg.cli import main
from kseg.data import Shard, read_shards
from kseg.evaluation import evaluate, evaluate_shard, merge_shards, resume
from kseg.evaluation.sums import ExactSums
from support import jump_clock, without_time, write_camvid, write_maps


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
        shard.write(files[-1])
    return files


def test_the_score_of_shards_is_that_of_one_run(tmp_path):
    """With instances and boundaries; two empty shards, files in any order."""
    data, maps = write_maps(tmp_path, 7)
    want = evaluate(maps, data, boundaries=True)
    assert 0 < want.class_iiou["car"] < 1
    assert 0 < want.boundary_f["car"] < 1
    for count in (1, 3, 9):
        files = shards_of(tmp_path, maps, data, count)
        scores, file = merge_shards(read_shards(files[::-1]))
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
    jump_clock(tmp_path)
    again = evaluate_shard(maps, data, Shard(1, 2), **way)
    assert done == [(2, 2)]
    first = evaluate_shard(maps, data, Shard(1, 2), boundaries=True)
    assert again.counts.to_json() == first.counts.to_json()


def test_shards_that_are_not_of_one_score(tmp_path, capsys):
    """In the command: one line that names the file, and nothing is written."""
    data, maps = write_maps(tmp_path, 4)
    files = shards_of(tmp_path, maps, data, 3)
    third = read_shards(files)[2]
    of_two = shards_of(tmp_path, maps, data, 2)
    copy, other = tmp_path / "copy.json", tmp_path / "other.json"
    copy.write_text(files[1].read_text())
    out = tmp_path / "out.json"

    def fails(*files):
        assert main(["merge", *map(str, files), "--json", str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists()
        return line

    missing = f"{files[1]}: is shard 2/3, and of the others 1, 3 are missing; name their files"
    assert missing in fails(files[1])
    assert "3 is missing; name their files too, or make them: the same" in fails(*files[:2])
    assert f"{copy}: is shard 2/3, and {files[1]} is too" in fails(*files, copy)
    assert f"{of_two[1]}: is shard 2/2, but {files[0]} is 1/3" in fails(files[0], of_two[1])
    for changes, text in (
        ({"model": "b"}, f'model "b" here and "{maps.folder}" there'),
        ({"scales": [0.5]}, "scales [0.5] here and null there"),
        ({"split": "test"}, 'split "test" here and "val" there'),
        ({"boundaries": False}, "boundaries false here and true there"),
        ({"kseg": "0.0.1"}, 'kseg "0.0.1" here'),
        ({"content": "0"}, "the file that was scored had another content"),
        ({"names": "0"}, "the data set had other images"),
        ({"classes": {}}, "the data set had other classes"),
    ):
        dataclasses.replace(third, path=other, job=third.job | changes).write()
        line = fails(*files[:2], other)
        assert f"{other}: is of another job than {files[0]} ({text}" in line
    dataclasses.replace(third, path=other, kind="data").write()
    assert "one is a data shard, the other a score shard" in fails(*files[:2], other)
    dataclasses.replace(third, path=other, found=third.found | {"counts": {}}).write()
    assert f"{other}: is damaged; make this shard again" in fails(*files[:2], other)
    copy.write_text(files[0].read_text())
    for found in ({}, {"facts": {}}, {"facts": third.found["facts"], "kinds": 3}):
        dataclasses.replace(third, path=files[0], shard=Shard(1, 3), found=found).write()
        assert f"{files[0]}: is damaged; make this shard again" in fails(*files)
    files[0].write_text(copy.read_text())
    text = files[2].read_text()
    for wrong, message in (
        (text.replace("score shard 1", "score shard 2"), "is of version 2, this kseg merges 1"),
        (text.replace('"seconds": ', '"seconds": 1'), "is damaged; make this shard again"),
        (text.replace('"shard": "3/3"', '"shard": "4/3"'), "is damaged; make this shard again"),
        *((text, "is no file of a shard") for text in ("{", "[]", "{}", "[" * 100_000)),
    ):
        other.write_text(wrong)
        assert f"{other}: {message}" in fails(*files[:2], other)
    assert "no.json: cannot be read" in fails(files[0], tmp_path / "no.json")
    command = ["merge", *map(str, files), "--json"]
    assert main([*command, str(files[0])]) == 1
    assert "would be written over" in capsys.readouterr().err
    assert main([*command, str(out)]) == 0
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


def write_faulty(folder):
    """A split with what check-data tells of, and one of a single pair."""
    rng = np.random.default_rng(2)
    images, labels = (folder / kind / "train" for kind in ("images", "labels"))
    for path in (images, labels, folder / "images/val", folder / "labels/val"):
        path.mkdir(parents=True)
    (folder / "classes.txt").write_text("ground\nthing\n")
    for number in range(7):
        ids = [[0, 1, 1], [0, 0, 255], [0, 255, 0], [9, 1, 0]][number % 4]
        label = Image.fromarray(np.tile(np.uint8(ids), (2 + number % 2, 1)))
        if number in (1, 4, 5):
            label.putpalette([0, 0, 0, number, 9, 9])
        label.save(labels / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8)).save(images / f"{number}.png")
    for path in (images, labels):
        content = (path / "0.png").read_bytes()
        (path.parent / "val/a.png").write_bytes(content)
        (path / f"alone-in-{path.parent.name}.png").write_bytes(content)
    (images / "1.png").write_bytes(b"no picture")
    (images / "notes.txt").write_text("a")
    (images / ".hidden").write_text("a")


def test_the_report_of_shards_is_that_of_one_run(tmp_path, capsys):
    """Of two splits, with whatever may be said of one; more shards than images too."""
    write_faulty(tmp_path / "data")
    command = ["check-data", "--dataset", "folder", "--data-dir", str(tmp_path / "data")]
    assert main(command) == 1
    want = capsys.readouterr().out
    for text in ("has no image", "has no label", "not a readable", "palette with", "ids [9]"):
        assert text in want
    assert "passed over" in want
    for count in (1, 3, 9):
        files = [str(tmp_path / f"{n}-of-{count}.json") for n in range(1, count + 1)]
        for number, file in enumerate(files, 1):
            assert main([*command, "--shard", f"{number}/{count}", "--json", file]) == 0
        capsys.readouterr()
        assert main(["merge", *files]) == 1
        assert capsys.readouterr().out == want
    assert main(["merge", *files, "--json", str(tmp_path / "x")]) == 1
    assert "is no score but of check-data" in capsys.readouterr().err
    dataclasses.replace(read_shards(files)[0], found={"splits": []}).write()
    assert main(["merge", *files]) == 1
    assert "1-of-9.json: is damaged" in capsys.readouterr().err
    assert main([*command, "--shard", "1/2"]) == 1
    assert "belong together; give --shard I/N --json F, or neither" in capsys.readouterr().err


def test_shards_of_predictions(tiny_model, tmp_path, capsys, monkeypatch):
    """The files of one run, byte for byte; one shard is empty, another is done twice."""

    class Bright:
        """A Predictor: sky where the image is bright, road elsewhere."""

        card, input_size, runtime = tiny_model.card, None, "test"

        def __call__(self, image):
            return np.eye(11, dtype=np.float32)[np.where(image[..., 0] > 128, 0, 3)]

    monkeypatch.setattr(kseg.opening, "open_predictor", lambda *_, **__: Bright())
    write_camvid(tmp_path, {"val": 3})
    images = sorted(map(str, (tmp_path / "val").glob("*.png")))
    split = ["--dataset", "camvid", "--data-dir", str(tmp_path), "--split", "val"]
    for way, to in ((images, "--out"), (split, "--submission")):
        whole, parts = tmp_path / f"whole{to}", tmp_path / f"parts{to}"
        command = ["predict", "model.keras", *way, to]
        assert main([*command, str(whole)]) == 0
        for number in (4, 2, 3, 1, 2):
            assert main([*command, str(parts), "--shard", f"{number}/4"]) == 0
        found = [{p.name: p.read_bytes() for p in f.iterdir()} for f in (whole, parts)]
        assert found[0] == found[1]
        assert len(found[0]) == 3 * (2 if to == "--out" else 1)
    assert "0 files" in capsys.readouterr().out
