"""What of the examples can be checked without a cluster."""

import json
import os
import shlex
import subprocess

import yaml

from kseg.cli import parser
from support import ROOT


def job() -> tuple[dict, dict]:
    """The service and the job."""
    service, job = yaml.safe_load_all((ROOT / "examples/kubernetes.yaml").read_text())
    return service, job


def test_workers_find_each_other(tmp_path):
    """The script of the pods, run with another python in its place."""
    service, manifest = job()
    pod = manifest["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": manifest["metadata"]["name"]}
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(variables["WORKERS"]) == manifest["spec"]["completions"]
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$TF_CONFIG"\necho "$@"\n')
    stand_in.chmod(0o755)
    for index in range(2):
        result = subprocess.run(
            [*container["command"], *container["args"]],
            env={
                **variables,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "JOB_COMPLETION_INDEX": str(index),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        config, arguments = result.stdout.splitlines()
        assert json.loads(config) == {
            "cluster": {
                "worker": ["kseg-train-0.kseg-workers:2222", "kseg-train-1.kseg-workers:2222"]
            },
            "task": {"type": "worker", "index": index},
        }
        module, *command = shlex.split(arguments)[1:]
        assert module == "kseg"
        assert parser(command).parse_args(command).distribution == "multiworker"


def test_image_has_what_it_names():
    text = (ROOT / "examples/Dockerfile").read_text()
    assert ".[gpu]" in text
    assert "gpu =" in (ROOT / "setup.cfg").read_text()
    assert 'ENTRYPOINT ["python", "-m", "kseg"]' in text
