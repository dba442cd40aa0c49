"""The page that `kseg web` writes, in Debian's Chromium."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

import kseg
import kseg.tflite
from kseg.data import CAMVID, read_image
from kseg.resize import resize_bilinear
from kseg.shipped import SAMPLE
from kseg.tflite.web_page import PACKAGES
from support import ROOT, run_kseg, varied

ARCHIVES = ROOT / ".npm"
CHROMIUM = Path("/usr/bin/chromium")
# Not the sample's, so that the page has to resize it.
SIZE = (96, 112)
# name: output, input and accelerator
PAGES = {
    "logits": ("logits", "float", "wasm"),
    "argmax": ("argmax", "uint8", "wasm"),
    "webgpu": ("stride-logits", "float", "webgpu"),
}


@pytest.fixture(scope="module")
def model(small_row):
    """The row "small", which decides for many classes."""
    keras.utils.set_random_seed(3)
    model = varied(kseg.create_model("small", num_classes=11))
    model.card = model.card.replace(class_names=CAMVID.names, input_size=SIZE)
    return model


@pytest.fixture(scope="module")
def site(model, tmp_path_factory):
    """The folder with a file and a page by its name, and the sample photograph."""
    if not (CHROMIUM.exists() and (ARCHIVES / "installed").exists()):
        pytest.skip("no Chromium or no LiteRT.js; .ci/run installs both")
    folder = tmp_path_factory.mktemp("web")
    for name, (output, source, _) in PAGES.items():
        file = folder / f"{name}.tflite"
        kseg.tflite.convert(model, file, output=output, input_type=source)
        kseg.tflite.write_web_page(file, folder / name, ARCHIVES)
        shutil.copy(SAMPLE, folder / name)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Of the folder on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.mark.parametrize("name", PAGES)
def test_the_same_classes(name, site, address, browser):
    """As LiteRT on the CPU, on 99.5 % of the sample's pixels; nothing comes from elsewhere."""
    page = browser.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/{name}/?accelerator={PAGES[name][2]}")
    page.wait_for_function("window.kseg || document.querySelector('.error')", timeout=120_000)
    assert "Ready" in page.inner_text("#status"), page.inner_text("#status")
    got = page.evaluate(f"async () => [...await kseg.segment('{SAMPLE.name}')]")
    predictor = kseg.tflite.TFLitePredictor(site / f"{name}.tflite")
    expected = predictor(resize_bilinear(read_image(SAMPLE), SIZE))
    if name != "argmax":
        expected = expected.argmax(-1)
    assert len(np.unique(expected)) > 3
    assert np.mean(np.array(got) == expected.ravel()) > 0.995
    # The legend has each class that fills half a hundredth.
    shares = np.bincount(np.array(got), minlength=11) / len(got)
    names = [line.rsplit(" ", 2)[0] for line in page.inner_text("#legend").splitlines()]
    assert names == [CAMVID.names[i] for i in np.flatnonzero(shares >= 0.005)]
    assert ("WebGPU" in page.inner_text("#status")) == (name == "webgpu")
    assert not errors
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    page.close()


def test_what_is_no_picture(address, browser, tmp_path):
    """One line on the page that names the file."""
    (tmp_path / "text.png").write_text("no picture")
    page = browser.new_page()
    page.goto(f"{address}/logits/?accelerator=wasm")
    page.wait_for_function("window.kseg", timeout=120_000)
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector(".error")
    assert page.inner_text("#status").startswith("text.png: ")
    page.close()


def test_npm_and_its_hash(site, tmp_path, monkeypatch):
    """The command takes what `npm pack` fetches, and nothing with another hash."""
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$1" = pack ] && cp "{ARCHIVES}"/*.tgz .\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    done = run_kseg("web", site / "logits.tflite", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "page").iterdir()} == {
        *("app.js", "index.html", "litert", "model.json", "model.tflite", "style.css")
    }
    npm.write_text("#!/bin/sh\necho npm error code E404 >&2; exit 1\n")
    with pytest.raises(kseg.KsegError, match=r"failed \(npm error code E404\); run it elsewhere"):
        kseg.tflite.write_web_page(site / "logits.tflite", tmp_path / "other")
    npm.unlink()
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(kseg.KsegError, match="there is no npm"):
        kseg.tflite.write_web_page(site / "logits.tflite", tmp_path / "other")
    archive = tmp_path / PACKAGES[1].archive
    for package in PACKAGES:
        shutil.copy(ARCHIVES / package.archive, tmp_path)
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(kseg.KsegError, match=r"wasm-utils-2\.5\.3\.tgz: has another SHA-512"):
        kseg.tflite.write_web_page(site / "logits.tflite", tmp_path / "other", tmp_path)
    assert not (tmp_path / "other").exists()


def test_int8_logits(model, tmp_path):
    """LiteRT.js has no type for them."""
    image = np.zeros((*SIZE, 3), np.uint8)
    file = tmp_path / "int8.tflite"
    kseg.tflite.convert(model, file, precision="int8", calibration=[image])
    with pytest.raises(kseg.KsegError, match=r"int8\.tflite: gives int8 logits"):
        kseg.tflite.write_web_page(file, tmp_path / "page", ARCHIVES)
