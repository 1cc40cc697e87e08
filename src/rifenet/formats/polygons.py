"""Polygons filled into masks, and masks traced as polygons.

A pixel is inside where its centre is, by the even-odd rule. Pillow's ImageDraw rounds corners to whole pixels and fills
the outline too: it makes 31 x 31 pixels of a box of 30 x 30. pycocotools is no part of a plain install.

Traced polygons run along the edges of the pixels, so that filling them gives the mask again, pixel for pixel, unless
they were simplified. Parts that touch at a corner only are polygons of their own; a hole is joined to its outline by a
line walked twice, as formats without holes need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.float64]
"""[N,2]: x and y in pixels; the picture's top left corner is (0, 0), the middle of its first pixel (0.5, 0.5)."""

MOST_CORNERS = 100_000
_MOST_CROSSINGS = 2**24  # of edges with the middles of rows: two or three seconds
_CROSSINGS = 2**22  # of these, held at a time


def corners_of(numbers: Any, height: int, width: int) -> Corners:
    """Corners [N,2] out of x, y, x, y, ... or [[x, y], ...].

    Raises ValueError for fewer than 3 or more than `MOST_CORNERS`, and for one that is further outside the picture than
    its size.
    """
    try:
        points = np.array(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim == 1 and len(points) % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 3:
        raise ValueError(f"Expected polygons [x, y, x, y, ...] of at least 3 corners, but got {str(numbers)[:80]}.")
    if len(points) > MOST_CORNERS:
        raise ValueError(
            f"Expected polygons of at most {MOST_CORNERS:,} corners, but got one of {len(points):,}. Simplify it, or"
            " give a mask as PNG."
        )
    far = np.abs(points / (width, height) - 0.5).max()
    if not far <= 1.5:
        raise ValueError(f"Expected polygons in a picture of {width} x {height} px, but a corner is far outside.")
    return points


def fill_polygon(corners: Corners, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a picture [height, width] whose centre is inside; what is outside the picture is cut off.

    Raises ValueError for an outline that would take minutes, because its edges cross the rows too often.
    """
    x, y = corners.T
    ahead_x, ahead_y = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, ahead_y) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y, ahead_y) - 0.5), 0, height).astype(np.int64)
    rows_of = last - first  # of each edge: the rows whose middle it crosses
    if (crossings := int(rows_of.sum())) > _MOST_CROSSINGS:
        raise ValueError(
            f"Expected a polygon whose edges cross at most {_MOST_CROSSINGS:,} rows of pixels, counted for each edge,"
            f" but got {crossings:,}. Give a mask as PNG."
        )
    filled = np.zeros((height, width), bool)
    if not crossings:
        return filled
    top, bottom = int(first[rows_of > 0].min()), int(last[rows_of > 0].max())
    left, right = np.clip((np.floor(x.min()), np.ceil(x.max())), 0, width).astype(int).tolist()
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)  # of the box around the polygon
    # So many edges at a time that their crossings fit into memory, however often the outline goes up and down.
    at_a_time = max(_CROSSINGS // max(height, 1), 1)
    for start in range(0, len(x), at_a_time):
        counts = rows_of[start : start + at_a_time]
        edge = np.repeat(np.arange(start, start + len(counts)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        slope = (ahead_x - x)[edge] / (ahead_y - y)[edge]
        crossing = x[edge] + (row + 0.5 - y[edge]) * slope
        column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
        np.add.at(
            toggles, (row - top, column - left), np.uint8(1)
        )  # may wrap at 256, which keeps what counts: odd or even
    filled[top:bottom, left:right] = np.bitwise_xor.accumulate(toggles & 1, axis=1)[:, : right - left]
    return filled


def trace_polygons(mask: NDArray[Any], *, tolerance: float = 0.0, holes: bool = True) -> list[Corners]:
    """Polygons of a mask [H,W] (anything but 0 is inside), largest first, one for each part.

    `tolerance`: how far an outline may move, in pixels, so that it has fewer corners; 0 is exact. Without `holes` they
    are filled.
    """
    rings = [ring for ring in _rings(mask != 0) if holes or ring.beside < 0]
    shapes = [_simplified(ring.corners, tolerance) for ring in rings]
    parts: dict[int, Corners] = {}
    for number, ring in sorted(enumerate(rings), key=lambda item: (item[1].beside >= 0, item[1].corners[:, 0].min())):
        if ring.beside < 0:
            parts[number] = shapes[number]
            continue
        outline = ring.beside
        while outline not in parts:
            outline = rings[outline].beside
        parts[outline] = _joined(parts[outline], shapes[number])
    return sorted(parts.values(), key=lambda corners: -abs(signed_area(corners)))


def signed_area(corners: Corners) -> float:
    """Area in square pixels, positive where the corners go clockwise as seen on a screen."""
    x, y = corners.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


class _Ring(NamedTuple):
    """A closed outline. `beside`: of a hole the ring that is next to its left, in the same part; -1 of an outer one."""

    corners: Corners
    beside: int


def _rings(inside: NDArray[np.bool_]) -> list[_Ring]:
    """All outlines, the inside on their right: outer ones clockwise, holes the other way round."""
    height, width = inside.shape
    across = width + 2
    padded = np.zeros((height + 2, across), bool)
    padded[1:-1, 1:-1] = inside
    steps = (1, across, -1, -across)  # east, south, west, north; a point is the top left corner of a padded pixel
    starts = (0, 1, across + 1, across)  # where the edge of a pixel in each direction begins
    neighbours = (-across, 1, across, -1)  # what is on its other side
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    edges: dict[int, int] = {}  # point * 4 + direction -> the ring that it belongs to
    for direction in range(4):
        outer = pixels[~flat[pixels + neighbours[direction]]]
        edges.update(dict.fromkeys(((outer + starts[direction]) * 4 + direction).tolist(), -1))
    rings: list[Corners] = []
    for first in sorted(edges):
        if edges[first] < 0:
            rings.append(_walk(edges, first, len(rings), steps, across))
    return [_Ring(ring, _beside(ring, flat, edges, across)) for ring in rings]


def _walk(edges: dict[int, int], first: int, number: int, steps: tuple[int, ...], across: int) -> Corners:
    """Follows edges from `first` round, turning right where it can, and returns the points where it turned."""
    turns = []
    edge = first
    while True:
        edges[edge] = number
        point, direction = divmod(edge, 4)
        point += steps[direction]
        for turn in (1, 0, 3):
            following = point * 4 + (direction + turn) % 4
            if following in edges:
                break
        if turn:
            turns.append(point)
        edge = following
        if edge == first:
            break
    rows, columns = np.divmod(np.array(turns), across)
    return np.stack([columns - 1, rows - 1], axis=1).astype(np.float64)


def _beside(ring: Corners, flat: NDArray[np.bool_], edges: dict[int, int], across: int) -> int:
    """Of a hole: the ring met by going left from its leftmost corner."""
    if signed_area(ring) > 0:
        return -1
    column = ring[:, 0].min()
    row = int(ring[ring[:, 0] == column, 1].min())
    start = (row + 1) * across
    pixels = flat[start : start + int(column) + 1]
    left = int(np.flatnonzero(~pixels)[-1]) + 1  # of the inner pixels next to the hole's left, the first
    return edges[(start + across + left) * 4 + 3]


def _joined(outline: Corners, hole: Corners) -> Corners:
    """The outline with a way to the hole, around it and back."""
    start = int(hole[:, 0].argmin())
    near = int(((outline - hole[start]) ** 2).sum(1).argmin())
    around = np.roll(hole, -start, axis=0)
    return np.concatenate([outline[: near + 1], around, around[:1], outline[near:]])


def _simplified(corners: Corners, tolerance: float) -> Corners:
    """Fewer corners, none of those left out further than `tolerance` from the line instead (Douglas and Peucker)."""
    if tolerance <= 0 or len(corners) <= 4:
        return corners
    closed = np.concatenate([corners, corners[:1]])
    far = int(((corners - corners[0]) ** 2).sum(1).argmax())
    keep = np.zeros(len(closed), bool)
    keep[[0, far, len(corners)]] = True
    spans = [(0, far), (far, len(corners))]
    while spans:
        start, stop = spans.pop()
        if stop - start < 2:
            continue
        offset, line = closed[start + 1 : stop] - closed[start], closed[stop] - closed[start]
        length = float(np.hypot(*line))
        distance = np.abs(offset @ (-line[1], line[0])) / length if length else np.hypot(*offset.T)
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            keep[start + 1 + worst] = True
            spans += [(start, start + 1 + worst), (start + 1 + worst, stop)]
    fewer = corners[keep[:-1]]
    return fewer if len(fewer) > 2 else corners


def flattened(corners: Corners, digits: int = 2) -> list[list[float]]:
    """[[x, y], ...] for JSON."""
    pairs: Sequence[list[float]] = np.round(corners, digits).tolist()
    return list(pairs)
