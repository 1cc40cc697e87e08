"""Which row of a file of annotations belongs to a photo, and what numbers and sizes it may be written with."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
import unicodedata
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rifenet.formats.label_files import load_labels
from rifenet.formats.label_json import (
    Asked,
    annotations_of,
    base_name,
    one_of,
    parse_annotations,
    photos_of,
    same_photo,
    size_of,
    whole,
)
from rifenet.formats.picture_files import Frame
from rifenet.formats.remarks import collected


def asked(photo: str = "a.jpg", size: tuple[int, int] | None = None) -> Asked:
    return Asked(photo, most_pixels=100, size=size, file="labels.json")


def same_folders(one: str, other: str) -> int:
    """By hand: how many folders, from the file upwards, two paths share."""
    ours, theirs = one.replace("\\", "/").split("/")[:-1], other.replace("\\", "/").split("/")[:-1]
    count = 0
    while count < min(len(ours), len(theirs)) and ours[-1 - count].lower() == theirs[-1 - count].lower():
        count += 1
    return count


def test_of_photos_of_one_name_the_one_of_the_same_folders_is_taken() -> None:
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        paths = {"/".join([*draw.choices("abC", k=draw.randint(0, 4)), "x.jpg"]) for _ in range(3)}
        names = sorted(paths)
        photo = "\\".join([*draw.choices("ABc", k=draw.randint(0, 5)), "X.JPG"])
        shared = [same_folders(name, photo) for name in names]
        best = [place for place, count in enumerate(shared) if count == max(shared)]
        if len(names) > 1 and len(best) > 1:
            refused += 1
            with pytest.raises(ValueError, match=f"has it {len(names)} times: .*Give the photo with its folders"):
                one_of(asked(photo), names)
        else:
            assert one_of(asked(photo), names) == best[0], (photo, names)
    assert 30 < refused < 270


@pytest.mark.parametrize(
    ("photo", "names", "said"),
    [
        ("x/a.jpg", ["y/a.png"], []),  # the ending may differ
        ("a.jpg", ["C:\\photos\\b.jpg"], ["labels.json: It annotates b.jpg, and was taken for a.jpg."]),
        ("", ["b.jpg"], []),  # the photo has no name
        ("a.jpg", [""], []),  # the file names none
    ],
)
def test_a_file_of_one_photo_is_taken_for_any(photo: str, names: list[str], said: list[str]) -> None:
    with collected() as remarks:
        assert one_of(asked(photo), names) == 0
    assert remarks == said


def test_a_photo_that_is_not_listed_is_told_what_is() -> None:
    names = [f"f/{number}.jpg" for number in range(9)]
    listed = ", ".join(f"{number}.jpg" for number in range(8))
    with pytest.raises(ValueError, match=rf"the photo a\.jpg, but the file annotates {listed} and others\. Rename"):
        one_of(asked(), names)
    with pytest.raises(ValueError, match=r"annotates 0\.jpg, 1\.jpg\. Rename"):
        one_of(asked(), ["f/0.jpg", "g/0.jpg", "1.jpg"])  # each name once
    with pytest.raises(ValueError, match=r"the photo \(which has no file name\), but the file annotates none\."):
        one_of(asked(""), [])
    with pytest.raises(ValueError, match=r"has it 5 times: a/x\.jpg, b/x\.jpg, c/x\.jpg, d/x\.jpg\. Give"):
        one_of(asked("x.jpg"), [f"{folder}/x.jpg" for folder in "abcde"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0123abcd-my_photo.jpg", "My photo.JPG", True),  # what Label Studio makes of a name
        ("/data/local-files/?d=x/my%20photo.jpg", "my photo.jpg", True),
        ("0123abcg-a.jpg", "a.jpg", False),  # no prefix of Label Studio
        ("0123abcd-a.jpg", "00000000-a.jpg", True),
        ("a-0123abcd-a.jpg", "a.jpg", False),
        (unicodedata.normalize("NFC", "Café.jpg"), unicodedata.normalize("NFD", "café.jpg"), True),
        ("C:\\x\\a.jpg", "/y/a.jpg", True),
        ("a.jpg", "a.png", False),
        ("a_b.jpg", "a-b.jpg", False),
    ],
)
def test_names_of_one_photo(one: str, other: str, same: bool) -> None:
    assert same_photo(one, other) == same_photo(other, one) == same
    assert base_name("C:\\x\\y.jpg") == base_name("x/y.jpg") == "y.jpg"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((7, 7), (-7, -7), (7.0, 7), ("7", 7), ("007", 7), ("9" * 19, int("9" * 19)), ("9" * 20, None)),
        *((wrong, None) for wrong in (7.5, "7.0", "-7", "\u0667", "", True, None, [7], float("nan"), float("inf"))),
    ],
)
def test_whole_numbers_as_jsons_write_them(value: Any, number: int | None) -> None:
    found = whole(value)
    assert found == number
    assert type(found) is (int if number is not None else type(None))


@pytest.mark.parametrize("nothing", [None, 0, ""])
def test_a_size_that_the_file_lacks_is_the_photos(nothing: Any) -> None:
    assert size_of(nothing, nothing, asked(size=(4, 6))) == (4, 6)
    assert size_of(3, "5", asked(size=(4, 6))) == (3, 5)
    for height, width in ((nothing, 5), (5, nothing), (nothing, nothing)):
        size = (4, 6) if height or width else None
        with pytest.raises(ValueError, match=rf"height and width in pixels, but got {height!r} and {width!r}\."):
            size_of(height, width, asked(size=size))


def test_the_largest_and_the_smallest_size() -> None:
    assert size_of(10, 10, asked()) == (10, 10)
    assert size_of(1, 1, asked()) == (1, 1)
    with pytest.raises(ValueError, match=r"at most 100 pixels, but got a photo of 101 x 1\."):
        size_of(1, 101, asked())
    with pytest.raises(ValueError, match="but got -1 and -1"):
        size_of(-1, -1, asked())


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "gb18030"])
def test_codings_that_windows_writes(coding: str) -> None:
    text = json.dumps({"name": "狗"}, ensure_ascii=False)
    coded = text.encode(coding)
    with collected() as said:
        found = parse_annotations((b"\xfe\xff" if coding == "utf-16-be" else b"") + coded, "labels.json")
    assert found == {"name": "狗"}
    wanted = "labels.json: It is not in UTF-8 and was read as GB18030, which Chinese Windows writes. Save it in UTF-8."
    assert said == ([wanted] if coding == "gb18030" else [])


def test_photos_of_each_kind_of_file() -> None:
    tasks = [{"data": {"id": 3, "image": "/upload/a b.jpg", "text": "x"}}, {"data": {"id": 4}}]
    assert photos_of({"shapes": [], "imagePath": "..\\x\\a.jpg"}) == ["a.jpg"]
    assert photos_of({"shapes": []}) == [""]
    assert photos_of({"images": [{"file_name": "x/a.jpg"}, {"file_name": "b.jpg"}]}) == ["a.jpg", "b.jpg"]
    assert photos_of(tasks) == ["a b.jpg", ""]
    assert photos_of(tasks[0]) == ["a b.jpg"]
    for other in ([], {}, 3, [3], [*tasks, 3], [{"data": "x"}], [*tasks, {"data": 3}]):
        with pytest.raises(ValueError, match=r"COCO, LabelMe or Label Studio, but got another kind of JSON\."):
            photos_of(other)


def a_coco(**more: Any) -> dict[str, Any]:
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    return {
        "images": [{"id": "4", "file_name": "a.jpg", "height": 5, "width": 6}, {"id": 5, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": "2", "name": "cat"}, {"name": "no id"}],
        "annotations": [{"image_id": 4, "category_id": 1, "segmentation": square, **more}],
    }


@pytest.mark.parametrize(
    ("change", "there"),
    [
        ({"image_id": 4.0}, True),
        ({"image_id": "4"}, True),
        ({"image_id": 5}, False),
        ({"image_id": None}, False),
        ({"category_id": "1"}, True),
        ({"category_id": "2"}, False),
        ({"category_id": None}, False),
        ({"category_id": 3}, False),
    ],
)
def test_ids_that_are_written_in_two_ways_meet(change: dict[str, Any], there: bool) -> None:
    found = annotations_of(a_coco(**change), "a.jpg", 100)
    assert (found.height, found.width, found.labels) == (5, 6, {"dog": 1, "cat": 2})
    assert ("dog" in [shape.label for shape in found.shapes]) == there
    broken = change.get("category_id", 1) in (None, 3)
    assert [str(change.get("category_id")) in fault for fault in found.faults] == [True] * broken
    for shape in found.shapes:
        mask = np.zeros((5, 6), bool)
        mask[1:3, 1:3] = True
        np.testing.assert_array_equal(shape.draw(lambda: None), mask)
        assert not shape.ignored


def test_ids_that_are_words_meet_only_themselves() -> None:
    content = a_coco(image_id="first")
    content["images"][0]["id"] = "first"
    assert len(annotations_of(content, "a.jpg", 100).shapes) == 1
    content["images"][0]["id"] = "second"
    assert annotations_of(content, "a.jpg", 100).shapes == []


def test_polygons_that_cannot_be_drawn_are_counted() -> None:
    """With one that can, they are left out with a remark; alone, the first one's sentence is raised."""
    good, bad, worse = [1, 1, 3, 1, 3, 3, 1, 3], [1, 2, 3, 4], [0, 0, 5, 0, 999, 9]
    for segmentation, which in (
        ([good, bad], "1 polygon of an annotation was left out. The first: Expected polygons [x, y, x, y, ...]"),
        ([worse, good, bad], "2 polygons of an annotation were left out. The first: Expected polygons in a picture"),
    ):
        (shape,) = annotations_of(a_coco(segmentation=segmentation), "a.jpg", 100, file="labels.json").shapes
        with collected() as said:
            assert shape.draw(lambda: None).sum() == 4
        assert [sentence.startswith(f"labels.json: {which}") for sentence in said] == [True]
    (shape,) = annotations_of(a_coco(segmentation=[worse, bad]), "a.jpg", 100).shapes
    with pytest.raises(ValueError, match="far outside"):
        shape.draw(lambda: None)


@pytest.mark.parametrize("counts", [None, [], ""])
def test_run_lengths_that_are_missing(counts: Any) -> None:
    (shape,) = annotations_of(a_coco(segmentation={"size": ["5", 6.0], "counts": counts}), "a.jpg", 100).shapes
    with pytest.raises(ValueError, match=r"run lengths that add up to 5 x 6 pixels, but they do not\."):
        shape.draw(lambda: None)


def labelme(**shape: Any) -> dict[str, Any]:
    return {"shapes": [{"label": "dog", **shape}], "imageHeight": 40, "imageWidth": 60}


def drawn(content: Any, photo: str = "a.jpg") -> np.ndarray[Any, np.dtype[np.uint8]]:
    return load_labels(json.dumps(content).encode(), "dog", photo=photo)


def test_a_circle_is_its_middle_and_a_point_of_its_rim() -> None:
    found = drawn(labelme(shape_type="circle", points=[[30, 20], [33, 24]]))  # radius 5
    rows, columns = np.mgrid[:40, :60] + 0.5
    away = np.hypot(rows - 20, columns - 30)
    assert found[away < 4.98].all()
    assert not found[away > 5.02].any()


def test_a_shape_without_a_kind_is_a_polygon() -> None:
    expected = np.zeros((40, 60), np.uint8)
    expected[2:9, 3:7] = 1
    corners = [[3, 2], [7, 2], [7, 9], [3, 9]]
    for kind in ({}, {"shape_type": None}, {"shape_type": "polygon"}):
        np.testing.assert_array_equal(drawn(labelme(points=corners, **kind)), expected)
    for ends in itertools.permutations([[3, 2], [7, 9]]):
        np.testing.assert_array_equal(drawn(labelme(points=ends, shape_type="rectangle")), expected)


@pytest.mark.parametrize(
    "points", [[[0, 0], [1]], [[0, 0]], [[0, 0], [1, 1], [2, 2]], None, [[0, 0], [1, float("nan")]]]
)
@pytest.mark.parametrize("kind", ["rectangle", "circle", "mask"])
def test_two_points_are_two(kind: str, points: Any) -> None:
    with pytest.raises(ValueError, match=f"Expected two points of a {kind}, but got "):
        drawn(labelme(shape_type=kind, points=points))


@pytest.mark.parametrize(("corner", "fits"), [((0, 0), True), ((50, 37), True), ((51, 37), False), ((50, 38), False)])
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.4])
def test_a_pasted_mask_lies_where_its_corner_says(corner: tuple[int, int], fits: bool, shift: float) -> None:
    part = np.zeros((3, 10), np.uint8)
    part[0, :4], part[2, 9] = 255, 1
    buffer = io.BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    left, top = corner
    points = [[left + shift, top + shift], [left + 9, top + 2]]
    content = labelme(shape_type="mask", points=points, mask=base64.b64encode(buffer.getvalue()).decode())
    if not fits:
        with pytest.raises(ValueError, match="within the photo of 60 x 40 px, but it goes beyond the edge"):
            drawn(content)
        return
    expected = np.zeros((40, 60), np.uint8)
    expected[top : top + 3, left : left + 10] = part > 0
    np.testing.assert_array_equal(drawn(content), expected)


def studio(regions: list[dict[str, Any]], **task: Any) -> dict[str, Any]:
    return {"data": {"image": "a.jpg"}, "annotations": [{"result": regions}], **task}


def region(label: str = "dog", size: tuple[Any, Any] = (40, 60), **more: Any) -> dict[str, Any]:
    points = [[10, 10], [50, 10], [50, 50], [10, 50]]
    value = {"points": points, "polygonlabels": [label], **more}
    return {"value": value, "original_height": size[0], "original_width": size[1]}


def test_regions_of_label_studio_are_in_percent() -> None:
    expected = np.zeros((40, 60), np.uint8)
    expected[4:20, 6:30] = 1
    np.testing.assert_array_equal(drawn(studio([region()])), expected)
    np.testing.assert_array_equal(drawn(studio([region("cat"), region(polygonlabels=["cat", "dog"])])), expected)


def test_a_task_that_names_no_photo_is_taken_for_any() -> None:
    with collected() as said:
        assert drawn(studio([region()], data={"id": 3})).any()
    assert said == []
    with pytest.raises(ValueError, match=r"an annotation with brush or polygon labels of , but there is none\."):
        drawn(studio([], data={"id": 3}))


def test_which_annotation_of_a_task_counts() -> None:
    """The last that was not cancelled; but what somebody called the truth, if there is one."""
    far = {"points": [[60, 60], [90, 60], [90, 90], [60, 90]]}
    first, last = {"result": [region()]}, {"result": [region(**far)]}
    near_there, far_there = (drawn(studio([each]))[30, 40] for each in (region(), region(**far)))
    assert (near_there, far_there) == (0, 1)

    def is_far(*annotations: dict[str, Any]) -> bool:
        return bool(drawn(studio([], annotations=list(annotations)))[30, 40])

    assert is_far(first, last)
    assert not is_far(first, {**last, "was_cancelled": True})
    assert not is_far({**first, "ground_truth": True}, last)
    assert is_far({**first, "ground_truth": True, "was_cancelled": True}, last)


def test_regions_of_photos_of_two_sizes_are_refused() -> None:
    for size in ((40, 61), (41, 60)):
        with pytest.raises(ValueError, match=r"heights and widths differ\. Export the task again"):
            drawn(studio([region(), region(size=size)]))
    assert drawn(studio([region(), region(size=(40, 60))])).any()


@pytest.mark.parametrize("label", ["wolf", 3])
def test_a_file_may_lack_the_size_of_its_photo(label: Any) -> None:
    content = a_coco()
    content["images"][0] |= {"height": None, "width": None}
    content["categories"][0] |= {"id": 3, "name": "wolf"}
    content["annotations"][0]["category_id"] = 3
    found = load_labels(json.dumps(content).encode(), "wolf", label=label, photo="a.jpg", frame=Frame(5, 6, 1))
    assert found.shape == (5, 6)
    assert found.sum() == 4
