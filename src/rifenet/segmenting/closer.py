"""Cuts a shot around an object that is too small to be seen in its photo as a whole.

H W the photo's own size · S side of the square network input
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_AREA = 16.0
"""Area of the object at the network's scale, in px, below which a shot is cut: one point of a grid of every 4 px."""
_AROUND = 4  # side of the cut, in sides of a square as large as the object
_STEPS = 4  # places of the window that are tried, for each of its sides


def window_around(labels: NDArray[np.uint8], size: int) -> tuple[slice, slice] | None:
    """Rows and columns of a square around the object, or around most of it; None where the whole photo shows it.

    Args:
        labels: [H,W], 1 on the object.
        size: S. The square has at least S pixels a side, if the photo has.
    """
    longer = max(labels.shape)
    rows, columns = np.nonzero(labels == 1)
    if longer <= size or not len(rows) or len(rows) * (size / longer) ** 2 >= LEAST_AREA:
        return None
    side = max(size, round(_AROUND * len(rows) ** 0.5))
    step = max(1, side // _STEPS)
    counts = np.zeros((labels.shape[0] // step + 1 + _STEPS, labels.shape[1] // step + 1 + _STEPS), np.int64)
    np.add.at(counts, (rows // step, columns // step), 1)
    sums = np.pad(counts.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    marked = sums[_STEPS:, _STEPS:] - sums[:-_STEPS, _STEPS:] - sums[_STEPS:, :-_STEPS] + sums[:-_STEPS, :-_STEPS]
    top, left = (int(place) * step for place in np.unravel_index(marked.argmax(), marked.shape))
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    middle = (round(float(rows[inside].mean())), round(float(columns[inside].mean())))
    return _span(middle[0], side, labels.shape[0]), _span(middle[1], side, labels.shape[1])


def _span(middle: int, side: int, whole: int) -> slice:
    """`side` places around `middle`, moved to lie within `whole`; all of it where it is smaller."""
    start = max(0, min(middle - side // 2, whole - side))
    return slice(start, min(whole, start + side))
