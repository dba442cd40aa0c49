"""Imports go one way, stand at the top, and make no circle."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = {
    "kseg": ROOT / "kseg",
    "kseg.training": ROOT / "training",
    "kseg.tflite": ROOT / "tflite",
}
MODULES = {
    f"{package}.{'.'.join(path.relative_to(folder).with_suffix('').parts)}".removesuffix(
        ".__init__"
    ): path
    for package, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
}

# From the bottom up: a module imports its own line and those above it (DESIGN).
ORDER = (
    ("_version", "quiet", "lazy", "errors"),
    ("files", "environment", "progress", "resize", "card", "pictures", "pixels"),
    ("hub",),
    ("shipped",),
    ("file_card",),
    ("data",),
    ("streets", "report", "crf", "cost"),
    ("layers",),
    ("model", "graph"),
    ("wrapping",),
    ("backbones",),
    ("networks",),
    ("zoo",),
    ("checkpoints",),
    ("loading",),
    ("importing",),
    ("predictor",),
    ("evaluation",),
    ("demo_report",),
    ("training", "tflite"),
    ("opening",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

PRIVATE = ("keras.src", "tensorflow.python", "tf_keras.src")


def imported(nodes) -> set[str]:
    """Modules of kseg, and names of others, that these statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def statements(path: Path) -> tuple[list[ast.AST], list[ast.AST]]:
    """Imports that run with the module, and those inside functions.

    What only a type checker reads is neither.
    """
    tree = ast.parse(path.read_text())
    checking = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    later = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    nodes = [n for n in nodes if n not in checking]
    return [n for n in nodes if n not in later], [n for n in nodes if n in later]


AT_TOP = {name: imported(statements(path)[0]) for name, path in MODULES.items()}


def test_no_circle():
    own = {name: found & MODULES.keys() for name, found in AT_TOP.items()}
    # Raises CycleError, which names the modules.
    assert len([*graphlib.TopologicalSorter(own).static_order()]) == len(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_one_direction(name):
    """Nothing imports what is above it, and training and tflite do not know each other."""
    top, later = statements(MODULES[name])
    for other in imported(top) | imported(later):
        assert not other.startswith(PRIVATE)
        if other not in MODULES or other == "kseg" or name == "kseg":
            continue
        here, there = (full.split(".")[1] for full in (name, other))
        assert RANK[there] <= RANK[here], f"{name} imports {other}"
        assert {here, there} != {"training", "tflite"}, f"{name} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_own_modules_are_imported_at_the_top(name):
    """Save where only some calls need training or tflite: the command, and the opening."""
    if name.startswith(("kseg.cli", "kseg.opening")):
        return
    assert not {m for m in imported(statements(MODULES[name])[1]) if m.split(".")[0] == "kseg"}


@pytest.mark.parametrize("module", ["kseg", "kseg.cli", "kseg.cli.train", "kseg.cli.evaluate"])
def test_quick_to_import(module):
    """Neither Keras nor TensorFlow: they take seconds, and `--help` needs none."""
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"keras", "tensorflow", "jax"} & set(result.stdout.split())
    assert "kseg" in result.stdout.split()


@pytest.mark.parametrize(
    "imports",
    [
        "import keras; import kseg",
        "import kseg; import keras",
        "import keras; import kseg.layers",
        "import kseg.layers; import keras",
    ],
)
def test_keras_loads_files_after_either_order(imports, tiny_keras):
    code = f"{imports}\nprint(keras.models.load_model({str(tiny_keras)!r}).card.name)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "cgnet_m3n21\n", result.stderr


def test_another_command_keeps_its_own_stderr_and_log_level(tmp_path):
    """``python -m PACKAGE`` of others that imports kseg, with Keras behind it."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/__main__.py").write_text(
        "import os, sys, kseg\n"
        "print('before', file=sys.stderr)\n"
        "kseg.create_model\n"
        "print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-m", "other"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    # JAX, where it is installed, sets 1; the kseg command sets 3.
    assert result.stdout in ("None\n", "1\n")
    assert result.stderr.startswith("before\n")
