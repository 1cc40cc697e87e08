"""Fits a learned class to its own shots: tries what works on photos with known masks, and keeps the choice.

With two shots or more, each of up to `HELD_OUT` shots is a query in turn, and the others teach the class. A single shot
is compared with altered copies of itself (`segmenting.copies`). One option after the other is chosen by the mean IoU
over these queries: how much a pixel classifier of the class counts (`segmenting.pixels`), tiles, masks that follow the
photo's edges, and the threshold. An option replaces the default only if it is better by a margin, because a few photos
say little. docs/lab/fitting.md tells how the margins were chosen.

    K shots of a class · H W a query's own size · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context, Engine
from rifenet.metrics import log_odds, sigmoid
from rifenet.segmenting.copies import CHANGES, altered
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.margins import Seen
from rifenet.segmenting.pixels import Sums, total
from rifenet.segmenting.result import PRESENT
from rifenet.segmenting.shots import Shots
from rifenet.segmenting.trials import (
    Photo,
    Trial,
    Way,
    classifier_of,
    context_of,
    photo_of,
    share_of,
    sums_of,
    width_of,
)

HELD_OUT = 3
"""Most shots that are queries in turn."""
BLENDS = (0.25, 0.5)
"""Weights of the pixel classifier to try."""
LOST = 0.35
"""With one shot, the pixel classifier is tried only where the network has less than this IoU on the shot's copies."""
OFFSETS = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
"""Thresholds to try, as log-odds above the model's."""
SMALL = 60.0
"""Tiles are tried only for objects at most this wide, in pixels of the network's input."""
MOST_SHIFT = 3.0
"""Largest shift of a class's log-odds of presence that photos without the class cause."""
_LEAST = 1e-4


@dataclass(frozen=True)
class Stage:
    """Options that are tried together."""

    name: str
    options: Sequence[dict[str, Any]]
    needed: float
    """How much better in mean IoU an option must be than what it replaces."""


def fit_class(engine: Engine, inputs: Shots, context: Context, negatives: Shots | None = None) -> Fit:
    """What works for a class on its own annotated shots.

    Args:
        engine: the model.
        inputs: the shots, K >= 1.
        context: the class learned from all of them.
        negatives: photos without the class, whose masks are empty.
    """
    photos = [photo_of(inputs, number) for number in range(len(inputs.images))]
    others = [] if negatives is None else [photo_of(negatives, number) for number in range(len(negatives.images))]
    own, taught = ([sums_of(engine, photo) for photo in each] for each in (photos, others))
    sums = [*own, *taught]
    usual = float(np.median([share_of(photo.mask) for photo in photos]))
    trials = list(_trials(engine, inputs, negatives, photos, own, taught, context, usual))
    showing = len(trials)
    trials += [Trial(engine, photo, context, classifier_of(sums), usual) for photo in others[:HELD_OUT]]
    small = float(np.median([width_of(photo.mask) for photo in photos])) <= SMALL
    best, value, notes = Way(), _mean(trials, Way()), []
    classifies = sums[0] is not None and (len(photos) > 1 or value < LOST)
    for stage in _stages(len(photos) > 1, small, classifies):
        tried = [replace(best, **option) for option in stage.options]
        values = [_mean(trials, each) for each in tried]
        index = int(np.argmax(values))
        taken = values[index] > value + stage.needed
        notes.append(
            f"{stage.name}: IoU {100 * value:.0f}% to {100 * values[index]:.0f}%, {'taken' if taken else 'not taken'}"
        )
        if taken:
            best, value = tried[index], values[index]
    sure = [trial.presence(best) for trial in trials]
    return Fit(
        tiles=best.tiles,
        refine=best.refine,
        threshold=float(sigmoid(np.array(log_odds(engine.threshold) + best.offset))),
        blend=best.blend,
        quality=_mean(trials[:showing], best),
        notes=tuple(notes),
        shots=len(photos),
        share=usual,
        pixels=classifier_of(sums) if best.blend else None,
        shift=presence_shift(sure[:showing], sure[showing:]),
        look=_look(own, trials[0].seen) if sums[0] is not None else None,
    )


def presence_shift(confidences: Sequence[float], elsewhere: Sequence[float]) -> float:
    """What to add to a class's log-odds of presence so that photos without it are told from those that show it.

    Args:
        confidences: of held-out shots that the class is there, each in (0,1).
        elsewhere: the same of photos without the class.

    Returns:
        0 where no photo without the class would count as showing it; else minus the middle between the largest log-odds
        of those photos and the least of the shots, at most `MOST_SHIFT` in size.
    """
    if not elsewhere or max(elsewhere) < PRESENT:
        return 0.0
    middle = (_odds(max(elsewhere)) + _odds(min(confidences))) / 2
    return -min(max(middle, 0.0), MOST_SHIFT)


def _odds(share: float) -> float:
    return log_odds(min(max(share, _LEAST), 1 - _LEAST))


def _stages(several: bool, small: bool, classifies: bool) -> Iterator[Stage]:
    """What to try. The copies of a single shot flatter every option, so fewer are tried, and they must gain more."""
    if classifies:
        yield Stage("pixel classifier", [{"blend": blend} for blend in BLENDS], 0.02)
    if small:
        yield Stage("tiles", [{"tiles": True}], 0.02 if several else 0.04)
    yield Stage("edges", [{"refine": True}], 0.0)
    if several:
        yield Stage("threshold", [{"offset": offset} for offset in OFFSETS], 0.02)


def _mean(trials: Sequence[Trial], choice: Way) -> float:
    return float(np.mean([trial.iou(choice) for trial in trials]))


def _trials(
    engine: Engine,
    inputs: Shots,
    negatives: Shots | None,
    photos: Sequence[Photo],
    own: Sequence[Sums | None],
    others: Sequence[Sums | None],
    context: Context,
    usual: float,
) -> Iterator[Trial]:
    """Each of some shots as a query for the others; copies of a single shot.

    `own` and `others` are what the shots and the photos without the class teach a pixel classifier.
    """
    count = len(photos)
    if count == 1:
        pixels = classifier_of([*own, *others])
        copies = [Photo(*altered(*photos[0], change)) for change in CHANGES]
        # An object of a few pixels may be in no copy. Then the shot itself is the query.
        for copy in [copy for copy in copies if (copy.mask == 1).any()] or photos:
            yield Trial(engine, copy, context, pixels, usual)
        return
    for number in np.linspace(0, count - 1, min(HELD_OUT, count)).round().astype(int).tolist():
        taught = context_of(engine, inputs.without(number), negatives)
        yield Trial(engine, photos[number], taught, classifier_of([*own[:number], *own[number + 1 :], *others]), usual)


def _look(sums: Sequence[Sums | None], seen: Seen) -> NDArray[np.float32]:
    """Unit-length means of the high features over background and class, [2,D]."""
    described = seen.described[0]
    assert described is not None
    means = total([each for each in sums if each is not None]).means[:, : len(described.high)]
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), np.float32)
