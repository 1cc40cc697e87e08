"""Outlines of a mask as polygons, for labeling configs that take polygons only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.75  # px that a corner may lie off the line that takes its place
_MIN_AREA = 4  # px


def outer_outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Corners [P,2] as x, y in px of the outer outline of each 4-connected part of [H,W]; holes are filled.

    Parts below 4 px are left out, and so are corners within 0.75 px of the line between those that stay.
    """
    for loop in _loops(mask):
        x, y = loop.T
        area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
        if area >= _MIN_AREA:  # clockwise on a picture; outlines of holes run the other way
            corners = _simplified(loop)
            if len(corners) >= 3:
                yield corners


def _loops(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Closed walks along pixel edges with the object on the right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for outside, start, step in (
        (~padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right along the top
        (~padded[1:-1, 2:], (1, 0), (0, 1)),  # right of it: downwards
        (~padded[2:, 1:-1], (1, 1), (-1, 0)),
        (~padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for y, x in np.argwhere(inside & outside).tolist():
            steps.setdefault((x + start[0], y + start[1]), []).append(step)
    while steps:
        here = first = next(iter(steps))
        step, walk = steps[here][0], [here]
        while True:
            choices = steps[here]
            right = (-step[1], step[0])  # where two parts touch at a corner, stay with this one
            step = right if right in choices else choices[0]
            choices.remove(step)
            if not choices:
                del steps[here]
            here = (here[0] + step[0], here[1] + step[1])
            if here == first:
                break
            walk.append(here)
        yield np.array(walk, np.float64)


def _simplified(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners that are needed (Douglas and Peucker), from the two that lie farthest from each other's side."""
    far = int(np.linalg.norm(loop - loop[0], axis=1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(loop))]
    while spans:
        start, stop = spans.pop()
        if stop - start < 2:
            continue
        line = closed[stop] - closed[start]
        between = closed[start + 1 : stop] - closed[start]
        length = np.hypot(*line)
        off = np.abs(between @ [-line[1], line[0]]) / length if length else np.hypot(*between.T)
        worst = int(off.argmax())
        if off[worst] > TOLERANCE:
            keep[start + 1 + worst] = True
            spans += [(start, start + 1 + worst), (start + 1 + worst, stop)]
    return loop[keep[:-1]]
