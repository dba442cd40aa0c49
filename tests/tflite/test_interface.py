"""The names of kseg.tflite, what they load, and the options that all of them share."""

import importlib
import subprocess
import sys

import pytest

import kseg
import kseg.tflite
from kseg.cli import main
from kseg.tflite.options import ExportOptions
from support import ROOT

MODULES = {path.stem for path in (ROOT / "tflite").glob("*.py")} - {"__init__"}


def test_no_module_hides_a_name():
    """Importing a module sets its name in the package."""
    for module in MODULES:
        importlib.import_module(f"kseg.tflite.{module}")
    assert not MODULES & set(kseg.tflite.__all__)
    for name in kseg.tflite.__all__:
        assert callable(getattr(kseg.tflite, name))
    assert kseg.tflite.convert is importlib.import_module("kseg.tflite.conversion").convert
    assert set(kseg.tflite.__all__) <= set(dir(kseg.tflite))
    with pytest.raises(AttributeError, match=r"kseg\.tflite.* no attribute 'quantize'"):
        kseg.tflite.quantize  # noqa: B018


@pytest.mark.parametrize("module", ["predictors", "gpu_worker", "profile_worker"])
def test_what_runs_a_file_loads_no_keras(module):
    code = f"import sys, kseg.tflite.{module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = set(result.stdout.split())
    assert "ai_edge_litert.interpreter" in loaded or "ai_edge_litert.compiled_model" in loaded
    assert not {"keras", "tensorflow", "tf_keras", "litert_quantizer"} & loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(precision="int4"), "precision is 'int4'; it must be one of fp32, fp16, w8, int8"),
        (dict(output="labels"), "output is 'labels'; it must be one of logits, stride-logits"),
        (dict(input_type="int8"), "input_type is 'int8'; it must be one of float, uint8"),
        (dict(calibration_method="mean"), "calibration_method is 'mean'; it must be one of min-"),
        (dict(input_size=(512, 31)), "input_size is 512x31; both sides must be at least 32"),
        (dict(keep_float=["conv"]), "precision fp32 keeps all in float; leave keep_float out"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(kseg.KsegError, match=message):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({}, "x.pb", "must end in .tflite or .onnx"),
        ({}, "none/x.tflite", "cannot be written"),
        (dict(precision="w8"), "x.onnx", "precision is 'w8'; an .onnx file has fp32 only"),
        (dict(dynamic_batch=True), "x.tflite", "a batch of 1; leave dynamic_batch out"),
        (dict(sparse=True), "x.onnx", "only .tflite files in fp32 and fp16 can be sparse"),
        (dict(sparse=True, precision="int8"), "x.tflite", "only .tflite files in fp32 and fp16"),
    ],
)
def test_options_that_a_file_does_not_have(options, name, message, tmp_path):
    with pytest.raises(kseg.KsegError, match=f"{name}: .*{message}"):
        ExportOptions(**options).check_path(tmp_path / name)


def test_options_that_a_file_has(tmp_path):
    ExportOptions(sparse=True, precision="fp16").check_path(tmp_path / "x.tflite")
    ExportOptions(dynamic_batch=True).check_path(tmp_path / "x.onnx")
    assert ExportOptions(input_type="uint8").dtype == "uint8"
    assert ExportOptions(precision="int8", keep_float=["conv"]).dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "int8"], "--input is 'int8'"),
        (
            ["--precision", "int8", "--calibration", "mean", "--calibration-dir", "DATA"],
            "--calibration is 'mean'",
        ),
    ],
)
def test_the_command_names_its_flags(arguments, message, tiny_keras, tiny_camvid, tmp_path, capsys):
    arguments = [str(tiny_camvid) if text == "DATA" else text for text in arguments]
    assert main(["convert", str(tiny_keras), str(tmp_path / "x.tflite"), *arguments]) == 1
    assert message in capsys.readouterr().err
