"""Files on the LiteRT GPU accelerator (here SwiftShader's Vulkan) against the CPU."""

import json
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection

import keras
import numpy as np
import pytest
from keras import layers as kl

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.data import read_image
from kseg.streets import draw_scene
from kseg.tflite import child, gpu_worker
from kseg.tflite.flatbuffer import operators
from kseg.tflite.gpu import GpuPredictor, NoAccelerator, compare

STREET = draw_scene(3, 48, 64).image


@pytest.fixture(scope="module")
def file(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "tiny.tflite"
    kseg.tflite.convert(tiny_model, path)
    try:
        GpuPredictor(path).close()
    except NoAccelerator:
        pytest.skip("no Vulkan driver; .ci/run installs the one of Debian's chromium")
    return path


def test_gpu_agrees_with_cpu(file):
    result = compare(file, [STREET, STREET[::-1]])
    assert result.agrees
    # float32 on both sides
    assert result.difference < 1e-5
    assert result.decibels > 100
    assert result.same_class == 1


def test_argmax_and_stride_logits(tiny_model, file, tmp_path):
    for output in ("argmax", "stride-logits"):
        path = tmp_path / f"{output}.tflite"
        # Two of its four means are over columns and rows.
        kseg.tflite.convert(tiny_model, path, output=output, input_size=(96, 128))
        assert operators(path.read_bytes())["MEAN"] == 6
        assert compare(path, [STREET]).same_class > 0.999


def test_borders(file):
    """Where a merged padding would show: every pixel counts, not the mean."""
    cpu = kseg.tflite.TFLitePredictor(file)
    with GpuPredictor(file) as gpu:
        error = np.abs(gpu(STREET) - cpu(STREET)).max(-1)
    border = np.r_[error[0], error[-1], error[:, 0], error[:, -1]]
    assert border.max() < 1e-4


def test_what_the_accelerator_merges_or_refuses(file, tmp_path):
    """Zeros around a max pooling of negative values; slices of a wide convolution, one short."""
    keras.utils.set_random_seed(0)
    x = keras.Input((48, 64, 3))
    y = kl.Conv2D(8, 3, bias_initializer=keras.initializers.Constant(-300.0))(x)
    y = kl.MaxPooling2D(3, 2)(kl.ZeroPadding2D(1)(y))
    y = kl.Conv2D(512, 3, padding="same")(kl.Conv2D(520, 1)(y))
    model = kseg.wrap(keras.Model(x, kl.Conv2D(4, 1)(y)))
    kseg.tflite.convert(model, tmp_path / "x.tflite")
    # float32 sums of 4,680 products in another order
    assert compare(tmp_path / "x.tflite", [STREET]).difference < 1e-5


def test_evaluate_on_the_gpu(file, tiny_camvid, capsys):
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    reports = []
    for runtime in ("cpu", "litert-gpu"):
        assert main(["evaluate", str(file), *data, "--runtime", runtime]) == 0
        reports.append(capsys.readouterr().out.splitlines()[:-1])
    assert reports[0] == reports[1]


def test_compare_cpu_and_gpu(file, tiny_keras, tiny_camvid, tmp_path, capsys):
    """One file on two runtimes, the shares from their own label maps."""
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    command = ["compare", str(file), str(file), *data, "--json", str(tmp_path / "c.json")]
    assert main([*command, "--runtime-b", "litert-gpu"]) == 0
    report = json.loads((tmp_path / "c.json").read_text())
    first, second = (entry["runtime"] for entry in report["files"])
    assert " cpu" in first
    assert second.endswith(" gpu")
    # float32 on both sides: a pixel turns only where two logits are equal to 1e-5
    assert report["same"] > 0.999
    assert report["mean_iou"][1] == pytest.approx(report["mean_iou"][0], abs=1e-3)
    assert main([*command, "--runtime-a", "npu"]) == 1
    assert (
        "runtime is 'npu'; a .tflite takes cpu, litert-gpu, litert-fp16" in capsys.readouterr().err
    )


def test_check_gpu(file, tiny_camvid, capsys):
    images = sorted((tiny_camvid / "val").iterdir())
    assert main(["check-gpu", str(file), "--images", *map(str, images)]) == 0
    text = capsys.readouterr().out
    assert "agrees; largest difference" in text
    assert "half precision on the CPU: largest difference" in text
    assert read_image(images[0]).shape == (48, 64, 3)


def test_check_gpu_tells_a_difference(file, monkeypatch, capsys):
    """An accelerator that is off by a hundredth of the range on one pixel."""
    call = GpuPredictor.__call__

    def wrong(self, image):
        output = call(self, image).copy()
        output[0, 0, 0] += np.ptp(output) / 100
        return output

    monkeypatch.setattr(GpuPredictor, "__call__", wrong)
    assert main(["check-gpu", str(file)]) == 1
    assert "DIFFERS; largest difference 1.0" in capsys.readouterr().out


def test_no_accelerator(file, monkeypatch, capsys):
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    assert main(["check-gpu", str(file)]) == 3
    assert "no GPU accelerator" in capsys.readouterr().err


def test_a_child_that_hangs_or_dies(file):
    with pytest.raises(kseg.KsegError, match="gave no answer in 0 s"):
        GpuPredictor(file, timeout=0.001)
    predictor = GpuPredictor(file)
    os.kill(predictor._child.process.pid, signal.SIGABRT)
    predictor._child.process.wait()
    with pytest.raises(kseg.KsegError, match=r"its process ended \(code -6\)"):
        predictor(STREET)


def test_benchmark_on_the_gpu(file):
    (timing,) = kseg.tflite.benchmark([file], runs=1, warm_up=1, runtime="litert-gpu")
    assert timing.runtime.endswith(" gpu")
    # Its run ends when the output is there, not when it was asked for.
    assert timing.run.median > timing.copy.median
    assert timing.total.median < 60


def test_only_a_cpu_has_threads(file):
    with pytest.raises(kseg.KsegError, match="threads is 1; litert-gpu takes none"):
        kseg.tflite.benchmark([file], threads=1, runtime="litert-gpu")


def test_no_images(file):
    with pytest.raises(kseg.KsegError, match="there are no images to compare on"):
        compare(file, [])


def test_a_systems_driver_comes_first(tmp_path, monkeypatch):
    """SwiftShader is for machines without any."""
    software = tmp_path / "swiftshader.json"
    software.touch()
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(child, "_SWIFTSHADER", software)
    monkeypatch.setattr(child, "_DRIVERS", [tmp_path / "none", tmp_path / "icd.d"])
    assert child._environment("x.tflite")["VK_ICD_FILENAMES"] == str(software)
    (tmp_path / "icd.d").mkdir()
    (tmp_path / "icd.d/nvidia_icd.json").touch()
    assert "VK_ICD_FILENAMES" not in child._environment("x.tflite")


def test_runtime_must_fit(file, tiny_keras, tiny_camvid, capsys):
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    for path, runtime in ((file, "npu"), (tiny_keras, "litert-gpu")):
        assert main(["evaluate", str(path), *data, "--runtime", runtime]) == 1
        assert f"runtime is {runtime!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "more"), [("run", ""), ("read", "; LiteRT waits 120 s for a result")]
)
def test_a_result_that_does_not_come(place, more, monkeypatch):
    """The process that serves says so; LiteRT, played here, failed or gave up waiting."""
    source, serves = socket.socketpair()
    text = "code=7\n└ ERROR: [tensor_buffer.cc:1]\n└ Failed to lock custom tensor buffer."

    class Buffer:
        def write(self, tensor):
            assert tensor.shape == (1, 2, 2, 3)

        def read(self, count, dtype):
            raise RuntimeError(text)

    class Network:
        def run_by_index(self, *_):
            if place == "run":
                raise RuntimeError(text)

    class Model(gpu_worker.AcceleratedModel):
        def __init__(self, path):
            self._path, self._inputs, self._outputs = path, [Buffer()], [Buffer()]
            self._model = Network()
            self.input_shape, self.input_type = (1, 2, 2, 3), np.dtype("float32")
            self.output_shape, self.output_type = (1, 2, 2, 5), np.dtype("float32")

    monkeypatch.setattr(gpu_worker, "AcceleratedModel", Model)
    monkeypatch.setattr(sys, "argv", ["", "x.tflite", str(serves.detach())])
    with Connection(source.detach()) as connection:
        connection.send_bytes(np.zeros(12, np.float32).tobytes())
        gpu_worker.main()
        assert connection.recv_bytes() == b""
        message = connection.recv_bytes().decode()
    assert message == (
        f"x.tflite: the accelerator fails (Failed to lock custom tensor buffer.){more}"
    )
