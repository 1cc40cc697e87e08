"""The Python and curl examples of docs/server.md, run as they stand against a server on port 8000 of the text."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image

from rifenet.server.app import create_app

from .conftest import quarter, running, scene

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
THERE = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    Image.fromarray(255 * quarter("left")).save(tmp_path / "a.png")
    Image.fromarray(scene()).save(tmp_path / "query.jpg", quality=100, subsampling=0)
    return tmp_path


def test_the_python_example(folder: Path) -> None:
    (code,) = (text for language, text in BLOCKS if language == "python")
    assert THERE in code
    with running(create_app(ColourEngine())) as address:
        run = subprocess.run(
            [sys.executable, "-c", code.replace(THERE, address)], cwd=folder, capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("query.jpg (48, 64) [{'id': 1, 'name': 'bear', 'present': True,")


@pytest.mark.skipif(shutil.which("curl") is None, reason="There is no curl here.")
def test_the_curl_example(folder: Path) -> None:
    (code,) = (text for language, text in BLOCKS if language == "sh" and "curl" in text)
    assert code.count(THERE) == 3
    app = create_app(ColourEngine())
    with running(app) as address:
        run = subprocess.run(
            ["sh", "-euc", code.replace(THERE, address)], cwd=folder, capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 0, run.stdout + run.stderr
    with Image.open(folder / "query.png") as mask:
        agreement = (np.asarray(mask) == quarter("left")).mean()
    assert agreement > 0.98  # the photo is a JPEG
    assert len(app.state.service.projects) == 0  # the class was deleted again
