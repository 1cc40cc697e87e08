"""Chooses photos to annotate next: of the masks expected to be worst, and unlike what is annotated.

    N photos · A annotated photos · D numbers of a description · S side of the square network input

Photos are read one by one. A few numbers of each stay in memory; D of them describe its content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import resize_and_pad
from rifenet.engines import Context, Engine
from rifenet.formats.pictures import Source, load_image
from rifenet.metrics import sigmoid
from rifenet.segmenting.margins import margins
from rifenet.segmenting.storage import LearnedClass

_POOLED = ("evidence_means", "prototypes", "prototype")  # context fields that are averages, the most telling first
PROBABLE = 0.3
"""From this confidence on, `ranked` takes the class for present; below, a bad mask counts less."""
NEAR = 0.35
"""Distance below which a photo is much like another; such a photo counts less."""
# Thresholds for the wording of a reason: about the quartiles over photos of trained classes.
_UNLIKE, _ABSENT, _PRESENT, _WRONG, _FAULTY, _SMALL = 0.5, 0.35, 0.65, 0.5, 0.75, 0.02


@dataclass(frozen=True, eq=False)
class Look:
    """What stays in memory of one photo."""

    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its position among all photos given, from 1; unreadable photos count, too."""
    class_name: str
    """The class whose mask is expected to be worst (`loss`)."""
    doubt: float
    """Mean entropy of that class's scores in bits, weighted by the scores: 0 sure, 1 undecided."""
    confidence: float
    """Confidence that the class is in the photo, in [0,1]."""
    area: float
    """Share of the photo in the mask of that class, in [0,1]."""
    expected: float
    """Expected IoU of its mask of that class by the model's own scores, in [0,1]."""
    description: NDArray[np.float16]
    """Unit vector, [D]."""

    @property
    def loss(self) -> float:
        """How bad the mask is expected to be, in [0,1]; less where the class may not be in the photo at all."""
        return _loss(self.confidence, self.expected)


@dataclass(frozen=True)
class PhotoAdvice:
    """A photo worth annotating."""

    rank: int
    """Rank from 1; annotate rank 1 first."""
    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its position among all photos given, from 1."""
    class_name: str
    """The class whose mask is expected to be worst (`loss`)."""
    doubt: float
    """Mean entropy of that class's scores in bits, in [0,1]: 0 sure, 1 undecided."""
    expected: float
    """Share of that class's mask that is right, by the model's own scores, in [0,1]."""
    confidence: float
    """Confidence that the class is in the photo, in [0,1]."""
    unlike: float
    """Distance to the most similar photo that is annotated or ranked earlier, in [0,1]; 0 means alike."""
    reason: str
    """The reason for the suggestion, in words."""


def looks(
    engine: Engine,
    classes: Sequence[LearnedClass],
    queries: Iterable[Source],
    confidence: Callable[[NDArray[np.float32], float], float],
    on_error: Callable[[Source, Exception], None],
) -> Iterator[Look]:
    """Looks at photos lazily, one in memory at a time.

    Args:
        engine: the model.
        classes: the learned classes.
        queries: paths, PIL images or [H,W,3] arrays.
        confidence: margins of a photo's real pixels [M], and the class's shift -> confidence that the class is there.
        on_error: receives each photo that cannot be read and its error; the photo is skipped.
    """
    for number, query in enumerate(queries, 1):
        try:
            photo = load_image(query)
        except (ValueError, OSError) as error:
            on_error(query, error)
            continue
        pixels, valid, _ = resize_and_pad(photo, engine.size)
        del photo
        source = fspath(query) if isinstance(query, str | PathLike) else ""
        yield look_at(engine, classes, pixels, valid, source, number, confidence)


def look_at(
    engine: Engine,
    classes: Sequence[LearnedClass],
    pixels: NDArray[np.float32],
    valid: NDArray[np.bool_],
    source: str,
    number: int,
    confidence: Callable[[NDArray[np.float32], float], float],
) -> Look:
    """Looks at one photo, `pixels` [3,S,S] and `valid` [S,S]; keeps the figures of the class whose mask is worst."""
    features = engine.encode_query(pixels[None], valid[None])
    found = []
    for known in classes:
        own = margins(engine, features, known.context)[0, valid]
        scores, inside = sigmoid(own), own > 0
        sure, expected = confidence(own, known.shift), expected_iou(scores, inside)
        found.append((_loss(sure, expected), doubt(scores), known.name, sure, float(inside.mean()), expected))
    _, unsure, name, sure, area, expected = max(found)
    return Look(source, number, name, unsure, sure, area, expected, describe(engine, pixels, valid))


def _loss(confidence: float, expected: float) -> float:
    return min(confidence / PROBABLE, 1.0) * (1 - expected)


def expected_iou(scores: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """IoU that a mask [M] has by scores [M]: the mean share of its pixels that are right, over what it should cover.

    That is the sum of the scores in the mask over its size and the scores outside; 1 for an empty mask of zero scores.
    """
    exact = scores.astype(np.float64)
    union = np.count_nonzero(inside) + float(exact[~inside].sum())
    return float(exact[inside].sum()) / union if union > 0 else 1.0


def doubt(scores: NDArray[np.float32]) -> float:
    """Mean binary entropy of scores [M] in bits, weighted by the scores, so that sure background does not count.

    A score is 0.5 at the mask's threshold.
    """
    exact = scores.astype(np.float64)
    total = exact.sum()
    if total <= 0:
        return 0.0
    likely, unlikely = np.clip(exact, 1e-12, 1), np.clip(1 - exact, 1e-12, 1)
    entropy = -(exact * np.log2(likely) + (1 - exact) * np.log2(unlikely))
    return float((entropy * exact).sum() / total)


def describe(engine: Engine, pixels: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float16]:
    """Describes a photo by a unit vector [D]: the average features that the engine learns from all of its pixels.

    `pixels` is [3,S,S], `valid` [S,S]. Engines learn different fields. The vector is the first field of `_POOLED` that
    the engine has, or else all its fields of floating-point numbers.
    """
    context = engine.encode_support(pixels[None], valid[None].astype(np.uint8), valid[None])
    vector = np.concatenate([field.astype(np.float64).ravel() for field in _averages(context)])
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float16)


def _averages(context: Context) -> list[NDArray[Any]]:
    for name in _POOLED:
        if name in context and context[name].size:
            return [context[name]]
    return [field for field in context.values() if np.issubdtype(field.dtype, np.floating)]


def ranked(found: Sequence[Look], annotated: Sequence[NDArray[np.float16]], count: int) -> list[PhotoAdvice]:
    """Chooses the `count` photos to annotate first, one after the other.

    Each step chooses the photo of the largest `loss`. A photo much like one that is annotated or chosen counts less:
    its loss is multiplied by their distance, divided by `NEAR`. docs/advice.md compares this with other orders.
    """
    if not found:
        return []
    seen = np.stack([look.description for look in found]).astype(np.float32)  # [N,D]
    known = np.stack(annotated).astype(np.float32)  # [A,D]
    given = (1 - (seen @ known.T).max(1)).clip(0)  # [N], to the nearest annotated photo
    nearest = given.copy()
    losses = np.array([look.loss for look in found], np.float32)
    left = np.ones(len(found), bool)
    chosen: list[PhotoAdvice] = []
    while len(chosen) < count and left.any():
        best = int(np.where(left, losses * np.minimum(nearest / NEAR, 1), -1).argmax())
        distances = (1 - seen @ seen[best]).clip(0)
        alike = int(np.count_nonzero((distances < np.minimum(given, NEAR)) & left)) - 1
        chosen.append(_advice(found[best], len(chosen) + 1, float(nearest[best]), max(alike, 0)))
        left[best] = False
        nearest = np.minimum(nearest, distances)
    return chosen


def _advice(look: Look, rank: int, unlike: float, alike: int) -> PhotoAdvice:
    return PhotoAdvice(
        rank,
        look.source,
        look.number,
        look.class_name,
        look.doubt,
        look.expected,
        look.confidence,
        unlike,
        " ".join(_reasons(look, unlike, alike)),
    )


def _reasons(look: Look, unlike: float, alike: int) -> Iterator[str]:
    """Sentences: what is wrong with the mask, and why the photo teaches."""
    name, right = look.class_name, f"{100 * look.expected:.0f} %"
    if look.confidence < _ABSENT:
        yield f"The model finds hardly any {name} ({100 * look.confidence:.0f} %); skip the photo if there is none."
    elif look.expected < _WRONG:
        yield f"The mask of {name} is probably wrong or incomplete: by the model's own scores {right} of it is right."
    elif look.expected < _FAULTY:
        yield f"The mask of {name} probably has faults: by the model's own scores {right} of it is right."
    else:
        yield f"The mask of {name} is probably good: by the model's own scores {right} of it is right."
    if _ABSENT <= look.confidence < _PRESENT:
        yield f"It is not sure that there is a {name} at all ({100 * look.confidence:.0f} %)."
    if look.confidence >= _ABSENT and look.area < _SMALL:
        yield f"It marks only {100 * look.area:.1f} % of the photo."
    if unlike >= _UNLIKE:
        yield "The photo is unlike all that is annotated."
    elif unlike < NEAR:
        yield "The photo is much like one that is annotated or listed above."
    if alike:
        yield f"{alike} more {'photo looks' if alike == 1 else 'photos look'} like it."
