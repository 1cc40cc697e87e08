"""Objects told apart, on rendered discs of known places, against counts and areas that follow from the drawing."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.spatial import ConvexHull
from skimage.measure import label

from rifenet.drawing.visualize import neighbours_apart
from rifenet.segmenting.instances import (
    COMPACT,
    SPECK,
    Instance,
    ObjectShape,
    _hull_area,
    compact,
    holes,
    instances,
    shapes_of,
    specks,
)
from rifenet.segmenting.segmenter import Segmenter

RED, GREY = (220, 30, 30), (128, 128, 128)
SIDE = 256
DISC = ObjectShape(np.pi * 15**2 / SIDE**2, 0.97)


def discs(*places: tuple[float, float, float], side: int = SIDE) -> NDArray[np.bool_]:
    """Discs of x, y and radius."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    inside = np.zeros((side, side), bool)
    for x, y, radius in places:
        inside |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def found(inside: NDArray[np.bool_], shapes: list[ObjectShape]) -> tuple[Instance, ...]:
    return instances(inside, np.full(inside.shape, 0.75, np.float32), shapes)


def test_touching_discs_come_apart_where_they_were_drawn() -> None:
    drawn = [(60, 60, 16), (88, 64, 14), (75, 86, 15), (180, 90, 15), (180, 118, 15), (40, 200, 15)]
    inside = discs(*drawn)
    assert label(inside, connectivity=1).max() == 3
    objects = found(inside, [DISC] * 4)
    assert len(objects) == len(drawn)
    for x, y, radius in drawn:
        nearest = min(objects, key=lambda each: np.hypot(each.centroid[0] - x, each.centroid[1] - y))
        assert np.hypot(nearest.centroid[0] - x, nearest.centroid[1] - y) < 2
        assert nearest.area == pytest.approx(np.pi * radius**2, rel=0.12)
    total = np.sum([each.mask for each in objects], axis=0)
    np.testing.assert_array_equal(total, inside)  # every pixel has one object


def test_a_hole_does_not_cut_an_object_and_a_gap_among_objects_does_not_join_them() -> None:
    ring = discs((60, 60, 18))
    ring[48:72, 58:63] = False  # leaves two halves with necks between them
    around = [(200 + 27 * np.cos(turn), 190 + 27 * np.sin(turn), 15) for turn in np.arange(6) * np.pi / 3]
    inside = ring | discs(*around)
    assert label(inside, connectivity=1).max() == 2
    assert not inside[190, 200]
    objects = found(inside, [DISC] * 4)
    assert len(objects) == 7
    (one,) = (each for each in objects if each.centroid[0] < 100)
    np.testing.assert_array_equal(one.mask, ring)  # its hole stays one
    np.testing.assert_array_equal(np.sum([each.mask for each in objects], axis=0), inside)


def test_what_an_object_says_of_itself() -> None:
    inside = np.zeros((40, 60), bool)
    inside[10:20, 30:50] = True
    scores = np.where(inside, 0.25, 0.9).astype(np.float32)
    scores[10:15] = 0.75
    (each,) = instances(inside, scores, [ObjectShape(0.05, 1.0)])
    assert each.box == (30, 10, 20, 10)
    assert each.area == 200
    assert each.centroid == (40.0, 15.0)
    assert each.score == pytest.approx(0.5)
    np.testing.assert_array_equal(each.mask, inside)
    assert repr(each) == "<Instance of 200 px at (40, 15), score 0.50>"


def test_a_part_like_the_shots_objects_stays_whole() -> None:
    """A dumb-bell is two discs for a class of discs, and one object for a class of dumb-bells."""
    dumbbell = discs((60, 60, 15), (96, 60, 15))
    dumbbell[57:64, 60:96] = True
    assert len(found(dumbbell, [DISC] * 4)) == 2
    (own,) = shapes_of(dumbbell[None].astype(np.uint8))
    assert own.solidity < COMPACT
    assert len(found(dumbbell, [own] * 4)) == 1


def test_objects_that_are_not_compact_stay_together_and_say_so() -> None:
    cross = np.zeros((SIDE, SIDE), bool)
    cross[100:110, 40:120] = cross[65:145, 75:85] = True
    shapes = shapes_of(cross[None].astype(np.uint8))
    assert not compact(shapes)
    assert not compact(())
    assert compact([DISC])
    assert len(found(cross | discs((140, 105, 22)), [*shapes] * 3)) == 1


def test_the_shots_sizes_decide_what_is_one_object() -> None:
    """Two discs with a shallow neck: objects of one disc's size for one class, and halves of an object for another."""
    pair = discs((100, 100, 20), (124, 100, 20))
    assert len(found(pair, [ObjectShape(np.pi * 20**2 / SIDE**2, 0.97)] * 4)) == 2
    large = ObjectShape(np.pi * 60**2 / SIDE**2, 0.97)
    assert len(found(pair, [large] * 4)) == 1  # a disc alone would be too small a piece


def test_specks_are_no_objects() -> None:
    inside = discs((60, 60, 15), (200, 200, 4))
    assert SPECK * np.pi * 15**2 > 50  # the second disc is smaller than that
    assert len(found(inside, [DISC] * 4)) == 1
    assert len(found(inside, [])) == 2  # nothing is known of the class's sizes


def test_large_photos_are_cut_in_a_smaller_copy_to_the_same_objects() -> None:
    places = [(300, 300, 160), (580, 330, 140), (450, 560, 150)]
    side = 1200
    objects = found(discs(*places, side=side), [ObjectShape(np.pi * 150**2 / side**2, 0.97)] * 4)
    assert len(objects) == 3
    np.testing.assert_array_equal(np.sum([each.mask for each in objects], axis=0), discs(*places, side=side))
    for (x, y, _), each in zip(sorted(places), sorted(objects, key=lambda each: each.centroid), strict=True):
        assert np.hypot(each.centroid[0] - x, each.centroid[1] - y) < 12


def test_shapes_are_areas_and_shares_of_hulls() -> None:
    mask = np.zeros((1, 100, 100), np.uint8)
    mask[0, 10:30, 10:40] = 1
    mask[0, 15:20, 15:20] = 0  # a hole counts neither in its area nor as an object
    mask[0, 50:90, 50:60] = mask[0, 80:90, 50:90] = 1  # an L, whose hull lacks a triangle of 30 x 30
    mask[0, 0, 0] = mask[0, 95, 5] = 1  # slips of the brush are at or below a ten-thousandth
    mask[0, 40:45, 0:5] = 255
    shapes = shapes_of(mask)
    areas = [round(each.area * 100**2) for each in shapes]
    assert areas[:2] == [700, 575]
    assert shapes[0].solidity == pytest.approx(700 / (700 + 30 * 30 / 2))
    assert shapes[1].solidity == pytest.approx(575 / 600)
    assert set(areas[2:]) <= {1}


def test_hulls_against_qhull() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 4, 10, 200):
        points = rng.integers(0, 30, (count, 2)).astype(np.float64)
        assert _hull_area(points) == pytest.approx(ConvexHull(points).volume)  # `volume` is the area in a plane


def test_holes_are_filled_and_specks_removed_by_the_shots_sizes() -> None:
    inside = discs((100, 100, 40), (200, 200, 3))
    before = inside.copy()
    before[98:102, 98:102] = False  # a hole of 16 px
    before[80:95, 90:105] = False  # one of 225 px
    before[0:4, 0:4] = True
    ring = discs((40, 220, 20)) & ~discs((40, 220, 15))
    shapes = [ObjectShape(np.pi * 14**2 / SIDE**2, 0.97)] * 3  # specks and holes are below 92 px
    expected = discs((200, 200, 3))
    expected[0:4, 0:4] = True
    np.testing.assert_array_equal(specks(before | ring, shapes), expected)
    hole = np.zeros_like(inside)
    hole[98:102, 98:102] = True
    np.testing.assert_array_equal(holes(before | ring, shapes), hole)
    assert not specks(before, []).any()  # nothing is known
    assert not holes(before, []).any()


def test_holes_at_the_edge_of_the_photo_stay_open() -> None:
    inside = np.zeros((50, 50), bool)
    inside[:, 10:40] = True
    inside[0:3, 20:23] = False
    assert not holes(inside, [ObjectShape(0.5, 1.0)]).any()


@pytest.fixture
def segmenter() -> Segmenter:
    """Knows red discs of radius 8 in a photo of 64 x 64."""
    segmenter = Segmenter(ColourEngine())
    inside = discs((16, 16, 8), (46, 20, 8), (30, 48, 8), side=64)
    segmenter.learn("disc", [painted(inside)], [inside.astype(np.uint8)])
    return segmenter


def painted(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(inside[..., None], np.uint8(RED), np.uint8(GREY)).astype(np.uint8)


def test_results_count_and_list_their_objects(segmenter: Segmenter) -> None:
    inside = discs((20, 20, 8), (34, 20, 8), (30, 48, 8), side=64)
    result = segmenter.segment(painted(inside))
    objects = result.instances("disc")
    assert len(objects) == 3
    np.testing.assert_array_equal(np.sum([each.mask for each in objects], axis=0), result.mask == 1)
    assert [each.area for each in objects] == sorted((each.area for each in objects), reverse=True)
    assert objects[0].score == pytest.approx(result.scores["disc"][objects[0].mask].mean(), abs=1e-6)
    table = result.table()
    assert [row["instance"] for row in table] == [1, 2, 3]
    assert table[0]["share"] == objects[0].area / 64**2
    assert (table[0]["x"], table[0]["y"], table[0]["width"], table[0]["height"]) == objects[0].box
    assert (table[0]["centroid_x"], table[0]["centroid_y"]) == objects[0].centroid
    assert table[0]["confidence"] == result.confidence["disc"]
    assert result.to_dict(objects=True)["classes"][0]["objects"] == 3
    with pytest.raises(ValueError, match=r"Expected a class of the result \(disc\), but got 'cat'"):
        result.instances("cat")
    objects.clear()
    assert len(result.instances("disc")) == 3  # the list is the caller's own


def test_touching_objects_have_two_colours_on_the_overlay(segmenter: Segmenter) -> None:
    result = segmenter.segment(painted(discs((20, 20, 8), (34, 20, 8), side=64)))
    one, other = result.instances("disc")
    pixels = np.asarray(result.overlay(objects=True)).astype(int)
    colours = [pixels[int(each.centroid[1]), int(each.centroid[0])] for each in (one, other)]
    assert np.abs(colours[0] - colours[1]).max() > 20
    plain = np.asarray(result.overlay()).astype(int)
    assert np.abs(np.subtract(*(plain[int(e.centroid[1]), int(e.centroid[0])] for e in (one, other)))).max() <= 2


def test_neighbours_never_share_a_number() -> None:
    rng = np.random.default_rng(1)
    labels = np.kron(rng.permutation(400).reshape(20, 20), np.ones((3, 3), int))  # 0 is the background of one cell
    numbers = neighbours_apart(labels).astype(int)
    np.testing.assert_array_equal(numbers == 0, labels == 0)
    for axis in (0, 1):
        one, other = np.delete(numbers, 0, axis), np.delete(numbers, -1, axis)
        apart = np.delete(labels, 0, axis) != np.delete(labels, -1, axis)
        assert (one != other)[apart].all()
    assert numbers.max() <= 7  # the palette's own colours are enough


def test_a_cleaned_result_has_no_specks_and_other_classes_keep_their_pixels(segmenter: Segmenter) -> None:
    blue = (30, 30, 220)
    image = painted(discs((20, 20, 8), side=64))
    image[50, 50] = RED
    image[19:22, 19:22] = blue
    shot = np.full((64, 64, 3), blue, np.uint8)
    segmenter.learn("blue", [shot], [np.ones((64, 64), np.uint8)])
    options: dict[str, Any] = {"keep_absent": True}
    before, after = (segmenter.segment(image, clean=clean, **options).mask for clean in (False, True))
    assert before[50, 50] == 1
    assert after[50, 50] == 0
    assert (before == 2).any()
    np.testing.assert_array_equal(after == 1, (before == 1) & discs((20, 20, 12), side=64) | (before == 2))


def test_shapes_go_with_a_class_file_and_files_without_them_are_read(segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "classes.safetensors"
    segmenter.save_classes(path)
    fresh = Segmenter(ColourEngine())
    fresh.load_classes(path)
    assert fresh.learned[0].shapes == segmenter.learned[0].shapes
    assert len(fresh.learned[0].shapes) == 3
    touching = painted(discs((20, 20, 8), (34, 20, 8), side=64))
    assert len(fresh.segment(touching).instances("disc")) == 2

    def rewrite(shapes: Any) -> Segmenter:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["rifenet-classes"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header["shapes"] = shapes
        if shapes is None:
            del header["shapes"]
        save_file(tensors, path, {"rifenet-classes": json.dumps(header)})
        other = Segmenter(ColourEngine())
        other.load_classes(path)
        return other

    older = rewrite(None)
    with pytest.warns(UserWarning, match="'disc' came from a file of an earlier version.*touch count as one"):
        assert len(older.segment(touching).instances("disc")) == 1
    for wrong in ([], [[[2.0, 0.5]]], [[["a", 1]]], [[[0.1]]], "x"):
        told = r"Expected area and solidity in \(0,1\]|expected the header.shapes|expected as many of each"
        with pytest.raises(ValueError, match=told):
            rewrite(wrong)


def test_without_scikit_image_a_sentence_says_what_to_install(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "skimage":
            raise ModuleNotFoundError("No module named 'skimage'", name="skimage")
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    result = segmenter.segment(painted(discs((20, 20, 8), side=64)))
    with pytest.raises(ValueError, match=r"the package skimage.*pip install 'rifenet\[instances\]'"):
        result.instances("disc")
    with pytest.raises(ValueError, match="pip install"):
        _ = segmenter.segment(painted(discs((20, 20, 8), side=64)), clean=True).mask
