"""The sources of the documentation site: ``make docs`` runs this, then Zensical.

``python benchmarks/website.py`` writes ``build/docs`` (pages), ``build/mkdocs.yml`` (the settings
of ``mkdocs.yml`` with the list of pages), ``build/api`` (the modules whose docstrings are shown)
and the first tutorial as a notebook into ``build/notebook`` with the kernel that executes it.
``benchmarks/check_site.py`` reads what Zensical makes of it.

Pages are README.md, whose sections become pages of their own, and the files of ``docs/``; cards of
the networks, the command line and the API are made of kseg itself. Links are written for the
repository, so that they work there too, and are rewritten for the site.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import model_cards
import page
import yaml

import kseg
from kseg.cli import SUBCOMMANDS, parser

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
TUTORIAL = "tutorials/folder-to-phone.md"

# Sections of the README that are pages of the site; the others stay on the first page.
SECTIONS = {
    "The demo": "demo.md",
    "Weights that come with kseg": "weights.md",
    "From your images to a scored .tflite file": "own-images.md",
    "Your own training loop": "training-loop.md",
    "Files for the phone": "phone-files.md",
    "What a model is": "what-a-model-is.md",
    "How scores are made": "scores.md",
}
# Beside the modules that kseg names.
MODULES = ("kseg.card", "kseg.file_card", "kseg.training.losses", "kseg.training.metrics")


def sources() -> dict[str, str]:
    """Where each file of the repository that a page may link to lies in the site."""
    found = {"README.md": "index.md"}
    for pattern in ("docs/**/*.md", "docs/**/*.png", "docs/site.css"):
        for path in sorted(ROOT.glob(pattern)):
            found[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT / "docs").as_posix()
    for path in sorted((ROOT / "results").iterdir()):
        found[f"results/{path.name}"] = f"results/{path.name}"
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        found[name] = name.lower()
    return found


def pages() -> dict[str, str]:
    """Markdown by the page's path in the site."""
    found = sources()
    made = {}
    sections = _sections((ROOT / "README.md").read_text())
    for title in SECTIONS:
        if title not in sections:
            raise ValueError(f"README.md has no section {title!r}, which SECTIONS names")
    networks = "[All networks, with a page each](models/index.md)."
    for title, text in sections.items():
        path = SECTIONS.get(title, "index.md")
        text = for_site(text, "README.md", path, found)
        if "<!-- zoo -->" in text:
            text = page.filled(text, {"zoo": networks})
        made[path] = made.get(path, "") + (text if path == "index.md" else f"#{text[2:]}")
    for source, path in found.items():
        if source.endswith(".md") and source != "README.md":
            made[path] = for_site((ROOT / source).read_text(), source, path, found)
    title, _, rest = made[TUTORIAL].partition("\n")
    notebook = PurePosixPath(TUTORIAL).with_suffix(".ipynb").name
    link = f"[This page as a notebook]({notebook}), with what its cells print."
    made[TUTORIAL] = f"{title}\n\n{link}\n{rest}"
    return {**made, **model_cards.pages(), **_reference()}


def _sections(text: str) -> dict[str, str]:
    """The README's sections by their titles, in order; what stands before the first as ""."""
    first, *rest = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return {"": first} | {part.partition("\n")[0][3:]: part for part in rest}


def for_site(text: str, source: str, path: str, found: dict[str, str]) -> str:
    """The text of ``source`` with links as they must be on the page ``path``."""

    def place(match: re.Match[str]) -> str:
        label, link = match.groups()
        target, hash_, anchor = link.partition("#")
        if "://" in target or not target:
            return match[0]
        wanted = os.path.normpath(PurePosixPath(source).parent / target)
        if wanted not in found:
            if not (ROOT / wanted).exists():
                raise ValueError(f"{source}: the link {link} leads nowhere")
            # A file of the repository that is no part of the site.
            return label
        there = found[wanted]
        if wanted == "README.md" and anchor:
            by_anchor = {_slug(title): to for title, to in SECTIONS.items()}
            there = by_anchor.get(anchor, there)
            anchor = "" if anchor in by_anchor else anchor
        relative = os.path.relpath(there, PurePosixPath(path).parent)
        return f"[{label}]({relative}{hash_ if anchor else ''}{anchor})"

    return re.sub(r"\[([^\[\]]*)\]\(([^)\s]+)\)", place, text)


def _slug(title: str) -> str:
    return re.sub(r"[^\w]+", "-", title.lower()).strip("-")


def _reference() -> dict[str, str]:
    """Pages of the command line and of the public modules."""
    made = {"reference/commands.md": _commands()}
    names = [name for name in kseg.__all__ if isinstance(getattr(kseg, name), types.ModuleType)]
    modules = sorted(["kseg", *(f"kseg.{name}" for name in names), *MODULES])
    for name in modules:
        module = importlib.import_module(name)
        # Modules within it have pages of their own.
        members = [
            member
            for member in getattr(module, "__all__", ())
            if not isinstance(getattr(module, member), types.ModuleType) and member[0] != "_"
        ]
        options = {"options": {"members": members}} if members else {}
        text = f"---\ntitle: {name}\n---\n\n::: {name}\n"
        if options:
            text += "".join(f"    {line}\n" for line in yaml.safe_dump(options).splitlines())
        made[f"reference/{name}.md"] = text
    lines = [f"- [{name}]({name}.md)" for name in modules]
    intro = "The [command line](commands.md), and the modules, imported as they are named here:"
    made["reference/index.md"] = "\n".join(["# Reference", "", intro, "", *lines, ""])
    return made


def split_names(source: str) -> str:
    """A module's text in which each argument that a docstring describes has a line of its own.

    kseg writes "height, width: of the input"; mkdocstrings takes such a line for one argument.
    """

    def each(match: re.Match[str]) -> str:
        indent, names, text = match.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))

    name = r"\*{0,2}\w+"
    entry = re.compile(rf"^( +)({name}(?:, {name})+): (.+(?:\n\1 +.+)*)", re.MULTILINE)
    section = r"^( *)(?:Args|Attributes|Raises):\n(?:\1 +.+\n|\n)+"
    return re.sub(section, lambda found: entry.sub(each, found[0]), source, flags=re.MULTILINE)


def _write_api(folder: Path) -> None:
    """The package as it is installed, for mkdocstrings, which reads it and imports nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    for source, package in (
        ("kseg", "kseg"),
        ("training", "kseg/training"),
        ("tflite", "kseg/tflite"),
    ):
        for path in (ROOT / source).rglob("*.py"):
            target = folder / package / path.relative_to(ROOT / source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(split_names(path.read_text()))


def _commands() -> str:
    """What ``--help`` of every subcommand prints."""
    parts = ["# Command line", "`kseg SUBCOMMAND`, or `python -m kseg SUBCOMMAND`."]
    for name in SUBCOMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parser([name]).parse_args([name, "--help"])
        parts.append(f"## kseg {name}\n\n```text\n{printed.getvalue()}```")
    return "\n\n".join(parts) + "\n"


def navigation(entries: list[Any], paths: list[str]) -> list[Any]:
    """``nav`` of mkdocs.yml in full.

    Args:
        entries: of mkdocs.yml. "folder/" stands for the pages of a folder, its index first, and
            "*" for the pages that no other entry names.
        paths: of all pages.
    """

    def named(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield from _within(entry, paths) if entry.endswith("/") else [entry]
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from named(part)

    rest = sorted(set(paths) - {*named(entries)})

    def full(entry: Any) -> list[Any]:
        if isinstance(entry, dict):
            ((title, part),) = entry.items()
            return (
                [{title: [x for item in part for x in full(item)]}]
                if isinstance(part, list)
                else [entry]
            )
        if entry == "*":
            return [*rest]
        return _within(entry, paths) if entry.endswith("/") else [entry]

    return [item for entry in entries for item in full(entry)]


def _within(folder: str, paths: list[str]) -> list[str]:
    own = [path for path in paths if path.startswith(folder)]
    return sorted(own, key=lambda path: (not path.endswith("/index.md"), path))


def notebook(text: str) -> dict[str, Any]:
    """A page as a notebook: its blocks of Python are the cells, what is between them is text."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.+?)^```\n", text, flags=re.M | re.S)):
        if not part.strip():
            continue
        cell = {"id": f"cell-{number}", "metadata": {}, "source": part.strip()}
        if number % 2:
            cell |= {"cell_type": "code", "outputs": [], "execution_count": None}
        else:
            cell["cell_type"] = "markdown"
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _write_notebook(folder: Path, jupyter: Path) -> None:
    """The first tutorial, and the kernel that executes it: this Python, with Jupyter's packages.

    Args:
        folder: is made anew; the notebook's working directory.
        jupyter: the environment with ipykernel, whose packages kseg's must not depend on.
    """
    shutil.rmtree(folder, ignore_errors=True)
    kernel = folder / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (kernel / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3",
                "language": "python",
                "env": {
                    "PYTHONPATH": str(jupyter / "lib" / version / "site-packages"),
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                },
            }
        )
    )
    # Links of the page lead out of the repository's folder of tutorials, which a reader has not.
    text = re.sub(r"\[([^]]+)\]\([^)\s]+\)", r"\1", (ROOT / "docs" / TUTORIAL).read_text())
    path = folder / PurePosixPath(TUTORIAL).with_suffix(".ipynb").name
    path.write_text(json.dumps(notebook(text), indent=1))


def write() -> None:
    """Everything that Zensical and Jupyter read."""
    folder = BUILD / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    made = pages()
    for path, text in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for source, path in sources().items():
        if not source.endswith(".md"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, folder / path)
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings["nav"] = navigation(settings["nav"], list(made))
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    _write_api(BUILD / "api")
    _write_notebook(BUILD / "notebook", ROOT / ".venv-docs")


if __name__ == "__main__":
    write()
