"""The wheel has one top-level name, and imports go one way."""

import ast
import shutil
import subprocess
import sys
import zipfile

from support import ROOT

FOLDERS = {
    "kseg": ROOT / "kseg",
    "kseg.training": ROOT / "training",
    "kseg.tflite": ROOT / "tflite",
}


def test_wheel_has_one_top_level_name(tmp_path):
    # A copy, since the build leaves its work beside the sources.
    source = tmp_path / "source"
    for name in ("kseg", "training", "tflite"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kseg"}
    # every module of the repository is in it
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            inside = f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
            assert inside in names


def imports(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_go_one_way():
    forbidden = {
        "kseg": ("kseg.training", "kseg.tflite"),
        "kseg.training": ("kseg.tflite", "kseg.cli"),
        "kseg.tflite": ("kseg.training", "kseg.cli"),
    }
    private = ("keras.src", "tensorflow.python", "tf_keras.src")
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            banned = private if "cli" in path.parts else (*forbidden[package], *private)
            for name in imports(path):
                assert not name.startswith(banned), f"{path}: {name}"
