"""Altered copies of an annotated photo: queries with known masks for a class that has one shot only.

A copy is turned, scaled, lit otherwise and perhaps mirrored, so that the class's own shot does not match it pixel by
pixel. What lies beyond the photo's border is its mirror image, with its labels.

    H W the photo's own size
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Change(NamedTuple):
    """How a copy differs from its photo."""

    degrees: float
    """Turned by this angle, counter-clockwise."""
    scale: float
    """Enlarged by this factor; above 1, the copy shows the surroundings of the object only."""
    gamma: float
    """Exponent of the intensities: above 1 darkens."""
    mirrored: bool


CHANGES = (Change(20, 0.75, 0.8, False), Change(-15, 1.3, 1.25, True))


def altered(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], change: Change
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An altered copy of a photo [H,W,3] and its mask [H,W] (0, 1, 255), both of the photo's size."""
    height, width = mask.shape
    turn = math.radians(change.degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) / change.scale
    if change.mirrored:
        matrix = matrix @ np.diag([-1.0, 1.0])
    middle = np.array([width - 1, height - 1]) / 2
    seen = middle
    if change.scale > 1 and (mask == 1).any():
        rows, columns = np.nonzero(mask == 1)
        half = np.array([width, height]) / change.scale / 2
        seen = np.clip([columns.mean(), rows.mean()], half, np.array([width, height]) - half)
    # A border as wide as the photo: turned and shrunk copies reach no further.
    border = max(height, width)
    start = seen - matrix @ middle + border
    place = (*matrix[0], start[0], *matrix[1], start[1])
    wide = np.pad(image, ((border, border), (border, border), (0, 0)), "symmetric")
    pixels = _moved(wide, (width, height), place, Image.Resampling.BILINEAR)
    labels = _moved(np.pad(mask, border, "symmetric"), (width, height), place, Image.Resampling.NEAREST)
    lit = 255 * (pixels / np.float32(255)) ** np.float32(change.gamma)
    return lit.round().astype(np.uint8), labels


def _moved(
    picture: NDArray[np.uint8], size: tuple[int, int], place: tuple[float, ...], resample: Image.Resampling
) -> NDArray[np.uint8]:
    # Pillow samples pixel centres at (x + 0.5, y + 0.5); `place` maps whole numbers to whole numbers.
    a, b, c, d, e, f = place
    shifted = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)
    return np.asarray(Image.fromarray(picture).transform(size, Image.Transform.AFFINE, shifted, resample))
