"""Damaged files of every format are refused in one line or read rightly; a thousand of each are
in `make fuzz` (benchmarks/fuzz.py), and a few of each here."""

import importlib.util
import io
import json
import pickle
import struct
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image

import kseg
from kseg import checkpoints, shipped
from kseg.data import CAMVID, read_image
from kseg.data.class_files import read_classes
from kseg.data.reading import image_size, read_label
from kseg.errors import KsegWarning
from kseg.file_card import read_file_card
from kseg.files import read_json
from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
spec = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks/fuzz.py")
fuzz = importlib.util.module_from_spec(spec)
sys.modules["fuzz"] = fuzz
spec.loader.exec_module(fuzz)

COUNT = {"keras": 12, "hdf5": 12}


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_damaged_files(name, tmp_path):
    cases = fuzz.Cases(name, tmp_path, seed=1)
    outcomes = [cases.outcome(number) for number in range(COUNT.get(name, 40))]
    assert not [why for outcome, why in outcomes if outcome == "wrong"]
    assert "refused" in {outcome for outcome, _ in outcomes}


def test_the_campaign_sees_what_is_wrong(tmp_path, monkeypatch):
    """Numbers that a checksum tells of, another exception, and two lines."""
    cases = fuzz.Cases("label", tmp_path, seed=1)
    results = []
    for wrong in (lambda path: np.zeros((2, 2), np.uint8), lambda path: 1 / 0):
        monkeypatch.setattr(cases, "format", fuzz.dataclasses.replace(cases.format, read=wrong))
        results.append({cases.outcome(number)[1].split()[0] for number in range(30)})
    assert results[0] == {"other", "legal"}
    assert results[1] == {"ZeroDivisionError"}


def test_a_case_that_ends_its_process_is_wrong_and_the_next_goes_on(tmp_path):
    """A card with a long text aborts the process."""
    child = tmp_path / "child.py"
    child.write_text(
        f"import os, sys; sys.argv[0] = __file__; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}]\n"
        "import fuzz\n"
        "fuzz.__file__ = __file__\n"
        "read = fuzz.read_card\n"
        "def dies(path):\n"
        "    if b'x' * 4000 in path.read_bytes(): os.abort()\n"
        "    return read(path)\n"
        "fuzz.FORMATS['card'] = fuzz.dataclasses.replace(fuzz.FORMATS['card'], read=dies)\n"
        "sys.exit(fuzz.main())\n"
    )
    result = fuzz.subprocess.run(
        [sys.executable, child, "--only", "card", "--count", "60"], capture_output=True, text=True
    )
    assert result.returncode == 1
    *wrong, last = result.stdout.splitlines()
    assert {line.partition(": ")[2] for line in wrong} == {"its process ended (code -6) "}
    assert last.startswith("card: 60 tried, ")
    assert f", {len(wrong)} wrong, " in last


# --- each kind of what was wrong ------------------------------------------------------


def refused(match, call, *arguments):
    with pytest.raises(kseg.KsegError, match=match) as error:
        call(*arguments)
    assert len(str(error.value).splitlines()) == 1


def test_what_of_a_file_does_not_print_is_escaped():
    assert str(kseg.KsegError("a\nb\x1b[31m\u2028 이름")) == "a\\nb\\x1b[31m\\u2028 이름"
    assert str(KsegWarning("a\rb")) == "a\\rb"


NESTED = pickle.MARK + b"}" + b")" + b"\x85" * 100_000 + b"Nst."
# Of two 2^60 times, whose hash would take for ever; of lists, which have none.
DOUBLED = b"})" + b"2\x86" * 60 + b"Ns."
LISTS = b"}X\1\0\0\0a]" + b"(22e" * 60 + b"s."
OBJECT = b"}r\xff\xff\xff\xff."
ANNOUNCED = b"\x96" + struct.pack("<Q", 2**40) + b"a."


@pytest.mark.parametrize("name", ["NESTED", "DOUBLED", "OBJECT", "ANNOUNCED"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_that_ask_for_too_much(name, legacy, tmp_path):
    path = tmp_path / "x.pth"
    if legacy:
        path.write_bytes(globals()[name])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", globals()[name])
    refused(r"x\.pth: not a readable checkpoint \((a pickle|expected)", checkpoints.read, path)


def test_lists_that_hold_each_other_many_times(tmp_path):
    path = tmp_path / "x.pth"
    doubled = []
    for _ in range(40):
        doubled = [doubled, doubled]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(doubled, protocol=2))
    refused("more than 1000000 values", checkpoints.read, path)


def test_small_files_that_stand_for_much(tmp_path):
    """A view of one number, an entry of zeros, a shape without values."""
    content = (fuzz.CORPUS / "legacy.pth").read_bytes()
    # (4, 3, 2, 2) by (12, 4, 2, 1) in protocol 2.
    shape, strides = b"(K\x04K\x03K\x02K\x02t", b"(K\x0cK\x04K\x02K\x01t"
    assert content.count(shape) == 1 == content.count(strides)
    large = b"(J" + struct.pack("<i", 2**30) + b"K\x03K\x02K\x02t"
    path = tmp_path / "x.pth"
    path.write_bytes(content.replace(shape, large).replace(strides, b"(K\x00K\x00K\x00K\x00t"))
    refused("bytes that stand for many times more", checkpoints.read, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(12345))
    size, much = (struct.pack("<I", number) for number in (12345, 2**29))
    path.write_bytes(path.read_bytes().replace(size, much))
    refused("bytes that stand for many times more", checkpoints.read, path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a/kernel", (10**9,), "f4", chunks=(10,))
    refused("bytes that stand for many times more", checkpoints.read, tmp_path / "x.h5")


def test_an_index_that_is_larger_than_its_file(tmp_path):
    """The first number of the footer, in TensorFlow's varint, of 2^34."""
    for name in ("tiny.ckpt.index", "tiny.ckpt.data-00000-of-00001"):
        (tmp_path / name).write_bytes((fuzz.CORPUS / name).read_bytes())
    path = tmp_path / "tiny.ckpt"
    assert "a/.ATTRIBUTES/VARIABLE_VALUE" in checkpoints.read(path)
    content = bytearray((tmp_path / "tiny.ckpt.index").read_bytes())
    content[-48:-43] = b"\x80\x80\x80\x80\x40"
    (tmp_path / "tiny.ckpt.index").write_bytes(content)
    refused("its index is damaged", checkpoints.read, path)


def test_weights_in_another_file(tmp_path):
    (tmp_path / "other").write_bytes(bytes(40))
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/kernel", (4,), "f4", external=[(tmp_path / "other", 0, 16)])
    refused("a/kernel lies in another file", checkpoints.read, path)


def test_texts_among_weights_are_left_out(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a/name"] = "text"
    refused("holds no tensors", checkpoints.read, path)
    with h5py.File(path, "a") as file:
        file["a/kernel"] = np.ones(3)
    assert list(checkpoints.read(path)) == ["a/kernel"]


@pytest.mark.parametrize("change", ["filters", "kernel_size", "external", "shape", "units"])
def test_models_that_ask_for_too_much(change, tmp_path):
    """Keras would make room for the weights before it finds that they do not fit."""
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(fuzz.CORPUS / "tiny.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = files["config.json"].decode()
    if change == "filters":
        config = config.replace('"filters": 4', '"filters": 50000000')
    elif change == "kernel_size":
        config = config.replace('"kernel_size": [3, 3]', '"kernel_size": [3000, 3000]')
    elif change == "units":
        config = config.replace('"filters": 4', '"units": 50000000')
    else:
        weights = io.BytesIO(files["model.weights.h5"])
        with h5py.File(weights, "a") as file:
            options = {"external": [("/dev/zero", 0, 4)]} if change == "external" else {}
            shape = (1,) if change == "external" else (10**9,)
            chunks = None if change == "external" else (10,)
            file.create_dataset("x", shape, "f4", chunks=chunks, **options)
        files["model.weights.h5"] = weights.getvalue()
    files["config.json"] = config.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    refused(r"a layer needs|lies in another file|many times more", kseg.load, path)


def test_shipped_weights_are_what_was_shipped(tmp_path, monkeypatch):
    name = shipped.list_shipped()[0]
    folder = tmp_path / name.partition(":")[0]
    folder.mkdir()
    source = shipped.weights_file(name)
    content = bytearray(source.read_bytes())
    content[-1] ^= 1  # a bit of a weight, which the format cannot tell
    (folder / source.name).write_bytes(content)
    (folder / f"{source.stem}.json").write_bytes(source.with_suffix(".json").read_bytes())
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    refused("is not the file that kseg ships", kseg.load, name)


def test_a_png_whose_pixels_are_damaged(tmp_path):
    """One bit of a pixel in the stream, which is right by its own sum and wrong by its chunk's."""
    pixels = np.arange(99, dtype=np.uint8).reshape(9, 11) % 11
    rows = bytearray(b"".join(b"\0" + row.tobytes() for row in pixels))
    header = struct.pack(">IIBBBBB", 11, 9, 8, 0, 0, 0, 0)
    path = tmp_path / "x.png"
    contents = []
    for _ in range(2):
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
        contents.append(fuzz.damage.png_of(chunks))
        rows[3 * 12 + 1] ^= 1
    path.write_bytes(contents[0])
    assert (read_label(path, CAMVID) == pixels).all()
    path.write_bytes(contents[1])
    assert (read_label(path, CAMVID) != pixels).sum() == 1
    # The chunk's sum stands between its content and the length of the last chunk, IEND.
    path.write_bytes(contents[1][:-16] + contents[0][-16:])
    refused(r"not a readable image \(damaged chunk IDAT", read_label, path, CAMVID)
    refused(r"not a readable image \(damaged chunk IDAT", read_image, path)


def test_exif_that_cannot_be_read(tmp_path):
    chunks = fuzz.damage.png_chunks((fuzz.CORPUS / "exif.png").read_bytes())
    path = tmp_path / "x.png"
    broken = [(kind, b"MM\0\x03" if kind == b"eXIf" else data) for kind, data in chunks]
    path.write_bytes(fuzz.damage.png_of(broken))
    for read in (read_image, image_size):
        refused("has EXIF that cannot be read", read, path)


def test_pictures_that_are_programs(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (9, 9)).save(path, "EPS")
    refused("holds EPS, a program", read_image, path)
    refused("holds EPS, a program", image_size, path)


@pytest.mark.parametrize("line", ["x" * 200_000, "9" * 5000 + ": a", "ignore: " + "9" * 5000])
def test_long_lines_of_classes(line, tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(f"{line}\nroad\n")
    refused(r"line 1: has \d+ characters", read_classes, path)


def test_a_header_of_classes_alone(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# label:color_rgb:parts:actions\n")
    refused("has 0 lines", read_classes, path)


@pytest.mark.parametrize("depth", [101, 600, 100_000])
def test_json_that_is_nested_deeply(depth, tmp_path):
    path = tmp_path / "card.json"
    path.write_text('{"mean": ' + "[" * depth + "]" * depth + "}")
    refused("nested too deeply", read_file_card, path)
    path.write_text("[" * 100 + "]" * 100)
    assert json.dumps(read_json(path)) == path.read_text()
