"""Campaigns run from their start to their record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("kills", 2, ["--jobs", "evaluate", "server"]),
        ("files", 20, ["--kinds", "datasets folds.yaml", "texts config.yaml"]),
    ],
)
def test_a_small_campaign_ends_with_its_record(name: str, count: int, options: list[str], tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/tests{os.pathsep}{ROOT}/src{os.pathsep}{ROOT}"}
    words = [sys.executable, "-m", f"campaigns.{name}", "--count", str(count), *options, "--out", str(record)]
    subprocess.run(words, env=environment, cwd=tmp_path, check=True)
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found[name] == count
    assert found["faults"] == 0
