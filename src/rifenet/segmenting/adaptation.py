"""Classes learned from photos without annotation, too: those in which they are found most surely (beyond the paper).

RiFeNet's unlabeled branch has unlabeled images teach the network through its own pseudo-labels, in training only. Here
they teach a class, in use: a first pass over the photos finds it with what was annotated, and the photos in which it is
surest to be join its shots with the masks found there. A few photos show a class from few sides; these show more.

A class taught so finds more in every photo, whether or not it is there. So its confidence is shifted until a sample of
the photos has the mean confidence of before. What all of it brings, and how it was chosen: docs/lab/adaptation.md.

    K shots of a class · C classes · S side of the square network input
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import resize_and_pad
from rifenet.engines import Engine
from rifenet.formats.pictures import Source
from rifenet.segmenting.margins import margins
from rifenet.segmenting.pseudo_labels import pseudo_mask
from rifenet.segmenting.queries import OnError, OnProgress, confidence, counted, segment_lazily, total_of
from rifenet.segmenting.result import PRESENT, Options, Result
from rifenet.segmenting.shots import PseudoShot, Shots
from rifenet.segmenting.storage import LearnedClass

SAMPLE = 16  # photos, on which the mean confidence is kept
_FIRST_PASS = Options(keep_absent=False, tiles=False, refine=False)


class _Sampled(NamedTuple):
    """A photo of the sample: those with the lowest digests, which are a random choice and the same in any order."""

    digest: bytes
    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    before: list[float]
    """Confidence of each class."""


class _Found(NamedTuple):
    """A photo that may be adopted; the surest sort first, then the earliest."""

    doubt: float
    number: int
    shot: PseudoShot
    inputs: Shots


def adapted(
    engine: Engine,
    classes: Sequence[LearnedClass],
    photos: Iterable[Source],
    count: int,
    most: int,
    on_error: OnError | None,
    on_progress: OnProgress | None,
) -> list[LearnedClass]:
    """The classes, each learned from its annotated photos and those of `photos` that it adopts.

    Args:
        engine: the model.
        classes: what is known; photos that they adopted before do not count.
        photos: paths, PIL images or [H,W,3] arrays, taken one by one.
        count: photos that a class adopts at most.
        most: shots that a class has at most, the annotated ones included.
        on_error: takes a photo that cannot be read; without it the error is raised.
        on_progress: told after each photo how many are done, of how many.

    Raises ValueError for a class without photos.
    """
    annotated = [known.annotated() for known in classes]
    plain = [
        replace(known, context=engine.encode_support(*inputs), adopted=(), shift=0.0) if known.adopted else known
        for known, inputs in zip(classes, annotated, strict=True)
    ]
    room = [min(count, most - known.shots) for known in plain]
    found: list[list[_Found]] = [[] for _ in plain]
    seen = {_digest(image) for inputs in annotated for image in inputs.images}
    sample: list[_Sampled] = []
    failed = 0

    def skip(photo: Source, error: Exception) -> None:
        nonlocal failed
        failed += 1
        assert on_error is not None
        on_error(photo, error)

    results = segment_lazily(engine, plain, photos, 1, _FIRST_PASS, None if on_error is None else skip)
    if on_progress is not None:
        results = counted(results, total_of(photos), on_progress)
    for done, result in enumerate(results, 1):
        pixels, valid, _ = resize_and_pad(result.image, engine.size)
        digest = _digest(pixels)
        if digest in seen:
            continue
        seen.add(digest)
        bisect.insort(sample, _Sampled(digest, pixels, valid, list(result.confidence.values())))
        del sample[SAMPLE:]
        taken = taken_by_others(result)
        for index, (name, own, elsewhere) in enumerate(zip(result.classes, result.margins, taken, strict=True)):
            counts = valid & ~elsewhere
            sure, masks = confidence(own[counts], engine.calibration), pseudo_mask(own, counts)
            if result.calibrated and min(sure, result.confidence[name]) < PRESENT:
                continue
            if not (masks == 1).any():
                continue
            shot = PseudoShot(result.source, done + failed, sure)
            inputs = Shots(pixels[None], masks[None], valid[None])
            bisect.insort(found[index], _Found(-sure, shot.number, shot, inputs))
            del found[index][room[index] :]
    taught = [
        replace(
            known,
            context=engine.encode_support(*_joined(inputs, adopted)),
            adopted=tuple(each.shot for each in adopted),
        )
        if adopted
        else known
        for known, inputs, adopted in zip(plain, annotated, found, strict=True)
    ]
    return taught if engine.calibration is None else _as_sure_as_before(engine, taught, sample)


def _as_sure_as_before(
    engine: Engine, classes: Sequence[LearnedClass], sample: Sequence[_Sampled]
) -> list[LearnedClass]:
    """The classes, those that adopted photos shifted to the mean confidence over the sample that they had before."""
    log_odds: list[list[float]] = [[] for _ in classes]
    for photo in sample:
        features = engine.encode_query(photo.pixels[None], photo.valid[None])
        for known, values in zip(classes, log_odds, strict=True):
            if known.adopted:
                own = margins(engine, features, known.context)[0]
                sure = confidence(own[photo.valid], engine.calibration)
                values.append(math.log(max(sure, 1e-9) / max(1 - sure, 1e-9)))
    return [
        replace(known, shift=shift_to(np.array(values), float(np.mean([photo.before[index] for photo in sample]))))
        if known.adopted
        else known
        for index, (known, values) in enumerate(zip(classes, log_odds, strict=True))
    ]


def shift_to(log_odds: NDArray[np.float64], mean: float) -> float:
    """What to add to `log_odds` [M] for their probabilities to have this mean, in -20..20, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (0.5 + 0.5 * np.tanh((log_odds + middle) / 2)).mean() < mean else (low, middle)
    return (low + high) / 2


def taken_by_others(result: Result) -> NDArray[np.bool_]:
    """Where another class takes the pixel, for each class [C,S,S]: there a look-alike must not speak for it."""
    winner = result.winners(result.margins.shape[1:], result.margins.__getitem__).astype(int)
    others: NDArray[np.bool_] = (winner > 0) & (winner != 1 + np.arange(len(result.classes))[:, None, None])
    return others


def _joined(annotated: Shots, adopted: Iterable[_Found]) -> Shots:
    for each in adopted:
        annotated = annotated.followed_by(each.inputs)
    return annotated


def _digest(pixels: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()
