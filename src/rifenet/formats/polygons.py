"""Fills polygons into masks, and traces masks as polygons.

A pixel is inside if its centre is, by the even-odd rule. Pillow's ImageDraw is not exact: it rounds corners to whole
pixels and fills the outline, too, so a box of 30 x 30 becomes 31 x 31 pixels. A plain install has no pycocotools.

Traced polygons follow pixel edges. Unless they are simplified, filling them restores the mask exactly. Parts that touch
only at a corner become separate polygons. A line there and back joins a hole to its outline, because many formats have
no holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.float64]
"""[N,2]: x and y in pixels; the picture's top left corner is (0, 0), the middle of its first pixel (0.5, 0.5)."""

MOST_CORNERS = 100_000
_MOST_CROSSINGS = 2**24  # of edges with the middles of pixel rows; take two or three seconds
_CROSSINGS = 2**22  # crossings in memory at a time


def corners_of(numbers: Any, height: int, width: int) -> Corners:
    """Corners [N,2] from x, y, x, y, ... or [[x, y], ...].

    Raises ValueError for fewer than 3 or more than `MOST_CORNERS` corners, and for a corner outside the picture by more
    than the picture's size.
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
            " save the mask as PNG."
        )
    far = np.abs(points / (width, height) - 0.5).max()
    if not far <= 1.5:
        raise ValueError(f"Expected polygons in a picture of {width} x {height} px, but a corner is far outside.")
    return points


def fill_polygon(corners: Corners, height: int, width: int) -> NDArray[np.bool_]:
    """Mask [height, width] of the pixels whose centre is inside; cuts off what lies outside the picture.

    Raises ValueError for an outline whose edges cross so many rows of pixels that filling would take minutes.
    """
    x, y = corners.T
    ahead_x, ahead_y = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, ahead_y) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y, ahead_y) - 0.5), 0, height).astype(np.int64)
    rows_of = last - first  # for each edge, the number of pixel rows whose middle it crosses
    if (crossings := int(rows_of.sum())) > _MOST_CROSSINGS:
        raise ValueError(
            f"Expected a polygon whose edges cross at most {_MOST_CROSSINGS:,} rows of pixels, summed over the edges,"
            f" but got {crossings:,}. Save the mask as PNG."
        )
    filled = np.zeros((height, width), bool)
    if not crossings:
        return filled
    top, bottom = int(first[rows_of > 0].min()), int(last[rows_of > 0].max())
    left, right = np.clip((np.floor(x.min()), np.ceil(x.max())), 0, width).astype(int).tolist()
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)  # of the box around the polygon
    # A limited number of edges at a time, so that their crossings fit into memory.
    at_a_time = max(_CROSSINGS // max(height, 1), 1)
    for start in range(0, len(x), at_a_time):
        counts = rows_of[start : start + at_a_time]
        edge = np.repeat(np.arange(start, start + len(counts)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        slope = (ahead_x - x)[edge] / (ahead_y - y)[edge]
        crossing = x[edge] + (row + 0.5 - y[edge]) * slope
        column = np.clip(np.ceil(crossing - 0.5), left, right).astype(np.int64)
        # A count may wrap at 256: only odd or even matters.
        np.add.at(toggles, (row - top, column - left), np.uint8(1))
    filled[top:bottom, left:right] = np.bitwise_xor.accumulate(toggles & 1, axis=1)[:, : right - left]
    return filled


def trace_polygons(mask: NDArray[Any], *, tolerance: float = 0.0, holes: bool = True) -> list[Corners]:
    """One polygon for each part of a mask [H,W] (not 0: inside), largest first.

    `tolerance`: pixels by which an outline may move to save corners; 0 is exact. `holes` False fills the holes.
    """
    parts = []
    for outline, *inner in trace_parts(mask, tolerance=tolerance):
        for hole in inner if holes else ():
            outline = _joined(outline, hole)
        parts.append(outline)
    return sorted(parts, key=lambda corners: -abs(signed_area(corners)))


def trace_parts(mask: NDArray[Any], *, tolerance: float = 0.0) -> list[list[Corners]]:
    """The outlines of each part of a mask [H,W] (not 0: inside): the outer one, then those of its holes.

    Outer ones go clockwise as seen on a screen, holes counter-clockwise. `tolerance` as in `trace_polygons`.
    """
    rings = _rings(mask != 0)
    parts: dict[int, list[Corners]] = {}
    for number, ring in sorted(enumerate(rings), key=lambda item: (item[1].beside >= 0, item[1].corners[:, 0].min())):
        outline = number
        while rings[outline].beside >= 0:
            outline = rings[outline].beside
        parts.setdefault(outline, []).append(_simplified(ring.corners, tolerance))
    return list(parts.values())


def signed_area(corners: Corners) -> float:
    """Area in square pixels, positive where the corners go clockwise as seen on a screen."""
    x, y = corners.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


class _Ring(NamedTuple):
    """A closed outline. `beside`: for a hole, index of the next ring to its left, of the same part; else -1."""

    corners: Corners
    beside: int


def _rings(inside: NDArray[np.bool_]) -> list[_Ring]:
    """All outlines. The inside is on their right: outer rings go clockwise, holes counter-clockwise."""
    height, width = inside.shape
    across = width + 2
    padded = np.zeros((height + 2, across), bool)
    padded[1:-1, 1:-1] = inside
    steps = (1, across, -1, -across)  # east, south, west, north; a point is the top left corner of a padded pixel
    starts = (0, 1, across + 1, across)  # where the edge of a pixel in each direction begins
    neighbours = (-across, 1, across, -1)  # offset of the pixel across that edge
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    edges: dict[int, int] = {}  # point * 4 + direction -> index of its ring; -1: not walked yet
    for direction in range(4):
        outer = pixels[~flat[pixels + neighbours[direction]]]
        edges.update(dict.fromkeys(((outer + starts[direction]) * 4 + direction).tolist(), -1))
    rings: list[Corners] = []
    for first in sorted(edges):
        if edges[first] < 0:
            rings.append(_walk(edges, first, len(rings), steps, across))
    return [_Ring(ring, _beside(ring, flat, edges, across)) for ring in rings]


def _walk(edges: dict[int, int], first: int, number: int, steps: tuple[int, ...], across: int) -> Corners:
    """Follows edges from `first` until it is back, turns right where it can, and returns the turning points."""
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
    """For a hole, index of the first ring to the left of its leftmost corner; -1 for an outer ring."""
    if signed_area(ring) > 0:
        return -1
    column = ring[:, 0].min()
    row = int(ring[ring[:, 0] == column, 1].min())
    start = (row + 1) * across
    pixels = flat[start : start + int(column) + 1]
    left = int(np.flatnonzero(~pixels)[-1]) + 1  # first of the inside pixels left of the hole
    return edges[(start + across + left) * 4 + 3]


def _joined(outline: Corners, hole: Corners) -> Corners:
    """The outline with a detour to the hole, around it and back."""
    start = int(hole[:, 0].argmin())
    near = int(((outline - hole[start]) ** 2).sum(1).argmin())
    around = np.roll(hole, -start, axis=0)
    return np.concatenate([outline[: near + 1], around, around[:1], outline[near:]])


def _simplified(corners: Corners, tolerance: float) -> Corners:
    """Drops corners that lie within `tolerance` pixels of the simplified outline (Douglas and Peucker)."""
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
    """Corners as [[x, y], ...] for JSON, rounded to `digits`."""
    pairs: Sequence[list[float]] = np.round(corners, digits).tolist()
    return list(pairs)
