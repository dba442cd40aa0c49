"""The Android app that `kseg android` writes: its facts, and its code in a Kotlin compiler."""

import os
import re
import subprocess
import zipfile
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import kseg
import kseg.tflite
from kseg.tflite.flatbuffer import Flatbuffer, read_card
from kseg.tflite.metadata import with_metadata
from support import ROOT, run_kseg

SIZE = (32, 40)
NAMES = ('a "road"', "50 $ sign", "나무")
COLORS = ((128, 64, 128), (0, 255, 1), (9, 8, 7))
FORMS = {
    "logits-float-fp32": ("logits", "float", "fp32"),
    "stride-logits-uint8-int8": ("stride-logits", "uint8", "int8"),
    "argmax-uint8-fp32": ("argmax", "uint8", "fp32"),
}
SOURCES = "app/src/main/kotlin/org/kseg/camera"
COMPILER = ROOT / ".npm/node_modules/kotlin-compiler/bin/kotlinc"


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_row):
    """A file of every form, by its name; the last of four channels is void."""
    keras.utils.set_random_seed(1)
    model = kseg.create_model("small", num_classes=4)
    model.card = model.card.replace(
        class_names=NAMES, colors=COLORS, void_channels=(3,), input_size=SIZE
    )
    folder = tmp_path_factory.mktemp("android")
    images = [np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)]
    for name, (output, source, precision) in FORMS.items():
        kseg.tflite.convert(
            model,
            folder / f"{name}.tflite",
            output=output,
            input_type=source,
            precision=precision,
            calibration=images if precision == "int8" else None,
        )
    return {name: folder / f"{name}.tflite" for name in FORMS}


def constants(text):
    """The plain values of Model.kt."""
    return dict(re.findall(r"val (\w+) = (\S+)", text))


@pytest.mark.parametrize("name", FORMS)
def test_facts(name, files, tmp_path):
    """What Model.kt says is what LiteRT and the file's own lists say."""
    project = tmp_path / "app project"
    kseg.tflite.write_android_project(files[name], project)
    assert (project / "app/src/main/assets/model.tflite").read_bytes() == files[name].read_bytes()
    text = (project / SOURCES / "Model.kt").read_text("utf-8")
    interpreter = Interpreter(model_path=str(files[name]))
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    values = constants(text)
    assert (int(values["HEIGHT"]), int(values["WIDTH"])) == tuple(source["shape"][1:3])
    assert values["TAKES_BYTES"] == {np.uint8: "true", np.float32: "false"}[source["dtype"]]
    mask = int(values["MASK_HEIGHT"]), int(values["MASK_WIDTH"])
    assert mask == tuple(result["shape"][1:3])
    kinds = {np.uint8: "CHANNELS", np.float32: "FLOAT_LOGITS", np.int8: "INT8_LOGITS"}
    assert values["OUTPUT"] == "Output." + kinds[result["dtype"]]
    with zipfile.ZipFile(files[name]) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
        colors = archive.read("colors.txt").decode().splitlines()
    # Kotlin escapes by a backslash, and "$" begins a template.
    strings = re.findall(r'"((?:\\.|[^"\\])*)"', text.split("NAMES")[1].split("\n    )")[0])
    assert [re.sub(r"\\(.)", r"\1", s) for s in strings] == labels
    assert not re.search(r"(?<!\\)\$", text)
    drawn = re.findall(r"0x8C(\w{6})\.toInt\(\)", text)
    assert [f"#{c.lower()}" for c in drawn] == colors[:3]
    assert text.split("COLORS")[1].split()[-3] == "0"  # void


def test_project(files, tmp_path):
    """Its XML parses, it names the permission and the icon, and a second one is refused."""
    done = run_kseg("android", files["logits-float-fp32"], tmp_path / "app")
    assert done.returncode == 0, done.stderr
    manifest = ElementTree.parse(tmp_path / "app/app/src/main/AndroidManifest.xml")
    assert "CAMERA" in ElementTree.tostring(manifest.getroot(), "unicode")
    strings = ElementTree.parse(tmp_path / "app/app/src/main/res/values/strings.xml")
    named = {element.get("name") for element in strings.getroot()}
    used = "".join(p.read_text("utf-8") for p in (tmp_path / "app").rglob("*.kt"))
    assert set(re.findall(r"R\.string\.(\w+)", used)) <= named
    # The versions of the page are those of the project.
    build = (tmp_path / "app/app/build.gradle.kts").read_text()
    page = (ROOT / "docs/android.md").read_text()
    for dependency in re.findall(r"com\.google\.ai\.edge\.litert:[\w-]+:[\d.]+", build):
        assert dependency in page
    again = run_kseg("android", files["logits-float-fp32"], tmp_path / "app")
    assert again.returncode == 1
    (line,) = again.stderr.splitlines()
    assert "not an empty folder" in line


def test_another_output(files, tmp_path):
    """Channel numbers of 32 bits, which the app would read as four: refused, nothing written."""
    path = tmp_path / "wide.tflite"
    source = tf.TensorSpec((1, *SIZE, 3), tf.float32)
    wide = tf.function(lambda x: tf.argmax(x, -1, tf.int32), input_signature=[source])
    content = tf.lite.TFLiteConverter.from_concrete_functions([wide.get_concrete_function()])
    card = read_card(files["argmax-uint8-fp32"].read_bytes())
    path.write_bytes(with_metadata(Flatbuffer(content.convert()), card))
    with pytest.raises(kseg.KsegError, match=r"wide\.tflite: takes float32 and gives int32 argmax"):
        kseg.tflite.write_android_project(path, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_code_runs(files, tmp_path):
    """The app's code compiles, and its mask and legend are NumPy's.

    Against stand-ins for Android and LiteRT, whose network is the identity: R, G and B are
    the logits of three classes.
    """
    if not COMPILER.exists():
        pytest.skip("no Kotlin compiler; .ci/run installs it")
    kseg.tflite.write_android_project(files["logits-float-fp32"], tmp_path / "app")
    sources = [*(tmp_path / "app" / SOURCES).glob("*.kt"), ROOT / "tests/kotlin/Main.kt"]
    facts = tmp_path / "app" / SOURCES / "Model.kt"
    text = facts.read_text("utf-8")
    # Three channels, as the identity has, and the form chosen when it runs.
    for old, new in (
        (',\n        "void"', ""),
        (
            "const val TAKES_BYTES = false",
            'val TAKES_BYTES = System.getenv("FORM") == "INT8_LOGITS"',
        ),
        ("Output.FLOAT_LOGITS", 'Output.valueOf(System.getenv("FORM"))'),
    ):
        assert old in text
        text = text.replace(old, new)
    facts.write_text(text, "utf-8")
    stubs = re.split(r"(?m)^(?=package )", (ROOT / "tests/kotlin/android_api.kt").read_text())
    for i, stub in enumerate(stubs[1:]):
        sources.append(tmp_path / f"stub{i}.kt")
        sources[-1].write_text(stub)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 128, (*SIZE, 3))
    image[0, :, 2] = image[0, :, 1]  # ties: the first one
    argb = (image << [16, 8, 0]).sum(-1) | 0xFF000000
    expected = image.argmax(-1).reshape(-1)
    environment = os.environ | {
        "JAVA_OPTS": "-Xmx1g -XX:TieredStopAtLevel=1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [COMPILER, "-Werror", "-d", tmp_path / "app.jar", "-include-runtime", *sources],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    for form in ("FLOAT_LOGITS", "INT8_LOGITS"):
        done = subprocess.run(
            ["java", "-Xmx256m", "-cp", tmp_path / "app.jar", "org.kseg.camera.MainKt"],
            input="\n".join(map(str, argb.ravel())),
            capture_output=True,
            text=True,
            env=environment | {"FORM": form},
        )
        mask, legend = done.stdout.splitlines()
        np.testing.assert_array_equal([int(channel) for channel in mask.split()], expected)
        assert [part.split(maxsplit=1)[1] for part in re.split(" {3}", legend) if part] == [*NAMES]
