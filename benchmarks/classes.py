"""Compares segmenting several classes at once with one class at a time, on real photos: mIoU and confusion.

    python -m benchmarks.classes --coco coco --out docs/results/classes.json

A group is four classes that the model never saw, learned from one shot each. With `--trained` the model was trained on
them: use these to choose how masks of several classes are merged. Each group is scored on the photos that show most of
its classes. Both ways use the same photos, shots and network outputs:

- at once: the mask of all four classes, as `Segmenter.segment` returns it;
- one at a time: each class alone against the background; a class judged absent gets an empty mask in both.

With `--adapt N`, each class of a group also learns from up to N of its photos without masks (`Segmenter.adapt`).

"shown" scores a class on the photos that show it, "all" on all photos of its group, so false finds count, too. Pixels
of none of the group's classes are background. Figures go to a JSON file, the confusion also to an SVG beside it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import add_model, model_record, parser, write_record
from rifenet import IGNORE
from rifenet.data.class_names import seen_classes
from rifenet.drawing import plots
from rifenet.evaluation.provenance import git_commit
from rifenet.files import write_text
from rifenet.formats.outlines import draw_mask
from rifenet.metrics import intersection_union
from rifenet.segmenting.segmenter import Segmenter

WAYS = ("once_shown", "alone_shown", "once_all", "alone_all")
LEAST = {"support": 0.03, "query": 0.005}  # of the picture


class Photo(NamedTuple):
    """A photo, its classes (name -> share of the pixels), and its annotations, drawn on demand."""

    path: Path
    shares: dict[str, float]
    height: int
    width: int
    annotations: list[dict[str, Any]]

    def shows(self, name: str, use: str) -> bool:
        """Whether the photo shows enough of a class to be a `support` or a `query`."""
        return self.shares.get(name, 0) > LEAST[use]

    def truth(self, numbers: dict[int, int]) -> NDArray[np.uint8]:
        """Index mask of the categories in `numbers`. Others are background, also where they lie on larger objects."""
        values = {row["category_id"]: numbers.get(row["category_id"], 0) for row in self.annotations}
        return draw_mask(self.annotations, self.height, self.width, values)


def photos_of(root: Path, left_out: set[int]) -> tuple[dict[str, int], list[Photo]]:
    """Class name -> category id, and all photos whose files exist."""
    ids: dict[str, int] = {}
    photos = []
    for part in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{part}2017.json").read_text(encoding="utf-8"))
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


def groups_of(photos: list[Photo], classes: list[str], count: int, rng: Random) -> list[list[str]]:
    """`count` groups of four classes; where possible, one photo shows several of a group's classes."""
    usable = [name for name in classes if sum(photo.shows(name, "support") for photo in photos) >= 2]
    together = [sorted(set(photo.shares) & set(usable)) for photo in photos]
    together = sorted({tuple(names) for names in together if len(names) >= 2}, key=lambda names: (-len(names), names))
    groups = []
    for number in range(count):
        group = list(together[number % len(together)][:4]) if together else []
        rest = [name for name in usable if name not in group]
        groups.append(sorted(group + rng.sample(rest, 4 - len(group))))
    return groups


def learn_group(
    segmenter: Segmenter, group: list[str], ids: dict[str, int], photos: list[Photo], rng: Random
) -> list[Photo]:
    """Learns one shot of each class, and returns the other photos."""
    shots = {name: rng.choice([photo for photo in photos if photo.shows(name, "support")]) for name in group}
    for name in segmenter.classes:
        segmenter.forget(name)
    for name, photo in shots.items():
        segmenter.learn(name, [photo.path], [photo.truth({ids[name]: 1})])
    used = {photo.path for photo in shots.values()}
    return [photo for photo in photos if photo.path not in used]


def queries_of(group: list[str], photos: list[Photo], count: int, rng: Random) -> dict[str, Photo]:
    """Path -> photo: the `count` photos that show most classes of the group, in random order among equals."""

    def shown(photo: Photo) -> int:
        return sum(photo.shows(name, "query") for name in group)

    asked = [photo for photo in photos if shown(photo)]
    rng.shuffle(asked)
    return {str(photo.path): photo for photo in sorted(asked, key=shown, reverse=True)[:count]}


def measure(
    segmenter: Segmenter, group: list[str], ids: dict[str, int], queries: dict[str, Photo]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels [5,5] (truth, found) of the background and the group, and [4,4,2] intersection and union by way, class."""
    confusion, counts = np.zeros((5, 5), np.int64), np.zeros((len(WAYS), len(group), 2), np.int64)
    for result in segmenter.segment_many(queries, batch_size=1):
        photo = queries[result.source]
        truth = photo.truth({ids[name]: place for place, name in enumerate(group, 1)})
        known = truth != IGNORE
        np.add.at(confusion, (truth[known], result.mask[known]), 1)
        for place, name in enumerate(group, 1):
            target = np.where(known, truth == place, IGNORE).astype(np.uint8)
            once = (result.mask == place).astype(np.uint8)
            alone = (result.alone(name) & result.present[name]).astype(np.uint8)
            pairs = np.stack([intersection_union(found, target)[1] for found in (once, alone)])
            counts[2:, place - 1] += pairs
            if photo.shows(name, "query"):
                counts[:2, place - 1] += pairs
    return confusion, counts


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the JSON file OUT and, beside it, the confusion as SVG."""
    words = parser(__doc__)
    add_model(words)
    words.add_argument("--coco", type=Path, required=True)
    words.add_argument("--groups", type=int, default=12)
    words.add_argument("--queries", type=int, default=10, help="photos of a group")
    words.add_argument("--adapt", type=int, default=0, help="photos that a class adopts at most")
    words.add_argument("--trained", action="store_true", help="classes that the model was trained on")
    options = words.parse_args(argv)
    examples = json.loads((files("rifenet") / "examples" / "examples.json").read_text(encoding="utf-8"))
    ids, photos = photos_of(options.coco, {photo["coco_id"] for photo in examples["photos"]})
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    seen = seen_classes(ids, getattr(segmenter.engine, "classes_trained_on", None) or ())
    classes = sorted((name for name in ids if (name in seen) == options.trained), key=lambda name: ids[name])
    rng = Random(options.seed)
    confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    sums = np.zeros((len(WAYS), len(classes), 2), np.int64)
    groups = groups_of(photos, classes, options.groups, rng)
    for number, group in enumerate(groups, 1):
        left = learn_group(segmenter, group, ids, photos, rng)
        queries = queries_of(group, left, options.queries, rng)
        if options.adapt:
            segmenter.adapt(queries, count=options.adapt)
        pixels, counts = measure(segmenter, group, ids, queries)
        places = [classes.index(name) for name in group]
        sums[:, places] += counts
        confusion[np.ix_([0, *np.add(places, 1)], [0, *np.add(places, 1)])] += pixels
        print(f"{number}/{len(groups)}: {', '.join(group)}", flush=True)
    used = np.flatnonzero(sums[WAYS.index("once_all"), :, 1])
    names = [classes[place] for place in used]
    iou = 100 * sums[:, used, 0] / np.maximum(sums[:, used, 1], 1)  # [ways,classes]
    shown = [0, *(used + 1)]
    record = {
        "model": model_record(segmenter.engine),
        "git_commit": git_commit(),
        "classes": "trained on" if options.trained else "never seen",
        "seed": options.seed,
        "queries": options.queries,
        "adapt": options.adapt,
        "groups": groups,
        "miou": dict(zip(WAYS, iou.mean(1).round(2).tolist(), strict=True)),
        "iou": {way: dict(zip(names, row.round(2).tolist(), strict=True)) for way, row in zip(WAYS, iou, strict=True)},
        "confusion": {"names": ["background", *names], "pixels": confusion[np.ix_(shown, shown)].tolist()},
    }
    write_record(options.out, record)
    chart = plots.confusion("What each class was taken for, in percent", **record["confusion"])
    write_text(options.out.with_suffix(".svg"), chart)
    print(json.dumps(record["miou"]))


if __name__ == "__main__":
    main()
