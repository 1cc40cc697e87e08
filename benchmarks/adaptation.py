"""Measures what a class gains from photos without masks (`Segmenter.adapt`), on photos with known masks, as JSON.

    python -m benchmarks.adaptation --root union --list-file photos.txt --classes dog bus --out adaptation.json

A draw is one annotated photo of a class, up to twelve photos that show it, and as many that do not. The class is
learned from the annotated photo, and the others are segmented. Then the class adapts to them without their masks, once
for each of `--counts`, and they are segmented again. `shown` is the IoU on photos that show the class, even where it is
judged absent, as in few-shot benchmarks. `all` is the IoU of the final masks of all photos. Confidence is judged on all
photos of all draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Draw, Values, add_draws, difference, measure_draws, parser
from rifenet.metrics import auroc, class_iou, expected_calibration_error, intersection_union
from rifenet.segmenting.segmenter import Segmenter

SHOWING = 12
KINDS = ("shown", "all")
BASE = "one photo"


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, measures and writes."""
    words = parser(__doc__)
    add_draws(words, draws=24)
    words.add_argument("--counts", type=int, nargs="+", default=[1, 3, 5], help="photos that the class adopts")
    options = words.parse_args(argv)
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    measure_draws(options, segmenter.engine, partial(adapted, segmenter, options.counts), summarise, {})


def adapted(segmenter: Segmenter, counts: Sequence[int], draw: Draw) -> Values:
    """Measures one draw: by way of learning, both IoUs, all confidences, and which adopted photos show the class."""
    records = draw.index.records
    support, showing = draw.images[0], draw.images[1 : 1 + SHOWING]
    others = [image for image, record in enumerate(records) if draw.class_id not in record.areas]
    pool = showing + draw.rng.sample(others, len(showing))
    pool = draw.rng.sample(pool, len(pool))
    for name in segmenter.classes:
        segmenter.forget(name)
    segmenter.learn("it", [records[support].image_path], [draw.pair(support)[1]])
    photos = [records[image].image_path for image in pool]
    truths = [draw.pair(image)[1] for image in pool]
    present = [image in showing for image in pool]
    ways = {BASE: scored(segmenter, photos, truths, present)}
    for count in counts:
        adopted = segmenter.adapt(photos, count=count)["it"]
        right = [present[shot.number - 1] for shot in adopted]
        ways[f"adapted to {count}"] = {"adopted": right, **scored(segmenter, photos, truths, present)}
    return {"support": records[support].name, "photos": len(pool), "present": present, "ways": ways}


def scored(
    segmenter: Segmenter, photos: Sequence[Path], truths: Sequence[NDArray[np.uint8]], present: Sequence[bool]
) -> Values:
    """IoU of both kinds in percent, and the confidence of each photo."""
    sums = {kind: np.zeros((2, 2), np.int64) for kind in KINDS}
    confidence = []
    for result, truth, shows in zip(segmenter.segment_many(photos, batch_size=1), truths, present, strict=True):
        confidence.append(round(result.confidence["it"], 4))
        sums["all"] += intersection_union(result.mask, truth)
        if shows:
            sums["shown"] += intersection_union(result.alone("it").astype(np.uint8), truth)
    return {kind: round(100 * float(class_iou(sums[kind])), 2) for kind in KINDS} | {"confidence": confidence}


def summarise(draws: Sequence[Values]) -> Values:
    """By way of learning: means over draws, gain over the one photo, and quality of the confidence."""
    return {way: summary(draws, way) for way in draws[0]["ways"]}


def summary(draws: Sequence[Values], way: str) -> Values:
    """One way of learning. Differences are paired, with their 95% bootstrap interval over draws."""
    found: Values = {"draws": len(draws)}
    for kind in KINDS:
        own, base = (np.array([each["ways"][name][kind] for each in draws]) for name in (way, BASE))
        found[kind] = round(float(own.mean()), 1)
        if way != BASE:
            found[f"{kind}_difference"] = difference(own, base)
            found[f"{kind}_better"] = int((own > base).sum())
    if way != BASE:
        right = [each for one in draws for each in one["ways"][way]["adopted"]]
        found["adopted"], found["adopted_right"] = len(right), sum(right)
    sure = np.array([value for each in draws for value in each["ways"][way]["confidence"]])
    there = np.array([value for each in draws for value in each["present"]])
    found["auroc"] = round(auroc(sure, there), 3)
    found["expected_calibration_error"] = round(expected_calibration_error(sure, there), 3)
    return found


if __name__ == "__main__":
    main()
