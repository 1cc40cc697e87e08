"""The files of one small result, written down by hand: every name and number that other programs look for."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as masks

from rifenet.formats.cvat_files import class_picture, mask_list, object_picture
from rifenet.formats.object_files import csv_of, cvat_of, geojson_of, rows_of, yolo_names, yolo_of
from rifenet.formats.outputs import coco_of, encoded, endings, labelme_of


class Seen(NamedTuple):
    """An object."""

    box: tuple[int, int, int, int]
    part: NDArray[np.bool_]
    area: int
    score: float
    centroid: tuple[float, float]


class Small:
    """6 x 4 pixels with two dogs, of which one is a pixel, and a sea horse."""

    classes = ("dog", "sea horse")
    confidence: ClassVar = {"dog": 0.912345, "sea horse": 0.5}
    source = "photos/a b.png"
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 2, 2], [0, 0, 0, 0, 2, 2], [0, 1, 0, 0, 0, 0]], np.uint8)

    def instances(self, name: str) -> Sequence[Seen]:
        square, pixel = np.ones((2, 2), bool), np.ones((1, 1), bool)
        if name == "dog":
            return [Seen((0, 0, 2, 2), square, 4, 0.87654321, (0.5, 0.5)), Seen((1, 3, 1, 1), pixel, 1, 0.25, (1, 3))]
        return [Seen((4, 1, 2, 2), square, 4, 1.0, (4.5, 1.5))]

    def table(self) -> list[dict[str, Any]]:
        return rows_of(self, {"dog": 0.81239})

    def overlay(self, *, objects: bool = False) -> Image.Image:
        return Image.fromarray(255 - self.image if objects else self.image)


SMALL = Small()
SQUARE = [[2.0, 0.0], [2.0, 2.0], [0.0, 2.0], [0.0, 0.0]]
PIXEL = [[2.0, 3.0], [2.0, 4.0], [1.0, 4.0], [1.0, 3.0]]
HORSE = [[6.0, 1.0], [6.0, 3.0], [4.0, 3.0], [4.0, 1.0]]


def closed(ring: list[list[float]]) -> list[list[float]]:
    return [*ring, ring[0]]


def test_geojson() -> None:
    dog, horse = {"name": "dog", "color": [230, 159, 0]}, {"name": "sea horse", "color": [86, 180, 233]}

    def feature(kind: str, places: Any, about: dict[str, Any], **more: Any) -> dict[str, Any]:
        facts = {"class": about["name"], **more, "objectType": "annotation", "classification": about}
        return {"type": "Feature", "geometry": {"type": kind, "coordinates": places}, "properties": facts}

    assert geojson_of(SMALL, objects=False) == {
        "type": "FeatureCollection",
        "features": [
            feature("MultiPolygon", [[closed(SQUARE)], [closed(PIXEL)]], dog, area=5, score=0.9123),
            feature("Polygon", [closed(HORSE)], horse, area=4, score=0.5),
        ],
    }
    assert geojson_of(SMALL, objects=True) == {
        "type": "FeatureCollection",
        "features": [
            feature("Polygon", [closed(SQUARE)], dog, area=4, instance=1, score=0.8765),
            feature("Polygon", [closed(PIXEL)], dog, area=1, instance=2, score=0.25),
            feature("Polygon", [closed(HORSE)], horse, area=4, instance=1, score=1.0),
        ],
    }


@pytest.mark.parametrize("objects", [False, True])
def test_yolo(objects: bool) -> None:
    assert yolo_of(SMALL, objects) == (
        "0 0.333333 0.000000 0.333333 0.500000 0.000000 0.500000 0.000000 0.000000\n"
        "0 0.333333 0.750000 0.333333 1.000000 0.166667 1.000000 0.166667 0.750000\n"
        "1 1.000000 0.250000 1.000000 0.750000 0.666667 0.750000 0.666667 0.250000\n"
    )
    assert yolo_names(["dog", "Öl"]) == 'path: .\ntrain: images\nval: images\nnames: {"0": "dog", "1": "Öl"}\n'


def test_csv() -> None:
    assert csv_of(SMALL) == (
        "photo,class,instance,area,share,centroid_x,centroid_y,x,y,width,height,score,confidence,quality\n"
        "a b.png,dog,1,4,0.166667,0.5,0.5,0,0,2,2,0.8765,0.9123,0.8124\n"
        "a b.png,dog,2,1,0.041667,1,3,1,3,1,1,0.25,0.9123,0.8124\n"
        "a b.png,sea horse,1,4,0.166667,4.5,1.5,4,1,2,2,1.0,0.5,\n"
    )


def test_cvat() -> None:
    def image(*rows: str) -> str:
        return f'<image id="0" name="a b.png" width="6" height="4">{"".join(rows)}</image>'

    def mask(label: str, runs: str, left: int, top: int, width: int, height: int) -> str:
        place = f'z_order="0" left="{left}" top="{top}" width="{width}" height="{height}"'
        return f'<mask label="{label}" source="auto" occluded="0" rle="{runs}" {place} />'

    def label(name: str, colour: str) -> str:
        return f"<label><name>{name}</name><color>{colour}</color><type>mask</type></label>"

    labels = label("dog", "#e69f00") + label("sea horse", "#56b4e9")
    head = "<?xml version='1.0' encoding='utf-8'?>\n<annotations>\n<version>1.1</version>\n"
    meta = f"<meta><task><labels>{labels}</labels></task></meta>\n"
    horse = mask("sea horse", "0, 4", 4, 1, 2, 2)
    classes = image(mask("dog", "0, 4, 3, 1", 0, 0, 2, 4), horse)
    objects = image(mask("dog", "0, 4", 0, 0, 2, 2), mask("dog", "0, 1", 1, 3, 1, 1), horse)
    assert cvat_of(SMALL, objects=False) == f"{head}{meta}{classes}\n</annotations>\n"
    assert cvat_of(SMALL, objects=True) == f"{head}{meta}{objects}\n</annotations>\n"


def test_coco() -> None:
    def row(number: int, category: int, inside: NDArray[np.bool_], box: list[int], score: float) -> dict[str, Any]:
        counts = masks.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode()
        facts = {"id": number, "image_id": 7, "category_id": category, "iscrowd": 0, "score": score, "bbox": box}
        return {**facts, "segmentation": {"size": [4, 6], "counts": counts}, "area": int(inside.sum())}

    alone = (SMALL.mask == 1) & (np.arange(4) == 3)[:, None]
    dog, horse = SMALL.mask == 1, SMALL.mask == 2
    whole = {
        "images": [{"id": 7, "file_name": "a b.png", "height": 4, "width": 6}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "sea horse"}],
    }
    classes = [row(1, 1, dog, [0, 0, 2, 4], 0.9123), row(2, 2, horse, [4, 1, 2, 2], 0.5)]
    objects = [row(1, 1, dog & ~alone, [0, 0, 2, 2], 0.8765), row(2, 1, alone, [1, 3, 1, 1], 0.25)]
    objects.append(row(3, 2, horse, [4, 1, 2, 2], 1.0))
    assert coco_of(SMALL, 7) == {**whole, "annotations": classes}
    assert coco_of(SMALL, 7, objects=True) == {**whole, "annotations": objects}
    assert coco_of(SMALL)["images"][0]["id"] == 1


def test_labelme() -> None:
    def shape(label: str, points: list[list[float]], number: int | None) -> dict[str, Any]:
        return {"label": label, "points": points, "group_id": number, "shape_type": "polygon", "flags": {}}

    head = {"version": "5.5.0", "flags": {}, "imagePath": "../a b.png", "imageData": None}
    head |= {"imageHeight": 4, "imageWidth": 6}
    classes = [shape("dog", SQUARE, None), shape("dog", PIXEL, None), shape("sea horse", HORSE, None)]
    objects = [shape("dog", SQUARE, 1), shape("dog", PIXEL, 2), shape("sea horse", HORSE, 1)]
    assert labelme_of(SMALL, Path("photos/out")) == {**head, "shapes": classes}
    assert labelme_of(SMALL, Path("photos/out"), objects=True) == {**head, "shapes": objects}


def test_outlines_are_simplified_within_half_a_pixel() -> None:
    """A step whose corner lies 0.4995 px off the straight line is dropped in every format of outlines."""
    step = np.ones((21, 20), np.uint8)
    step[20, 10:] = 0

    class Slope(Small):
        classes = ("dog",)
        mask = step

    corners = [len(geojson_of(Slope(), objects=False)["features"][0]["geometry"]["coordinates"][0])]
    corners.append(len(labelme_of(Slope(), Path())["shapes"][0]["points"]) + 1)
    corners.append(len(yolo_of(Slope(), objects=False).split()) // 2 + 1)
    exact = len(labelme_of(Slope(), Path(), tolerance=0)["shapes"][0]["points"]) + 1
    assert corners == [5, 5, 5]
    assert exact == 7


def picture(data: bytes) -> tuple[str, NDArray[Any]]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.mode, np.asarray(opened)


def test_pictures() -> None:
    kinds = ("index", "binary", "overlay", "cutout", "cvat_masks", "csv", "cvat", "yolo", "geojson", "coco", "labelme")
    files = encoded(SMALL, "a", kinds, Path("photos/out"), objects=True)
    assert {kind: name for kind, (name, _) in files.items()} == {
        "mask": "a_mask.png",
        "binary:dog": "a_dog.png",
        "binary:sea horse": "a_sea_horse.png",
        "overlay": "a_overlay.jpg",
        "cutout": "a_cutout.png",
        "cvat_masks": "SegmentationClass/a.png",
        "cvat_masks:objects": "SegmentationObject/a.png",
        "csv": "a_table.csv",
        "cvat": "a_cvat.xml",
        "yolo": "labels/a.txt",
        "geojson": "a.geojson",
        "coco": "a_coco.json",
        "labelme": "a_labelme.json",
    }
    mode, index = picture(files["mask"][1])
    assert mode == "P"
    np.testing.assert_array_equal(index, SMALL.mask)
    for number, name in enumerate(SMALL.classes, 1):
        mode, black_and_white = picture(files[f"binary:{name}"][1])
        assert mode == "1"
        np.testing.assert_array_equal(black_and_white, SMALL.mask == number)
    mode, cut = picture(files["cutout"][1])
    assert mode == "RGBA"
    np.testing.assert_array_equal(cut, np.dstack([SMALL.image, np.where(SMALL.mask > 0, 255, 0)]))
    for objects in (False, True):
        own = encoded(SMALL, "a", ["overlay", "cvat_masks"], Path(), objects=objects)
        shown = picture(own["overlay"][1])[1].astype(int)
        assert np.abs(shown - np.asarray(SMALL.overlay(objects=objects)).astype(int)).mean() < 12
        assert ("cvat_masks:objects" in own) == objects
    texts = {
        "csv": csv_of(SMALL),
        "cvat": cvat_of(SMALL, objects=True),
        "yolo": yolo_of(SMALL, objects=True),
        "geojson": json.dumps(geojson_of(SMALL, objects=True)) + "\n",
        "coco": json.dumps(coco_of(SMALL, objects=True), indent=1) + "\n",
        "labelme": json.dumps(labelme_of(SMALL, Path("photos/out"), objects=True), indent=1) + "\n",
    }
    for kind, text in texts.items():
        assert files[kind][1].decode() == text


def test_masks_of_cvat_are_in_the_colours_of_voc() -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], np.uint8)
    np.testing.assert_array_equal(np.asarray(class_picture(SMALL)), colours[SMALL.mask])
    each = SMALL.mask.copy()
    each[each == 2] = 3
    each[3, 1] = 2
    np.testing.assert_array_equal(np.asarray(object_picture(SMALL)), colours[each])
    assert mask_list([Path("x/a b.png"), Path("c.d.png")]) == "a b\nc.d\n"


def test_as_many_objects_as_there_are_colours() -> None:
    class Crowd(Small):
        classes = ("dog",)
        count = 255

        def instances(self, name: str) -> Sequence[Seen]:
            return [Seen((0, 0, 1, 1), np.ones((1, 1), bool), 1, 1.0, (0, 0))] * self.count

    crowd = Crowd()
    assert np.asarray(object_picture(crowd))[0, 0].tolist() == [224, 224, 192]
    crowd.count = 256
    with pytest.raises(
        ValueError, match=r"at most 255 objects in a photo, .*, but photos/a b\.png has more\. Take cvat"
    ):
        object_picture(crowd)


def test_names_of_files_by_class() -> None:
    names = ("mask", "Overlay", "cutout", "COCO", "labelme", "a/b", "A_B", "..", "x" * 50, "ö-1")
    fixed = [".json", "_coco.json", "_labelme.json", ".geojson", "_mask.png", "_overlay.jpg", "_cutout.png"]
    fixed += ["_table.csv", ".txt", "_cvat.xml"]
    own = ["mask_1", "Overlay_2", "cutout_3", "COCO_4", "labelme_5", "a_b", "A_B_7", "class_8", "x" * 40, "ö-1"]
    assert endings(names, ["index"]) == fixed
    assert endings(names, ["index", "binary"]) == [*fixed, *(f"_{name}.png" for name in own)]
