"""Strokes to masks over the colour engine: on pictures of flat colours tests can say what the right mask is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import place
from rifenet.segmenting.photo_views import Box, PhotoViews, _laid, fingerprint, lab, on_grid, view_of
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.strokes import box_around

GREY, RED, BLUE, GREEN = (128, 128, 128), (220, 30, 30), (30, 30, 220), (30, 200, 30)
Boxes = dict[tuple[int, int, int], tuple[int, int, int, int]]


def picture(boxes: Boxes, height: int = 120, width: int = 160, noise: int = 6) -> NDArray[np.uint8]:
    """A grey picture with coloured boxes (top, left, bottom, right) and a little noise."""
    image = np.full((height, width, 3), GREY, np.int16)
    for colour, (top, left, bottom, right) in boxes.items():
        image[top:bottom, left:right] = colour
    image += np.random.default_rng(1).integers(-noise, noise + 1, image.shape, np.int16)
    return image.clip(0, 255).astype(np.uint8)


def area(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def iou(mask: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(((mask > 0) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum())


SCENE = picture({RED: (30, 40, 80, 90), BLUE: (30, 90, 80, 140)})
RED_BOX, BLUE_BOX = area(30, 40, 80, 90), area(30, 90, 80, 140)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(ColourEngine(size=160))


def test_a_stroke_on_an_object_gives_the_object(segmenter: Segmenter) -> None:
    mask = segmenter.complete(SCENE, object=area(54, 45, 57, 85))
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((120, 160), np.uint8, {0, 1})
    assert iou(mask, RED_BOX) > 0.93
    other = segmenter.complete(SCENE, object=area(54, 95, 57, 135))
    assert iou(other, BLUE_BOX) > 0.93


def test_a_large_photo_gets_a_mask_of_its_size(segmenter: Segmenter) -> None:
    large = np.asarray(Image.fromarray(SCENE).resize((960, 720), Image.Resampling.NEAREST))
    mask = segmenter.complete(large, object=np.kron(area(54, 45, 57, 85), np.ones((6, 6), np.uint8)))
    assert iou(mask, np.kron(RED_BOX, np.ones((6, 6)))) > 0.95


def test_an_object_at_the_photos_corner_is_whole(segmenter: Segmenter) -> None:
    image, truth = picture({RED: (0, 0, 60, 70)}), area(0, 0, 60, 70)
    assert iou(segmenter.complete(image, object=area(25, 5, 28, 65)), truth) > 0.93


@pytest.mark.parametrize("seed", range(4))
def test_marked_pixels_keep_their_marks(segmenter: Segmenter, seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks = rng.choice([0, 1, 2], SCENE.shape[:2], p=[0.98, 0.01, 0.01])
    mask = segmenter.complete(SCENE, object=marks == 1, background=marks == 2)
    assert (mask[marks == 1] == 1).all()
    assert (mask[marks == 2] == 0).all()


def test_a_loose_box_alone_gives_the_object(segmenter: Segmenter) -> None:
    image = picture({RED: (30, 40, 80, 90)})
    mask = segmenter.complete(image, background=1 - area(20, 28, 92, 104))
    assert iou(mask, RED_BOX) > 0.9


def test_an_object_whose_colour_lies_between_those_around_it(segmenter: Segmenter) -> None:
    """No plane through the colours parts grey from black on its left and white on its right."""
    image = np.where(np.arange(160) < 80, 20, 235) + np.zeros((120, 160, 3))[..., 0]
    image[30:80, 40:120] = 128
    noise = np.random.default_rng(1).integers(-6, 7, (120, 160, 3))
    photo = (image[..., None] + noise).astype(np.uint8)
    assert iou(segmenter.complete(photo, object=area(54, 45, 57, 115)), area(30, 40, 80, 120)) > 0.95


def test_background_strokes_take_away_what_looks_the_same(segmenter: Segmenter) -> None:
    image = picture({RED: (30, 20, 80, 140)})
    stroke = area(54, 25, 57, 60)
    assert iou(segmenter.complete(image, object=stroke), area(30, 20, 80, 140)) > 0.8
    left = segmenter.complete(image, object=stroke, background=area(54, 90, 57, 135))
    assert left[35:75, 95:135].mean() < 0.1
    assert left[40:70, 30:55].mean() > 0.9


def test_strokes_correct_a_mask(segmenter: Segmenter) -> None:
    both = RED_BOX | BLUE_BOX
    same = segmenter.complete(SCENE, start=both)
    assert iou(same, both) > 0.93
    without = segmenter.complete(SCENE, start=both, background=area(54, 95, 57, 135))
    assert iou(without, RED_BOX) > 0.9
    more = segmenter.complete(SCENE, start=RED_BOX, object=area(54, 95, 57, 135))
    assert iou(more, both) > 0.9


def test_parts_of_a_mask_to_correct_stay_until_they_are_marked(segmenter: Segmenter) -> None:
    left, right = area(30, 15, 80, 60), area(30, 100, 80, 145)
    image = picture({RED: (30, 15, 80, 60), BLUE: (30, 100, 80, 145)})
    both = segmenter.complete(image, start=left | right, object=area(54, 20, 57, 55))
    assert iou(both, left | right) > 0.9
    one = segmenter.complete(image, start=left | right, background=area(54, 105, 57, 140))
    assert iou(one, left) > 0.9
    assert one[:, 100:].sum() == 0


def test_a_correction_leaves_all_that_no_stroke_runs_through_to_the_pixel(segmenter: Segmenter) -> None:
    """Parts of the mask far from the strokes, small ones, and those that look like nothing in the photo."""
    image = picture({RED: (60, 60, 180, 180), BLUE: (60, 180, 180, 300)}, 480, 640)
    far, grey = np.zeros((480, 640), np.uint8), np.zeros((480, 640), np.uint8)
    far[440:470, 600:635] = far[300, 10] = 1
    grey[380:390, 20:60] = 1
    red, blue, size = area(60, 60, 180, 180, (480, 640)), area(60, 180, 180, 300, (480, 640)), (480, 640)
    start = red | far | grey
    added = segmenter.complete(image, start=start, object=area(115, 190, 122, 290, size))
    assert iou(added[:200, :320], (red | blue)[:200, :320]) > 0.93
    taken = segmenter.complete(image, start=start | blue, background=area(115, 190, 122, 290, size))
    assert iou(taken[:200, :320], red[:200, :320]) > 0.93
    for mask in (added, taken):
        np.testing.assert_array_equal(mask[200:], start[200:])
        np.testing.assert_array_equal(mask[:, 320:], start[:, 320:])
    np.testing.assert_array_equal(added & start, start)  # a stroke on the object takes nothing away
    assert not (taken & ~(start | blue)).any()  # and one beside it adds nothing


def test_a_mask_without_strokes_stays_as_it_is_and_an_empty_one_is_none(segmenter: Segmenter) -> None:
    odd = (np.random.default_rng(0).random(SCENE.shape[:2]) < 0.3).astype(np.uint8)
    np.testing.assert_array_equal(segmenter.complete(SCENE, start=odd), odd)
    stroke = area(54, 45, 57, 85)
    empty = segmenter.complete(SCENE, stroke, start=np.zeros_like(stroke))
    np.testing.assert_array_equal(empty, segmenter.complete(SCENE, stroke))
    with pytest.raises(ValueError, match="none marks a pixel"):
        segmenter.complete(SCENE, start=np.zeros_like(stroke))


def test_a_learned_class_needs_no_stroke_and_strokes_correct_it(segmenter: Segmenter) -> None:
    segmenter.learn("red", [picture({RED: (10, 10, 60, 80)})], [area(10, 10, 60, 80)])
    assert iou(segmenter.complete(SCENE, name="red"), RED_BOX) > 0.9
    more = segmenter.complete(SCENE, name="red", object=area(54, 95, 57, 135))
    assert iou(more, RED_BOX | BLUE_BOX) > 0.85


def test_a_class_that_the_photo_lacks_marks_nothing(segmenter: Segmenter) -> None:
    segmenter.learn("red", [picture({RED: (10, 10, 60, 80)})], [area(10, 10, 60, 80)])
    assert segmenter.complete(picture({}), name="red").sum() == 0


def test_pixels_marked_as_both_count_as_unmarked(segmenter: Segmenter) -> None:
    on, beside = area(54, 45, 57, 85), area(40, 60, 70, 63)
    with pytest.warns(UserWarning, match="9 pixels are marked as object and as background"):
        crossing = segmenter.complete(SCENE, object=on, background=beside)
    cut = segmenter.complete(SCENE, object=on & ~beside & 1, background=beside & ~on & 1)
    np.testing.assert_array_equal(crossing, cut)


def test_files_pictures_and_booleans_are_one(segmenter: Segmenter, tmp_path: Path) -> None:
    stroke = area(54, 45, 57, 85)
    Image.fromarray(SCENE).save(tmp_path / "a.png")
    Image.fromarray(255 * stroke).save(tmp_path / "s.png")
    first = segmenter.complete(tmp_path / "a.png", object=tmp_path / "s.png")
    np.testing.assert_array_equal(first, segmenter.complete(Image.fromarray(SCENE), object=stroke > 0))


def test_a_photo_is_encoded_once_and_what_was_kept_changes_nothing() -> None:
    engine = ColourEngine(size=160)
    segmenter, stroke, more = Segmenter(engine), area(54, 45, 57, 85), area(54, 95, 57, 135)
    segmenter.complete(SCENE, object=stroke)
    seen = len(engine.encoded_queries)
    again = segmenter.complete(SCENE, object=stroke)
    assert len(engine.encoded_queries) == seen
    with_kept = segmenter.complete(SCENE, object=stroke, background=more)
    np.testing.assert_array_equal(with_kept, Segmenter(ColourEngine(size=160)).complete(SCENE, stroke, more))
    np.testing.assert_array_equal(again, Segmenter(ColourEngine(size=160)).complete(SCENE, stroke))
    turned = np.ascontiguousarray(SCENE[::-1])
    assert iou(segmenter.complete(turned, object=stroke[::-1]), RED_BOX[::-1]) > 0.93
    assert len(engine.encoded_queries) > seen


def test_what_is_kept_is_bounded() -> None:
    engine, photo = ColourEngine(size=160), fingerprint(SCENE)
    one = view_of(engine, SCENE, Box(0, 0, 120, 160)).memory()
    assert one > view_of(engine, SCENE, Box(0, 0, 120, 160)).samples.nbytes
    views = PhotoViews(most=int(2.5 * one))
    for top in (0, 0, 1, 2, 0):
        views.view(engine, SCENE, photo, Box(top, 0, 120, 160))
    assert 1.5 * one < views.memory() <= 2.5 * one
    count = len(engine.encoded_queries)
    views.view(engine, SCENE, photo, Box(2, 0, 120, 160))
    assert len(engine.encoded_queries) == count, "one of the last two is kept"
    views.view(engine, SCENE, photo, Box(1, 0, 120, 160))
    assert len(engine.encoded_queries) == count + 1, "the one before was dropped"


def test_photos_of_other_shapes_and_pixels_have_other_fingerprints() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    other = flat.copy()
    other[3, 5, 2] = 1
    assert len({fingerprint(each) for each in (flat, other, flat.reshape(6, 4, 3))}) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "none marks a pixel"),
        ({"object": np.zeros((120, 160), bool)}, "none marks a pixel"),
        ({"object": np.ones((160, 120), bool)}, "Expected object of the photo's size, 160 x 120, but got 120 x 160"),
        ({"object": RED_BOX, "background": np.ones((1, 1), bool)}, "Expected background of the photo's size"),
        ({"object": RED_BOX, "start": np.ones((3, 3), bool)}, "Expected start of the photo's size"),
        ({"background": np.ones((120, 160), bool)}, "they cover it"),
        ({"object": np.ones((120, 160, 3), np.uint8)}, "one number a pixel"),
        ({"object": RED_BOX, "name": "dog"}, "Expected a learned class"),
    ],
)
def test_what_cannot_be_meant_is_refused(segmenter: Segmenter, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        segmenter.complete(SCENE, **options)


def test_strokes_that_cross_out_each_other_are_refused(segmenter: Segmenter) -> None:
    with (
        pytest.warns(UserWarning, match="2500 pixels"),
        pytest.raises(ValueError, match="marked as both count as unmarked"),
    ):
        segmenter.complete(SCENE, object=RED_BOX, background=RED_BOX)


def test_a_missing_file_is_named(segmenter: Segmenter) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        segmenter.complete(SCENE, object="none.png")


def test_boxes_hold_the_mask_with_its_margin_and_stay_in_the_photo() -> None:
    box = box_around(area(40, 60, 80, 120) > 0, (120, 160))
    assert box.top <= 40 - 10
    assert box.left <= 60 - 10
    assert (box.bottom, box.right) >= (80 + 10, 120 + 10)
    assert box_around(np.ones((120, 160), bool), (120, 160)) == Box(0, 0, 120, 160)
    assert box_around(area(40, 61, 81, 120) > 0, (120, 160)) == box, "a small change keeps the view"


def test_maps_lie_where_their_corners_say() -> None:
    """Of a map of positions, each cell gets the position of its middle."""
    size, side = 65, 17  # a feature every 4 pixels
    placement = place(50, 100, size)  # 32 or 33 rows of 65 columns
    positions = np.broadcast_to(np.arange(side, dtype=np.float32) * 4, (1, side, side))
    laid = _laid(positions, (8, 13), placement)
    np.testing.assert_allclose(laid[0, 3], (np.arange(13) + 0.5) * 65 / 13 - 0.5, atol=1e-4)
    down = _laid(np.ascontiguousarray(positions.transpose(0, 2, 1)), (8, 13), placement)
    np.testing.assert_allclose(down[0, :, 5], (np.arange(8) + 0.5) * placement.scaled_height / 8 - 0.5, atol=1e-4)


def test_lab_is_that_of_the_standard() -> None:
    """L*a*b* of sRGB's white, red and a grey, from the CIE's formulas."""
    colours = np.array([[1, 1, 1], [1, 0, 0], [0.5, 0.5, 0.5]], np.float32).T
    expected = np.array([[100, 0, 0], [53.24, 80.09, 67.20], [53.39, 0, 0]]).T / 100
    np.testing.assert_allclose(lab(colours), expected, atol=2e-3)


def test_a_cell_counts_from_its_share_on() -> None:
    view = view_of(ColourEngine(size=160), SCENE, Box(0, 0, 120, 160))
    rows, columns = view.shape
    found = on_grid(area(0, 0, 60, 80) > 0, view, 0.5)
    assert found[: rows // 2, : columns // 2].all()
    assert found.sum() == pytest.approx(rows * columns / 4, rel=0.2)
    assert not on_grid(area(0, 0, 1, 1) > 0, view, 0.5).any()
    assert on_grid(area(0, 0, 1, 1) > 0, view, 0.001).sum() == 1
