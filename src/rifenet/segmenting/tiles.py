"""Segments large photos a second time, in overlapping tiles at twice the scale of the first pass.

The first pass segments the whole photo. For tiles, the photo is scaled so that its longer side is twice the network's
(the canvas) and cut into windows of S x S. Neighbours overlap by half or more, up to a pixel. A tile's weight falls
towards its inner edges, which hides the seams.

The first pass decides where tiles count. It rules a class out where the odds of the class are below 1/20 of the
threshold's odds: tiles do not count there. From 1/7 of the threshold's odds on, tiles count in full. At the bundled
model's threshold of 0.33 these limits are probabilities of 0.024 and 0.062; at a threshold of 0.5 they are 0.047 and
0.119.

Each pixel of the photo lies in the cell of the tile that sees it best: the one whose middle is nearest. A class is
looked for in a tile unless it is ruled out at each pixel of the tile's cell. So no pixel that counts goes without the
tile that sees it best, and tiles that see an object at their border alone are left out.

    C classes · S side of the network's square · D = 2 S side of the canvas' square
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import Placement, resize_and_pad, restore
from rifenet.engines import Context, Engine
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.margins import Seen

ZOOM = 2
LARGE = 3  # tiles "auto": photos whose longer side is at least this many times the network's
OVERLAP = 0.5
SHARE = 0.75  # weight of the tiles in the mix; chosen on training classes (docs/lab/bundled_321.md)
RULED_OUT, DOUBTED = -3.0, -2.0  # margins of the first pass: tiles do not count below the first and
# count in full above the second


class Tile(NamedTuple):
    """First row and column of a window of the canvas."""

    top: int
    left: int


def is_large(placement: Placement) -> bool:
    """Whether the photo's longer side is at least `LARGE` times the network's."""
    return max(placement.height, placement.width) >= LARGE * placement.size


def tiles_of(canvas: Placement, size: int) -> list[Tile]:
    """Windows of `size` that cover the photo on the canvas and overlap by half or more, up to a pixel, row by row."""
    rows, columns = (_starts(length, size) for length in (canvas.scaled_height, canvas.scaled_width))
    return [Tile(top, left) for top in rows for left in columns]


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    # A pixel less is left to rounding: a photo of 4 : 3 has two rows of tiles that overlap by half, and not three.
    steps = max(1, int(np.ceil((length - size - 1) / (size * (1 - OVERLAP)))))
    return [round(position) for position in np.linspace(0, length - size, steps + 1).tolist()]


def cell_of(tile: Tile, tiles: Sequence[Tile], size: int) -> tuple[slice, slice]:
    """Rows and columns of the canvas that `tile` sees best of all `tiles`; they reach to the canvas' end."""
    return (
        _between(tile.top, sorted({each.top for each in tiles}), size),
        _between(tile.left, sorted({each.left for each in tiles}), size),
    )


def _between(start: int, starts: Sequence[int], size: int) -> slice:
    """The part of an axis that lies between the middles of the overlaps with both neighbours."""
    borders = [(before + after + size) // 2 for before, after in pairwise(starts)]
    place = starts.index(start)
    return slice(borders[place - 1] if place else 0, borders[place] if place < len(borders) else None)


def with_tiles(
    engine: Engine,
    image: NDArray[np.uint8],
    contexts: Sequence[Context | None],
    whole: NDArray[np.float32],
    placement: Placement,
    fits: Sequence[Fit | None] = (),
) -> tuple[NDArray[np.float32], Placement]:
    """Mixes tiles into the first pass. Returns margins of each class, [C,D,D], and where the photo lies in them.

    Args:
        engine: the engine that made `whole`.
        image: the photo, [H,W,3].
        contexts: contexts of the C classes; None keeps the first pass of a class.
        whole: margins of the first pass, [C,S,S].
        placement: where the photo lies in `whole`.
        fits: fits of the C classes; empty for none.
    """
    size = placement.size
    pixels, valid, canvas = resize_and_pad(image, ZOOM * size)
    height, width = canvas.scaled_height, canvas.scaled_width
    coarse = restore(whole, replace(placement, height=height, width=width))
    total, weights = np.zeros_like(coarse), np.zeros_like(coarse)
    tiles = tiles_of(canvas, size)
    for tile in tiles:
        square = np.s_[tile.top : tile.top + size, tile.left : tile.left + size]
        cell = cell_of(tile, tiles, size)
        wanted = [
            (number, context, fit)
            for number, (context, fit) in enumerate(zip(contexts, fits or [None] * len(contexts), strict=True))
            if context is not None and (coarse[number][cell] > RULED_OUT).any()
        ]
        if not wanted:
            continue
        seen = Seen(engine, pixels[(None, slice(None), *square)], valid[(None, *square)])
        weight = _weight(canvas, tile)
        for number, context, fit in wanted:
            part = seen.margins(context, fit)[0, : weight.shape[0], : weight.shape[1]]
            total[number][square] += weight * part
            weights[number][square] += weight
    looked = weights > 0
    share = SHARE * ((coarse - RULED_OUT) / (DOUBTED - RULED_OUT)).clip(0, 1)
    coarse[looked] += share[looked] * (total[looked] / weights[looked] - coarse[looked])
    on_canvas = np.zeros((len(coarse), canvas.size, canvas.size), np.float32)
    on_canvas[:, :height, :width] = coarse
    return on_canvas, canvas


def _weight(canvas: Placement, tile: Tile) -> NDArray[np.float32]:
    """Weight of each pixel of a tile on the photo, in (0,1]: 1 in its middle, falling towards its inner edges."""
    side = canvas.size // ZOOM
    rows = _ramp(tile.top, min(side, canvas.scaled_height), canvas.scaled_height)
    return rows[:, None] * _ramp(tile.left, min(side, canvas.scaled_width), canvas.scaled_width)


def _ramp(start: int, length: int, whole: int) -> NDArray[np.float32]:
    """Weights along one axis: 1 in the middle and at the canvas's edges, falling towards edges inside the canvas."""
    position = np.arange(length, dtype=np.float32) + 0.5
    ramp = np.ones(length, np.float32)
    if start > 0:
        ramp = np.minimum(ramp, position / (length / 2))
    if start + length < whole:
        ramp = np.minimum(ramp, (length - position) / (length / 2))
    return ramp
