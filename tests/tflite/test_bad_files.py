"""What is no file of kseg, or a broken one, is one line that names it; nothing dies of it."""

import shutil

import numpy as np
import onnx
import pytest
import tensorflow as tf

import kseg
import kseg.tflite.gpu
from kseg.cli import main
from kseg.tflite.flatbuffer import Flatbuffer
from kseg.tflite.gpu import GpuPredictor, NoAccelerator, compare
from kseg.tflite.metadata import with_metadata
from kseg.tflite.predictors import OnnxPredictor, TFLitePredictor

SIZE = (48, 64)


@pytest.fixture(scope="module")
def write(tiny_model, tmp_path_factory):
    """Writes a function of the image as a .tflite file, with the card of a true one."""
    folder = tmp_path_factory.mktemp("bad")

    def write(name, function, card=tiny_model.card):
        source = tf.TensorSpec((1, *SIZE, 3), tf.float32, name="image")
        function = tf.function(function, input_signature=[source], autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()]
        )
        converter.allow_custom_ops = True
        content = converter.convert()
        path = folder / f"{name}.tflite"
        path.write_bytes(with_metadata(Flatbuffer(content), card) if card else content)
        return path

    return write


KERNEL = np.random.default_rng(0).normal(size=(1, 1, 3, 11)).astype(np.float32)


def logits(image):
    return tf.nn.conv2d(image, tf.constant(KERNEL), 1, "SAME")


def one_line(capsys, *arguments):
    """The command's message on standard error, after it failed."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("kseg: ")
    return line


def test_suffixes_in_capitals(write, tiny_model, tiny_keras, tmp_path, capsys):
    """As Windows may write them; what kseg writes has small letters, as Keras needs them."""
    small = write("small", logits)
    for source, name in ((small, "FILE.TFLITE"), (tiny_keras, "FILE.KERAS")):
        copy = tmp_path / name
        shutil.copyfile(source, copy)
        image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
        found, wanted = (kseg.open_predictor(path)(image) for path in (copy, source))
        np.testing.assert_array_equal(found, wanted)
    assert kseg.load(tmp_path / "FILE.KERAS").card == tiny_model.card
    line = one_line(capsys, "convert", tmp_path / "FILE.KERAS", tmp_path / "OUT.TFLITE")
    assert "OUT.TFLITE: the file's name must end in .tflite or .onnx, in small letters" in line


@pytest.mark.parametrize("content", [b"", b"a text\n" * 1000, bytes(5000)])
def test_no_model(content, tmp_path, capsys):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    assert f"{path}: not a readable .tflite file" in one_line(capsys, "check-gpu", path)


def test_larger_than_a_flatbuffer(tmp_path, capsys):
    """Refused unread: 3 GiB, of which the disk holds none."""
    path = tmp_path / "x.tflite"
    with open(path, "wb") as file:
        file.truncate(3 * 2**30)
    assert "not a readable .tflite file (3221225472 bytes)" in one_line(capsys, "check-gpu", path)


def test_unknown_operator(write):
    path = write("custom", lambda image: tf.raw_ops.Digamma(x=logits(image)))
    with pytest.raises(kseg.KsegError, match=r"custom\.tflite: .*Digamma") as error:
        TFLitePredictor(path)
    assert "\n" not in str(error.value)


def test_several_outputs(write):
    path = write("two", lambda image: {"a": logits(image), "b": image + 1})
    with pytest.raises(kseg.KsegError, match="has 1 inputs and 2 outputs, not one of each"):
        TFLitePredictor(path)


def test_several_outputs_of_onnx(tiny_model, tmp_path):
    path = tmp_path / "two.onnx"
    kseg.tflite.convert(tiny_model, path, input_size=(48, 64))
    content = onnx.load(path)
    content.graph.output.append(content.graph.output[0])
    content.graph.output[1].name = content.graph.node[0].output[0]
    onnx.save(content, path)
    with pytest.raises(kseg.KsegError, match="has 1 inputs and 2 outputs, not one of each"):
        OnnxPredictor(path)


def test_the_users_folder_is_no_place_of_packages(write, tmp_path, monkeypatch):
    """Whose copy.py a child process would take for Python's."""
    path = write("plain", logits)
    (tmp_path / "copy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert len(kseg.tflite.benchmark([path], runs=1, warm_up=0)) == 1


def test_of_another_tool(write, capsys):
    path = write("other", logits, card=None)
    assert f"{path}: has no card" in one_line(capsys, "check-gpu", path)


def test_refused_by_the_accelerator(write):
    """Which is not the same as to have none."""
    blocks = [[0, 0], [0, 0]]
    path = write("blocks", lambda image: tf.space_to_batch(logits(image), [2, 2], blocks))
    with pytest.raises(kseg.KsegError) as error:
        GpuPredictor(path)
    if isinstance(error.value, NoAccelerator):
        pytest.skip("no Vulkan driver; .ci/run installs the one of Debian's chromium")
    assert "refuses some of its operators" in str(error.value)


def test_logits_that_are_not_finite(write, monkeypatch):
    """A difference to them would be no number."""
    path = write("infinite", lambda image: logits(image) / 0.0)
    # The accelerator is not what this is about.
    monkeypatch.setattr(kseg.tflite.gpu, "GpuPredictor", CpuPredictor)
    image = np.full((*SIZE, 3), 9, np.uint8)
    with pytest.raises(kseg.KsegError, match=r"infinite\.tflite: the logits are not finite"):
        compare(path, [image])


def test_an_accelerator_whose_second_logits_are_not_finite(write, monkeypatch):
    class Broken(CpuPredictor):
        calls = 0

        def __call__(self, image):
            self.calls += 1
            return super().__call__(image) * (np.nan if self.calls == 2 else 1)

    monkeypatch.setattr(kseg.tflite.gpu, "GpuPredictor", Broken)
    image = np.full((*SIZE, 3), 9, np.uint8)
    path = write("sound", logits)
    assert compare(path, [image]).agrees
    assert not compare(path, [image] * 3).agrees


class CpuPredictor(TFLitePredictor):
    def __init__(self, path, timeout, stated):
        super().__init__(path)

    def close(self):
        pass


def test_convert(tiny_keras, tiny_camvid, tmp_path, capsys):
    out = tmp_path / "x.tflite"
    text = tmp_path / "text.keras"
    text.write_text("a text")
    tflite = tmp_path / "file.tflite"
    tflite.write_text("a file")
    int8 = (tiny_keras, out, "--precision", "int8")
    empty = tmp_path / "empty"
    for folder in ("train", "trainannot"):
        (empty / folder).mkdir(parents=True)
    for arguments, message in (
        ((text, out), f"{text}: not a readable .keras file (no zip archive)"),
        ((tflite, out), f"{tflite}: this takes a .keras file"),
        (int8, "int8 needs calibration images (--calibration-dataset, --calibration-dir)"),
        ((*int8, "--calibration-dir", empty), f"{empty}"),
        ((*int8, "--calibration-dir", tiny_camvid, "--calibration-count", 0), "at least 1"),
        (
            (tiny_keras, out, "--calibration-dir", tiny_camvid, "--calibration-count", 0),
            "precision fp32 takes no calibration; leave --calibration-dir, --calibration-count out",
        ),
        ((tiny_keras, out, "--input-size", 0, 64), "a size is 0 x 64; both sides must be at least"),
    ):
        assert message in one_line(capsys, "convert", *arguments)
    assert not out.exists()
