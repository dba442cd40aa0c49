"""Prepared records: what they hold, that they are whole, and that training sees the same."""

import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg
import kseg.training
from kseg.cli import main
from kseg.data import Shard, open_dataset, read_image
from kseg.errors import KsegWarning
from kseg.evaluation import LabelMaps, evaluate
from kseg.evaluation.overlays import write_overlays
from kseg.evaluation.sources import find_sources
from kseg.predictor import KerasPredictor, predict_labels
from kseg.training import open_records, prepare, prepare_shard, records, tfrecord
from support import run_kseg, write_camvid

SHARDS = 3
# Levels, of the tiny images' noise: 3.2 by Pillow's own way there and back
JPEG_LOSS = 4
FILES = [f"shard-{i:05d}-of-00003.tfrecord" for i in range(SHARDS)]


@pytest.fixture(scope="module")
def data(tiny_camvid) -> kseg.data.DataSet:
    return open_dataset("camvid", tiny_camvid, "train")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    """Six images in three shards; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("records") / "of" / "camvid"
    prepare(data, folder, shards=SHARDS, workers=1)
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def official(folder) -> list[bytes]:
    """Every record by TensorFlow's own reader, which verifies TFRecord's checksums."""
    files = [str(folder / name) for name in FILES]
    return [record.numpy() for record in tf.data.TFRecordDataset(files)]


def test_tensorflow_and_pillow_read_them(data, folder):
    assert sorted(contents(folder)) == ["index.json", *FILES]
    stored = official(folder)
    assert len(stored) == len(data)
    for record, sample in zip(stored, data.samples, strict=True):
        image, label = data.labelled(sample)
        features = tf.train.Example.FromString(record).features.feature
        values = {key: feature.bytes_list.value[0] for key, feature in features.items()}
        assert set(values) == {"image", "label", "name"}
        assert values["name"].decode() == sample.name
        with Image.open(io.BytesIO(values["image"])) as jpeg:
            assert jpeg.format == "JPEG"
            # (component, horizontal, vertical sampling, table): no subsampling
            assert [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3
            # Quality 95 is a tenth of Annex K's tables, which begin with 16 and 17.
            assert [table[0] for table in jpeg.quantization.values()] == [2, 2]
            assert np.abs(np.asarray(jpeg).astype(int) - image).mean() < JPEG_LOSS
        with Image.open(io.BytesIO(values["label"])) as png:
            assert png.mode == "L"
            np.testing.assert_array_equal(np.asarray(png), label)


def test_any_record_is_read_alone(folder):
    found = open_records(folder)
    for index, record in reversed(list(enumerate(official(folder)))):
        assert found.read(index) == record


def test_what_the_index_says(data, folder):
    found = open_records(folder, "camvid", "train")
    assert (found.name, found.split, found.size) == ("camvid", "train", (360, 480))
    assert found.classes == data.classes
    assert found.names == tuple(s.name for s in data.samples)
    assert found.sizes.tolist() == [[48, 64]] * 6
    np.testing.assert_array_equal(found.class_pixels(), data.class_pixels())
    np.testing.assert_array_equal(found.label_counts().pixels, data.label_counts().pixels)
    np.testing.assert_array_equal(found.sample_pixels(), data.sample_pixels())


def test_classes_with_groups_travel(tmp_path):
    """Cityscapes' table has all that a table can have."""
    from kseg.streets import write_streets

    write_streets(tmp_path / "streets", 2, size=(16, 32))
    streets = open_dataset("streets", tmp_path / "streets", "train")
    assert prepare(streets, tmp_path / "records").classes == streets.classes


def batches(folder, count, stored=None, **options):
    options = {"crop": (32, 40), "batch_size": 2, "start_step": 0, **options}
    stream = kseg.training.dataset("camvid", folder, "train", records=stored, **options)
    return [tuple(t.numpy() for t in batch) for batch in stream.take(count)]


@pytest.mark.parametrize(
    "options",
    [
        dict(jitter=0.2, seed=3),
        dict(scale=(0.4, 0.7), start_step=5),  # padded
        dict(crop=(48, 64), scale=(1, 1), jitter=0),
    ],
)
def test_the_same_windows_and_factors(options, folder, tiny_camvid):
    """Labels are equal, so windows, scales and flips are; images but for the JPEG."""
    plain = batches(tiny_camvid, 4, **options)
    stored = batches(None, 4, folder, **options)
    for (a, b), (c, d) in zip(plain, stored, strict=True):
        np.testing.assert_array_equal(b, d)
        # Brightness and contrast are 1.2 at most.
        assert np.abs(a - c).mean() < JPEG_LOSS * 1.44


def test_a_stream_of_records_goes_on(folder):
    whole, rest = batches(None, 7, folder), batches(None, 3, folder, start_step=4)
    for (a, b), (c, d) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_jpeg_files_are_taken_as_they_are(tmp_path):
    """A smooth colour ramp with chroma subsampling, which a second JPEG would change."""
    for kind, extra in (("baseline", {}), ("progressive", {"progressive": True})):
        split = tmp_path / "images" / kind
        split.mkdir(parents=True)
        (tmp_path / "labels" / kind).mkdir(parents=True)
        rows, columns = np.mgrid[:48, :64]
        pixels = np.stack([4 * columns, 5 * rows, 255 - 3 * columns], -1).astype(np.uint8)
        Image.fromarray(pixels).save(split / "a.jpg", quality=80, **extra)
        Image.fromarray((columns // 32).astype(np.uint8)).save(tmp_path / "labels" / kind / "a.png")
    (tmp_path / "classes.txt").write_text("left\nright\n")
    for kind, same in (("baseline", True), ("progressive", False)):
        source = open_dataset("folder", tmp_path, kind)
        found = prepare(source, tmp_path / f"{kind} records")
        example = tf.train.Example.FromString(found.read(0))
        (stored,) = example.features.feature["image"].bytes_list.value
        assert (stored == source.samples[0].image.read_bytes()) == same
        ((image, label),) = kseg.training.dataset(
            "folder", None, kind, records=tmp_path / f"{kind} records", batch_size=1
        )
        want = source.labelled(source.samples[0])
        # Two libraries' inverse transforms of one file round alike to one level.
        error = np.abs(image[0] - want[0].astype(int))
        assert error.max() <= (1 if same else 8)
        np.testing.assert_array_equal(label[0], want[1])


def test_a_killed_preparation_goes_on(data, folder, tmp_path, monkeypatch):
    real = records._write_shard

    def killed(path, *args):
        if path.name == FILES[2]:
            raise KeyboardInterrupt
        return real(path, *args)

    monkeypatch.setattr(records, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tmp_path, shards=SHARDS, workers=1)
    assert sorted(contents(tmp_path)) == sorted(
        name for file in FILES[:2] for name in (file, file.replace("tfrecord", "json"))
    )
    with pytest.raises(kseg.KsegError, match=r"index\.json: cannot be read; `kseg prepare` writes"):
        open_records(tmp_path)
    # What a killed writer leaves, and a shard whose part of the index was not written.
    (tmp_path / ".kseg-unfinished-left").mkdir()
    (tmp_path / FILES[1]).with_suffix(".json").unlink()

    written, counts = [], []
    monkeypatch.setattr(records, "_write_shard", lambda *a: written.append(a[0].name) or real(*a))
    prepare(data, tmp_path, shards=SHARDS, workers=1, progress=lambda *n: counts.append(n))
    assert written == FILES[1:]
    assert counts == [(2, 6), (4, 6), (6, 6)]
    assert contents(tmp_path) == contents(folder)


def test_shards_of_a_preparation(data, folder, tmp_path, monkeypatch):
    """Whoever ends last writes the index; one that is killed goes on; two are one too many."""
    real = records._write_shard

    def part(number, **way):
        return prepare_shard(data, tmp_path, Shard(number, 4), shards=SHARDS, workers=1, **way)

    def killed(path, *args):
        # What SIGKILL leaves, of this machine and of another that may be writing.
        for host in (socket.gethostname(), f"{socket.gethostname()}-2"):
            left = tmp_path / f".kseg-unfinished-{host}-abcdefgh"
            left.mkdir()
            (left / path.name).write_bytes(b"half")
        raise KeyboardInterrupt

    assert part(1) is False  # four processes for three files
    monkeypatch.setattr(records, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        part(4)
    monkeypatch.setattr(records, "_write_shard", real)
    counts = []
    assert part(4, progress=lambda *n: counts.append(n)) is False
    assert counts == [(0, 2), (2, 2)]
    (of_another,) = tmp_path.glob(".kseg-*")

    def meanwhile(path, *args):
        with pytest.raises(kseg.KsegError, match=rf"process {os.getpid()} on .* works on it"):
            part(3)
        with pytest.raises(kseg.KsegError, match="works on it; let it end"):
            prepare(data, tmp_path, shards=SHARDS, workers=1)
        monkeypatch.setattr(records, "_write_shard", real)
        assert part(2) is False
        return real(path, *args)

    monkeypatch.setattr(records, "_write_shard", meanwhile)
    assert part(3) is True
    assert contents(of_another) == {FILES[2]: b"half"}
    shutil.rmtree(of_another)
    assert contents(tmp_path) == contents(folder)
    assert open_records(tmp_path).fingerprint() == open_records(folder).fingerprint()


def test_the_command_with_two_workers_writes_the_same(folder, tiny_camvid, tmp_path):
    result = run_kseg(
        *("prepare", "--dataset", "camvid", "--data-dir", tiny_camvid, "--split", "train"),
        *(tmp_path / "out", "--shards", SHARDS, "--workers", 2),
    )
    assert result.returncode == 0, result.stderr
    assert "6 images in 3 shards" in result.stdout
    # A line a minute, should it take so long; the workers say nothing.
    assert all("/6 images" in line for line in result.stderr.splitlines())
    assert contents(tmp_path / "out") == contents(folder)


def test_workers_load_no_tensorflow():
    """A worker imports what ``_write_shard`` needs, which would take seconds with TensorFlow."""
    code = "import sys, kseg.training.records; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == ""
    assert "kseg.training.tfrecord" in result.stdout.split()
    assert not {"keras", "tensorflow", "jax"} & set(result.stdout.split())


@pytest.mark.parametrize(
    ("content", "checksum"),
    [
        # RFC 3720, Appendix B.4, and the check value of the catalogue of CRCs
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_published_checksums(content, checksum):
    assert tfrecord.crc32c(content) == checksum


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 511, 512, 513, 70_001])
def test_records_of_any_length_are_tensorflows(length, tmp_path):
    """To the byte, around the lengths at which the checksum takes another lane."""
    content = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(content)
    assert tfrecord.framed(content) == (tmp_path / "a").read_bytes()
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in (("name", b"x"), ("image", content), ("label", content[1:]))
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    assert tfrecord.serialized_example(
        name=b"x", image=content, label=content[1:]
    ) == example.SerializeToString(deterministic=True)


def flip_a_byte(folder):
    path = folder / FILES[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


def truncate(folder):
    os.truncate(folder / FILES[0], 100)


def lose(folder):
    (folder / FILES[2]).unlink()


def garble(folder):
    (folder / "index.json").write_text('{"version": ')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"shard-00001-of-00003\.tfrecord: is damaged at record '002'; run `kseg pre"),
        (truncate, r"shard-00000-of-00003\.tfrecord: has 100 bytes, not \d+; run `kseg prepare`"),
        (lose, r"shard-00002-of-00003\.tfrecord: is missing; run `kseg prepare` again"),
        (garble, r"index\.json: is damaged; run `kseg prepare` again"),
    ],
)
def test_damage_is_named_and_repaired(damage, message, data, folder, copy):
    damage(copy)
    with pytest.raises(kseg.KsegError, match=message) as error:
        open_records(copy).read(2)
    assert "\n" not in str(error.value)
    prepare(data, copy, shards=SHARDS, workers=1)
    assert contents(copy) == contents(folder)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_shards_of_changed_files_are_made_anew(kind, tmp_path, capsys):
    """One file of six changes, with its size and time as before; a copy elsewhere is the same."""
    root, out = tmp_path / "data", tmp_path / "records"
    root.mkdir()
    write_camvid(root, {"train": 6})
    data = open_dataset("camvid", root, "train")
    before = prepare(data, out, shards=SHARDS, workers=1)
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    shutil.copytree(root, tmp_path / "copy")
    os.utime(data.samples[0].image, (1, 1))
    copy = open_dataset("camvid", tmp_path / "copy", "train")
    assert prepare(copy, out, shards=SHARDS, workers=1).fingerprint() == before.fingerprint()
    assert stamps == {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}

    path = getattr(data.samples[3], kind)
    times = path.stat()
    Image.fromarray(np.array(Image.open(path))[::-1]).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(kseg.KsegError, match=r"003\.png or its image has changed .*\(1 such"):
        kseg.training.dataset("camvid", root, "train", records=out)
    config = kseg.training.TrainingConfig(
        "small", "camvid", records=str(out), val_split=None, crop=(32, 40), batch_size=2, steps=1
    )
    with pytest.raises(kseg.KsegError, match="run `kseg prepare` again"):
        kseg.training.train(config, root, tmp_path / "run")
    assert main(["prepare", "--dataset", "camvid", "--data-dir", str(root), str(out)]) == 1
    assert "another shard count 3, not 1" in capsys.readouterr().err
    after = prepare(data, out, shards=SHARDS, workers=1)
    made = {p.name for p in out.glob("*.tfrecord") if p.stat().st_mtime_ns != stamps[p.name]}
    assert made == {"shard-00001-of-00003.tfrecord"}
    assert after.fingerprint() != before.fingerprint()
    want = kseg.training.dataset("camvid", root, "train", batch_size=6)
    got = kseg.training.dataset("camvid", root, "train", records=out, batch_size=6)
    (images, labels), (stored, stored_labels) = next(iter(want)), next(iter(got))
    np.testing.assert_array_equal(labels, stored_labels)
    assert np.abs(images.numpy() - stored.numpy()).mean() < JPEG_LOSS


def test_records_of_an_earlier_kseg_are_made_anew(data, folder, copy, tiny_camvid):
    index = json.loads((copy / "index.json").read_text())
    for shard in index["shards"]:
        for record in shard["records"]:
            del record["source"], record["class_pixels"]
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.warns(KsegWarning, match="an earlier kseg prepared these records"):
        kseg.training.dataset("camvid", tiny_camvid, "train", records=copy)
    with pytest.raises(kseg.KsegError, match="without the classes of each image; run `kseg pre"):
        batches(None, 1, copy, class_uniform=0.5)
    prepare(data, copy, shards=SHARDS, workers=1)
    assert contents(copy) == contents(folder)


def turned(path, image, orientation):
    """Saves a JPEG whose viewers show ``image``."""
    back = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).transpose(back).save(path, quality=95, subsampling=0, exif=exif)


@pytest.mark.parametrize("size", [(40, 40), (32, 48)], ids=["square", "not square"])
@pytest.mark.parametrize("orientation", [6, 3])
def test_photographs_are_upright_everywhere(size, orientation, tmp_path, tiny_model):
    """A bright quarter, and its label, at the top left as viewers show it."""
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
    (tmp_path / "data/classes.txt").write_text("ground\nthing\n")
    label = np.zeros(size, np.uint8)
    label[: size[0] // 2, : size[1] // 2] = 1
    image = np.repeat(np.where(label == 1, 220, 30)[..., None], 3, 2).astype(np.uint8)
    turned(tmp_path / "data/images/val/photo.jpg", image, orientation)
    Image.fromarray(label).save(tmp_path / "data/labels/val/photo.png")
    data = open_dataset("folder", tmp_path / "data", "val")
    prepare(data, tmp_path / "records", workers=1)
    for source in (None, tmp_path / "records"):
        batches = kseg.training.dataset(
            "folder", tmp_path / "data", "val", records=source, batch_size=1
        )
        ((pixels, ids),) = batches
        assert pixels.shape == (1, *size, 3)
        np.testing.assert_array_equal(ids[0], label)
        # The border of the quarter rings in a JPEG, by less than half of the step.
        np.testing.assert_array_equal(pixels[0, ..., 0] > 125, label == 1)
    scores = evaluate(LabelMaps(tmp_path / "data/labels/val"), data)
    assert scores.mean_iou == 1
    predictor = KerasPredictor(tiny_model)
    (path, _) = write_overlays(predictor, find_sources([data.samples[0].image]), tmp_path / "out")
    want = predict_labels(predictor, read_image(data.samples[0].image))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), want)
    assert want.shape == size


def test_damage_stops_training(copy):
    flip_a_byte(copy)
    with pytest.raises(tf.errors.OpError, match=r"KsegError: .*is damaged at record '002'"):
        batches(None, 3, copy)
    lose(copy)
    with pytest.raises(kseg.KsegError, match="is missing"):
        batches(None, 3, copy)


def test_another_version_and_other_data_are_refused(data, copy, tiny_camvid):
    for name, split, message in (
        ("streets", "train", "holds records of camvid train, and dataset 'streets' is asked for"),
        ("camvid", "val", "holds records of camvid train, and split 'val' is asked for"),
    ):
        with pytest.raises(kseg.KsegError, match=message):
            open_records(copy, name, split)
    val = open_dataset("camvid", tiny_camvid, "val")
    with pytest.raises(kseg.KsegError, match="records of another split 'train', not 'val'; choose"):
        prepare(val, copy)
    with pytest.raises(kseg.KsegError, match="records of another shard count 3, not 2"):
        prepare(data, copy, shards=2)
    index = json.loads((copy / "index.json").read_text())
    index["version"] = 2
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(kseg.KsegError, match=r"index\.json: is of version 2, this kseg reads 1"):
        open_records(copy)


def test_other_images_of_the_same_split_are_refused(copy, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_camvid(other, {"train": 6})
    for kind in ("train", "trainannot"):
        (other / kind / "000.png").rename(other / kind / "new.png")
    with pytest.raises(kseg.KsegError, match="holds other images of the split"):
        prepare(open_dataset("camvid", other, "train"), copy, shards=SHARDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shards=0), "shards is 0; 6 images make 1 to 6"),
        (dict(shards=7), "shards is 7"),
        (dict(workers=0), "workers is 0"),
    ],
)
def test_refusals(options, message, data, tmp_path):
    with pytest.raises(kseg.KsegError, match=message):
        prepare(data, tmp_path, **options)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (33, 2)])
def test_labels_of_any_size_are_png(shape):
    label = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(records._png(label))) as image:
        np.testing.assert_array_equal(np.asarray(image), label)
    # TensorFlow has another decoder; a checksum that is wrong it refuses.
    content = records._png(label)
    np.testing.assert_array_equal(tf.io.decode_png(content)[..., 0], label)
    assert struct.unpack(">II", content[16:24]) == shape[::-1]


def test_training_from_records(folder, tiny_camvid, tmp_path, capsys):
    """Without the files of the split; validation is of files, whose classes must agree."""
    arguments = [
        *("train", "--model", "small", "--dataset", "camvid"),
        *("--records", folder, "--run-dir", tmp_path / "run"),
        *("--batch-size", 2, "--crop", 32, 40, "--steps", 1),
    ]
    assert main([*map(str, arguments), "--val-split", "none"]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert config["records"] == str(folder)
    capsys.readouterr()
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = json.loads((tmp_path / "index.json").read_text())
    index["classes"]["names"][0] = "heaven"
    (tmp_path / "index.json").write_text(json.dumps(index))
    arguments[arguments.index("--records") + 1] = tmp_path
    assert main([*map(str, arguments), "--data-dir", str(tiny_camvid)]) == 1
    assert "holds other images or classes than" in capsys.readouterr().err


def test_a_jpeg_that_tensorflow_refuses_is_named(
    folder, tiny_camvid, tmp_path, monkeypatch, capsys
):
    """Pillow would take some of these; half of one stands for them."""
    real = records.Records.read

    def read(self, index):
        content = real(self, index)
        if self.names[index] != "003":
            return content
        features = tf.train.Example.FromString(content).features.feature
        image, label = (features[key].bytes_list.value[0] for key in ("image", "label"))
        return tfrecord.serialized_example(image=image[: len(image) // 2], label=label)

    monkeypatch.setattr(records.Records, "read", read)
    arguments = ["train", "--model", "small", "--dataset", "camvid", "--data-dir", tiny_camvid]
    arguments += ["--records", folder, "--run-dir", tmp_path, "--crop", 48, 64, "--scale", 1, 1]
    assert main([*map(str, arguments), "--batch-size", "2", "--epochs", "1"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "shard-00001-of-00003.tfrecord: TensorFlow cannot decode '003' (" in last
    assert "save that image anew and run `kseg prepare` again" in last
