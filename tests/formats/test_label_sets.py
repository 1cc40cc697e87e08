"""All labels of a file at once, against masks made by hand."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rifenet.formats.label_json import Annotated, Shape, annotations_of, parse_annotations, photos_of
from rifenet.formats.label_sets import annotated_among, labels_of_annotation, labels_of_picture

MASK = np.zeros((6, 8), np.uint8)
MASK[1:3, 1:3], MASK[4:, 5:], MASK[0, 7] = 3, 7, 255


def test_an_index_picture_keeps_its_numbers_and_what_is_ignored() -> None:
    found = labels_of_picture(Image.fromarray(MASK))
    assert [tuple(each) for each in found.labels] == [(3, None, None), (7, None, None)]
    np.testing.assert_array_equal(found.mask, MASK)


def test_a_palette_gives_colours() -> None:
    picture = Image.fromarray(MASK).convert("P")
    picture.putdata(MASK.ravel().tolist())
    picture.putpalette([0, 0, 0] * 3 + [1, 2, 3] + [0, 0, 0] * 3 + [250, 0, 128] + [0, 0, 0] * 248)
    assert [each.colour for each in labels_of_picture(picture).labels] == ["#010203", "#fa0080"]


def test_colours_are_names() -> None:
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[MASK == 7], colours[MASK == 3] = (0, 0, 9), (200, 0, 0)
    found = labels_of_picture(Image.fromarray(colours))
    assert [tuple(each) for each in found.labels] == [(1, "#000009", "#000009"), (2, "#c80000", "#c80000")]
    np.testing.assert_array_equal(found.mask, np.select([MASK == 7, MASK == 3], [1, 2], 0))


@pytest.mark.parametrize("kind", ["white", "one number", "cut-out"])
def test_one_label_is_the_class(kind: str) -> None:
    inside = MASK == 3
    pictures = {
        "white": Image.fromarray((255 * inside).astype(np.uint8)),
        "one number": Image.fromarray((9 * inside).astype(np.uint8)),
        "cut-out": Image.fromarray(np.dstack([np.full((6, 8, 3), 77), 255 * inside]).astype(np.uint8)),
    }
    found = labels_of_picture(pictures[kind])
    assert [tuple(each) for each in found.labels] == [(1, None, None)]
    np.testing.assert_array_equal(found.mask, inside)


def test_a_photo_is_no_mask() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="Is it a photo"):
        labels_of_picture(Image.fromarray(photo))
    buffer = io.BytesIO()
    Image.fromarray(MASK).save(buffer, "JPEG")
    with pytest.raises(ValueError, match="lossless"):
        labels_of_picture(Image.open(buffer))


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


CONTENT = {
    "images": [
        {"id": 5, "file_name": "train/a.jpg", "width": 8, "height": 6},
        {"id": 6, "file_name": "b.jpg", "width": 8, "height": 6},
    ],
    "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {"image_id": 5, "category_id": 4, "segmentation": [box(0, 0, 4, 4)]},
        {"image_id": 5, "category_id": 9, "segmentation": [box(2, 2, 6, 6)]},
        {"image_id": 6, "category_id": 9, "segmentation": [box(0, 0, 1, 1)]},
    ],
}


def test_shapes_of_a_json_become_one_mask_and_the_later_covers_the_earlier() -> None:
    found = labels_of_annotation(annotations_of(CONTENT, "a.jpg", 10**6))
    assert [tuple(each) for each in found.labels] == [(1, "dog", None), (2, "cat", None)]
    wanted = np.zeros((6, 8), np.uint8)
    wanted[:4, :4] = 1
    wanted[2:6, 2:6] = 2
    np.testing.assert_array_equal(found.mask, wanted)


def test_photos_are_found_by_their_names_or_that_of_the_file() -> None:
    names = photos_of(CONTENT)
    assert names == ["a.jpg", "b.jpg"]
    assert annotated_among(["b.jpg", "c.jpg", "A.JPG"], names, "x.json") == [0, 2]
    assert annotated_among(["c.jpg"], names, "c.json") == []  # of two photos, the file's name tells nothing
    labelme = photos_of({"shapes": [], "imagePath": "..\\old\\z.png"})
    assert labelme == ["z.png"]
    assert annotated_among(["c.jpg", "d.jpg"], labelme, "folder/c.json") == [0]
    with pytest.raises(ValueError, match="another kind"):
        photos_of({"a": 1})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_json_in_any_encoding_is_parsed_by_what_is_given(encoding: str) -> None:
    content = {**CONTENT, "categories": [{"id": 9, "name": "狗"}]}
    text = json.dumps(content, ensure_ascii=False)
    parsed: list[str] = []

    def parse(given: str) -> Any:
        parsed.append(given)
        return json.loads(given)

    assert photos_of(parse_annotations(text.encode(encoding), parse=parse)) == ["a.jpg", "b.jpg"]
    assert parsed == [text]


def test_the_number_1_counts_and_opaque_greys_are_numbers() -> None:
    index = np.where(MASK == 3, 1, MASK).astype(np.uint8)
    for picture in (Image.fromarray(index), Image.fromarray(np.dstack([index] * 3))):
        found = labels_of_picture(picture)
        assert [each.number for each in found.labels] == [1, 7]
        np.testing.assert_array_equal(found.mask, index)
    almost = np.dstack([index] * 3)
    almost[5, 7] = (7, 7, 8)
    names = [each.name for each in labels_of_picture(Image.fromarray(almost)).labels]
    assert names == ["#010101", "#070707", "#070708", "#ffffff"]


@pytest.mark.parametrize(("count", "fits"), [(60, True), (61, False)])
def test_so_many_colours_are_labels(count: int, fits: bool) -> None:
    colours = np.zeros((1, count + 1, 3), np.uint8)
    colours[0, 1:, 0], colours[0, 1:, 1] = np.arange(1, count + 1), 9
    if fits:
        assert len(labels_of_picture(Image.fromarray(colours)).labels) == count
    else:
        with pytest.raises(ValueError, match=f"at most 60 colours, but the picture has {count}. Is it a photo"):
            labels_of_picture(Image.fromarray(colours))


@pytest.mark.parametrize(("count", "fits"), [(254, True), (255, False)])
def test_so_many_labels_of_shapes_are_numbers(count: int, fits: bool) -> None:
    def draw(check: object) -> np.ndarray[Any, Any]:
        return np.zeros((2, 2), bool)

    annotated = Annotated(2, 2, [Shape(str(number), None, False, draw) for number in range(count)], {})
    if fits:
        assert labels_of_annotation(annotated).labels[-1].number == count
    else:
        with pytest.raises(ValueError, match=r"at most 254 labels in a photo, but got 255\."):
            labels_of_annotation(annotated)


def test_what_is_ignored_lies_below_objects() -> None:
    def drawn(left: int) -> Any:
        mask = np.zeros((1, 4), bool)
        mask[0, left : left + 2] = True
        return lambda check: mask

    shapes = [Shape("a", None, False, drawn(0)), Shape("crowd", None, True, drawn(1))]
    found = labels_of_annotation(Annotated(1, 4, shapes, {}))
    assert found.mask.tolist() == [[1, 1, 255, 0]]
    assert [each.name for each in found.labels] == ["a"]
