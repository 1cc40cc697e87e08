"""Chooses photos to annotate next: photos in doubt, unlike the annotated ones and each other, with much of the class.

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
# Thresholds for the wording of a reason: about the quartiles over photos of trained classes.
_UNDECIDED, _UNLIKE, _LIKE, _ABSENT, _PRESENT = 0.65, 0.5, 0.35, 0.35, 0.65
_LEAST_AREA = 0.001  # least share of the class that `ranked` assumes, so that photos with an empty mask can be chosen
_ROWS = 512  # photos compared with all others at a time


@dataclass(frozen=True, eq=False)
class Look:
    """What stays in memory of one photo."""

    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its position among all photos given, from 1; unreadable photos count, too."""
    class_name: str
    """The class that the model doubts most."""
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
    """The class that the model doubts most."""
    doubt: float
    """Mean entropy of that class's scores in bits, in [0,1]: 0 sure, 1 undecided."""
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
    """Looks at one photo, `pixels` [3,S,S] and `valid` [S,S]; keeps the figures of the class that is most in doubt."""
    features = engine.encode_query(pixels[None], valid[None])
    found = []
    for known in classes:
        own = margins(engine, features, known.context)[0, valid]
        scores, inside = sigmoid(own), own > 0
        found.append(
            (
                doubt(scores),
                known.name,
                confidence(own, known.shift),
                float(inside.mean()),
                expected_iou(scores, inside),
            )
        )
    most, name, sure, area, expected = max(found, key=lambda each: each[0])
    return Look(source, number, name, most, sure, area, expected, describe(engine, pixels, valid))


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
    """Chooses the `count` photos to annotate first, best first, one after the other.

    The cost of a photo is its doubt times its distance to the nearest photo annotated or chosen. Each step chooses the
    candidate with the largest gain: the cost that it removes from all photos, times the square root of the class's
    share of the candidate, because a shot teaches by what it shows. So a near duplicate of a chosen photo gains almost
    nothing. docs/lab/bundled_321.md compares other rules.
    """
    if not found:
        return []
    seen = np.stack([look.description for look in found]).astype(np.float32)  # [N,D]
    known = np.stack(annotated).astype(np.float32)  # [A,D]
    nearest = (1 - (seen @ known.T).max(1)).clip(0)  # [N]
    weights = np.array([look.doubt for look in found], np.float32)
    shown = np.sqrt([max(look.area, _LEAST_AREA) for look in found]).astype(np.float32)
    left = np.ones(len(found), bool)
    chosen: list[PhotoAdvice] = []
    while len(chosen) < count and left.any():
        gains = np.concatenate(
            [_relief(seen[start : start + _ROWS], seen, nearest, weights) for start in range(0, len(found), _ROWS)]
        )
        best = int(np.where(left, gains * shown, -1).argmax())
        distances = (1 - seen @ seen[best]).clip(0)
        like = int(np.count_nonzero((distances < nearest) & left)) - 1
        chosen.append(_advice(found[best], len(chosen) + 1, float(nearest[best]), max(like, 0)))
        left[best] = False
        nearest = np.minimum(nearest, distances)
    return chosen


def _relief(
    rows: NDArray[np.float32], seen: NDArray[np.float32], nearest: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """By how much annotating each of `rows` [R,D] lowers the sum of doubt times distance over `seen` [N,D], [R]."""
    distances = (1 - rows @ seen.T).clip(0)
    relief: NDArray[np.float32] = (nearest - distances).clip(0) @ weights
    return relief


def _advice(look: Look, rank: int, unlike: float, like: int) -> PhotoAdvice:
    parts = [f"{'undecided' if look.doubt >= _UNDECIDED else 'fairly sure'} about what looks like {look.class_name}"]
    if look.confidence < _PRESENT:
        how = "may or may not be there" if look.confidence >= _ABSENT else "is probably not there"
        parts.append(f"which {how} ({100 * look.confidence:.0f} %)")
    parts.append(
        f"{'unlike' if unlike >= _UNLIKE else 'somewhat like' if unlike >= _LIKE else 'much like'} what is annotated"
    )
    if like:
        parts.append(f"and stands for {like} more {'photo' if like == 1 else 'photos'} like it")
    reason = ", ".join(parts)
    return PhotoAdvice(
        rank,
        look.source,
        look.number,
        look.class_name,
        look.doubt,
        look.confidence,
        unlike,
        f"{reason[0].upper()}{reason[1:]}.",
    )
