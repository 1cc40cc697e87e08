"""Lists of objects, read back by the rules of their formats: csv, GeoJSON's rings, YOLO's lines, CVAT's runs."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from rifenet.cli.main import main
from rifenet.formats.object_files import FoundRegion, merge_csv, merge_cvat, yolo_names
from rifenet.formats.polygons import fill_polygon
from rifenet.segmenting.result import Result
from rifenet.segmenting.segmenter import Segmenter

RED, GREY = (220, 30, 30), (128, 128, 128)


def discs(*places: tuple[float, float, float], side: int = 64) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side] + 0.5
    inside = np.zeros((side, side), bool)
    for x, y, radius in places:
        inside |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def painted(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(inside[..., None], np.uint8(RED), np.uint8(GREY)).astype(np.uint8)


SHOT = discs((16, 16, 8), (46, 20, 8), (30, 48, 8))
QUERY = discs((20, 20, 8), (34, 20, 8), (40, 48, 10))  # two of them touch


@pytest.fixture
def result(tmp_path: Path) -> Result:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("disc, <red>", [painted(SHOT)], [SHOT.astype(np.uint8)])
    Image.fromarray(painted(QUERY)).save(tmp_path / "a photo.png")
    return segmenter.segment(tmp_path / "a photo.png")


def saved(result: Result, folder: Path, kind: str, objects: bool = True) -> Path:
    return result.save(folder, formats=[kind], objects=objects)[kind]


def test_csv_holds_the_table(result: Result, tmp_path: Path) -> None:
    with saved(result, tmp_path, "csv", objects=False).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.table()) == 3
    for row, expected in zip(rows, result.table(), strict=True):
        assert row.pop("photo") == "a photo.png"
        assert row.pop("class") == "disc, <red>"
        numbers = {key: float(value) for key, value in row.items() if value}
        assert numbers == pytest.approx({key: expected[key] for key in numbers}, abs=0.006)
        assert {"area", "centroid_x", "x", "height", "confidence"} <= numbers.keys()


@pytest.mark.parametrize("objects", [True, False])
def test_geojson_rings_fill_to_the_objects(result: Result, tmp_path: Path, objects: bool) -> None:
    content = json.loads(saved(result, tmp_path, "geojson", objects).read_text())
    assert content["type"] == "FeatureCollection"
    truths = [each.mask for each in result.instances("disc, <red>")] if objects else [result.mask == 1]
    assert len(content["features"]) == len(truths)
    for feature, truth in zip(content["features"], truths, strict=True):
        geometry = feature["geometry"]
        assert geometry["type"] == ("Polygon" if objects else "MultiPolygon")
        parts = [geometry["coordinates"]] if objects else geometry["coordinates"]
        mask = np.zeros(truth.shape, bool)
        for outer, *holes in parts:
            assert outer[0] == outer[-1]
            assert shoelace(outer) > 0  # RFC 7946: outer rings counter-clockwise as numbers go, holes clockwise
            mask |= fill_polygon(np.array(outer), *truth.shape)
            for hole in holes:
                assert shoelace(hole) < 0
                mask &= ~fill_polygon(np.array(hole), *truth.shape)
        assert (mask ^ truth).sum() <= 0.08 * truth.sum()
        assert feature["properties"]["classification"]["name"] == "disc, <red>"
        assert feature["properties"]["area"] == truth.sum()


def test_outlines_have_holes_and_lie_in_the_photo() -> None:
    ring = discs((10, 10, 9), side=20) & ~discs((10, 10, 4), side=20)
    ((outer, hole),) = FoundRegion(1, "ring", 0, (30, 7, 20, 20), ring, 0.5).outlines()
    filled = fill_polygon(outer, 64, 64) & ~fill_polygon(hole, 64, 64)
    expected = np.zeros((64, 64), bool)
    expected[7:27, 30:50] = ring
    assert (filled ^ expected).sum() <= 0.08 * ring.sum()
    assert (shoelace(outer.tolist()) > 0, shoelace(hole.tolist()) < 0) == (True, True)


def shoelace(ring: list[list[float]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def test_yolo_lines_are_classes_and_shares(result: Result, tmp_path: Path) -> None:
    path = saved(result, tmp_path, "yolo")
    assert path.relative_to(tmp_path).as_posix() == "labels/a photo.txt"
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    for line, each in zip(lines, result.instances("disc, <red>"), strict=True):
        number, *shares = line.split()
        assert number == "0"
        corners = 64 * np.array(shares, float).reshape(-1, 2)
        x, y, width, height = each.box
        assert corners.min(0) == pytest.approx([x, y], abs=0.6)
        assert corners.max(0) == pytest.approx([x + width, y + height], abs=0.6)
    assert len(saved(result, tmp_path, "yolo", objects=False).read_text().splitlines()) == 2  # connected parts
    assert json.loads(yolo_names(["a", "ö: x"]).split("names: ")[1]) == {"0": "a", "1": "ö: x"}


def cvat_masks(image: ElementTree.Element) -> list[NDArray[np.bool_]]:
    """Masks by CVAT's rule: runs of zeros and ones in turn, row by row in the box."""
    found = []
    for mask in image.iter("mask"):
        left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in mask.attrib["rle"].split(",")]
        assert sum(runs) == width * height
        pixels = [place % 2 == 1 for place, run in enumerate(runs) for _ in range(run)]
        whole = np.zeros((int(image.attrib["height"]), int(image.attrib["width"])), bool)
        whole[top : top + height, left : left + width] = np.reshape(pixels, (height, width))
        found.append(whole)
    return found


def test_cvat_holds_every_pixel(result: Result, tmp_path: Path) -> None:
    paths = [saved(result, tmp_path / name, "cvat") for name in ("one", "two")]
    merge_cvat(tmp_path / "annotations.xml", paths, result.classes)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    images = list(root.iter("image"))
    assert [image.attrib["id"] for image in images] == ["0", "1"]
    assert [label.findtext("name") for label in root.iter("label")] == ["disc, <red>"]
    for image in images:
        for mask, each in zip(cvat_masks(image), result.instances("disc, <red>"), strict=True):
            np.testing.assert_array_equal(mask, each.mask)


def test_names_that_xml_cannot_hold_cost_no_file(tmp_path: Path) -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("a\x01b", [painted(SHOT)], [SHOT.astype(np.uint8)])
    path = segmenter.segment(painted(QUERY)).save(tmp_path, formats=["cvat"])["cvat"]
    assert [each.attrib["label"] for each in ElementTree.parse(path).getroot().iter("mask")] == ["a�b"]


def test_tables_of_photos_become_one(result: Result, tmp_path: Path) -> None:
    paths = [saved(result, tmp_path / name, "csv") for name in ("one", "two")]
    merge_csv(tmp_path / "table.csv", paths)
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [row["instance"] for row in csv.DictReader(file)] == ["1", "2", "3"] * 2


def test_coco_and_labelme_have_one_entry_an_object(result: Result, tmp_path: Path) -> None:
    coco = COCO(str(saved(result, tmp_path, "coco")))
    objects = result.instances("disc, <red>")
    assert len(coco.anns) == 3
    for annotation, each in zip(coco.anns.values(), objects, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), each.mask)
        assert (tuple(annotation["bbox"]), annotation["score"]) == (each.box, round(each.score, 4))
    shapes = json.loads(saved(result, tmp_path, "labelme").read_text())["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 2, 3]
    for shape, each in zip(shapes, objects, strict=True):
        filled = fill_polygon(np.array(shape["points"]), 64, 64)
        assert (filled ^ each.mask).sum() <= 0.08 * each.area


def test_the_command_counts_objects_and_refuses_gpkg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(ColourEngine())))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(painted(QUERY)).save(tmp_path / "photos" / f"{name}.png")
    Image.fromarray(painted(SHOT)).save(tmp_path / "shot.png")
    Image.fromarray(SHOT.astype(np.uint8)).save(tmp_path / "mask.png")
    words = ["segment", "--support", "disc", str(tmp_path / "shot.png"), str(tmp_path / "mask.png")]
    words += ["--query", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main([*words, "--instances", "--clean", "--format", "csv,geojson,yolo,cvat,coco,html"]) == 0
    out = tmp_path / "out"
    together = {"table.csv", "annotations.xml", "data.yaml", "coco.json", "index.html", "labels"}
    assert together <= {path.name for path in out.iterdir()}
    assert len(COCO(str(out / "coco.json")).anns) == 6
    facts = json.loads((out / "manifest.json").read_text())
    assert [entry["classes"][0]["objects"] for entry in facts["results"]] == [3, 3]
    assert (facts["settings"]["instances"], facts["settings"]["clean"]) == (True, True)
    printed = capsys.readouterr().out
    assert "· 3" in printed
    assert "and the number of its objects" in printed
    page = (out / "index.html").read_text()
    assert "3 objects" in page
    assert "<option value=objects>most objects first</option>" in page
    assert main([*words, "--format", "gpkg"]) == 2
    assert "Take geojson, which is in pixel coordinates" in " ".join(capsys.readouterr().err.split())
