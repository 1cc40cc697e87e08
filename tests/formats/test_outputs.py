"""Files for other programs, read back by their rules: pycocotools, our label reader, Pillow; the page as text."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from rifenet.cli.main import main
from rifenet.formats.label_files import load_labels
from rifenet.formats.outputs import merge_coco
from rifenet.segmenting.result import Result
from rifenet.segmenting.segmenter import Segmenter

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


def scene() -> NDArray[np.uint8]:
    """A red ring, within it and beside it blue boxes."""
    image = np.full((96, 128, 3), GREY, np.uint8)
    image[10:80, 10:80] = RED
    image[25:65, 25:65] = GREY
    image[35:50, 35:50] = image[40:90, 95:120] = BLUE
    return image


@pytest.fixture
def segmenter() -> Segmenter:
    segmenter = Segmenter(ColourEngine())
    for name, colour in (("red/ring", RED), ("Blue", BLUE), ("blue", (30, 200, 30))):
        image = np.full((64, 64, 3), colour, np.uint8)
        segmenter.learn(name, [image], [np.ones((64, 64), np.uint8)])
    return segmenter


@pytest.fixture
def saved(segmenter: Segmenter, tmp_path: Path) -> tuple[Result, dict[str, Path]]:
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene()).save(tmp_path / "photos" / "a.png")
    result = segmenter.segment(tmp_path / "photos" / "a.png")
    formats = ("index", "binary", "overlay", "coco", "labelme", "cutout")
    return result, result.save(tmp_path / "out", formats=formats)


def test_every_format_holds_the_mask(saved: tuple[Result, dict[str, Path]]) -> None:
    result, paths = saved
    ring, boxes = result.mask == 1, result.mask == 2
    assert ring.any()
    assert boxes.any()
    names = {key: path.name for key, path in paths.items()}
    assert names == {
        "mask": "a_mask.png",
        "binary:red/ring": "a_red_ring.png",
        "binary:Blue": "a_Blue.png",
        "binary:blue": "a_blue_3.png",  # file names may ignore case
        "overlay": "a_overlay.jpg",
        "coco": "a_coco.json",
        "labelme": "a_labelme.json",
        "cutout": "a_cutout.png",
        "json": "a.json",
    }
    with Image.open(paths["binary:red/ring"]) as picture:
        assert picture.mode == "1"
        np.testing.assert_array_equal(np.asarray(picture), ring)
    with Image.open(paths["binary:blue"]) as picture:
        assert not np.asarray(picture).any()
    with Image.open(paths["cutout"]) as picture:
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels[..., 3] == 255, result.mask > 0)
    np.testing.assert_array_equal(pixels[..., :3], result.image)
    np.testing.assert_array_equal(load_labels(paths["cutout"], "any") == 1, result.mask > 0)
    np.testing.assert_array_equal(load_labels(paths["coco"], "Blue") == 1, boxes)
    near = load_labels(paths["labelme"], "red/ring") == 1
    assert 0 <= (near ^ ring).sum() < 0.02 * ring.sum()
    labelme = json.loads(paths["labelme"].read_text())
    assert labelme["imagePath"] == "../photos/a.png"
    assert (labelme["imageHeight"], labelme["imageWidth"]) == (96, 128)
    facts = json.loads(paths["json"].read_text())
    assert facts["files"]["binary:Blue"] == "a_Blue.png"


def test_coco_of_many_is_read_by_pycocotools(
    segmenter: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, files = [], []
    for number, image in enumerate((scene(), np.full((40, 50, 3), GREY, np.uint8), scene()[::-1].copy())):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        results.append(segmenter.segment(tmp_path / f"{number}.png"))
        files.append(results[-1].save(tmp_path / "out", formats=["coco"])["coco"])
    merge_coco(tmp_path / "coco.json", files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "coco.json", "out"]
    coco = COCO(str(tmp_path / "coco.json"))
    assert [coco.imgs[number]["file_name"] for number in (1, 2, 3)] == ["0.png", "1.png", "2.png"]
    assert [len(coco.imgToAnns[number]) for number in (1, 2, 3)] == [2, 0, 2]
    assert sorted(coco.anns) == [1, 2, 3, 4]
    for annotation in coco.anns.values():
        result = results[annotation["image_id"] - 1]
        expected = result.mask == annotation["category_id"]
        np.testing.assert_array_equal(coco.annToMask(annotation), expected)
        rows, columns = np.nonzero(expected)
        left, top, width, height = annotation["bbox"]
        assert (left, left + width - 1) == (columns.min(), columns.max())
        assert (top, top + height - 1) == (rows.min(), rows.max())
        assert annotation["area"] == expected.sum()
        assert annotation["score"] == round(result.confidence[result.classes[annotation["category_id"] - 1]], 4)
    merge_coco(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == {"images": [], "annotations": [], "categories": []}
    capsys.readouterr()


def test_a_picture_in_memory_can_be_saved(segmenter: Segmenter, tmp_path: Path) -> None:
    paths = segmenter.segment(scene()).save(tmp_path, formats=["labelme", "coco"])
    assert json.loads(paths["labelme"].read_text())["imagePath"] == ""


@pytest.mark.parametrize("formats", ["index", [], ["index", "gif"], ["html"]])
def test_other_formats_are_refused(segmenter: Segmenter, tmp_path: Path, formats: Any) -> None:
    with pytest.raises(ValueError, match="Expected formats among index, binary"):
        segmenter.segment(scene()).save(tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`rifenet segment` of two photos, classes from one colour mask and one JSON."""
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(ColourEngine())))
    (tmp_path / "photos").mkdir()
    image = scene()
    for name in ("a", "b <i>"):
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
    Image.fromarray(image).save(tmp_path / "shot.png")
    Image.fromarray(np.where((image == GREY), 0, image).astype(np.uint8)).save(tmp_path / "colours.png")
    box = {"label": "box", "shape_type": "rectangle", "points": [[95, 40], [120, 90]]}
    content = {"shapes": [box], "imageHeight": 96, "imageWidth": 128}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    shot, colours, boxes = (str(tmp_path / name) for name in ("shot.png", "colours.png", "boxes.json"))
    words = ["segment", "--support", "ring", shot, colours, "--support", "blue", shot, boxes]
    return [*words, "--query", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]


def test_the_command_writes_what_is_asked(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command, "--label", "ring=#dc1e1e", "--label", "blue=box", "--tiles", "no", "--refine"]
    words += ["--format", "index,coco,html,binary"]
    assert main(words) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir() if not path.name.startswith("b")} == {
        *("a.json", "a_mask.png", "a_overlay.jpg", "a_coco.json", "a_ring.png", "a_blue.png"),
        *("coco.json", "index.html", "manifest.json"),
    }
    with Image.open(out / "a_blue.png") as picture:
        blue = np.asarray(picture)
    truth = (scene() == BLUE).all(-1)
    assert (blue & truth).sum() / (blue | truth).sum() > 0.8
    page = (out / "index.html").read_text()
    assert page.count("<figure ") == 2
    assert "<b>b &lt;i&gt;.png</b>" in page
    assert re.search(r"ring: quality 0\.\d\d, confidence 0\.\d\d, \d\d\.\d %", page)
    assert not re.search(r'src="(?!data:)', page)
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) == 2 * (1 + 6)  # around each picture, and to its mask, overlay, coco, two classes and json
    assert all((out / unquote(link)).is_file() for link in links)
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data[0]))) as thumbnail:
        assert max(thumbnail.size) <= 360
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 2
    assert main(words) == 0  # resumes, and puts the same files together
    assert "2 photos segmented (2 of them in an earlier run)" in " ".join(capsys.readouterr().out.split())
    assert (out / "index.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 1, r"holds #000000, #dc1e1e, #1e1edc"),
        (["--label", "ring=#dc1e1e"], 1, "the label 'blue' (the class's name) in the photo, but it has box."),
        (["--label", "cow=1"], 1, "Expected --label CLASS=LABEL with a class of --support (ring, blue)"),
        (["--label", "ring="], 1, "but got 'ring='"),
        (["--format", "index,gif"], 2, "expected formats among index, binary"),
        (["--tiles", "maybe"], 2, "invalid choice"),
    ],
)
def test_wrong_words_get_a_sentence(
    command: list[str], words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*command, *words]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
