"""Steadies the masks of a video: the scores of neighbouring frames weigh in where the frames look alike.

A frame's margin at a pixel becomes the weighted mean of its own and those of up to `REACH` frames before and after. A
neighbour's weight falls with its distance in time, and with the difference of colours around the pixel: where something
moved, or the scene was cut, the frame keeps its own margin. Confidences weigh in as log-odds, by the mean weight.

    C classes · D side of the margins · h w the photo in them
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import Placement, resized, restore
from rifenet.metrics import log_odds, sigmoid
from rifenet.segmenting.boxes import box_mean
from rifenet.segmenting.result import Result

REACH = 2
"""Frames before and after that weigh in."""
FADING = 0.7
"""Weight of a neighbour that looks the same, for each frame of distance."""
LIKENESS = 12.0
"""Difference of colours, in levels of 255, at which a neighbour's weight falls to 0.6."""
_AROUND = 1  # pixels around each, over which differences are averaged


class _Frame(NamedTuple):
    """A result, and its photo at the margins' scale, [3,h,w] in levels."""

    result: Result
    colours: NDArray[np.float32]


def steadied(results: Iterable[Result], reach: int = REACH) -> Iterator[Result]:
    """The results of neighbouring frames, in order, each with its neighbours' say; `reach` frames late."""
    kept: deque[_Frame] = deque(maxlen=2 * reach + 1)
    own = 0  # place in `kept` of the next frame to give
    for result in results:
        frame = _Frame(result, _colours(result))
        if len(kept) == kept.maxlen:
            own -= 1
        kept.append(frame)
        if len(kept) - own > reach:
            yield _steady(kept, own, reach)
            own += 1
    while own < len(kept):
        yield _steady(kept, own, reach)
        own += 1


def _colours(result: Result) -> NDArray[np.float32]:
    placement = result.placement
    small = resized(result.image, placement.scaled_height, placement.scaled_width)
    return np.asarray(small, np.float32).transpose(2, 0, 1)


def _steady(frames: Sequence[_Frame], own: int, reach: int) -> Result:
    """The frame at a place among its neighbours."""
    result, colours = frames[own]
    height, width = colours.shape[1:]
    total = result.margins[:, :height, :width].copy()
    weights = np.ones((height, width), np.float32)
    odds = {name: [(1.0, _odds(sure))] for name, sure in result.confidence.items()}
    for place in range(max(0, own - reach), min(len(frames), own + reach + 1)):
        other = frames[place]
        if place == own or other.result.image.shape != result.image.shape:
            continue
        weight = FADING ** abs(place - own) * _likeness(
            colours, _scaled(other.colours, result.placement, other.result.placement)
        )
        total += weight * _scaled(other.result.margins, result.placement, other.result.placement)
        weights += weight
        for name, sure in other.result.confidence.items():
            odds[name].append((float(weight.mean()), _odds(sure)))
    margins = np.zeros_like(result.margins)
    margins[:, :height, :width] = total / weights
    confidence = {name: _mean_confidence(told) for name, told in odds.items()}
    return replace(result, margins=margins, confidence=confidence if result.calibrated else result.confidence)


def _likeness(own: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [h,w] in [0,1] of another frame by its colours [3,h,w]."""
    difference = box_mean(((own - other) ** 2).mean(0), _AROUND)
    found: NDArray[np.float32] = np.exp(-difference / (2 * LIKENESS**2)).astype(np.float32)
    return found


def _mean_confidence(odds: Sequence[tuple[float, float]]) -> float:
    """Of pairs of a weight and log-odds."""
    weights, values = np.array(odds, np.float64).T
    return float(sigmoid(np.asarray((weights * values).sum() / weights.sum())))


def _odds(confidence: float) -> float:
    return float(log_odds(min(max(confidence, 1e-4), 1 - 1e-4)))


def _scaled(maps: NDArray[np.float32], wanted: Placement, there: Placement) -> NDArray[np.float32]:
    """Maps [C,...] of a photo in another placement, [C,h,w] of the wanted one: frames may differ in having tiles."""
    height, width = wanted.scaled_height, wanted.scaled_width
    if there == wanted:
        return maps[:, :height, :width]
    square = np.zeros((len(maps), there.size, there.size), np.float32)
    cut = maps[:, : there.scaled_height, : there.scaled_width]
    square[:, : cut.shape[1], : cut.shape[2]] = cut
    return restore(square, replace(there, height=height, width=width))
