"""The examples of docs/advice.md, run as they stand, with the bundled model on the bundled photos."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rifenet.advice import MARGIN
from rifenet.cli.main import main
from rifenet.formats.pictures import load_mask

PAGE = (Path(__file__).parents[2] / "docs" / "advice.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
EXAMPLES = Path(str(files("rifenet"))) / "examples"
BEARS = {
    "a": "000000519611",
    "b": "000000542720",
    "c": "000000249346",
    "photos/d": "000000318080",
    "photos/e": "000000353072",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    for name, number in BEARS.items():
        shutil.copy(EXAMPLES / "photos" / f"{number}.jpg", tmp_path / f"{name}.jpg")
        mask = load_mask(EXAMPLES / "masks" / f"{number}.png")
        if "/" not in name:
            Image.fromarray(np.where(mask == 255, 255, mask == 2).astype(np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(BLOCKS["sh"])[1:]) == 0
    assert "Annotate next, out of 2" in capsys.readouterr().out
    told = json.loads((folder / "advice" / "advice.json").read_text())
    assert [shot["verdict"] for shot in told["shots"]] == ["good"] * 3
    assert min(shot["iou"] for shot in told["shots"]) > 0.5
    assert (folder / "advice" / "advice.html").is_file()


@pytest.mark.usefixtures("folder")
def test_the_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS["python"], "docs/advice.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["a.jpg", "b.jpg", "c.jpg", "1"]


def test_the_margin_is_the_one_of_the_page() -> None:
    assert f"more than {MARGIN} (`rifenet.advice.MARGIN`)" in PAGE
