"""Means over square windows of maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_mean(maps: NDArray[np.floating], radius: int | tuple[int, int]) -> NDArray[np.float64]:
    """Mean of maps [...,h,w] over the part of each pixel's window that lies inside the map, same shape.

    The window reaches `radius` positions to each side; a pair gives rows and columns.
    """
    values = np.asarray(maps, np.float64)
    radii = radius if isinstance(radius, tuple) else (radius, radius)
    for axis, reach in zip((-2, -1), radii, strict=True):
        length = values.shape[axis]
        sums = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        first = np.maximum(np.arange(length) - reach, 0)
        last = np.minimum(np.arange(length) + reach + 1, length)
        counts = (last - first)[:, None] if axis == -2 else last - first
        values = (sums.take(last, axis) - sums.take(first, axis)) / counts
    return values
