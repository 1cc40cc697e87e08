"""Measures how well the shots of a class agree: the others segment each shot, and each shot alone segments others.

    K shots · S side of the square network input

Any engine works, because only the three methods of `Engine` are used. Masks are [S,S], padding is 255. At most
`TEACHERS` others teach at a time, so the work grows linearly with K: about 7 K encoded photos and 6 K decodings, and
for each suspect at most 25 more photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.engines import Context, Engine
from rifenet.formats.pictures import binary_mask
from rifenet.metrics import class_iou, intersection_union
from rifenet.segmenting.margins import margins
from rifenet.segmenting.shots import Shots

MARGIN = 0.08
"""A shot hurts where its removal raises the others' mean leave-one-out IoU by more than this."""
FIT = 0.25
"""A shot is doubtful where its fit is below this share of the others' median fit."""
AGREE = 0.15
"""Shots agree from this median fit on. Where the others do not agree, a low fit does not make a shot doubtful."""
INVERSE = 0.5
"""A mask counts as inverted where the IoU with its inverse is above this, and above the IoU with the mask itself."""
TEACHERS = 5  # shots that teach at a time; of up to six shots, all others teach
SUSPECTS = 2  # shots of a class whose removal is tried; each try measures the other shots again

GOOD, HURTS, INVERTED, DOUBTFUL, ALONE = "good", "hurts", "inverted", "doubtful", "alone"


@dataclass(frozen=True)
class ShotAdvice:
    """Advice on one annotated photo."""

    class_name: str
    number: int
    """Its position among the shots of its class, from 1."""
    source: str
    """Path of the photo; empty where it came from memory."""
    iou: float
    """Leave-one-out IoU in [0,1]; for a class's only shot, IoU on itself."""
    gain: float | None
    """Rise of the others' mean leave-one-out IoU without this shot; None where its removal was not tried."""
    verdict: str
    """good, hurts, inverted, doubtful or alone."""
    reason: str
    """The reason for the verdict, in words."""

    @property
    def warns(self) -> bool:
        """Whether the user should check its mask."""
        return self.verdict in (HURTS, INVERTED, DOUBTFUL)


@dataclass(frozen=True, eq=False)
class ShotAgreement:
    """Measurements over the shots of one class; `judged` uses nothing else."""

    alone: tuple[Context, ...]
    """The context of each shot alone."""
    ious: NDArray[np.float64]
    """Leave-one-out IoU, [K]."""
    inverse: NDArray[np.float64]
    """Leave-one-out IoU with the inverse of each mask, [K]."""
    pairs: NDArray[np.float64]
    """IoU of shot j segmented from shot i alone, [K,K] (i, j); NaN where i did not teach j."""
    gains: dict[int, float]
    """Shot -> gain by its removal, for the shots whose removal was tried."""

    def fits(self) -> NDArray[np.float64]:
        """Fit of each shot with the others, [K] in [0,1]: mean of its leave-one-out IoU and its mean IoU as teacher."""
        found = np.array([_mean(row[~np.isnan(row)]) for row in self.pairs])
        return (self.ious + found) / 2


def agreement(engine: Engine, inputs: Shots) -> ShotAgreement:
    """Measures the shots of one class against each other."""
    count = len(inputs.images)
    features = [engine.encode_query(inputs.images[i : i + 1], inputs.valid[i : i + 1]) for i in range(count)]
    alone = tuple(_learn(engine, inputs, [i]) for i in range(count))
    pairs, ious, inverse = np.full((count, count), np.nan), np.empty(count), np.empty(count)
    for j in range(count):
        taught = teachers(j, range(count))
        for i in taught:
            pairs[i, j] = iou(predicted(engine, features[j], alone[i]), inputs.masks[j])
        context = alone[taught[0]] if len(taught) == 1 else _learn(engine, inputs, taught)
        found = predicted(engine, features[j], context)
        ious[j], inverse[j] = iou(found, inputs.masks[j]), iou(found, inverted(inputs.masks[j]))
    measured = ShotAgreement(alone, ious, inverse, pairs, {})
    for suspect in np.argsort(measured.fits(), kind="stable")[:SUSPECTS].tolist() if count > 2 else ():
        rest = [i for i in range(count) if i != suspect]
        without = ious[rest].copy()
        for place, j in enumerate(rest):
            if suspect in teachers(j, range(count)):
                context = _learn(engine, inputs, teachers(j, rest))
                without[place] = iou(predicted(engine, features[j], context), inputs.masks[j])
        measured.gains[suspect] = float(without.mean() - ious[rest].mean())
    return measured


def teachers(shot: int, among: Sequence[int]) -> list[int]:
    """The shots that teach `shot`: up to `TEACHERS` others, later ones first; a class's only shot teaches itself."""
    others = sorted((i for i in among if i != shot), key=lambda i: (i < shot, i))
    return sorted(others[:TEACHERS]) or [shot]


def judged(name: str, sources: Sequence[str], measured: ShotAgreement) -> list[ShotAdvice]:
    """A verdict on each shot of class `name`, with the reason in words."""
    advice = []
    for i, source in enumerate(sources):
        verdict = _verdict(measured, i)
        gain = measured.gains.get(i)
        reason = _reason(verdict, measured, i)
        advice.append(ShotAdvice(name, i + 1, source, float(measured.ious[i]), gain, verdict, reason))
    return advice


def _verdict(measured: ShotAgreement, i: int) -> str:
    if len(measured.ious) == 1:
        return ALONE
    fits = measured.fits()
    others = float(np.median(np.delete(fits, i)))
    # A good shot with an inverted teacher may look inverted, too. So only the shot that fits worst gets this verdict.
    if fits[i] <= fits.min() and measured.inverse[i] > max(INVERSE, measured.ious[i]):
        return INVERTED
    if measured.gains.get(i, 0.0) > MARGIN:
        return HURTS
    if len(fits) == 2:  # either mask may be the wrong one
        return DOUBTFUL if fits[i] < FIT * AGREE else GOOD
    return DOUBTFUL if fits[i] < FIT * others and others >= AGREE else GOOD


def _reason(verdict: str, measured: ShotAgreement, i: int) -> str:
    own = f"{100 * measured.ious[i]:.0f}"
    check = "Check that its mask marks all of the object and nothing else."
    if verdict == ALONE:
        seen = "so the model sees it" if measured.ious[i] >= AGREE else "so the model hardly sees what is marked"
        return f"The only shot: it finds itself with IoU {own}, {seen}. Add a second shot to check its mask."
    if verdict == INVERTED:
        other = f"{100 * measured.inverse[i]:.0f}"
        return f"Its mask seems to mark the background: IoU is {own}, but {other} with the inverted mask."
    if verdict == HURTS:
        return f"The others find each other better without it, by {100 * measured.gains[i]:.0f} points of IoU. {check}"
    if verdict == DOUBTFUL and len(measured.ious) == 2:
        return f"The two shots do not find each other (IoU {own}). Check both masks, or annotate a third."
    if verdict == DOUBTFUL:
        return (
            f"The other shots find each other, but hardly this one (IoU {own}). {check} A small object also scores low."
        )
    return f"The other shots find it with IoU {own}."


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def predicted(engine: Engine, features: Any, context: Context) -> NDArray[np.uint8]:
    """Mask [S,S] of one class in the one image of `features`."""
    return (margins(engine, features, context)[0] > 0).astype(np.uint8)


def iou(found: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """IoU of the foreground; 0 where neither mask has any."""
    value = float(class_iou(intersection_union(found, mask)))
    return 0.0 if np.isnan(value) else value


def inverted(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with object and background exchanged; 255 stays."""
    return binary_mask(mask, 0)


def _learn(engine: Engine, inputs: Shots, rows: list[int]) -> Context:
    return engine.encode_support(inputs.images[rows], inputs.masks[rows], inputs.valid[rows])
