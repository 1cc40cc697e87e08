"""`rifenet advise` over a small engine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image

from rifenet.cli.main import main
from rifenet.segmenting.segmenter import Segmenter

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


def draw(path: Path, colour: tuple[int, int, int]) -> str:
    """Grey with a square of a colour, which `mask` marks, and a blue one beside it, which `other` marks."""
    image = Image.new("RGB", (80, 60), GREY)
    image.paste(colour, (10, 10, 40, 50))
    image.paste(BLUE, (50, 10, 70, 50))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def mark(path: Path, box: tuple[int, int, int, int]) -> str:
    left, top, right, bottom = box
    mask = np.zeros((60, 80), np.uint8)
    mask[top:bottom, left:right] = 1
    Image.fromarray(mask).save(path)
    return str(path)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five shots of red, whose third has the mask of another object, and a folder with a broken photo in it."""
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(ColourEngine())))
    command = ["advise"]
    for i in range(1, 6):
        photo = draw(tmp_path / "photos" / f"shot{i}.png", RED)
        box = (50, 10, 70, 50) if i == 3 else (10, 10, 40, 50)
        command += ["--support", "red", photo, mark(tmp_path / f"mask{i}.png", box)]
    draw(tmp_path / "photos" / "same.png", RED)
    draw(tmp_path / "photos" / "new.png", (230, 200, 20))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return [*command, "--query", str(tmp_path / "photos")]


def test_names_the_wrong_shot_and_the_new_photo(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--json", "--suggest", "1"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [shot["number"] for shot in told["shots"] if shot["warns"]] == [3]
    assert [Path(photo["source"]).name for photo in told["next"]] == ["new.png"]
    assert (told["looked_at"], len(told["failed"])) == (2, 1)  # the shots in the folder are no candidates
    assert "skipped" in printed.err
    assert "broken.jpg" in printed.err


def test_tables_for_people_and_files_on_demand(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "advice"
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "! 3 shot3.png" in printed
    assert "new.png" in printed
    told = json.loads((out / "advice.json").read_text())
    page = (out / "advice.html").read_text(encoding="utf-8")
    assert page.count("<img") == 5 + len(told["next"])
    assert "look at these masks" in page
    assert "the IoU says how far that mask agrees with the drawn one" in " ".join(page.split())  # it reads alone
    assert "http" not in page


def test_without_photos_only_shots_are_judged(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words[: words.index("--query")], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (len(told["shots"]), told["next"], told["looked_at"]) == (5, [], 0)


def test_nothing_but_broken_photos_fails(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words[:-1], str(tmp_path / "photos" / "broken.jpg")]) == 1
    assert "all 1 failed" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Names are always Unicode there.")
def test_a_name_that_is_not_utf_8_does_not_end_the_advice(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path / "photos") + b"/caf\xe9.png")
    try:
        draw(Path(odd), (230, 200, 20))
    except OSError:
        pytest.skip("This disk takes no name that is not UTF-8.")
    out = tmp_path / "out"
    assert main([*words, "x" * 300, "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert odd in [photo["source"] for photo in told["next"]]
    assert "x" * 300 in [failed["query"] for failed in told["failed"]]
    assert json.loads((out / "advice.json").read_text(encoding="utf-8")) == told
    assert "caf\\udce9" in (out / "advice.html").read_text(encoding="utf-8")


def test_the_page_shows_every_kind_of_label_that_is_learned(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, square = tmp_path / "photos" / "shot1.png", np.zeros((60, 80), np.uint8)
    square[10:50, 10:40] = 1
    with Image.open(photo) as opened:
        colours = np.asarray(opened)
    Image.fromarray(np.dstack([colours, 255 * square])).save(tmp_path / "cutout.png")
    Image.fromarray(3 * square).save(tmp_path / "number.png")
    shape = {"label": "Red", "points": [[10, 10], [40, 10], [40, 50], [10, 50]]}
    (tmp_path / "red.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 60, "imageWidth": 80}))
    supports = []
    for labels in ("cutout.png", "number.png", "red.json"):
        supports += ["--support", "red", str(photo), str(tmp_path / labels)]
    out = tmp_path / "out"
    assert main(["advise", *supports, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(shot["iou"], shot["verdict"]) for shot in told["shots"]] == [(1, "good")] * 3
    assert (out / "advice.html").read_text(encoding="utf-8").count("<img") == 3


def test_a_label_and_a_folder_as_in_segment(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shots"
    numbers = np.zeros((60, 80), np.uint8)
    numbers[10:50, 10:40], numbers[10:50, 50:70] = 1, 2
    for name in "ab":
        draw(folder / "images" / f"{name}.png", RED)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(numbers).save(folder / "masks" / f"{name}.png")
    command = ["advise", "--support", "blue", str(folder), "--json"]
    assert main([*command, "--label", "blue=2", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert [shot["iou"] for shot in json.loads(printed.out)["shots"]] == [1, 1]
    assert printed.err == ""
    assert main(command) == 0
    assert capsys.readouterr().err.count("several numbers, 1, 2,") == 1
