"""Completes strokes to a mask: the marked pixels teach a classifier of this one photo, and a random walk spreads them.

The classifier tells the marked cells of the object from the marked background and, as long as little of it is marked,
from a frame around the object. It sees the frozen backbone's features and the colours. Its answer, the strokes and the
photo's edges meet in a random walk on the view's grid. The first view is the whole photo; the next ones show the
object that the one before found, so that small objects get as many cells as large ones.

    H W the photo's own size · h w cells of a view
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import restore
from rifenet.engines import Context, Engine
from rifenet.formats.pictures import Source, load_mask
from rifenet.formats.remarks import remark
from rifenet.metrics import sigmoid
from rifenet.segmenting.grids import distance, logistic, reached, walk
from rifenet.segmenting.margins import margins
from rifenet.segmenting.photo_views import Box, PhotoViews, View, fingerprint, on_grid
from rifenet.segmenting.refine import refined

Mask = NDArray[np.bool_]

ZOOMS = 2  # further views, each of what the one before found
MARGIN, FIRST_MARGIN = 0.35, 0.75  # around the object in a view, in its longer side; around the strokes in the first
LEAST_ZOOM = 0.8  # a next view is taken if its side is below this share of the last one's, or larger by as much
TOUCHED = 0.02  # share of a cell that a stroke must cover to count there
RIDGE, WEIGHT = 0.01, 1000.0  # of the classifier: its penalty for each unit of its samples' total weight
FRAME = 3  # cells at the edge of a view that count as background until strokes say otherwise
ROUNDS = 1  # times that the classifier learns again from what the walk found
OWN_SHARE = 0.5  # weight of what the walk found, beside the strokes' 1
BACKGROUND_SHARE = 0.6  # weight of the background's strokes; the frame has the rest
NEARNESS, REACH, MOST_NEARNESS = 0.5, 0.8, 0.75  # how the log-odds fall with the distance to the object's strokes
START = 2.0  # log-odds of the object by a mask to correct, and against it beside that mask
LIKELY = 2.0  # log-odds by a mask to correct or a learned class from which on a cell is surely the object
NEAR_CELLS = 6  # distance over which a stroke overrules a mask to correct
SURE = 6.0  # largest log-odds of the classifier
TRUST = 0.06  # weight of the classifier in the walk, where an even neighbour has 1
RADIUS = 3  # cells of the guided filter


class Strokes(NamedTuple):
    """What a user marked on a photo, [H,W] each."""

    object: Mask
    background: Mask
    start: Mask | None = None
    """The mask that they correct."""

    @property
    def marked(self) -> Mask:
        """All that is marked."""
        return self.object | self.background


def read_strokes(
    size: tuple[int, ...],
    object: Source | None,
    background: Source | None,
    start: Source | None = None,
    *,
    needed: bool = True,
) -> Strokes:
    """The strokes for a photo of `size` (H, W), from masks that are non-zero where marked.

    Pixels that are marked as both count as unmarked, and a remark says so: nobody can tell which one is meant.

    Raises FileNotFoundError, or ValueError for a mask that cannot be read or differs from the photo in size; if nothing
    is marked, unless it is not `needed`; and if all is marked as background.
    """
    named = {"object": object, "background": background, "start": start}
    marks = {name: np.zeros(size, bool) if mask is None else load_mask(mask) != 0 for name, mask in named.items()}
    for name, mask in marks.items():
        if mask.shape != size:
            raise ValueError(
                f"Expected {name} of the photo's size, {size[1]} x {size[0]}, but got {mask.shape[1]} x"
                f" {mask.shape[0]} (width x height)."
            )
    both = marks["object"] & marks["background"]
    if both.any():
        remark("the strokes", f"{both.sum()} pixels are marked as object and as background. They count as unmarked.")
    marks["object"] &= ~both
    marks["background"] &= ~both
    if needed and not any(mask.any() for mask in marks.values()):
        again = " Pixels marked as both count as unmarked." if both.any() else ""
        raise ValueError(f"Expected strokes on the object or beside it, but none marks a pixel.{again} Draw one.")
    if marks["background"].all():
        raise ValueError("Expected some of the photo to be free of background strokes, but they cover it. Erase some.")
    return Strokes(marks["object"], marks["background"], marks["start"] if marks["start"].any() else None)


def complete(
    engine: Engine, views: PhotoViews, image: NDArray[np.uint8], strokes: Strokes, learned: Context | None = None
) -> NDArray[np.uint8]:
    """The mask [H,W] of the object, 0 or 1: 1 on all strokes on it, 0 on all strokes beside it.

    Args:
        engine: the model.
        views: what it has seen of photos; more is added.
        image: the photo, [H,W,3].
        strokes: what is marked; something must be.
        learned: a learned class that the object is of.
    """
    if strokes.start is not None and not (strokes.object.any() or strokes.background.any()):
        return strokes.start.astype(np.uint8)
    photo = fingerprint(image)
    box = _first_box(strokes, learned is not None)
    for _ in range(ZOOMS + 1):
        view = views.view(engine, image, photo, box)
        odds = _known_odds(engine, view, strokes, learned)
        found = solved(view, strokes, odds)
        box = _box_around(found > 0.5, view, strokes)
        if LEAST_ZOOM <= box.side / view.box.side <= 1 / LEAST_ZOOM:
            break
    mask = _at_full_size(image, view, found, strokes)
    return mask if strokes.start is None else _corrected(strokes.start, mask, strokes, view.box)


def _first_box(strokes: Strokes, learned: bool) -> Box:
    """The part around what is marked, with a margin; the photo, if nothing is or a learned class is looked for."""
    height, width = strokes.object.shape
    if strokes.start is not None:
        there = strokes.start | strokes.marked
        if strokes.object.any():  # else the rest of the mask tells what the object looks like
            there = reached(there, strokes.marked)
        crossed = bool((strokes.start & there).any())
        return box_around(there, (height, width), MARGIN if crossed else FIRST_MARGIN)
    open_part = ~strokes.background
    if open_part.mean() < LEAST_ZOOM:  # a loose box
        return box_around(open_part, (height, width))
    if strokes.object.any() and not learned:
        return box_around(strokes.object, (height, width), FIRST_MARGIN)
    return Box(0, 0, height, width)


def box_around(mask: Mask, size: tuple[int, int], margin: float = MARGIN) -> Box:
    """A mask's box with the margin, within the photo, rounded so that small changes of the mask keep it."""
    bounds = []
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    side = max(int(span[-1] - span[0]) + 1 for span in spans)
    around, step = max(margin * side, 8), max(8, side // 10)
    for span, most in zip(spans, size, strict=True):
        first, last = int(span[0]), int(span[-1]) + 1
        low = max(0, round((first - around) / step) * step)
        bounds.append((low, min(most, max(last, round((last + around) / step) * step))))
    (top, bottom), (left, right) = bounds
    return Box(top, left, bottom, right)


def _box_around(cells: Mask, view: View, strokes: Strokes) -> Box:
    """The next view: around what this one found, and the object's strokes.

    Of a mask to correct, only what strokes touch counts, if some are on the object: the rest stays, wherever it is.
    """
    size = strokes.object.shape
    mask = strokes.object.copy()
    if strokes.start is not None:
        mask |= strokes.background
    if strokes.start is not None and strokes.object.any():
        marks = on_grid(strokes.marked, view, TOUCHED)
        cells = reached(cells | marks, marks)
    part = view.box.of(mask)
    part |= np.asarray(Image.fromarray(cells).resize(part.shape[::-1]))
    return box_around(mask, (size[0], size[1])) if mask.any() else view.box


def _known_odds(engine: Engine, view: View, strokes: Strokes, learned: Context | None) -> NDArray[np.float32]:
    """Log-odds [h,w] of the object by the mask to correct or the learned class; 0 without either."""
    odds = np.zeros(view.shape, np.float32)
    if learned is not None and strokes.start is None:
        full = restore(margins(engine, view.features, learned), view.placement)[0]
        odds += np.asarray(Image.fromarray(full).resize(view.shape[::-1], Image.Resampling.BOX)).clip(-3, 3)
    if strokes.start is not None:
        odds += np.where(on_grid(strokes.start, view, 0.5), START, -START)
    return odds


def solved(view: View, strokes: Strokes, odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities [h,w] of the object in a view; at most 0.5 in parts that neither strokes nor `odds` reach.

    `odds` are those of `_known_odds`.
    """
    marked = on_grid(strokes.object, view, TOUCHED)
    beside = on_grid(strokes.background, view, TOUCHED) & ~marked
    fixed = marked | beside
    known = strokes.start is not None or bool(odds.any())
    seeds = marked if marked.any() else _middle(beside, odds)
    away, extent = distance(seeds), _extent(seeds)
    frame = (_frame(view.shape) & ~fixed & ~seeds) * (1 - np.exp(-away / (0.1 * extent)))
    prior = _overruled(odds, fixed) if known else _nearness(away / extent)
    found = sigmoid(odds) if known else None
    trust = np.full(view.shape, TRUST, np.float32)
    fit = None
    for _ in range(ROUNDS + 1):
        targets, weights = _lesson(seeds, beside, frame.astype(np.float32), found)
        fit = logistic(view.samples, targets.ravel(), weights.ravel(), RIDGE * WEIGHT, fit)
        own = (view.samples @ fit.astype(np.float32)).reshape(view.shape)
        guess = sigmoid((own + prior).clip(-SURE, SURE))
        start = np.where(fixed, marked.astype(np.float32), guess if found is None else found)
        found = walk(view.edges, guess, trust, fixed, start)
    assert found is not None
    joined = reached((found > 0.5) | marked, seeds | (odds >= LIKELY))
    return np.where(distance(joined) < 2, found, np.minimum(found, 0.5))  # the edge may move by a cell


def _nearness(away: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-odds [h,w] of the object by the distance to its strokes, in their extent."""
    return (NEARNESS * (REACH - away)).clip(-MOST_NEARNESS, MOST_NEARNESS).astype(np.float32)


def _overruled(odds: NDArray[np.float32], fixed: Mask) -> NDArray[np.float32]:
    """The log-odds of a mask to correct, or of a learned class, less near strokes, which know better."""
    return (odds * (1 - np.exp(-distance(fixed) / NEAR_CELLS))).astype(np.float32)


def _lesson(
    seeds: Mask, beside: Mask, frame: NDArray[np.float32], found: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets and weights [h,w] of the classifier, from the marked cells, the frame, and what the last walk found."""
    weights = _share(seeds.astype(np.float32), 1.0)
    targets = seeds.astype(np.float32)
    if found is not None:
        sure = 2 * np.abs(found - 0.5) * ~(seeds | beside)
        frame = frame * (found < 0.5)
        targets = np.where(seeds | beside, targets, (found > 0.5) & (frame == 0)).astype(np.float32)
        weights = weights + _share(sure * (found > 0.5), OWN_SHARE) + _share(sure * (found <= 0.5), OWN_SHARE)
    share = BACKGROUND_SHARE if beside.any() else 0.0
    weights = weights + _share(beside.astype(np.float32), share) + _share(frame, 1 - share)
    return targets, _share(weights, WEIGHT)


def _share(weights: NDArray[np.float32], total: float) -> NDArray[np.float32]:
    """Weights scaled to a sum; 0 where all are 0."""
    found: NDArray[np.float32] = weights * np.float32(total / max(float(weights.sum()), 1e-6))
    return found


def _frame(shape: tuple[int, int]) -> Mask:
    """The cells near a view's edge."""
    frame = np.ones(shape, bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return frame


def _middle(beside: Mask, odds: NDArray[np.float32]) -> Mask:
    """Without strokes on the object: the cells that are likely it, or the innermost ones beside the background."""
    if (odds > 0).any():
        return odds >= min(LIKELY, float(odds.max()))
    inside = np.pad(~beside, 1)
    depth = distance(~inside)[1:-1, 1:-1]
    found: Mask = depth > 0.5 * depth.max()
    return found


def _extent(seeds: Mask) -> float:
    """Length of what is marked, in cells."""
    rows, columns = np.nonzero(seeds)
    length = float(np.hypot(np.ptp(rows), np.ptp(columns))) if len(rows) else 0.0
    return max(length, 0.08 * max(seeds.shape))


def _at_full_size(
    image: NDArray[np.uint8], view: View, found: NDArray[np.float32], strokes: Strokes
) -> NDArray[np.uint8]:
    """The mask [H,W], with the photo's edges."""
    mask = np.zeros(strokes.object.shape, np.uint8)
    part = view.box.of(mask)
    crop = np.ascontiguousarray(view.box.of(image))
    near = np.asarray(Image.fromarray(distance(found > 0.5) < 2).resize(part.shape[::-1]))
    part[:] = (refined(crop, 2 * found - 1, radius=RADIUS) > 0) & near
    mask[strokes.background] = 0
    mask[strokes.object] = 1
    return mask


def _corrected(start: Mask, mask: NDArray[np.uint8], strokes: Strokes, box: Box) -> NDArray[np.uint8]:
    """The mask `start` [H,W] as strokes correct it towards `mask`, which was found in the part `box` alone.

    A stroke on the object adds the region that it runs through, one beside it takes such a region away. The rest stays
    as it was: whoever draws them has seen it, and did not mark it.
    """
    corrected = start.astype(np.uint8)
    before, found = box.of(start), box.of(mask) > 0
    added = reached(found & ~before, box.of(strokes.object))
    taken = reached(before & ~found, box.of(strokes.background))
    box.of(corrected)[:] = (before & ~taken) | added
    return corrected
