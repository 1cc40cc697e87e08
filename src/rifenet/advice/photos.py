"""Which photos to annotate next: doubtful, unlike what is annotated and each other, and showing much of the object.

    N photos · A annotated photos · D numbers of a description · S side of the square network input

Photos are looked at one by one; of each a few numbers stay, D of them to tell photos apart.
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
# From which values on the words of a reason say so; about the quartiles over photos of trained classes.
_UNDECIDED, _UNLIKE, _LIKE, _ABSENT, _PRESENT = 0.65, 0.5, 0.35, 0.35, 0.65
_LEAST_AREA = (
    0.001  # a photo in which the class has a smaller share counts as if it had this one, so that it can still be chosen
)
_ROWS = 512  # photos compared with all others at a time


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of one photo."""

    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its place among the photos, from 1, those that cannot be read counted too."""
    class_name: str
    """The class in doubt."""
    doubt: float
    """Mean entropy of that class's scores, each weighed by the score, in bits: 0 sure, 1 undecided."""
    confidence: float
    """That the class is in the photo, in [0,1]."""
    area: float
    """Share of the photo that is taken for the class, in [0,1]."""
    description: NDArray[np.float16]
    """Unit vector, [D]."""


@dataclass(frozen=True)
class PhotoAdvice:
    """A photo worth annotating."""

    rank: int
    """From 1."""
    source: str
    """Its path; empty where it came from memory."""
    number: int
    """Its place among the photos that were given, from 1."""
    class_name: str
    """The class in doubt."""
    doubt: float
    """Entropy of the class's scores in bits, in [0,1]."""
    confidence: float
    """That the class is in the photo, in [0,1]."""
    unlike: float
    """Distance to the most similar photo that is annotated or ranked before, in [0,1]: 0 the same."""
    reason: str
    """Why, in words."""


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
        classes: what it has learned.
        queries: paths, PIL images or [H,W,3] arrays.
        confidence: from the margins of a photo's real pixels [M] and the class's shift, that it is there.
        on_error: takes a photo that cannot be read, and the rest goes on.
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
    """One photo, `pixels` [3,S,S] and `valid` [S,S], as `looks` sees it: by the class that is most in doubt."""
    features = engine.encode_query(pixels[None], valid[None])
    found = []
    for known in classes:
        own = margins(engine, features, known.context)[0, valid]
        area = float((own > 0).mean())
        found.append((doubt(sigmoid(own)), known.name, confidence(own, known.shift), area))
    most, name, sure, area = max(found, key=lambda each: each[0])
    return Look(source, number, name, most, sure, area, describe(engine, pixels, valid))


def doubt(scores: NDArray[np.float32]) -> float:
    """Binary entropy of scores [M] in bits, each weighed by its score: what is surely background does not count.

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
    """A photo as a unit vector [D]: what the engine would learn from all of it, averaged.

    `pixels` is [3,S,S], `valid` [S,S]. An engine's context is its own business; of the fields that are known to be
    averages the first is taken, and where there is none, all that hold fractions.
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
    """The `count` photos to annotate first, best first, chosen one after the other.

    Each photo carries its doubt, as far as it is unlike what is annotated or chosen before. A candidate is worth what
    it would take away of that, from itself and from those like it, times the square root of the share of it that is
    taken for the class: a shot teaches by what it shows. So a second photo of the same thing is never next. How the
    rule was chosen, and what others came to, is in docs/lab/bundled_321.md.
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
    """How much doubt times distance each of `rows` [R,D] takes from all photos `seen` [N,D], were it annotated: [R]."""
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
