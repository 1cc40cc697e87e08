"""Reference for what is special about the `hsnet` protocol (protocols.md section 3).

> squash to 400 x 400; scored at network size; K > 1: vote as an option

Pixel centres map to pixel centres. Beyond the text: the mask is foreground where the score is above 0; a pixel of the
mask is that of the original under its centre, and a class that no centre meets has one pixel all the same. The vote is
the one in the HSNet paper: the K masks are summed and divided by the largest sum, 0.5 is the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .metrics import intersection_union
from .resize import bilinear_align_corners


def squash_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Nearest neighbour to [size, size] of a mask [H, W] in which every class is large enough to be met."""
    height, width = mask.shape
    out = np.zeros((size, size), np.uint8)
    for i in range(size):
        for j in range(size):
            out[i, j] = mask[math.floor((i + 0.5) * height / size), math.floor((j + 0.5) * width / size)]
    return out


def squash_coordinate(position: float, side: int, size: int) -> float:
    """Where a position of the original, in pixels with 0 the middle of the first one, is in the squashed picture."""
    return (position + 0.5) * size / side - 0.5


def network_scores(difference: np.ndarray, size: int) -> np.ndarray:
    """Scores [size, size] of a map [h, w]: as in the published code, its corners go to the picture's corners."""
    return bilinear_align_corners(difference[None], size, size)[0]


def counts_at_network_size(prediction: np.ndarray, mask: np.ndarray, class_id: int) -> list[list[int]]:
    """[[background intersection, union], [foreground intersection, union]] of masks [S, S] and an index mask [H, W]."""
    small = squash_mask(mask, len(prediction))
    target = np.where(small == 255, 255, small == class_id)
    return [list(intersection_union(prediction, target, label)) for label in (0, 1)]


def vote(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Foreground [H, W] where the share of the most voted pixel's votes is at least one half."""
    height, width = masks[0].shape
    sums = [[sum(int(mask[i][j]) for mask in masks) for j in range(width)] for i in range(height)]
    most = max(max(row) for row in sums)
    return np.array([[most > 0 and value / most >= 0.5 for value in row] for row in sums], dtype=np.uint8)
