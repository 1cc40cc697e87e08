"""What every campaign writes beside its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rifenet.bench.measure import machine
from rifenet.evaluation.provenance import git_commit
from rifenet.files import write_text


def written_record(path: Path, figures: dict[str, Any]) -> None:
    """Writes and prints the figures with the machine and the commit that they were measured with."""
    record = {"commit": git_commit(), "machine": machine(torch.device("cpu")), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if not isinstance(value, dict)}, indent=2))
