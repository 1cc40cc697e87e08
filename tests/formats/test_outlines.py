"""Objects drawn into one mask, against masks made by hand and against pycocotools' own encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rendered import render, run_lengths

from rifenet.formats.outlines import draw_mask

VALUES = {10: 1, 20: 2, 30: 3}


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    """Polygon around the pixels of columns left..right-1 and rows top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(segmentation: Any, category_id: int = 10, **fields: Any) -> dict[str, Any]:
    return {"id": 7, "category_id": category_id, "segmentation": segmentation, "iscrowd": 0, **fields}


def rows(text: str) -> list[list[int]]:
    return [[255 if letter == "x" else int(letter) for letter in line] for line in text.split()]


def test_polygons_by_hand() -> None:
    two_parts = annotation([box(0, 0, 2, 1), box(3, 1, 5, 3)], 20)
    assert draw_mask([two_parts], 4, 6, VALUES).tolist() == rows("220000 000220 000220 000000")


def test_run_lengths_by_hand() -> None:
    """Columns from the left, each from the top: 1 off, 2 on, 4 off, 1 on, 4 off."""
    runs = annotation({"size": [3, 4], "counts": [1, 2, 4, 1, 4]})
    assert draw_mask([runs], 3, 4, VALUES).tolist() == rows("0000 1010 1000")


def test_run_lengths_as_text_by_hand() -> None:
    """The same runs 1 2 4 1 4: the fourth is written as 1 - 2 = -1 (31, that is "O"), the fifth as 4 - 4 = 0."""
    runs = annotation({"size": [3, 4], "counts": "124O0"})
    assert draw_mask([runs], 3, 4, VALUES).tolist() == rows("0000 1010 1000")


@pytest.mark.parametrize("seed", range(6))
def test_text_of_pycocotools_and_plain_run_lengths_are_the_mask(seed: int) -> None:
    """Long runs, short runs, first pixel on or off, one value only."""
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    noise = rng.random((70, 90)) < (0.5, 0.02, 0.98)[seed % 3]
    for mask in (render((seed + 1,), seed, width=300, height=200)[1] == seed + 1, noise, noise | True, noise & False):
        text = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        for segmentation in (run_lengths(mask), {"size": list(mask.shape), "counts": text}):
            drawn = draw_mask([annotation(segmentation, 20)], *mask.shape, VALUES)
            np.testing.assert_array_equal(drawn, 2 * mask)


def test_the_smaller_object_lies_on_top_in_any_order() -> None:
    large, small = annotation([box(0, 0, 5, 3)], 10), annotation([box(1, 1, 3, 2)], 20)
    for order in ([large, small], [small, large]):
        assert draw_mask(order, 3, 5, VALUES).tolist() == rows("11111 12211 11111")


def test_of_equal_objects_the_later_lies_on_top() -> None:
    first, second = annotation([box(0, 0, 2, 1)], 10), annotation([box(1, 0, 3, 1)], 20)
    assert draw_mask([first, second], 1, 4, VALUES).tolist() == rows("1220")
    assert draw_mask([second, first], 1, 4, VALUES).tolist() == rows("1120")


def test_objects_of_one_class_grow_together() -> None:
    parts = [annotation([box(0, 0, 3, 1)], 30), annotation([box(2, 0, 4, 1)], 30)]
    assert draw_mask(parts, 1, 5, VALUES).tolist() == rows("33330")


def test_crowds_are_ignored_but_under_single_objects() -> None:
    crowd = annotation(run_lengths(np.ones((2, 4), bool)), 10, iscrowd=1)
    single = annotation([box(1, 0, 3, 1)], 10)
    for order in ([crowd, single], [single, crowd]):
        assert draw_mask(order, 2, 4, VALUES).tolist() == rows("x11x xxxx")


def test_nothing_annotated_is_background() -> None:
    assert not draw_mask([], 3, 4, VALUES).any()


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        ([], r"Annotation 7: Expected a segmentation .* but got \[\]"),
        (None, "but got None"),
        (5, "but got 5"),
        ([[]], "at least 3 corners"),
        ([[1, 1, 2, 2]], "at least 3 corners"),
        ([[1, 1, 2, 2, 3, 1, 0]], "at least 3 corners"),
        ([1, 1, 2, 2, 3, 1], "at least 3 corners"),
        ([["a", "b", "c", "d", "e", "f"]], "at least 3 corners"),
        ([[0, 0, float("nan"), 0, 4, 4]], "far outside"),
        ([[0, 0, float("inf"), 0, 4, 4]], "far outside"),
        ([[0, 0, 1e9, 0, 4, 4]], "far outside"),
        ({"size": [5, 4], "counts": [20]}, r"size \[4, 5\] .* but got \[5, 4\]"),
        ({"counts": [20]}, r"size \[4, 5\]"),
        ({"size": [4, 5], "counts": [19]}, "add up to 4 x 5"),
        ({"size": [4, 5], "counts": [30, -10]}, "add up to 4 x 5"),
        ({"size": [4, 5], "counts": [19.5, 0.5]}, "add up to 4 x 5"),
        ({"size": [4, 5], "counts": "9"}, "add up to 4 x 5"),
        ({"size": [4, 5], "counts": "d0P"}, "end too early"),
        ({"size": [4, 5], "counts": "\N{SNOWMAN}"}, "hold something else"),
        ({"size": [4, 5]}, "add up to 4 x 5"),
    ],
)
def test_what_cannot_be_drawn_is_named(segmentation: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        draw_mask([annotation(segmentation)], 4, 5, VALUES)


@pytest.mark.parametrize("category_id", [11, None, "10", [10]])
def test_unknown_categories_are_named(category_id: Any) -> None:
    with pytest.raises(ValueError, match=r"Annotation 7: .*category_id"):
        draw_mask([annotation([box(0, 0, 2, 2)], category_id)], 4, 5, VALUES)


def test_the_numbers_are_bytes() -> None:
    assert draw_mask([annotation([box(0, 0, 2, 1)])], 4, 6, VALUES).dtype == np.uint8
