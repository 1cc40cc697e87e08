"""Large photos a second time, in overlapping tiles: where they are looked at, and how tiles become one map.

A tile is S x S pixels of the photo scaled so that its longer side is `side` (the canvas). Neighbours overlap by half,
and each one's weight falls to nothing at its inner edges, so that seams cannot be seen.

    S side of the network's square · side of the canvas' square, larger than S
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import MEAN, Placement, to_float

OVERLAP = 0.5


class Tile(NamedTuple):
    """A window of the canvas: its first row and column, and how much of the photo it holds."""

    top: int
    left: int
    height: int
    width: int


def tiles_of(canvas: Placement, size: int) -> list[Tile]:
    """Windows of `size` that cover the photo on the canvas and overlap by half or more, row by row."""
    rows, columns = (_starts(length, size) for length in (canvas.scaled_height, canvas.scaled_width))
    height, width = min(size, canvas.scaled_height), min(size, canvas.scaled_width)
    return [Tile(top, left, height, width) for top in rows for left in columns]


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    steps = int(np.ceil((length - size) / (size * (1 - OVERLAP))))
    return [round(position) for position in np.linspace(0, length - size, steps + 1).tolist()]


def tile_input(
    picture: Image.Image, canvas: Placement, tile: Tile, size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Network input [3,S,S] and valid mask [S,S] of a tile, as `resize_and_pad` makes them of a whole photo."""
    across, down = canvas.width / canvas.scaled_width, canvas.height / canvas.scaled_height
    box = (
        tile.left * across,
        tile.top * down,
        min(canvas.width, (tile.left + tile.width) * across),
        min(canvas.height, (tile.top + tile.height) * down),
    )
    part = picture.resize((tile.width, tile.height), Image.Resampling.BILINEAR, box=box)
    pixels = np.empty((3, size, size), np.float32)
    pixels[:] = np.array(MEAN, np.float32)[:, None, None]
    pixels[:, : tile.height, : tile.width] = to_float(np.asarray(part))
    valid = np.zeros((size, size), bool)
    valid[: tile.height, : tile.width] = True
    return pixels, valid


def tile_weight(canvas: Placement, tile: Tile) -> NDArray[np.float32]:
    """Weight of each pixel of a tile, [height,width] in (0,1]: 1 at its middle, falling to its inner edges."""
    rows = _ramp(tile.top, tile.height, canvas.scaled_height)
    return rows[:, None] * _ramp(tile.left, tile.width, canvas.scaled_width)


def _ramp(start: int, length: int, whole: int) -> NDArray[np.float32]:
    """Rises from an edge that lies inside the canvas to 1 in the middle; is 1 towards the canvas' own edges."""
    position = np.arange(length, dtype=np.float32) + 0.5
    ramp = np.ones(length, np.float32)
    if start > 0:
        ramp = np.minimum(ramp, position / (length / 2))
    if start + length < whole:
        ramp = np.minimum(ramp, (length - position) / (length / 2))
    return ramp


def blend(
    canvas: Placement, parts: Iterable[tuple[Tile, NDArray[np.float32]]], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted means of tiles [C,S,S] on the canvas: the map [C,side,side], and the weights [side,side], 0 in none."""
    total = np.zeros((classes, canvas.size, canvas.size), np.float32)
    weights = np.zeros((canvas.size, canvas.size), np.float32)
    for tile, maps in parts:
        window = np.s_[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        weight = tile_weight(canvas, tile)
        total[(slice(None), *window)] += maps[:, : tile.height, : tile.width] * weight
        weights[window] += weight
    np.divide(total, weights, out=total, where=weights > 0)
    return total, weights
