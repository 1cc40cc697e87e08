"""Adaptation (beyond the paper): each class adopts photos without annotation that show it with high confidence.

In training, RiFeNet's unlabeled branch learns from pseudo-labels on unlabeled images. Adaptation uses the same idea
when a class is learned. A first pass segments the photos with the annotated shots only. The photos of highest
confidence then become further shots of the class, with the masks that the first pass found. A few annotated photos show
a class from few sides; the adopted ones show more of them.

Adaptation raises the confidence of a class in every photo, whether the photo shows the class or not. Its `shift` undoes
this: the mean confidence over a sample of the photos stays that of the first pass. docs/lab/adaptation.md gives the
gain and how the settings were chosen.

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
from rifenet.segmenting.margins import Seen
from rifenet.segmenting.pseudo_labels import pseudo_mask
from rifenet.segmenting.queries import OnError, OnProgress, confidence, counted, segment_lazily, total_of
from rifenet.segmenting.result import PRESENT, Options, Result
from rifenet.segmenting.shots import PseudoShot, Shots
from rifenet.segmenting.storage import LearnedClass

SAMPLE = 16  # photos over which adaptation keeps the mean confidence
_FIRST_PASS = Options(keep_absent=False, tiles=False, refine=False)


class _Sampled(NamedTuple):
    """A photo of the sample, which takes those of lowest digest: a random choice, whatever their order."""

    digest: bytes
    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    before: list[float]
    """Confidence of each class in the first pass."""


class _Found(NamedTuple):
    """A photo that a class may adopt. The highest confidence sorts first; of equals, the earliest photo."""

    minus_confidence: float
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
    """Learns each class again from its annotated photos and from the `photos` that it adopts.

    Args:
        engine: the model.
        classes: the learned classes; they drop the photos that they adopted before.
        photos: paths, PIL images or [H,W,3] arrays, read one by one.
        count: largest number of photos that a class adopts.
        most: largest number of shots of a class, annotated and adopted together.
        on_error: called with a photo that cannot be read and the error; None raises the error.
        on_progress: called after each photo with the number done and the total, None if unknown.

    Raises ValueError for a class from a file, which holds no photos.
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
    return taught if engine.calibration is None else _with_shifts(engine, taught, sample)


def _with_shifts(engine: Engine, classes: Sequence[LearnedClass], sample: Sequence[_Sampled]) -> list[LearnedClass]:
    """Shifts each class that adopted photos to the mean confidence over the sample that the first pass gave it."""
    log_odds: list[list[float]] = [[] for _ in classes]
    for photo in sample:
        seen = Seen(engine, photo.pixels[None], photo.valid[None])
        for known, values in zip(classes, log_odds, strict=True):
            if known.adopted:
                own = seen.margins(known.context, known.fit)[0]
                sure = confidence(own[photo.valid], engine.calibration)
                values.append(math.log(max(sure, 1e-9) / max(1 - sure, 1e-9)))
    return [
        replace(known, shift=shift_to(np.array(values), float(np.mean([photo.before[index] for photo in sample]))))
        if known.adopted
        else known
        for index, (known, values) in enumerate(zip(classes, log_odds, strict=True))
    ]


def shift_to(log_odds: NDArray[np.float64], mean: float) -> float:
    """The number in [-20,20] that, added to `log_odds` [M], gives probabilities of this mean; found by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (0.5 + 0.5 * np.tanh((log_odds + middle) / 2)).mean() < mean else (low, middle)
    return (low + high) / 2


def taken_by_others(result: Result) -> NDArray[np.bool_]:
    """For each class, the pixels that another class wins, [C,S,S] bool.

    They may show a look-alike, so the class must not learn from them.
    """
    winner = result.winners(result.margins.shape[1:], result.margins.__getitem__).astype(int)
    others: NDArray[np.bool_] = (winner > 0) & (winner != 1 + np.arange(len(result.classes))[:, None, None])
    return others


def _joined(annotated: Shots, adopted: Iterable[_Found]) -> Shots:
    for each in adopted:
        annotated = annotated.followed_by(each.inputs)
    return annotated


def _digest(pixels: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()
