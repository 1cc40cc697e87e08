"""Measures segmenting in several worlds by the product's own path, as JSON: everyday photos, cells, defects, parts.

    python -m benchmarks.worlds --data DATA --shots 1 5 --out docs/results/worlds/reported.json

DATA holds the sets of `SETS`, each in the custom layout. A draw is a class, its annotated photos and its query photos.
The queries are the same for every number of shots and every way. Ways to segment:

- `plain`: the network's own masks, without a fit and with default settings;
- `prototype`: training-free matching on the same frozen backbone;
- `tiles`: as `plain`, with tiles and refinement for every photo;
- `fitted`: the default way to learn, which fits itself to the shots (`rifenet.segmenting.fitting`).

A draw's IoU is in percent, over the pixels of all its queries together. `shown` keeps a class that is judged absent,
`judged` counts its mask as empty. A set's figure is the mean over its draws, with a 95% bootstrap interval over draws.
Times are those of the processor, with one thread. With `--cache`, features of the backbone are kept in that folder in
half precision, so that another run is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import (
    Draw,
    Values,
    add_model,
    difference,
    forward_by_picture,
    model_record,
    parser,
    picture_key,
    write_record,
)
from rifenet.data.sources import open_dataset
from rifenet.evaluation.provenance import git_commit
from rifenet.files import write_bytes
from rifenet.metrics import intersection_union, mean_interval
from rifenet.models import Backbone, Features
from rifenet.segmenting.result import Result
from rifenet.segmenting.segmenter import Segmenter

NAME = "it"
RESERVED = 5  # first photos of a draw, which are never queries, whatever the number of shots
MIN_AREA = 64  # pixels of the class in each of its photos
NEVER_SEEN = {
    "icoseg": (
        *("airplane", "brown bear", "cheetah", "christ the redeemer", "helicopter", "hot air balloon", "kite", "panda"),
        *("pyramid", "statue of liberty", "stonehenge", "taj mahal", "windmill"),
    ),
    "coseg": ("aeroplane", "bus"),
    "union": ("dog", "oven", "donut", "bed", "suitcase", "sandwich"),
    "clothes": ("skin", "hair", "shoes", "bag", "dress", "coat", "jeans", "hat"),
}
"""Classes of everyday photos that the first bundled models never saw, under any name."""


class World(NamedTuple):
    """A set of photos and how often each of its classes is drawn."""

    name: str
    draws: int
    group: str


SETS = (
    *(World("nuclei", 4, "domains"), World("magnetic-tile", 2, "domains"), World("parts", 1, "domains")),
    *(World("cracks", 4, "domains"), World("polyps", 4, "domains")),
    *(World("icoseg", 1, "everyday"), World("coseg", 2, "everyday")),
    *(World("clothes", 1, "development"), World("union", 1, "development")),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, measures and writes."""
    words = parser(__doc__)
    add_model(words)
    words.add_argument("--data", type=Path, required=True, help="folder of the sets")
    words.add_argument("--sets", nargs="+", default=[world.name for world in SETS if world.group != "development"])
    words.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    words.add_argument("--ways", nargs="+", default=["plain", "prototype", "fitted"], choices=sorted(WAYS))
    words.add_argument("--queries", type=int, default=6, help="most queries of a draw")
    words.add_argument("--draws", type=int, default=1, help="multiplies the draws of each class")
    words.add_argument("--cache", type=Path, help="folder for the backbone's features")
    options = words.parse_args(argv)
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    with features_on_disk(segmenter.engine.model.backbone, options.cache):  # type: ignore[attr-defined]
        run(segmenter, options)


def run(segmenter: Segmenter, options: argparse.Namespace) -> None:
    """Measures all draws, and writes the record after each."""
    rows: list[Values] = []
    for world in SETS:
        if world.name not in options.sets:
            continue
        for draw in draws_of(world, options):
            for shots in options.shots:
                for way in options.ways:
                    rows.append({"set": world.name, **measured(segmenter, draw, shots, way, options)})
                    print(*(rows[-1][key] for key in ("set", "class", "shots", "way", "shown", "judged")), flush=True)
            record = {
                "model": model_record(segmenter.engine),
                "git_commit": git_commit(),
                "seed": options.seed,
                "queries": options.queries,
                "min_area": MIN_AREA,
                "summary": summary(rows),
                "rows": rows,
            }
            write_record(options.out, record)


def draws_of(world: World, options: argparse.Namespace) -> Iterator[Draw]:
    """The draws of a set, class by class."""
    index = open_dataset("custom", options.data / world.name, progress=False)
    for name in NEVER_SEEN.get(world.name, index.class_names):
        class_id = index.class_id(name)
        for number in range(world.draws * options.draws):
            rng = Random(f"{options.seed} {world.name} {name} {number}")
            images = index.images_of(class_id, MIN_AREA)
            rng.shuffle(images)
            if len(images) > max(RESERVED, *options.shots):
                yield Draw(index, class_id, images, rng)


def measured(segmenter: Segmenter, draw: Draw, shots: int, way: str, options: argparse.Namespace) -> Values:
    """Learns a draw's class in one way, segments its queries, and returns its record."""
    records = draw.index.records
    first = max(RESERVED, *options.shots)
    queries = draw.images[first : first + options.queries]
    used = Segmenter(segmenter.engine.baseline()) if way == "prototype" else Segmenter(segmenter.engine)  # type: ignore[attr-defined]
    learning, segmenting = WAYS[way]
    pairs = [draw.pair(image) for image in draw.images[:shots]]
    start = time.process_time()
    used.learn(NAME, [photo for photo, _ in pairs], [mask for _, mask in pairs], **learning)
    learned = time.process_time()
    results = list(used.segment_many([records[image].image_path for image in queries], batch_size=1, **segmenting))
    found = {"shown": np.zeros((2, 2), np.int64), "judged": np.zeros((2, 2), np.int64)}
    photos = []
    for image, result in zip(queries, results, strict=True):
        truth = draw.pair(image)[1]
        counts = intersection_union(result.alone(NAME).astype(np.uint8), truth)
        found["shown"] += counts
        found["judged"] += intersection_union(result.mask, truth)
        photos.append({"iou": percent(counts), "confidence": round(result.confidence[NAME], 4), **quality(result)})
    return {
        "class": draw.index.class_name(draw.class_id),
        "shots": shots,
        "way": way,
        "support": [records[image].name for image in draw.images[:shots]],
        **{kind: percent(counts) for kind, counts in found.items()},
        "learning_s": round(learned - start, 2),
        "query_s": round((time.process_time() - learned) / max(len(queries), 1), 2),
        "photos": photos,
        **fit(used),
    }


def percent(counts: NDArray[np.int64]) -> float:
    """Foreground IoU in percent of counts from `intersection_union`; 0 without pixels."""
    return round(100 * float(counts[1, 0]) / max(int(counts[1, 1]), 1), 2)


def quality(result: Result) -> Values:
    """The quality that a result expects of its mask, and the signs that it takes it from."""
    signs = {name: round(value, 4) for name, value in result.signs[NAME].items()}
    return {"quality": round(result.quality[NAME], 4), "signs": signs}


def fit(segmenter: Segmenter) -> Values:
    """What learning chose, in words, where it fits itself."""
    found = segmenter.fits.get(NAME)
    return {} if found is None else {"fit": str(found), "notes": found.notes}


def summary(rows: Sequence[Values]) -> Values:
    """By set (and group of sets), shots and way: mean IoU over draws, its interval, and the gain over `plain`."""
    groups = {world.name: world.group for world in SETS}
    found: Values = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        found[name] = {
            f"{shots}-shot {way}": figures(own, shots, way)
            for shots in dict.fromkeys(row["shots"] for row in own)
            for way in dict.fromkeys(row["way"] for row in own)
        }
    for group in dict.fromkeys(groups[name] for name in found):
        parts = [found[name] for name in found if groups.get(name) == group]
        found[f"mean of {group}"] = {
            setting: {
                kind: round(float(np.mean([part[setting][kind] for part in parts])), 2) for kind in ("shown", "judged")
            }
            for setting in parts[0]
        }
    return found


def figures(rows: Sequence[Values], shots: int, way: str) -> Values:
    """Figures of one set, number of shots and way."""
    own, plain = ([row for row in rows if row["shots"] == shots and row["way"] == name] for name in (way, "plain"))
    made: Values = {"draws": len(own)}
    for kind in ("shown", "judged"):
        values = np.array([row[kind] for row in own])
        made[kind] = round(float(values.mean()), 2)
        made[f"{kind}_interval"] = [round(value, 1) for value in mean_interval(values)]
        if way != "plain" and len(plain) == len(own):
            made[f"{kind}_difference"] = difference(values, [row[kind] for row in plain])
    made["learning_s"] = round(float(np.mean([row["learning_s"] for row in own])) / shots, 2)
    made["query_s"] = round(float(np.mean([row["query_s"] for row in own])), 2)
    return made


@contextmanager
def features_on_disk(backbone: Backbone, folder: Path | None) -> Iterator[None]:
    """While entered, `backbone` keeps its features of each picture in `folder`, in half precision; None keeps none."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    plain = backbone.forward

    def of(picture: torch.Tensor) -> Features:
        path = folder / f"{picture_key(picture)}.npz"
        if not path.is_file():
            made = {name: level.numpy().astype(np.float16) for name, level in plain(picture)._asdict().items()}
            content = BytesIO()
            np.savez(content, **made)
            write_bytes(path, content.getvalue())
        with np.load(path) as kept:
            return Features(*(torch.from_numpy(kept[name].astype(np.float32)) for name in Features._fields))

    with forward_by_picture(backbone, of):
        yield


WAYS: dict[str, tuple[Values, Values]] = {
    "plain": ({"fit": False}, {}),
    "prototype": ({"fit": False}, {}),
    "tiles": ({"fit": False}, {"tiles": True, "refine": True}),
    "fitted": ({}, {}),
}
"""Arguments of `learn` and of `segment_many`."""


if __name__ == "__main__":
    main()
