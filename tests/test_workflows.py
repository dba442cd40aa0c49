"""The public CI calls what is called by hand, and the issue forms ask for what is needed."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from support import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_targets_are_phony():
    """No file of a target's name keeps it from running: `docs` is a folder."""
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*phony.split()} == TARGETS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_of_the_workflows(path):
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        program, *targets = shlex.split(command)
        if program == "make":
            assert targets
            assert {*targets} <= TARGETS
        else:
            assert not targets
            assert (ROOT / program).stat().st_mode & 0o100


def test_what_the_workflows_cover():
    both = [(path.stem, step.get("run", "")) for path in WORKFLOWS for step in steps(path)]
    assert {run for stem, run in both if stem == "ci" and run} == {
        *("make lint", ".ci/run", "make docs", "make wheel")
    }
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    # YAML 1.1 reads the key "on" as True.
    assert release[True] == {"push": {"tags": ["v*"]}}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "wheel"
    assert release["jobs"]["wheel"]["needs"] == "suite"
    # No secret is read anywhere: PyPI trusts the workflow.
    assert not any("secrets." in path.read_text() for path in WORKFLOWS)


@pytest.mark.parametrize(("tag", "status"), [("v1.2.3", 0), ("v1.2", 2)])
def test_a_release_is_of_its_tag(tmp_path, tag, status):
    """`make release` with a wheel of 1.2.3 beside it."""
    text = (ROOT / "Makefile").read_text()
    (tmp_path / "Makefile").write_text(text.replace("release: wheel", "release:"))
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/kseg-1.2.3-py3-none-any.whl").touch()
    result = subprocess.run(["make", "release", f"TAG={tag}"], cwd=tmp_path, capture_output=True)
    assert result.returncode == status


def test_forms_ask_for_version_and_card(tiny_keras, capsys):
    assert len(FORMS) == 2
    for path in FORMS:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        fields = {field["id"]: field["attributes"] for field in form["body"]}
        assert len(fields) == len(form["body"])
        assert "`kseg --version`" in fields["version"]["description"]
        (command,) = re.findall(r"`(python -c .+)`", fields["card"]["description"])
        program, option, code = shlex.split(command)
        assert (program, option) == ("python", "-c")
    # It runs, on one file.
    exec(code.replace("FILE", str(tiny_keras)), {})
    assert json.loads(capsys.readouterr().out)["name"] == "cgnet_m3n21"


def test_shared_pins_are_equal():
    """The notebook's kernel has the packages of both files."""
    suite, docs = (
        dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / name).read_text().lower(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-docs.txt")
    )
    assert {name: docs[name] for name in suite.keys() & docs} == {
        name: suite[name] for name in suite.keys() & docs
    }
    assert {"zensical", "mkdocstrings", "nbclient", "ipykernel"} <= docs.keys()
