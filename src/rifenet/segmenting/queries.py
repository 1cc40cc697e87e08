"""Reads query photos in batches and segments them by the learned classes, on any engine.

B photos at once · C classes · S side of the square network input
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from rifenet.data.transforms import Placement, resize_and_pad
from rifenet.engines import Engine
from rifenet.formats.pages import Page
from rifenet.formats.pictures import Source, load_image
from rifenet.metrics import calibrated, presence_statistic, sigmoid
from rifenet.segmenting.margins import Seen
from rifenet.segmenting.quality import signs_of
from rifenet.segmenting.result import Options, Result
from rifenet.segmenting.storage import LearnedClass
from rifenet.segmenting.tiles import is_large, with_tiles

BATCH_BYTES = 10**8  # a batch is full once its decoded photos exceed this
OnError = Callable[[Source, Exception], None]
OnProgress = Callable[[int, int | None], None]


def segment_lazily(
    engine: Engine,
    classes: Sequence[LearnedClass],
    queries: Iterable[Source],
    batch_size: int,
    options: Options,
    on_error: OnError | None,
) -> Iterator[Result]:
    """Yields the results of `queries` in order; see `Segmenter.segment_many`."""
    batch: list[tuple[str, NDArray[np.uint8]]] = []
    for query in queries:
        try:
            batch.append((name_of(query), load_image(query)))
        except (ValueError, OSError) as error:
            yield from _segment_batch(engine, classes, batch, options)
            batch = []
            if on_error is None:
                raise
            on_error(query, error)
        if len(batch) == batch_size or sum(image.nbytes for _, image in batch) > BATCH_BYTES:
            yield from _segment_batch(engine, classes, batch, options)
            batch = []
    yield from _segment_batch(engine, classes, batch, options)


def name_of(query: Source) -> str:
    """The path of a photo, or the name of a page; empty for a picture from memory."""
    return str(query) if isinstance(query, str | PathLike | Page) else ""


def _segment_batch(
    engine: Engine, classes: Sequence[LearnedClass], batch: list[tuple[str, NDArray[np.uint8]]], options: Options
) -> Iterator[Result]:
    if not batch:
        return
    images, valid, placements = zip(*(resize_and_pad(image, engine.size) for _, image in batch), strict=True)
    seen = Seen(engine, np.stack(images), np.stack(valid))
    side = engine.size
    found = [np.empty((len(classes), side, side), np.float32) for _ in batch]  # [C,S,S] of each photo
    for number, known in enumerate(classes):  # one class of all photos at a time, each kept once
        for maps, own in zip(found, seen.margins(known.context, known.fit), strict=True):
            maps[number] = own
    high = _high(seen, placements)
    del seen
    names = tuple(known.name for known in classes)
    found.reverse()
    high.reverse()
    for (source, image), real, placement in zip(batch, valid, placements, strict=True):
        own = found.pop()  # so that a photo's maps go with its result
        sure = (
            confidence(maps[real], engine.calibration, known.presence_shift)
            for known, maps in zip(classes, own, strict=True)
        )
        result = Result(
            image=image,
            classes=names,
            confidence=dict(zip(names, sure, strict=True)),
            calibrated=engine.calibration is not None,
            keep_absent=options.keep_absent,
            source=source,
            model=model_record(engine),
            margins=own,
            threshold=engine.threshold,
            placement=placement,
            refine=tuple(_refines(known, options) for known in classes),
            clean=options.clean,
            shapes={known.name: known.shapes for known in classes},
        )
        tiled = [
            known.context if _tiles(known, options, placement) and result.shown(known.name) else None
            for known in classes
        ]
        if any(context is not None for context in tiled):
            fits = [known.fit for known in classes]
            own, placement = with_tiles(engine, image, tiled, own, placement, fits)
            result = replace(result, margins=own, placement=placement)
        yield replace(result, signs=_signs(classes, result, high.pop()))


def _signs(
    classes: Sequence[LearnedClass], result: Result, high: NDArray[np.float32] | None
) -> dict[str, dict[str, float]]:
    """Signs of each class's mask; `high` are the photo's high features, [D,h,w]."""
    height, width = result.placement.scaled_height, result.placement.scaled_width
    return {
        known.name: signs_of(own[:height, :width], known.fit, high)
        for known, own in zip(classes, result.margins, strict=True)
    }


def _high(seen: Seen, placements: Sequence[Placement]) -> list[NDArray[np.float32] | None]:
    """High features of each photo without padding, [D,h,w]; None if the network gives none."""
    if "high" not in seen.engine.inner_names:
        return [None] * len(placements)
    inner = seen.engine.inner(seen.features)
    return [_real_part(maps["high"], placement) for maps, placement in zip(inner, placements, strict=True)]


def _real_part(high: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """High features [D,h,w] without the padding of the network's input, on a whole number of positions."""
    rows, columns = (
        max(1, round(length * side / placement.size))
        for length, side in zip((placement.scaled_height, placement.scaled_width), high.shape[1:], strict=True)
    )
    return high[:, :rows, :columns]


def _tiles(known: LearnedClass, options: Options, placement: Placement) -> bool:
    if options.tiles == "auto":
        return is_large(placement) or (known.fit is not None and known.fit.tiles)
    return bool(options.tiles)


def _refines(known: LearnedClass, options: Options) -> bool:
    if options.refine == "auto":
        return known.fit is not None and known.fit.refine
    return bool(options.refine)


def model_record(engine: Engine) -> dict[str, str]:
    """Name and hashes of the model, for `Result.model`."""
    return {"name": engine.name, "hash": engine.hash, "weights_hash": engine.weights_hash}


def confidence(margins: NDArray[np.float32], calibration: Mapping[str, float] | None, shift: float = 0.0) -> float:
    """Confidence in [0,1] that a photo shows a class, from its margins [M] on the photo's pixels.

    `shift` is added to the log-odds of the calibrated confidence. Without a calibration the confidence is
    `metrics.presence_statistic`, which only ranks photos.
    """
    statistic = presence_statistic(sigmoid(margins))
    if calibration is None:
        return statistic
    return float(calibrated(statistic, calibration, shift))


def counted(results: Iterable[Result], total: int | None, on_progress: OnProgress) -> Iterator[Result]:
    """Yields the results and calls `on_progress` before each."""
    for done, result in enumerate(results, 1):
        on_progress(done, total)
        yield result


def total_of(queries: Iterable[Source]) -> int | None:
    """Number of queries; None if `queries` does not know its length."""
    return len(queries) if isinstance(queries, Sized) else None
