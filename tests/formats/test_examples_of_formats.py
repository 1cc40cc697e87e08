"""Every code block of docs/formats.md, run as it stands over a small engine, in a folder with the files named there."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image

from rifenet.cli.main import main
from rifenet.segmenting.segmenter import Segmenter

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(ColourEngine())))
    monkeypatch.chdir(tmp_path)
    image = np.full((48, 64, 3), GREY, np.uint8)
    image[8:40, 8:28], image[8:40, 36:56] = RED, BLUE
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "photos/c.jpg"):
        Image.fromarray(image).save(tmp_path / name, quality=100, subsampling=0)
    Image.fromarray(np.where(image == GREY, 0, image).astype(np.uint8)).save(tmp_path / "colours.png")
    alpha = 255 * (image == RED).all(-1).astype(np.uint8)
    Image.fromarray(np.dstack([image, alpha])).save(tmp_path / "cutout.png")
    boxes = [(1, [8, 8, 28, 8, 28, 40, 8, 40]), (2, [36, 8, 56, 8, 56, 40, 36, 40])]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "Felis catus"}],
        "annotations": [{"image_id": 1, "category_id": number, "segmentation": [box]} for number, box in boxes],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path


def test_there_are_blocks_of_both_kinds() -> None:
    assert [language for language, _ in BLOCKS] == ["python", "sh", "sh", "python", "python", "python"]


def test_labels(folder: Path) -> None:
    place: dict[str, Segmenter] = {}
    exec(BLOCKS[0][1], place)
    assert place["segmenter"].shots == {"dog": 1, "cat": 1}
    mask = place["segmenter"].segment("a.jpg").mask
    assert (mask[10:38, 10:26] == 1).all()
    assert (mask[10:38, 38:54] == 2).all()


def test_commands(folder: Path) -> None:
    for _, text in BLOCKS[1:3]:
        assert main(shlex.split(text.replace("\\\n", " "))[1:]) == 0
    with Image.open(folder / "from_coco" / "c_mask.png") as picture:
        assert set(np.unique(np.asarray(picture))) == {0, 1, 2}
    written = {path.relative_to(folder / "all").as_posix() for path in (folder / "all").rglob("*")}
    named = set(re.findall(r"`(?:labels/NAME|NAME|coco|index|table|annotations|data)[\w.]*`", PAGE))
    expected = {name.strip("`").replace("NAME", "c").replace("CLASS", "dog") for name in named}
    assert {name for name in expected if "." in name} - {
        "c.gpkg"
    } <= written  # of scenes alone: tests/partners/test_geo.py


def test_results_in_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place: dict[str, object] = {}
    exec(BLOCKS[3][1], place)
    assert capsys.readouterr().out.splitlines() == [
        "1 of 2",
        str(Path("files/a_labelme.json")),
        "2 of 2",
        str(Path("files/b_labelme.json")),
    ]
    exec(BLOCKS[4][1], place)
    area, box = capsys.readouterr().out.split(" ", 1)
    assert abs(int(area) - 20 * 32) < 90
    assert np.abs(np.subtract(ast.literal_eval(box), (8, 8, 20, 32))).max() <= 2
    exec(BLOCKS[5][1], {})
    assert capsys.readouterr().out == "(48, 64) {'dog': True}\n"
