"""The Hugging Face Hub, by its own client, against a stand-in that keeps files in memory."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg import hub
from kseg.predictor import KerasPredictor, predict_labels
from kseg.streets import draw_scene

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """What the client asks of the hub to make a repository, to commit and to download."""

    files: ClassVar[dict[str, bytes]] = {}
    created: ClassVar[list[dict]] = []

    def answer(self, content: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value) -> None:
        self.answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_token":
            self.answer(b'{"error": "Invalid username or password."}', 401)
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.json({"url": f"http://{self.headers['Host']}/someone/street"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self.json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in asked
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            address = f"http://{self.headers['Host']}/someone/street/commit/{COMMIT}"
            self.json({"success": True, "commitOid": COMMIT, "commitUrl": address})
        else:
            self.answer(status=404)

    def do_GET(self):
        found = re.fullmatch(r"/someone/street/resolve/([^/]+)/(.+)", self.path)
        if found and found[1] in ("main", "v1", COMMIT) and found[2] in self.files:
            content = self.files[found[2]]
            etag = hashlib.sha1(content).hexdigest()
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        elif self.path.startswith("/api/models/someone/street"):
            self.json({"id": "someone/street", "sha": COMMIT, "siblings": []})
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def environment(tmp_path):
    """That of a process whose hub is the stand-in."""
    Hub.files, Hub.created = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_token",
        "HF_HUB_DISABLE_XET": "1",
    }
    server.shutdown()
    server.server_close()


# The client reads the environment when it is imported, and importing TensorFlow takes long: all
# commands of a test run in one process.
IN_TURN = """
import contextlib, io, json, sys
from kseg.cli import main
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    print(json.dumps((code, out.getvalue(), err.getvalue())))
"""


def run_in_turn(commands, environment) -> list[tuple[int, str, str]]:
    """The code and what was written, of every command."""
    texts = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, texts],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_there_and_back(tiny_keras, environment, tmp_path):
    """What was pushed predicts by the repository's name as the file does."""
    (tmp_path / "street.tflite").write_bytes(b"a file beside it")
    image = draw_scene(0, 48, 64).image
    Image.fromarray(image).save(tmp_path / "a.png")
    outs = {"hf://someone/street": tmp_path / "out", "hf://someone/street@v1": tmp_path / "v1"}
    pushed, *predicted = run_in_turn(
        [
            ("push", tiny_keras, tmp_path / "street.tflite", "hf://someone/street"),
            *(("predict", name, tmp_path / "a.png", "--out", out) for name, out in outs.items()),
        ],
        environment,
    )
    code, text, error = pushed
    assert code == 0, error
    assert text.strip().endswith("/someone/street")
    assert Hub.created[0]["name"] == "street"
    assert Hub.files["model.keras"] == tiny_keras.read_bytes()
    assert Hub.files["street.tflite"] == b"a file beside it"
    page = Hub.files["README.md"].decode()
    assert page.startswith("---\nlibrary_name: kseg\npipeline_tag: image-segmentation\n")
    assert "sky, building, pole" in page
    assert "- `street.tflite`" in page
    want = predict_labels(KerasPredictor(tiny_keras), image)
    for (code, _, error), out in zip(predicted, outs.values(), strict=True):
        assert code == 0, error
        np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), want)


def test_refusals(tiny_keras, environment, tmp_path):
    """A line each: no such repository, no token, another form of a name."""
    image = tmp_path / "a.png"
    Image.fromarray(draw_scene(0, 48, 64).image).save(image)
    cases = (
        (("predict", "hf://someone/other", image, "--out", tmp_path / "out"), "cannot be fetched"),
        (("push", tiny_keras, "hf://someone/street"), "hf auth login"),
    )
    commands, texts = zip(*cases, strict=True)
    results = run_in_turn(commands, environment | {"HF_TOKEN": "wrong"})
    for (code, _, error), text in zip(results, texts, strict=True):
        assert code == 1
        (line,) = [line for line in error.splitlines() if line.startswith("kseg:")]
        assert text in line
        assert "Traceback" not in error
    card = kseg.load(tiny_keras).card
    twice = tmp_path / "fp16/street.tflite", tmp_path / "int8/street.tflite"
    page = tmp_path / "README.md"
    for file in (*twice, page):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    for files, name, text in (
        ([tiny_keras], "someone/street", "no name of the hub"),
        ([tiny_keras], "hf://someone", "no name of the hub"),
        ([tiny_keras], "hf://someone/street@v1", "leave @v1 out"),
        ([tiny_keras, tiny_keras], "hf://someone/street", "takes one .keras file"),
        ([Path("gone.keras")], "hf://someone/street", "no such file"),
        ([tiny_keras, *twice], "hf://someone/street", f"{twice[1]}: {twice[0]} has the same name"),
        ([tiny_keras, page], "hf://someone/street", f"{page}: kseg writes README.md itself"),
    ):
        with pytest.raises(kseg.KsegError, match=text):
            hub.push(files, card, name)


def test_a_hub_that_cannot_be_reached(tiny_keras, monkeypatch):
    """The error is one of the client's transport, which is no OSError."""
    # Nothing listens on the port of "discard".
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    card = kseg.load(tiny_keras).card
    with pytest.raises(kseg.KsegError, match=r"uploaded to http://127\.0\.0\.1:9 \(.*refused"):
        hub.push([tiny_keras], card, "hf://someone/street")
