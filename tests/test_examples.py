"""What of the examples can be checked without a cluster."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import yaml

from kseg.cli import main, parser
from support import ROOT, without_time, write_maps


def documents(name: str) -> list[dict]:
    """Of an example."""
    return list(yaml.safe_load_all((ROOT / "examples" / name).read_text()))


def container_of(manifest: dict) -> tuple[dict, dict]:
    """The only container of a job's pods, and its variables."""
    assert manifest["kind"] == "Job"
    assert manifest["apiVersion"] == "batch/v1"
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    claims = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claims
    return container, {entry["name"]: entry["value"] for entry in container["env"]}


def run_pod(container: dict, variables: dict, folder: Path) -> list[str]:
    """Lines of what the container's command gives a python that prints its arguments."""
    stand_in = folder / "python"
    stand_in.write_text('#!/bin/sh\necho "$TF_CONFIG"\necho "$@"\n')
    stand_in.chmod(0o755)
    result = subprocess.run(
        [*container["command"], *container["args"]],
        env={**variables, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout.splitlines()


def command_of(line: str) -> list[str]:
    """Arguments of kseg."""
    module, *command = shlex.split(line)[1:]
    assert module == "kseg"
    return command


def test_workers_find_each_other(tmp_path):
    """The script of the pods, run with another python in its place."""
    service, manifest = documents("kubernetes.yaml")
    pod = manifest["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": manifest["metadata"]["name"]}
    container, variables = container_of(manifest)
    assert int(variables["WORKERS"]) == manifest["spec"]["completions"]
    for index in range(2):
        index_of = {"JOB_COMPLETION_INDEX": str(index)}
        config, arguments = run_pod(container, variables | index_of, tmp_path)
        assert json.loads(config) == {
            "cluster": {
                "worker": ["kseg-train-0.kseg-workers:2222", "kseg-train-1.kseg-workers:2222"]
            },
            "task": {"type": "worker", "index": index},
        }
        command = command_of(arguments)
        assert parser(command).parse_args(command).distribution == "multiworker"


def test_pods_score_together(tmp_path, capsys):
    """The scripts of the pods, and what they run, on label maps: the score of one run."""
    score, merge = documents("kubernetes-score.yaml")
    _, maps = write_maps(tmp_path, 5)
    container, variables = container_of(score)
    spec, shards = score["spec"], int(variables["SHARDS"])
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == shards == 8
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert all(variables[name].startswith(tuple(mounts)) for name in ("MODEL", "DATA", "SCORES"))
    here = {"MODEL": str(maps.folder), "DATA": str(tmp_path), "SCORES": str(tmp_path / "scores")}
    for index in range(shards):
        index_of = {"JOB_COMPLETION_INDEX": str(index)}
        _, arguments = run_pod(container, variables | here | index_of, tmp_path)
        assert main(command_of(arguments)) == 0
    container, others = container_of(merge)
    assert others == {name: variables[name] for name in others}
    _, arguments = run_pod(container, others | {"SCORES": here["SCORES"]}, tmp_path)
    assert main(command_of(arguments)) == 0
    data = ["--dataset", "cityscapes", "--data-dir", here["DATA"]]
    assert main(["evaluate", here["MODEL"], *data, "--json", str(tmp_path / "whole.json")]) == 0
    got, want = (
        json.loads((tmp_path / name).read_text()) for name in ("scores/score.json", "whole.json")
    )
    assert without_time(got) == without_time(want)
    capsys.readouterr()


def test_image_has_what_it_names():
    text = (ROOT / "examples/Dockerfile").read_text()
    assert ".[gpu]" in text
    assert "gpu =" in (ROOT / "setup.cfg").read_text()
    assert 'ENTRYPOINT ["python", "-m", "kseg"]' in text
