"""The wheel has one top-level name and all that an installation needs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = {
    "kseg": ROOT / "kseg",
    "kseg.training": ROOT / "training",
    "kseg.tflite": ROOT / "tflite",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, since the build leaves its work beside the sources.
    source = folder / "source"
    for name in ("kseg", "training", "tflite"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_one_top_level_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kseg"}
    assert "kseg/py.typed" in names
    # every module of the repository is in it, and the apps
    for package, folder in FOLDERS.items():
        template = [
            path for path in [*folder.glob("android/**/*"), *folder.glob("web/*")] if path.is_file()
        ]
        for path in (*folder.rglob("*.py"), *template):
            inside = f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
            assert inside in names


def test_an_installed_wheel_has_weights_and_a_picture(wheel, tmp_path):
    """The README's two lines, away from the sources."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(site), str(wheel)], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "kseg" in line]
    lines = [line for line in lines if re.match(r"kseg (predict|convert) camvid[a-z-]*:", line)]
    assert len(lines) == 2
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    # In one process, since each would begin with TensorFlow.
    code = f"import sys; from kseg.cli import main; sys.exit(any(map(main, {commands})))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/sample_overlay.png").is_file()
    assert (tmp_path / "cgnet.tflite").is_file()
