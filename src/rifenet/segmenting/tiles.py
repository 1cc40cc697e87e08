"""Large photos a second time, in overlapping tiles, at twice the scale of the pass over the whole photo.

The photo is scaled so that its longer side is twice the network's (the canvas), and looked at S x S pixels at a time.
Neighbours overlap by half, and each one's weight falls to nothing at its inner edges, so that seams cannot be seen.
What the whole photo shows decides: where it gives a class a score below 0.05, tiles have no say, and they have all of
theirs from 0.12 on. A tile in which it rules everything out is not looked at.

    C classes · S side of the network's square · D = 2 S side of the canvas' square
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import Placement, resize_and_pad, restore
from rifenet.engines import Context, Engine

ZOOM = 2
LARGE = 3  # tiles "auto": photos whose longer side is at least this many times the network's
OVERLAP = 0.5
SHARE = 0.75  # of a tile's map in the mixture; chosen on classes trained on (docs/experiments.md)
RULED_OUT, DOUBTED = -3.0, -2.0  # logit differences of the whole photo's map: below, tiles have no say; above, all


class Tile(NamedTuple):
    """First row and column of a window of the canvas."""

    top: int
    left: int


def is_large(placement: Placement) -> bool:
    """Whether the photo has more to show than the network saw of it."""
    return max(placement.height, placement.width) >= LARGE * placement.size


def tiles_of(canvas: Placement, size: int) -> list[Tile]:
    """Windows of `size` that cover the photo on the canvas and overlap by half or more, row by row."""
    rows, columns = (_starts(length, size) for length in (canvas.scaled_height, canvas.scaled_width))
    return [Tile(top, left) for top in rows for left in columns]


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    steps = int(np.ceil((length - size) / (size * (1 - OVERLAP))))
    return [round(position) for position in np.linspace(0, length - size, steps + 1).tolist()]


def with_tiles(
    engine: Engine,
    image: NDArray[np.uint8],
    contexts: Sequence[Context | None],
    whole: NDArray[np.float32],
    placement: Placement,
) -> tuple[NDArray[np.float32], Placement]:
    """Logit differences of each class, [C,D,D], and where the photo lies in them.

    Args:
        engine: what made `whole`.
        image: the photo, [H,W,3].
        contexts: the C classes; None for one that tiles have nothing to say of.
        whole: logit differences of the pass over the whole photo, [C,S,S].
        placement: where the photo lies in these.
    """
    size = placement.size
    pixels, valid, canvas = resize_and_pad(image, ZOOM * size)
    height, width = canvas.scaled_height, canvas.scaled_width
    coarse = restore(whole, replace(placement, height=height, width=width))
    total, weights = np.zeros_like(coarse), np.zeros_like(coarse)
    for tile in tiles_of(canvas, size):
        square = np.s_[tile.top : tile.top + size, tile.left : tile.left + size]
        wanted = [
            (number, context)
            for number, context in enumerate(contexts)
            if context is not None and (coarse[number][square] > RULED_OUT).any()
        ]
        if not wanted:
            continue
        features = engine.encode_query(pixels[(None, slice(None), *square)], valid[(None, *square)])
        weight = _weight(canvas, tile)
        for number, context in wanted:
            logits = engine.decode(features, context)[0]
            part = (logits[1] - logits[0])[: weight.shape[0], : weight.shape[1]]
            total[number][square] += weight * part
            weights[number][square] += weight
    seen = weights > 0
    say = SHARE * ((coarse - RULED_OUT) / (DOUBTED - RULED_OUT)).clip(0, 1)
    coarse[seen] += say[seen] * (total[seen] / weights[seen] - coarse[seen])
    differences = np.zeros((len(coarse), canvas.size, canvas.size), np.float32)
    differences[:, :height, :width] = coarse
    return differences, canvas


def _weight(canvas: Placement, tile: Tile) -> NDArray[np.float32]:
    """Weight of each pixel of a tile on the photo, in (0,1]: 1 in its middle, falling to its inner edges."""
    side = canvas.size // ZOOM
    rows = _ramp(tile.top, min(side, canvas.scaled_height), canvas.scaled_height)
    return rows[:, None] * _ramp(tile.left, min(side, canvas.scaled_width), canvas.scaled_width)


def _ramp(start: int, length: int, whole: int) -> NDArray[np.float32]:
    """Rises from an edge that lies inside the canvas to 1 in the middle; is 1 towards the canvas' own edges."""
    position = np.arange(length, dtype=np.float32) + 0.5
    ramp = np.ones(length, np.float32)
    if start > 0:
        ramp = np.minimum(ramp, position / (length / 2))
    if start + length < whole:
        ramp = np.minimum(ramp, (length - position) / (length / 2))
    return ramp
