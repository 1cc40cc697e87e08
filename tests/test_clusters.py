"""The example files for clusters: the fields that KubeRay and Slurm know, and commands that the program takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml
from docs_blocks import ROOT

from rifenet.cli.segment import _parser

FOLDER = ROOT / "configs" / "clusters"


def fields(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """A JSON schema of an object with these fields and no others, as a server that validates strictly takes it."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(required),
        "additionalProperties": False,
    }


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # Kubernetes takes "0", and refuses 0
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = fields(
    {"name": NAME, "image": TEXT},
    resources=fields({}, requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts={"type": "array", "items": fields({"name": NAME, "mountPath": TEXT}, readOnly=FLAG)},
)
TOLERATION = fields(
    {},
    key=TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value=TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)
POD = fields(
    {"containers": {"type": "array", "items": CONTAINER, "minItems": 1}},
    serviceAccountName=NAME,
    tolerations={"type": "array", "items": TOLERATION},
    volumes={"type": "array", "items": fields({"name": NAME}, configMap=fields({"name": NAME}))},
)
TEMPLATE = fields({"spec": POD}, metadata={"type": "object"})
GROUP = fields(
    {"groupName": NAME, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": TEXTS, "template": TEMPLATE},
    replicas=COUNT,
    numOfHosts=COUNT,
)
CLUSTER = fields(
    {"headGroupSpec": fields({"rayStartParams": TEXTS, "template": TEMPLATE})},
    workerGroupSpecs={"type": "array", "items": GROUP},
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    enableInTreeAutoscaling=FLAG,
)
RAY_JOB = fields(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": fields({"name": NAME}),
        "spec": fields(
            {"rayClusterSpec": CLUSTER},
            entrypoint=TEXT,
            shutdownAfterJobFinishes=FLAG,
            ttlSecondsAfterFinished=COUNT,
            backoffLimit=COUNT,
        ),
    }
)
"""What KubeRay's types RayJobSpec and RayClusterSpec say of the fields that the example has (ray.io/v1)."""

SLURM = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "mem-per-cpu": r"\d+[KMGT]?",
    "gpus-per-node": r"\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "requeue": r"",
    "output": r"\S+",
}
"""Options of sbatch, and the form of their values (sbatch's manual)."""


def command_in(words: list[str]) -> Any:
    assert words[:2] == ["rifenet", "segment"]
    return _parser().parse_args(words[2:])


def job() -> Any:
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))


def test_the_ray_job_has_kuberays_fields_and_no_others() -> None:
    jsonschema.Draft202012Validator.check_schema(RAY_JOB)
    jsonschema.validate(job(), RAY_JOB)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterFinish"), True),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "16"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "container"), []),
    ],
)
def test_a_wrong_field_is_found(path: tuple[Any, ...], value: Any) -> None:
    wrong = job()
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, RAY_JOB)


def test_the_ray_jobs_command_is_one_that_the_program_takes() -> None:
    spec = job()["spec"]
    arguments = command_in(shlex.split(spec["entrypoint"]))
    assert arguments.ray == "auto"
    group = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert arguments.workers * arguments.worker_cpus == cpus * group["maxReplicas"], "all that may be hired is used"
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def directives(text: str) -> dict[str, str]:
    """The options that sbatch reads: those before the first command."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"#SBATCH --([\w-]+)(?:=(.*))?", line):
            found[match[1]] = match[2] or ""
        elif line.strip() and not line.startswith("#"):
            break
    return found


def test_the_slurm_files_directives_are_sbatchs() -> None:
    text = (FOLDER / "slurm.sbatch").read_text(encoding="utf-8")
    found = directives(text)
    assert len(found) == text.count("#SBATCH"), "sbatch reads no directive after the first command"
    for option, value in found.items():
        assert option in SLURM, f"sbatch has no --{option}"
        assert re.fullmatch(SLURM[option], value), f"--{option}={value}"
    assert found["ntasks-per-node"] == "1", "one Ray node a machine"
    assert text.startswith("#!/bin/bash\n")


def test_the_slurm_files_commands_are_ones_that_the_programs_take() -> None:
    text = (FOLDER / "slurm.sbatch").read_text(encoding="utf-8")
    joined = text.replace("\\\n", " ")
    (line,) = (line for line in joined.splitlines() if "rifenet segment" in line and not line.startswith("#"))
    words = shlex.split(line)
    arguments = command_in(words[words.index("rifenet") :])
    assert arguments.ray == "$head:$port"
    starts = [line for line in joined.splitlines() if "ray start" in line]
    assert [("--head" in line, '--address="$head:$port"' in line) for line in starts] == [(True, False), (False, True)]
    assert all("--block" in line and line.rstrip().endswith("&") for line in starts)
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n", str(FOLDER / "slurm.sbatch")], check=True)
