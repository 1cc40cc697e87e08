"""Reference for the bilinear resize of features and masks (method.md sections 5, 8 and 9).

> Foreground: the support mask resized bilinearly, weight > 0, features weighted by it.
> `3x3 conv -> ReLU -> Dropout2d(0.1) -> 1x1 conv -> 2 logits`, bilinear upsampling to the image (`align_corners=True`).
"""

from __future__ import annotations

import math

import numpy as np


def source_coordinate(index: int, size_in: int, size_out: int) -> float:
    """Where output `index` samples the input axis: end pixels fall on end pixels, a size-1 axis samples index 0."""
    if size_out == 1 or size_in == 1:
        return 0.0
    return index * (size_in - 1) / (size_out - 1)


def bilinear_align_corners(x: np.ndarray, h: int, w: int) -> np.ndarray:
    """Resized map, [C, h, w], of `x`, [C, H, W]."""
    x = np.asarray(x, dtype=np.float64)
    channels, height, width = x.shape
    out = np.zeros((channels, h, w))
    for i in range(h):
        y = source_coordinate(i, height, h)
        top = min(math.floor(y), height - 1)
        bottom = min(top + 1, height - 1)
        down = y - top
        for j in range(w):
            x_position = source_coordinate(j, width, w)
            left = min(math.floor(x_position), width - 1)
            right = min(left + 1, width - 1)
            across = x_position - left
            for c in range(channels):
                upper = (1 - across) * x[c, top, left] + across * x[c, top, right]
                lower = (1 - across) * x[c, bottom, left] + across * x[c, bottom, right]
                out[c, i, j] = (1 - down) * upper + down * lower
    return out
