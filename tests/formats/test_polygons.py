"""Filling against a test of every pixel's centre by itself; tracing by what filling makes of it; by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from reference import polygons as reference
from scipy import ndimage

from rifenet.formats.polygons import (
    MOST_CORNERS,
    Corners,
    corners_of,
    fill_polygon,
    flattened,
    signed_area,
    trace_parts,
    trace_polygons,
)

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))
POLYGONS = st.lists(st.tuples(st.integers(-6, 26), st.integers(-6, 26)), min_size=3, max_size=9)


def filled(polygons: list[Corners], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for corners in polygons:
        mask |= fill_polygon(corners, *shape)
    return mask


@given(POLYGONS)
@settings(max_examples=60, deadline=None)
def test_filling_is_the_even_odd_rule_at_pixel_centres(points: list[tuple[int, int]]) -> None:
    corners = np.array(points) / 2 + (2**0.5 % 1, np.e % 1)  # so that no edge goes through a centre
    assert np.array_equal(fill_polygon(corners, 11, 9), reference.filled(corners, 11, 9))


@given(st.lists(st.tuples(st.integers(-6, 26), st.integers(-6, 26)), min_size=3, max_size=3, unique=True))
@settings(max_examples=60, deadline=None)
def test_pillow_fills_the_same_but_along_the_outline(points: list[tuple[int, int]]) -> None:
    """Triangles: of outlines that cross themselves, Pillow pairs the crossings otherwise."""
    picture = Image.new("1", (19, 21))
    ImageDraw.Draw(picture).polygon(points, fill=1)
    corners = np.array(points, float)
    apart = fill_polygon(corners, 21, 19) ^ np.asarray(picture)
    assert (reference.distance(corners, 21, 19)[apart] <= 1.5).all()


def test_filling_by_hand() -> None:
    box = np.array([[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]])
    expected = np.zeros((4, 5), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(fill_polygon(box, 4, 5), expected)
    assert not fill_polygon(box + 10, 4, 5).any()
    assert fill_polygon(box * 100 - 150, 4, 5).all()


@given(MASKS)
@settings(max_examples=120, deadline=None)
def test_traced_polygons_fill_the_mask_again(mask: NDArray[np.bool_]) -> None:
    polygons = trace_polygons(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert sum(abs(signed_area(corners)) for corners in polygons) == mask.sum()
    pieces = [fill_polygon(corners, *mask.shape).sum() for corners in polygons]
    assert sum(pieces) == mask.sum()  # no pixel twice
    assert pieces == sorted(pieces, reverse=True)


def test_rings_within_rings() -> None:
    mask = np.zeros((40, 60), bool)
    mask[2:38, 2:58] = True
    mask[5:20, 5:20] = mask[8:12, 30:40] = mask[25:35, 22:50] = False
    mask[10:15, 10:15] = mask[28:32, 30:40] = True
    polygons = trace_polygons(mask)
    assert len(polygons) == 3
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert sorted(len(corners) for corners in polygons) == [4, 4, 4 + 3 * 6]  # a hole: its four corners, and a way


def test_fewer_corners_stay_within_the_tolerance() -> None:
    rows, columns = np.mgrid[:200, :240]
    disc = np.hypot(rows - 100, columns - 120) < 80
    (exact,) = trace_polygons(disc)
    (coarse,) = trace_polygons(disc, tolerance=1.0)
    assert len(coarse) < len(exact) / 8
    apart = fill_polygon(coarse, 200, 240) ^ disc
    assert 0 < apart.sum() < 2 * np.pi * 80
    assert (np.abs(np.hypot(rows - 100, columns - 120)[apart] - 80) < 2.5).all()


def test_nothing_has_no_polygon() -> None:
    assert trace_polygons(np.zeros((5, 5))) == []


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ([1, 2, 3, 4], "at least 3 corners"),
        ([1, 2, 3, 4, 5], "at least 3 corners"),
        ("abc", "at least 3 corners"),
        ([[1, 2], [3, 4], [5]], "at least 3 corners"),
        ([[0, 0], [5, 5], [None, 2]], "far outside"),
        ([[0, 0], [5, 5], [1e9, 2]], "far outside"),
    ],
)
def test_what_is_no_polygon(numbers: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        corners_of(numbers, 10, 20)


def test_corners_and_crossings_are_bounded() -> None:
    angles = np.linspace(0, 2 * np.pi, MOST_CORNERS, endpoint=False)
    round_ = np.stack([10 + 5 * np.cos(angles), 10 + 5 * np.sin(angles)], axis=1)
    most = corners_of(round_.tolist(), 20, 20)
    assert fill_polygon(most, 20, 20).sum() == pytest.approx(np.pi * 25, abs=3)
    with pytest.raises(ValueError, match=r"at most 100,000 corners, but got one of 100,001\. Simplify it"):
        corners_of([*round_.tolist(), [0, 0]], 20, 20)
    up_and_down = np.stack([np.arange(MOST_CORNERS) / 50, np.arange(MOST_CORNERS) % 2 * 2000], axis=1)
    with pytest.raises(ValueError, match=r"cross at most 16,777,216 rows .* but got 200,000,000"):
        fill_polygon(up_and_down, 2000, 2000)


def test_corners_come_and_go_as_numbers() -> None:
    corners = corners_of([0, 1, 5.126, 2, 3, 9], 10, 20)
    assert flattened(corners) == [[0.0, 1.0], [5.13, 2.0], [3.0, 9.0]]
    assert np.array_equal(corners_of([[0, 1], [5.126, 2], [3, 9]], 10, 20), corners)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7, 0.9])
def test_a_part_has_its_own_holes(share: float) -> None:
    """Each part, without its holes, is one of the areas whose pixels share edges; outer rings go clockwise."""
    draw = np.random.default_rng(round(100 * share))
    for height, width in ((25, 30), (30, 17), (9, 40)):
        mask = draw.random((height, width)) < share
        areas, count = ndimage.label(mask)
        parts = trace_parts(mask)
        assert len(parts) == count
        seen = set()
        for outer, *holes in parts:
            assert signed_area(outer) > 0
            assert all(signed_area(hole) < 0 for hole in holes)
            inside = fill_polygon(outer, height, width)
            for hole in holes:
                inside &= ~fill_polygon(hole, height, width)
            (number,) = np.unique(areas[inside]).tolist()
            np.testing.assert_array_equal(inside, areas == number)
            seen.add(number)
        assert seen == set(range(1, count + 1))
        _, empty = ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))
        assert sum(len(rings) for rings in parts) == count + empty - 1


def kept(corners: Corners, start: int, stop: int, tolerance: float) -> set[int]:
    """Douglas and Peucker by the book: the corners between two of a closed outline that have to stay."""
    ring = np.concatenate([corners, corners[:1]])
    worst, at = tolerance, 0
    for number in range(start + 1, stop):
        along, off = ring[stop] - ring[start], ring[number] - ring[start]
        length = float(np.hypot(*along))
        far = abs(along[0] * off[1] - along[1] * off[0]) / length if length else float(np.hypot(*off))
        if far > worst:
            worst, at = far, number
    return kept(corners, start, at, tolerance) | {at} | kept(corners, at, stop, tolerance) if at else set()


@pytest.mark.parametrize("tolerance", [0.3, 0.8, 1.5, 3.0])
def test_which_corners_are_dropped(tolerance: float) -> None:
    draw = np.random.default_rng(0)
    fewer = 0
    for radius in draw.uniform(2, 14, 12):
        rows, columns = np.mgrid[:34, :40] - draw.uniform(12, 20, 2)[:, None, None]
        angle = np.arctan2(rows, columns)
        mask = np.hypot(rows, columns) < radius * (1 + 0.3 * np.sin(3 * angle + radius))
        for exact, simple in zip(trace_parts(mask), trace_parts(mask, tolerance=tolerance), strict=True):
            for ring, found in zip(exact, simple, strict=True):
                far = int(((ring - ring[0]) ** 2).sum(1).argmax())  # whole numbers, so that ties are ties everywhere
                stay = {0, far} | kept(ring, 0, far, tolerance) | kept(ring, far, len(ring), tolerance)
                stay = stay if len(stay) > 2 and len(ring) > 4 else set(range(len(ring)))
                np.testing.assert_array_equal(found, ring[sorted(stay)])
                fewer += len(found) < len(ring)
    assert fewer > 5 or tolerance < 0.5  # the steps of a slope are further from it


def test_the_way_to_a_hole_is_the_shortest_from_its_leftmost_corner() -> None:
    mask = np.ones((20, 40), bool)
    mask[0, 11:] = mask[-1, 25:] = False  # corners of the outline at (11, 0), (11, 1), (25, 19), (25, 20)
    mask[12:15, 24:30] = False
    (joined,) = trace_polygons(mask)
    (outer, hole), *_ = trace_parts(mask)
    assert len(joined) == len(outer) + len(hole) + 2
    ways = {
        tuple(sorted([tuple(one), tuple(other)]))
        for one, other in zip(joined.tolist(), np.roll(joined, -1, axis=0).tolist(), strict=True)
        if one[0] != other[0] and one[1] != other[1]
    }
    assert ways == {((24.0, 15.0), (25.0, 19.0))} or ways == {((24.0, 12.0), (25.0, 19.0))}


def test_corners_of_a_picture_and_beyond() -> None:
    """A corner may lie outside by the picture's size; then comes the sentence."""
    for corner in ([-20, 0], [40, 0], [0, -10], [0, 20]):
        assert len(corners_of([[0, 0], [5, 5], corner], 10, 20)) == 3
    for corner in ([-20.1, 0], [40.1, 0], [0, -10.1], [0, 20.1]):
        with pytest.raises(ValueError, match="in a picture of 20 x 10 px, but a corner is far outside"):
            corners_of([[0, 0], [5, 5], corner], 10, 20)
