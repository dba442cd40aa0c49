"""Scores of many images: the same for any number of threads, after a kill, in little memory."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.cli import main
from kseg.data import CITYSCAPES, Shard, open_dataset, read_shards
from kseg.evaluation import (
    ConfusionMatrix,
    SavedScores,
    evaluate,
    evaluate_shard,
    merge_shards,
    resume,
)
from kseg.evaluation.boundaries import BoundaryScores
from kseg.evaluation.categories import InstanceScores
from kseg.evaluation.confusion import runs
from kseg.evaluation.counts import Counts
from support import without_time, write_camvid, write_maps


def test_runs_are_the_pixels():
    """Put together again they are the maps; counted they are the pixels' counts."""
    rng = np.random.default_rng(0)
    for shape, classes in (((1, 1), 2), ((3, 50), 3), ((40, 41), 19)):
        labels, answers = rng.integers(0, classes, (2, *shape), np.uint8)
        labels[rng.random(shape) < 0.2] = 255
        answers[rng.random(shape) < 0.2] = 255
        (first, second), pixels = runs(labels, answers)
        np.testing.assert_array_equal(first.repeat(pixels), labels.ravel())
        np.testing.assert_array_equal(second.repeat(pixels), answers.ravel())
        want = np.zeros((classes, classes + 1), int)
        for label, answer in zip(labels.ravel(), answers.ravel(), strict=True):
            if label != 255:
                want[label, min(answer, classes)] += 1
        matrix = ConfusionMatrix(classes)
        matrix.update(labels, answers)
        np.testing.assert_array_equal(matrix.counts, want)


def test_scores_are_those_of_their_parts():
    """Image after image, merged, or with a file between: what each part counts by itself."""
    rng = np.random.default_rng(6)
    classes, frames = CITYSCAPES, []
    for name in ("a", "b", "c"):
        label = rng.choice([0, 2, 13, 18, 255], (6, 5)).repeat(9, 0).repeat(11, 1)
        answer = np.where(rng.random(label.shape) < 0.2, rng.choice([0, 13, 255]), label)
        answer = np.roll(answer, 2, 1)
        ids = np.where(label == 13, 26, 33) * 1000 + rng.integers(1, 5, label.shape)
        instances = np.where(np.isin(label, (13, 18)), ids, 0)
        frames.append((name, np.uint8(label), np.uint8(answer), np.uint16(instances)))

    def scores(*frames):
        result = Counts(classes, instances=True, boundaries=True)
        for frame in frames:
            result.add(*frame)
        return result

    whole, merged, resumed = scores(*frames), scores(), scores(frames[2])
    for frame in frames:
        merged.merge(scores(frame))
    resumed.restore(json.loads(json.dumps(scores(*frames[:2]).to_json())))
    assert resumed.images == 2
    resumed.add(*frames[2])

    matrix, edges = ConfusionMatrix(19), BoundaryScores(19)
    instances, images = InstanceScores(classes), {}
    for name, label, answer, ids in frames:
        matrix.update(label, answer)
        edges.update(label, answer)
        instances.update(ids, answer)
        alone = ConfusionMatrix(19)
        alone.update(label, answer)
        images[name] = alone.mean_iou()
    iiou = instances.class_iou(matrix)
    f_scores = edges.boundary_f()
    for made in (whole, merged, resumed):
        report = made.figures()
        assert made.images == 3
        assert report["image_iou"] == images
        assert report["confusion_matrix"] == matrix.counts.tolist()
        assert report["mean_iou"] == matrix.mean_iou()
        # sums of float64 in another order
        for name in iiou:
            assert report["class_iiou"][name] == (iiou[name] and pytest.approx(iiou[name], 1e-12))
        # bicycles and cars are all that have instances here
        assert report["mean_class_iiou"] == pytest.approx((iiou["car"] + iiou["bicycle"]) / 2)
        assert report["trimap_iou"] == edges.trimap_iou()
        assert list(report["boundary_f"].values()) == f_scores


def test_borders_are_those_of_the_labels():
    """A prediction without any: everything within 40 pixels of the label's border is scored."""
    label = (np.indices((4, 100))[1] >= 50).astype(np.uint8)
    scores = Counts(CITYSCAPES, instances=False, boundaries=True)
    scores.add("a", label, np.zeros_like(label), None)
    # half of the band is right: an IoU of 1/2 of class 0, and none of class 1
    assert scores.figures()["trimap_iou"] == [0.25] * 40


def test_threads_do_not_change_the_score(tmp_path):
    data, maps = write_maps(tmp_path, 7)
    done = []
    reports = [
        evaluate(
            maps, data, boundaries=True, workers=n, progress=lambda *c: done.append(c)
        ).to_json()
        for n in (1, 2, 16)
    ]
    assert done == [(n, 7) for n in range(1, 8)] * 3
    first, *others = map(without_time, reports)
    assert all(other == first for other in others)
    assert 0.6 < first["mean_iou"] < 0.95
    assert 0 < first["class_iiou"]["car"] < 1
    assert 0 < first["boundary_f"]["car"] < 1
    with pytest.raises(kseg.KsegError, match="workers is 0; it must be at least 1"):
        evaluate(maps, data, workers=0)


def test_label_maps_that_do_not_fit(tmp_path, capsys):
    _, maps = write_maps(tmp_path, 2)
    file = maps.folder / "bonn_000001_000019_pred_labelIds.png"
    command = ["evaluate", str(maps.folder), "--dataset", "cityscapes", "--data-dir", str(tmp_path)]

    def fails(*way):
        assert main([*command, *way]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert main(command) == 0
    assert f"cityscapes val, 2 images, label maps of {maps.folder}" in capsys.readouterr().out
    copy = maps.folder / "copy" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert "is another label map of this image; keep one" in fails()
    copy.unlink()
    pixels = np.asarray(Image.open(file))
    Image.fromarray(pixels[:, ::2]).save(file)
    assert f"{file}: is 40x32 but its label is 40x63 (HxW)" in fails()
    Image.fromarray(np.full_like(pixels, 77)).save(file)
    assert f"{file}: has ids [77] that the data set does not know" in fails()
    file.write_bytes(file.read_bytes()[:50])
    assert f"{file}: not a readable image" in fails()
    file.unlink()
    assert f"{maps.folder}: has neither {file.name} nor bonn_000001_000019.png" in fails()
    assert "scored as they are; leave scales, flip out" in fails("--scales", "1", "2", "--flip")
    assert "leave runtime, --output-stride and card out" in fails("--runtime", "litert-gpu")


KILLED = """
import os, signal, sys
from pathlib import Path
from kseg.data import WHOLE, Shard, open_dataset
from kseg.evaluation import LabelMaps, SavedScores, evaluate_shard, resume

resume.INTERVAL = 0
folder = Path(sys.argv[1])
data = open_dataset("cityscapes", folder, "val")
for shard, images in ((WHOLE, 3), (Shard(1, 2), 1), (Shard(2, 2), 2)):

    def kill(done, total):
        if done == images:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        saved = SavedScores(folder / f"{shard.number}-of-{shard.count}.saved", folder / "maps")
        evaluate_shard(
            LabelMaps(folder / "maps"), data, shard, boundaries=True, saved=saved, progress=kill
        )
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folder, data and label maps of a score and of two halves of it that were killed."""
    folder = tmp_path_factory.mktemp("killed")
    data, maps = write_maps(folder, 6)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, folder], timeout=300, stdout=subprocess.PIPE, check=True
    )
    assert list(map(int, child.stdout.split())) == [-signal.SIGKILL] * 3
    return folder, data, maps


def test_killed_shards_go_on_to_the_same_score(killed, tmp_path):
    folder, data, maps = killed
    files, done = [tmp_path / "1.json", tmp_path / "2.json"], []
    for number, file in enumerate(files, 1):
        evaluate_shard(
            maps,
            data,
            Shard(number, 2),
            boundaries=True,
            saved=SavedScores(folder / f"{number}-of-2.saved", maps.folder),
            progress=lambda *counts: done.append(counts),
        ).write(file)
    assert done == [(1, 3), (2, 3), (3, 3), (2, 3), (3, 3)]
    scores, _ = merge_shards(read_shards(files))
    want = evaluate(maps, data, boundaries=True)
    assert without_time(scores.to_json()) == without_time(want.to_json())


def test_a_killed_score_goes_on_to_the_same_figures(killed, tmp_path):
    folder, data, maps = killed
    want = evaluate(maps, data, boundaries=True).to_json()
    saved = SavedScores(folder / "1-of-1.saved", maps.folder)
    done = []
    got = evaluate(
        maps, data, boundaries=True, saved=saved, progress=lambda *counts: done.append(counts)
    ).to_json()
    assert done == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert without_time(got) == without_time(want)
    # All is there now: nothing is left to do, and nothing is done.
    again = evaluate(maps, data, boundaries=True, saved=saved, progress=lambda *c: done.append(c))
    assert done[4:] == [(6, 6)]
    assert without_time(again.to_json()) == without_time(want)
    # Another split, other label maps or other scores are another run.
    some = data.some(3)
    for other, way, name in (
        (some, dict(boundaries=True), "images 6 there and 3 here"),
        (data, dict(boundaries=False), "boundaries true there and false here"),
    ):
        with pytest.raises(kseg.KsegError, match=rf"\.saved: is of another score: .*{name}"):
            evaluate(maps, other, saved=saved, **way)
    _, other = write_maps(tmp_path / "other", 6, seed=6)
    with pytest.raises(kseg.KsegError, match=r"another score: model .* there and .* here; name"):
        evaluate(other, data, boundaries=True, saved=saved)


def test_ctrl_c_between_the_counts_of_an_image(tmp_path, monkeypatch):
    """What is kept is whole images; the score goes on as if nothing had been."""
    data, maps = write_maps(tmp_path, 3)
    saved = SavedScores(tmp_path / "saved.json", maps.folder)
    monkeypatch.setattr(resume, "INTERVAL", 0)
    merge, calls = Counts.merge, []

    def interrupted(counts, other):
        calls.append(other)
        if len(calls) == 2:
            counts._matrix.counts += other._matrix.counts
            raise KeyboardInterrupt
        merge(counts, other)

    with monkeypatch.context() as patch:
        patch.setattr(Counts, "merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(maps, data, saved=saved)
    done = []
    scores = evaluate(maps, data, saved=saved, progress=lambda *c: done.append(c))
    assert without_time(scores.to_json()) == without_time(evaluate(maps, data).to_json())
    assert done[0] == (1, 3)


@pytest.mark.parametrize("changed", ["image", "label", "scored map", "later map", "touched"])
def test_a_score_goes_on_with_the_same_files_alone(changed, tmp_path, monkeypatch):
    """Two of three images are scored, then a file changes or stays what it is."""
    monkeypatch.setattr(resume, "INTERVAL", 0)
    data, maps = write_maps(tmp_path, 3)
    saved = SavedScores(tmp_path / "saved.json", maps.folder)

    def leave(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(maps, data, saved=saved, progress=leave)
    found = [next(maps.folder.rglob(f"{name}*.png")) for name in data.names]
    path = {
        "image": data.samples[0].image,
        "label": data.samples[1].label,
        "scored map": found[0],
        "later map": found[2],
        "touched": data.samples[0].label,
    }[changed]
    times = path.stat()
    pixels = np.array(Image.open(path))
    if changed == "touched":
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    else:
        pixels.flat[0] = 7 if pixels.flat[0] != 7 else 8
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # its time says nothing
    done = []
    again = SavedScores(tmp_path / "saved.json", maps.folder)

    def go_on():
        return evaluate(maps, data, saved=again, progress=lambda *c: done.append(c)).to_json()

    if changed in ("image", "label", "scored map"):
        message = r"saved\.json: images, labels, .* were changed after they were scored; delete"
        with pytest.raises(kseg.KsegError, match=message):
            go_on()
        return
    assert without_time(go_on()) == without_time(evaluate(maps, data).to_json())
    assert done == [(2, 3), (3, 3)]


def test_a_score_goes_on_with_a_copy_of_the_data(tmp_path):
    """Not with a file that an earlier kseg left, which does not say of what it is."""
    data, maps = write_maps(tmp_path / "here", 2)
    path = tmp_path / "saved.json"
    evaluate(maps, data, saved=SavedScores(path, maps.folder))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    copy = open_dataset("cityscapes", tmp_path / "there", "val")
    done = []
    evaluate(maps, copy, saved=SavedScores(path, maps.folder), progress=lambda *c: done.append(c))
    assert done == [(2, 2)]
    state = json.loads(path.read_text())
    state["scores"]["confusion_matrix"][0][0] += 1
    path.write_text(json.dumps(state))
    with pytest.raises(kseg.KsegError, match=r"is no score that was left .*damaged"):
        evaluate(maps, data, saved=SavedScores(path, maps.folder))
    del state["checksum"]
    path.write_text(json.dumps(state))
    with pytest.raises(kseg.KsegError, match="an earlier kseg, which kept no checksum"):
        evaluate(maps, data, saved=SavedScores(path, maps.folder))


def test_a_score_goes_on_with_another_number_of_threads(tmp_path):
    data, _ = write_maps(tmp_path, 1)

    def load(runtime):
        counts = Counts(data.classes, instances=False, boundaries=False)
        SavedScores(tmp_path / "saved.json").load({"runtime": runtime}, data, counts)

    load("litert 2.3.0 cpu, 2 threads")
    load("litert 2.3.0 cpu, 4 threads")
    with pytest.raises(kseg.KsegError, match="another score: runtime"):
        load("litert 2.2.0 cpu, 4 threads")


def test_resume_in_the_command(tiny_model, tiny_keras, tmp_path, capsys, monkeypatch):
    """An image that cannot be read ends it; mended, it goes on, and the file is gone."""
    monkeypatch.setattr(resume, "INTERVAL", 0)
    write_camvid(tmp_path, {"val": 3})
    saved, score = tmp_path / "saved.json", tmp_path / "score.json"

    def run(file=tiny_keras, *way):
        data = ["--dataset", "camvid", "--data-dir", tmp_path, "--workers", 1]
        return main([str(x) for x in ("evaluate", file, *data, "--json", score, *way)])

    assert run() == 0
    want = without_time(json.loads(score.read_text()))
    image = tmp_path / "val/002.png"
    content = image.read_bytes()
    image.write_bytes(content[:40])
    assert run(tiny_keras, "--resume", saved) == 1
    assert "002.png: not a readable image" in capsys.readouterr().err
    assert len(json.loads(saved.read_text())["scores"]["image_iou"]) == 1
    image.write_bytes(content)
    for way, text in (
        (["--scales", "0.5", "1"], "scales [1.0] there and [0.5, 1.0] here"),
        (["--input-size", "32", "40"], "--input-size null there and [32, 40] here"),
    ):
        assert run(tiny_keras, "--resume", saved, *way) == 1
        error = capsys.readouterr().err
        assert f"{saved}: is of another score: {text}; name another file or delete" in error
    other = kseg.create_model("cgnet_m3n21", num_classes=11, m=2, n=2)
    other.card = tiny_model.card
    other.save(tmp_path / "other.keras")
    assert run(tmp_path / "other.keras", "--resume", saved) == 1
    assert "another score: content " in capsys.readouterr().err
    assert run(tiny_keras, "--resume", saved) == 0
    assert without_time(json.loads(score.read_text())) == want
    assert not saved.exists()
    for text in ("{", "[]", '{"run": 3}'):
        saved.write_text(text)
        assert run(tiny_keras, "--resume", saved) == 1
        assert f"{saved}: is no score that was left" in capsys.readouterr().err
    assert run(tiny_keras, "--resume", tmp_path / "no/saved.json") == 1
    assert "saved.json: cannot be written" in capsys.readouterr().err


PEAKS = """
import sys
from kseg.data import open_dataset
from kseg.evaluation import evaluate
from kseg.predictor import KerasPredictor
from kseg.tflite.timing_worker import peak_memory

predictor, data = KerasPredictor(sys.argv[1]), open_dataset("camvid", sys.argv[2], "val")
for count in (8, 64):
    evaluate(predictor, data.some(count), workers=2)
    print(peak_memory())
"""


def test_memory_does_not_grow_with_the_images(tiny_keras, tmp_path):
    write_camvid(tmp_path, {"val": 64}, size=(192, 256))
    child = subprocess.run(
        [sys.executable, "-c", PEAKS, tiny_keras, tmp_path],
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    few, many = map(int, child.stdout.split())
    # 56 images more have 11 MB of pixels and labels, and 121 MB of logits.
    assert many - few < 8e6
