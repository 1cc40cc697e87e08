"""The pixels of a polygon, each asked by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def filled(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Even-odd rule at pixel centres, by how often a ray to the left meets an edge."""
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (ay <= y) != (by <= y) and ax + (y - ay) * (bx - ax) / (by - ay) <= x:
                    crossings += 1
            mask[row, column] = crossings % 2
    return mask


def distance(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """How far the centre of each pixel is from the outline."""
    nearest = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            point = np.array((column + 0.5, row + 0.5))
            for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
                line = end - start
                length = line @ line
                along = float(np.clip((point - start) @ line / length, 0, 1)) if length else 0.0
                nearest[row, column] = min(nearest[row, column], float(np.hypot(*(point - start - along * line))))
    return nearest
