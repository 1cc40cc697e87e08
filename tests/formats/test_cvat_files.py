"""CVAT's XML and segmentation masks: read as CVAT writes them, written as CVAT reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rifenet.cli.segmented import write_together
from rifenet.formats.cvat_files import labelmap, voc_colour
from rifenet.formats.label_files import load_labels
from rifenet.formats.pairs import pairs_in, pairs_of
from rifenet.segmenting.segmenter import Segmenter

# Two photos as CVAT 2 exports them ("CVAT for images 1.1"), with what other kinds of shapes look like.
EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task><id>7</id><name>animals</name><size>3</size><mode>annotation</mode>
      <labels>
        <label><name>Dog</name><color>#ff6037</color><type>any</type><attributes></attributes></label>
        <label><name>cat</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
        <label><name>bird</name><color>#32b7fa</color><type>any</type><attributes></attributes></label>
      </labels>
    </task>
    <dumped>2026-11-30 10:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="day/a.jpg" width="12" height="8">
    <mask label="Dog" source="manual" occluded="0" rle="1, 2, 1, 3" left="3" top="2" width="3" height="2"\
 z_order="0"></mask>
    <polygon label="Dog" source="manual" occluded="0" points="0.00,0.00;2.00,0.00;2.00,2.00;0.00,2.00" z_order="1">
      <attribute name="tame">yes</attribute>
    </polygon>
    <box label="cat" source="file" occluded="0" xtl="8.00" ytl="1.00" xbr="11.00" ybr="3.00" z_order="0"></box>
    <polyline label="cat" source="manual" occluded="0" points="1.00,1.00;2.00,2.00" z_order="0"></polyline>
  </image>
  <image id="1" name="day/b.jpg" width="12" height="8">
    <ellipse label="cat" source="manual" occluded="0" cx="6.00" cy="4.00" rx="3.00" ry="2.00" z_order="0"></ellipse>
    <box label="Dog" source="manual" occluded="0" xtl="4.00" ytl="3.00" xbr="8.00" ybr="5.00" rotation="90.00"\
 z_order="0"></box>
  </image>
  <image id="2" name="day/c.jpg" width="12" height="8">
  </image>
</annotations>
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / "images" / "day").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8)).save(tmp_path / "images" / "day" / f"{name}.jpg")
    (tmp_path / "annotations.xml").write_text(EXPORT, encoding="utf-8")
    return tmp_path / "annotations.xml"


def filled(*boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    mask = np.zeros((8, 12), np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def test_masks_and_polygons_of_a_class(export: Path) -> None:
    # Row by row in the box from (3, 2), 3 wide: 1 clear, 2 set, 1 clear, 3 set would be 7 of 6 pixels.
    text = EXPORT.replace("1, 2, 1, 3", "1, 2, 1, 2")
    export.write_text(text, encoding="utf-8")
    expected = filled((0, 0, 2, 2))
    expected[2, 4:6] = expected[3, 4:6] = 1
    np.testing.assert_array_equal(load_labels(export, "dog", photo="/photos/day/a.jpg"), expected)


def test_a_broken_shape_is_left_out_with_a_remark(export: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 annotation was left out.*add up to 3 x 2 pixels"):
        mask = load_labels(export, "dog", photo="day/a.jpg")
    np.testing.assert_array_equal(mask, filled((0, 0, 2, 2)))


def test_boxes_turned_boxes_and_ellipses(export: Path) -> None:
    with pytest.warns(UserWarning, match="but got a polyline"):
        np.testing.assert_array_equal(load_labels(export, "cat", photo="day/a.jpg"), filled((8, 1, 11, 3)))
    # 4 x 2 about (6, 4), turned by 90 degrees, is 2 x 4.
    np.testing.assert_array_equal(load_labels(export, "dog", photo="day/b.jpg"), filled((5, 2, 7, 6)))
    rows, columns = np.mgrid[0:8, 0:12] + 0.5
    inside = ((columns - 6) / 3) ** 2 + ((rows - 4) / 2) ** 2 < 1
    np.testing.assert_array_equal(load_labels(export, "cat", photo="day/b.jpg"), inside)


def test_a_box_turned_the_way_cvat_turns_it(export: Path) -> None:
    """CVAT turns clockwise as seen on a screen: the right end of a bar goes down."""
    export.write_text(EXPORT.replace('rotation="90.00"', 'rotation="30.00"'), encoding="utf-8")
    mask = load_labels(export, "dog", photo="day/b.jpg")
    assert mask[4, 7] == mask[3, 4] == 1
    assert mask[3, 7] == mask[4, 4] == 0


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("Dog", "Wolf", r"Expected the label 'dog'.*it has Wolf, cat"),
        ("day/a.jpg", "day/x.jpg", r"Expected annotations of the photo a\.jpg.*x\.jpg, b\.jpg, c\.jpg"),
        ('width="12"', 'width="wide"', "height and width in pixels"),
        ("</annotations>", "", "cannot be read"),
        ("annotations>", "annotation>", "got one of 'annotation'"),
        ("<annotations>", "<!DOCTYPE x []><annotations>", "without a document type"),
        ('<image id="2"', '<track id="0"></track><image id="2"', "that for video"),
    ],
)
def test_other_files_are_refused(export: Path, old: str, new: str, complaint: str) -> None:
    export.write_text(EXPORT.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        load_labels(export, "dog", photo="day/a.jpg")


def test_an_unpacked_export_gives_the_photos_that_show_the_class(export: Path) -> None:
    def names(name: str) -> list[str]:
        return [photo.name for photo, _ in pairs_in(export.parent, name)]

    assert names("dog") == ["a.jpg", "b.jpg"]
    export.write_text(EXPORT.replace('box label="Dog"', 'box label="bird"'), encoding="utf-8")
    assert names("dog") == ["a.jpg"]
    assert names("other") == ["a.jpg", "b.jpg"]  # a label may be chosen later
    photos = sorted((export.parent / "images" / "day").iterdir())
    assert [photo.name for photo, _ in pairs_of(photos, [export], "here", "bird")] == ["b.jpg"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What the program writes of two photos, with one and three objects."""
    red, blue, photos = (200, 40, 40), (40, 40, 200), {}
    for name, boxes in {"a": [(8, 8, 40, 40, red), (60, 8, 90, 50, blue)], "b": [(8, 8, 30, 30, red)] * 2}.items():
        photos[name] = Image.new("RGB", (96, 64), (110, 110, 110))
        for left, top, right, bottom, colour in boxes:
            ImageDraw.Draw(photos[name]).rectangle((left, top, right, bottom), colour)
    ImageDraw.Draw(photos["b"]).rectangle((50, 20, 80, 60), red)
    (tmp_path / "JPEGImages").mkdir()
    segmenter = Segmenter(ColourEngine(96))
    pixels = np.asarray(photos["a"])
    segmenter.learn("dog", [photos["a"]], [(pixels == red).all(axis=2)])
    segmenter.learn("sea horse", [photos["a"]], [(pixels == blue).all(axis=2)])
    records = []
    for name, photo in photos.items():
        photo.save(tmp_path / "JPEGImages" / f"{name}.png")
        result = segmenter.segment(tmp_path / "JPEGImages" / f"{name}.png")
        paths = result.save(tmp_path, formats=["cvat", "cvat_masks", "index"], objects=True)
        records.append(json.loads(paths["json"].read_text(encoding="utf-8")))
    write_together(tmp_path, records, ["cvat", "cvat_masks"])
    return tmp_path


def test_what_is_written_is_read_again(written: Path) -> None:
    with Image.open(written / "a_mask.png") as picture:
        index = np.asarray(picture)
    for number, name in enumerate(["dog", "sea horse"], 1):
        for source in (written / "annotations.xml", written / "SegmentationClass" / "a.png"):
            found = load_labels(source, name, photo="a.png")
            np.testing.assert_array_equal(found, index == number)


def test_segmentation_masks_are_as_cvat_expects_them(written: Path) -> None:
    assert (written / "labelmap.txt").read_text() == (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:128,0,0::\nsea horse:0,128,0::\n"
    )
    assert (written / "ImageSets" / "Segmentation" / "default.txt").read_text() == "a\nb\n"
    with Image.open(written / "SegmentationObject" / "b.png") as picture:
        assert picture.mode == "RGB"
        colours = np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()
    assert colours == [[0, 0, 0], [0, 128, 0], [128, 0, 0]]  # two objects
    assert [photo.name for photo, _ in pairs_in(written, "dog")] == ["a.png", "b.png"]
    assert [photo.name for photo, _ in pairs_in(written, "Sea Horse")] == ["a.png"]


def test_labels_of_segmentation_masks(written: Path) -> None:
    mask = written / "SegmentationClass" / "a.png"
    np.testing.assert_array_equal(load_labels(mask, "wolf", label="dog"), load_labels(mask, "dog"))
    np.testing.assert_array_equal(load_labels(mask, "wolf", label="#008000"), load_labels(mask, "sea horse"))
    with pytest.raises(ValueError, match=r"Expected the label 'wolf' in .*labelmap.txt, but it has background, dog"):
        load_labels(mask, "wolf")
    (written / "labelmap.txt").unlink()
    with pytest.raises(ValueError, match="one colour on black"):
        load_labels(mask, "dog")


def test_colours_are_those_of_pascal_voc_and_all_differ() -> None:
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [voc_colour(number) for number in range(7)] == first
    assert voc_colour(8) == (64, 0, 0)
    assert voc_colour(255) == (224, 224, 192)
    assert len({voc_colour(number) for number in range(256)}) == 256
    assert labelmap(["x"]).count("\n") == 3


def test_shapes_that_lack_a_value(tmp_path: Path) -> None:
    """An order above others may be missing; what tells the area may not."""

    def read(*shapes: str) -> NDArray[np.uint8]:
        rows = "".join(shapes)
        text = f'<annotations><image id="0" name="a.jpg" width="6" height="4">{rows}</image></annotations>'
        (tmp_path / "a.xml").write_text(text)
        return load_labels(tmp_path / "a.xml", "dog", photo="a.jpg")

    box = '<box label="dog" xtl="1" ytl="1" xbr="3" ybr="2"/>'
    assert np.argwhere(read(box)).tolist() == [[1, 1], [1, 2]]
    for shape, sentence in (
        (
            '<mask label="dog" left="0" top="0" width="1" height="1"/>',
            "a whole number as a run length|a number as a run",
        ),
        ('<mask label="dog" left="0" top="0" width="1" height="1" rle="x"/>', "a number as a run length, but got 'x'"),
        ('<mask label="dog" left="0" top="0" width="1" height="1" rle="0.5"/>', "a whole number as a run length"),
        ('<mask label="dog" top="0" width="1" height="1" rle="0,1"/>', "a number as left, but got None"),
        ('<mask label="dog" left="0" top="0" width="0" height="1" rle="0"/>', "goes beyond the edge"),
        ('<mask label="dog" left="6" top="0" width="1" height="1" rle="0,1"/>', "goes beyond the edge"),
        ('<mask label="dog" left="0" top="4" width="1" height="1" rle="0,1"/>', "goes beyond the edge"),
        ('<mask label="dog" left="-1" top="0" width="1" height="1" rle="0,1"/>', "goes beyond the edge"),
        ('<mask label="dog" left="0" top="0" width="2" height="1" rle="-1,3"/>', "add up to 2 x 1 pixels"),
        ('<polygon label="dog"/>', "a number as a corner, but got ''"),
        ('<box label="dog" xtl="1" ytl="1" xbr="3"/>', "a number as ybr, but got None"),
        ('<ellipse label="dog" cx="1" cy="1" rx="3"/>', "a number as ry, but got None"),
        ('<box label="dog" xtl="1" ytl="1" xbr="3" ybr="2" rotation="x"/>', "a number as rotation, but got 'x'"),
        (
            '<box label="dog" xtl="1" ytl="1" xbr="3" ybr="2" z_order="1.5"/>',
            "a whole number as z_order, but got '1.5'",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            read(shape)
    for corner in ('left="5" top="3"', 'left="0" top="3"', 'left="5" top="0"'):
        assert read(f'<mask label="dog" {corner} width="1" height="1" rle="0,1"/>').sum() == 1


def test_an_ellipse_is_as_wide_as_it_says(tmp_path: Path) -> None:
    shape = '<ellipse label="dog" cx="100" cy="60" rx="90" ry="40"/>'
    text = f'<annotations><image id="0" name="a.jpg" width="200" height="120">{shape}</image></annotations>'
    (tmp_path / "a.xml").write_text(text)
    rows, columns = np.mgrid[:120, :200] + 0.5
    away = ((columns - 100) / 90) ** 2 + ((rows - 60) / 40) ** 2
    found = load_labels(tmp_path / "a.xml", "dog", photo="a.jpg")
    assert found[away < 0.995].all()
    assert not found[away > 1.005].any()
