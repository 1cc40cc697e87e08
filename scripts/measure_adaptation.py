"""What a class gains from photos without annotation (`Segmenter.adapt`), on photos with known masks, as JSON.

    python scripts/measure_adaptation.py --root union --list-file photos.txt --classes dog bus --out adaptation.json

A draw: one annotated photo of a class, and up to twelve others that show it among as many that don't. They are
segmented as learned from the one photo, and again after adapting to them, without their masks, with each `--counts`.
`shown` is the IoU on the photos that show the class, whether or not it is judged present, as few-shot benchmarks have
it; `all` that of the mask as it is given, on all of them. Confidence is judged on all photos of all draws.
Written after each draw, so a run that is stopped keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.data.episodes import binary_mask, load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.evaluation.provenance import git_commit
from rifenet.files import write_text
from rifenet.metrics import auroc, class_iou, expected_calibration_error, intersection_union, mean_interval
from rifenet.segmenting.segmenter import Segmenter

SHOWING = 12
KINDS = ("shown", "all")


def main() -> None:
    """Draws, measures and writes."""
    options = _parser().parse_args()
    index = open_dataset("custom", options.root, list_file=options.list_file, part="val", progress=False)
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    ids = {index.class_name(class_id): class_id for class_id in range(1, len(index.class_names) + 1)}
    ways = ["one photo", *(f"adapted to {count}" for count in options.counts)]
    draws: list[dict[str, Any]] = []
    for number in range(options.draws):
        name = options.classes[number % len(options.classes)]
        rng = random.Random(f"{options.seed} {number}")
        draws.append({"class": name, **draw(segmenter, index, ids[name], options.counts, options.min_area, rng)})
        record = {
            "model": {"name": segmenter.engine.name, "hash": segmenter.engine.hash, "size": segmenter.engine.size},
            "git_commit": git_commit(),
            "dataset": index.hash,
            "classes": options.classes,
            "seed": options.seed,
            "min_area": options.min_area,
            "summary": {way: summary(draws, way, ways[0]) for way in ways},
            "draws": draws,
        }
        write_text(options.out, json.dumps(record, indent=1) + "\n")
        print(number + 1, name, json.dumps(record["summary"]), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a custom dataset")
    parser.add_argument("--list-file", default="", help="image names to use")
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 3, 5], help="photos that the class adopts")
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-area", type=int, default=2048)
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def draw(
    segmenter: Segmenter, index: ImageIndex, class_id: int, counts: Sequence[int], min_area: int, rng: random.Random
) -> dict[str, Any]:
    """One draw: by way, the counts [2,2] of the photos that show the class and of all, and every confidence."""
    images = list(index.images_of(class_id, min_area))
    rng.shuffle(images)
    support, showing = images[0], images[1 : 1 + SHOWING]
    others = [image for image, record in enumerate(index.records) if class_id not in record.areas]
    pool = showing + rng.sample(others, len(showing))
    order = rng.sample(range(len(pool)), len(pool))
    pool = [pool[place] for place in order]
    for name in segmenter.classes:
        segmenter.forget(name)
    segmenter.learn("it", [index.records[support].image_path], [truth_of(index, support, class_id)])
    photos = [index.records[image].image_path for image in pool]
    truths = [truth_of(index, image, class_id) for image in pool]
    present = [image in showing for image in pool]
    ways = {"one photo": scored(segmenter, photos, truths, present)}
    for count in counts:
        adopted = segmenter.adapt(photos, count=count)["it"]
        right = [present[shot.number - 1] for shot in adopted]
        ways[f"adapted to {count}"] = {"adopted": right, **scored(segmenter, photos, truths, present)}
    return {"support": index.records[support].name, "photos": len(pool), "present": present, "ways": ways}


def truth_of(index: ImageIndex, image: int, class_id: int) -> NDArray[np.uint8]:
    """Mask of one class at the photo's own size: 0, 1, 255."""
    return binary_mask(load_pair(index, image)[1], index.records[image].value(class_id))


def scored(
    segmenter: Segmenter, photos: Sequence[Path], truths: Sequence[NDArray[np.uint8]], present: Sequence[bool]
) -> dict[str, Any]:
    """IoU of the two kinds, in percent, and the confidence of each photo."""
    sums = {kind: np.zeros((2, 2), np.int64) for kind in KINDS}
    confidence = []
    for result, truth, shows in zip(segmenter.segment_many(photos, batch_size=1), truths, present, strict=True):
        confidence.append(round(result.confidence["it"], 4))
        sums["all"] += intersection_union(result.mask, truth)
        if shows:
            sums["shown"] += intersection_union(result.alone("it").astype(np.uint8), truth)
    return {kind: round(100 * float(class_iou(sums[kind])), 2) for kind in KINDS} | {"confidence": confidence}


def summary(draws: Sequence[dict[str, Any]], way: str, base: str) -> dict[str, Any]:
    """Means over draws, the difference to `base` with its paired 95% bootstrap interval over draws, and confidence."""
    found: dict[str, Any] = {"draws": len(draws)}
    for kind in KINDS:
        own, before = (np.array([each["ways"][name][kind] for each in draws]) for name in (way, base))
        found[kind] = round(float(own.mean()), 1)
        if way != base:
            gain = own - before
            found[f"{kind}_difference"] = [round(float(value), 1) for value in (gain.mean(), *mean_interval(gain))]
            found[f"{kind}_better"] = int((own > before).sum())
    if way != base:
        right = [each for one in draws for each in one["ways"][way]["adopted"]]
        found["adopted"], found["adopted_right"] = len(right), sum(right)
    sure = np.array([value for each in draws for value in each["ways"][way]["confidence"]])
    there = np.array([value for each in draws for value in each["present"]])
    found["auroc"] = round(auroc(sure, there), 3)
    found["expected_calibration_error"] = round(expected_calibration_error(sure, there), 3)
    return found


if __name__ == "__main__":
    main()
