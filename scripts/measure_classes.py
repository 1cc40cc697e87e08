"""Several classes at once on real photos, against one class at a time: mIoU and confusion, as JSON and a picture.

    python scripts/measure_classes.py --coco coco --out docs/results/classes.json

Groups of four classes that the model never saw (`--trained`: that it saw, for choosing how classes meet), one shot
each, are scored on photos that show most of them. Both ways use the same photos, shots and network outputs:

- at once: the mask of all four, as `Segmenter.segment` gives it;
- one at a time: each class alone against the background, absent ones left out in the same way.

With `--adapt N` each group's classes are learned also from N of its photos, without their masks (`Segmenter.adapt`).

"shown" counts a class on the photos that show it, "all" on all photos of its group, where finding it in others counts
against it, too. Background is every pixel of no class of the group.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet import Segmenter
from rifenet.drawing import plots
from rifenet.files import write_text
from rifenet.formats.outlines import draw_mask

IGNORE = 255
LEAST = {"support": 0.03, "query": 0.005}  # of the picture


class Photo(NamedTuple):
    """A photo, its classes (name -> share of the pixels) and its annotations, drawn when asked for."""

    path: Path
    shares: dict[str, float]
    height: int
    width: int
    annotations: list[dict[str, Any]]

    def truth(self, numbers: dict[int, int]) -> NDArray[np.uint8]:
        """Index mask of the categories in `numbers`; others are background, but on top where they are smaller."""
        mask = draw_mask(self.annotations, self.height, self.width, numbers_of(self.annotations, numbers))
        return np.where(mask == 254, 0, mask).astype(np.uint8)


def numbers_of(annotations: list[dict[str, Any]], numbers: dict[int, int]) -> dict[int, int]:
    """The number of every category that is drawn, 254 for those that do not count."""
    return {each["category_id"]: numbers.get(each["category_id"], 254) for each in annotations}


def photos_of(root: Path, left_out: set[int]) -> tuple[dict[str, int], list[Photo]]:
    """Class name -> category id, and all photos that are there."""
    ids: dict[str, int] = {}
    photos = []
    for part in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{part}2017.json").read_text())
        names = {row["id"]: row["name"] for row in content["categories"]}
        ids |= {name: number for number, name in names.items()}
        rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in content["annotations"]:
            rows[row["image_id"]].append(row)
        for image in sorted(content["images"], key=lambda image: image["id"]):
            path = root / f"{part}2017" / image["file_name"]
            if image["id"] in left_out or not path.is_file():
                continue
            shares: dict[str, float] = defaultdict(float)
            for row in rows[image["id"]]:
                if not row.get("iscrowd"):
                    shares[names[row["category_id"]]] += row["area"] / image["height"] / image["width"]
            photos.append(Photo(path, dict(shares), image["height"], image["width"], rows[image["id"]]))
    return ids, photos


def groups_of(photos: list[Photo], classes: list[str], count: int, rng: random.Random) -> list[list[str]]:
    """`count` groups of four classes, each begun by a photo that shows several of them where there is one."""
    usable = [name for name in classes if sum(photo.shares.get(name, 0) > LEAST["support"] for photo in photos) >= 2]
    together = [sorted(set(photo.shares) & set(usable)) for photo in photos]
    together = sorted({tuple(names) for names in together if len(names) >= 2}, key=lambda names: (-len(names), names))
    groups = []
    for number in range(count):
        group = list(together[number % len(together)][:4]) if together else []
        rest = [name for name in usable if name not in group]
        groups.append(sorted(group + rng.sample(rest, 4 - len(group))))
    return groups


def measure(
    segmenter: Segmenter,
    group: list[str],
    ids: dict[str, int],
    photos: list[Photo],
    queries: int,
    adapt: int,
    rng: random.Random,
) -> dict[str, NDArray[np.int64]]:
    """Counts of one group: `confusion` [truth, found] of classes 0..4, and intersections and unions of the four."""
    supports = {
        name: rng.choice([photo for photo in photos if photo.shares.get(name, 0) > LEAST["support"]]) for name in group
    }
    for name in segmenter.classes:
        segmenter.forget(name)
    for name, photo in supports.items():
        mask = photo.truth({ids[name]: 1})
        segmenter.learn(name, [photo.path], [mask])
    used = {photo.path for photo in supports.values()}
    shown = {
        photo.path: [name for name in group if photo.shares.get(name, 0) > LEAST["query"]]
        for photo in photos
        if photo.path not in used
    }
    asked = [photo for photo in photos if shown.get(photo.path)]
    rng.shuffle(asked)
    asked.sort(key=lambda photo: -len(shown[photo.path]))
    counts = {"confusion": np.zeros((5, 5), np.int64)}
    for way in ("once_shown", "alone_shown", "once_all", "alone_all"):
        counts[way] = np.zeros((4, 2), np.int64)
    numbers = {ids[name]: place for place, name in enumerate(group, 1)}
    by_path = {str(photo.path): photo for photo in asked[:queries]}
    if adapt:
        segmenter.adapt(by_path, count=adapt)
    for result in segmenter.segment_many(by_path, batch_size=1):
        photo = by_path[result.source]
        truth = photo.truth(numbers)
        known = truth != IGNORE
        counts["confusion"] += np.bincount(5 * truth[known] + result.mask[known].astype(int), minlength=25).reshape(
            5, 5
        )
        for place, name in enumerate(group, 1):
            target = truth == place
            alone = result.alone(name) & result.present[name]
            for way, found in (("once", result.mask == place), ("alone", alone)):
                pair = [(found & target & known).sum(), ((found | target) & known).sum()]
                counts[f"{way}_all"][place - 1] += pair
                if name in shown[photo.path]:
                    counts[f"{way}_shown"][place - 1] += pair
    return counts


def main() -> None:
    """Writes OUT and, beside it, OUT with .svg in place of .json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--queries", type=int, default=10, help="photos of a group")
    parser.add_argument("--adapt", type=int, default=0, help="photos that a class adopts at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", action="store_true", help="classes that the model was trained on")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    examples = json.loads((files("rifenet") / "examples" / "examples.json").read_text())
    ids, photos = photos_of(options.coco, {photo["coco_id"] for photo in examples["photos"]})
    segmenter = Segmenter.from_pretrained(options.model)
    seen = set(getattr(segmenter.engine, "classes_trained_on", None) or ())
    classes = sorted((name for name in ids if (name in seen) == options.trained), key=lambda name: ids[name])
    rng = random.Random(options.seed)
    confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    ways: dict[str, dict[str, NDArray[np.int64]]] = {
        way: {name: np.zeros(2, np.int64) for name in classes}
        for way in ("once_shown", "alone_shown", "once_all", "alone_all")
    }
    groups = groups_of(photos, classes, options.groups, rng)
    for number, group in enumerate(groups, 1):
        counts = measure(segmenter, group, ids, photos, options.queries, options.adapt, rng)
        places = [0, *(classes.index(name) + 1 for name in group)]
        confusion[np.ix_(places, places)] += counts["confusion"]
        for way, sums in ways.items():
            for name, pair in zip(group, counts[way], strict=True):
                sums[name] += pair
        print(f"{number}/{len(groups)}: {', '.join(group)}", flush=True)
    used = [name for name in classes if ways["once_all"][name][1]]
    iou = {way: {name: 100 * sums[name][0] / max(1, sums[name][1]) for name in used} for way, sums in ways.items()}
    means = {way: round(float(np.mean(list(values.values()))), 2) for way, values in iou.items()}
    places = [0, *(classes.index(name) + 1 for name in used)]
    table = confusion[np.ix_(places, places)]
    content: dict[str, Any] = {
        "model": {"name": segmenter.engine.name, "hash": segmenter.engine.hash},
        "classes": "trained on" if options.trained else "never seen",
        "seed": options.seed,
        "queries": options.queries,
        "adapt": options.adapt,
        "groups": groups,
        "miou": means,
        "iou": {way: {name: round(value, 2) for name, value in values.items()} for way, values in iou.items()},
        "confusion": {"names": ["background", *used], "pixels": table.tolist()},
    }
    write_text(options.out, json.dumps(content, indent=1) + "\n")
    chart = plots.confusion("What each class was taken for, in percent", **content["confusion"])
    write_text(options.out.with_suffix(".svg"), chart)
    print(json.dumps(means))


if __name__ == "__main__":
    main()
