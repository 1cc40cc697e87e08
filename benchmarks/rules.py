"""Measures what a rule of scoring changes: the area rule and the query order of `pfenet`, the input size of `hsnet`.

    python -m benchmarks.rules --voc VOC2012 --list-file voc_mini.txt --backbone efficientnet_lite0 --out lite0.json

Of each fold it takes `--images` photos of each novel class, evenly spaced in the list, and all photos that the two area
rules of `pfenet` treat differently. Each pair of a photo and a class in it is one query, with the same supports under
every rule. So the differences are paired; their 95% intervals come from 2,000 resamplings of the query photos, within
each class. Where the taken pairs stand for more pairs of the whole list, they get the weight of these. The mIoU is the
mean over the classes of all folds. With `--model` the model is scored with one support a query; without it the
training-free prototype is, with 1 and 5. Where `--out` has the other protocol of the same model, photos and folds, both
are kept.

- area: the published rule (any class shown in an image with a class of 2,048 px) minus `class_area`
- order: a class drawn at random in each image minus all pairs; what the draw gives on average
- hsnet: inputs of 400 px, and of these with the last row and column repeated up to 401 and 417 px; at 401 px also read
  where the features of EfficientNet-Lite really look
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Values, parser, write_record
from rifenet import IGNORE
from rifenet.data.class_names import seen_classes
from rifenet.data.episodes import load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, evaluation_episodes, queries, usable_classes
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import MEAN, place, resize_and_pad, resize_mask, resized, restore, squash, to_float
from rifenet.evaluation.prediction import majority, margins, mask_threshold
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.pictures import binary_mask
from rifenet.metrics import intersection_union, percentile_interval
from rifenet.models import build_model
from rifenet.models.files.checkpoint import backbone_hash
from rifenet.models.files.hub import load_model

MIN_AREA = 2048
SQUARE = 400
SIDES = (400, 401, 417)  # of the network's input under `hsnet`
LEAN = 8  # pixels up and left of their grid points that EfficientNet-Lite's features look (feature_centres.py)
SAMPLES = 2000

Pair = tuple[int, int]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures fold after fold, and writes."""
    words = parser(__doc__)
    words.add_argument("--voc", required=True, help="voc-mini, or another VOC folder")
    words.add_argument("--list-file", required=True, help="its photos")
    words.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3])
    words.add_argument("--protocols", nargs="+", choices=("pfenet", "hsnet"), default=["pfenet", "hsnet"])
    words.add_argument("--images", type=int, default=24, help="photos of a class")
    words.add_argument("--backbone", default="efficientnet_lite0", help="of the training-free prototype")
    words.add_argument("--stride", type=int, default=8, help="of the prototype's features")
    words.add_argument("--half-width", type=Path, help="file of a half-width ResNet-50, with --backbone resnet50")
    words.add_argument("--model", default="", help="a trained model instead")
    options = words.parse_args(argv)
    torch.set_num_threads(options.threads)
    model = load_model(options.model) if options.model else prototype(options)
    model.eval()
    once_each(model)
    index = open_dataset("pascal", options.voc, list_file=options.list_file, part="val", progress=False)
    earlier = measured_before(options.out, facts_of(model, index, options, options.folds))
    rows: list[Values] = []
    for number, fold in enumerate(options.folds, 1):
        rows += measure_fold(model, index, fold, options)
        if earlier and number < len(options.folds):
            continue  # the file has all folds of the other protocol
        measured = {rule: pack(rows, rule) for rule in sorted({row["rule"] for row in rows})}
        record = {**facts_of(model, index, options, options.folds[:number]), "git_commit": git_commit()}
        record["episodes"] = earlier | measured
        write_record(options.out, {**record, "figures": figures(record)})


def facts_of(model: Any, index: ImageIndex, options: argparse.Namespace, folds: Sequence[int]) -> Values:
    """What was measured on what."""
    return {
        "model": {"name": options.model or f"prototype {options.backbone}", "hash": backbone_hash(model)},
        "half_width": options.half_width is not None,
        "stride": model.config.stride,
        "dataset": index.hash,
        "folds": list(folds),
        "images_of_a_class": options.images,
        "seen": {name: list(seen) for fold in folds for name, seen in seen_of(model, index, fold).items()},
    }


def measured_before(path: Path, facts: Values) -> dict[str, str]:
    """The episodes that `path` has of the same model, photos and folds: another protocol's, measured before."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = all(record.get(name) == value for name, value in facts.items())
    return dict(record["episodes"]) if same else {}


def prototype(options: argparse.Namespace) -> Any:
    """The training-free prototype on published weights."""
    layout: Values = {}
    if options.half_width is not None:
        layout = {"width": 0.5, "stem": "caffe", "stride_on": "conv1", "normalization": "caffe"}
        layout["weights"] = str(options.half_width)
    return build_model(kind="prototype", backbone=options.backbone, stride=options.stride, **layout)


def once_each(model: Any) -> None:
    """From now on the features of each picture are computed once, until `model.forget()`."""
    kept: dict[bytes, Any] = {}

    def remembered(plain: Any, picture: torch.Tensor) -> Any:
        key = hashlib.blake2b(picture.numpy().tobytes()).digest()
        if key not in kept:
            kept[key] = plain(picture)
        return kept[key]

    if hasattr(model, "_features"):  # the prototype's, normalized
        own = partial(remembered, model._features)
        model._features = lambda pictures: torch.cat([own(picture) for picture in pictures.split(1)])
    else:
        each = partial(remembered, model.backbone.stages)
        model.backbone.stages = lambda pictures: tuple(
            torch.cat(level) for level in zip(*map(each, pictures.split(1)), strict=True)
        )
    model.forget = kept.clear


def seen_of(model: Any, index: ImageIndex, fold: int) -> dict[str, tuple[str, ...]]:
    """Novel classes that the model was trained on, by any name."""
    names = [index.class_name(class_id) for class_id in index.novel_classes(fold)]
    return seen_classes(names, getattr(model, "metadata", {}).get("classes_trained_on", ()))


def measure_fold(model: Any, index: ImageIndex, fold: int, options: argparse.Namespace) -> list[Values]:
    """Counts of every query under every rule, with its weight."""
    size, shots = size_of(model), (1,) if options.model else (1, 5)
    plans: list[tuple[str, int, int, tuple[str, ...]]] = [("pfenet", 1, size, ("", "floor8", "black"))]
    plans += [
        ("hsnet", count, side, ("", "shifted")[: 2 if side == 401 else 1]) for side in SIDES[1:] for count in shots
    ]
    plans += [("hsnet", count, SQUARE, ("", "floor", "vote", "repeat")[: 4 if count > 1 else 2]) for count in shots]
    rows: list[Values] = []
    for rule, count, side, variants in sorted(plans, key=lambda plan: plan[2]):
        if rule not in options.protocols:
            continue
        if rows and rows[-1]["side"] != side:
            model.forget()
        for variant in variants:
            rows += measure_rule(model, index, fold, options.images, rule, count, side, variant)
    return rows


def size_of(model: Any) -> int:
    """Side of the network's input under `pfenet`, pixels."""
    return int(getattr(model, "metadata", {}).get("image_size", 473))


def measure_rule(
    model: Any, index: ImageIndex, fold: int, count: int, rule: str, shots: int, side: int, variant: str
) -> list[Values]:
    """Counts of every query under one rule."""
    least = MIN_AREA if rule == "pfenet" else 1
    novel = index.novel_classes(fold)
    usable, _ = usable_classes(index, novel, 5, least)
    taken, weights = share(index, novel, usable, rule, count)
    few = index.with_records(index.records[image] for image in taken)
    pairs = queries(few, novel, shots, MIN_AREA, rule)
    length = len(pairs)
    episodes = evaluation_episodes(few, novel, shots=shots, seed=0, episodes=length, min_area=least, protocol=rule)
    in_image = Counter(query for query, _ in pairs)
    score_one = padded_counts if rule == "pfenet" else squashed_counts
    name = rule if rule == "pfenet" else f"{rule} {shots} {side}"
    rows = []
    for number, episode in enumerate(episodes):
        if variant == "repeat":
            episode = repeated(episode, len(few.images_of(episode.class_id)), number)
        image, class_id = taken[episode.query], episode.class_id
        large = index.records[image].areas[class_id] >= MIN_AREA
        rows.append(
            {
                "rule": f"{name} {variant}".strip(),
                "side": side,
                "class": class_id,
                "query": image,
                "counts": score_one(model, few, episode, side, variant),
                "weight": weights[class_id] if large or rule == "hsnet" else 1.0,
                "large": large,
                "classes_shown": in_image[episode.query],
            }
        )
    print(f"fold {fold}, {rows[-1]['rule']}: {len(rows)} episodes", flush=True)
    return rows


def share(
    index: ImageIndex, novel: Sequence[int], usable: Mapping[int, list[int]], rule: str, count: int
) -> tuple[list[int], dict[int, float]]:
    """Record indices to score, in list order, and how many pairs of the list a large pair of each class stands for."""
    chosen: set[int] = set()
    for images in usable.values():
        places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        chosen |= {images[place] for place in places}
    if rule == "pfenet":
        by_class, published = (queries(index, novel, 5, MIN_AREA, class_area=narrow) for narrow in (True, False))
        chosen |= {image for image, _ in set(published) - set(by_class)}
    weights = {class_id: len(images) / len(chosen & set(images)) for class_id, images in usable.items()}
    return sorted(chosen), weights


def repeated(episode: Episode, images: int, number: int) -> Episode:
    """The episode with supports as they come from a draw with replacement among the class's other photos."""
    rng = random.Random(f"repeat {number}")
    supports: list[int] = []
    for support in episode.supports:
        again = rng.random() < len(set(supports)) / (images - 1)
        supports.append(rng.choice(supports) if again else support)
    return replace(episode, supports=tuple(supports))


def padded_counts(model: Any, index: ImageIndex, episode: Episode, size: int, variant: str) -> NDArray[np.int64]:
    """Counts [2,2] under `pfenet`, at the original size.

    `floor8`: photos take up sides that are multiples of 8, and the prediction is read as if they took up the whole
    `size` and its share, as in published code. `black`: the padding is black, as in published code, not of the mean
    colour.
    """

    def arrays(image: int) -> tuple[Any, ...]:
        photo, mask = load_pair(index, image)
        placement = place(photo.shape[0], photo.shape[1], size)
        if variant == "floor8":
            height, width = (side // 8 * 8 for side in (placement.scaled_height, placement.scaled_width))
            small = replace(placement, scaled_height=height, scaled_width=width)
            pixels = np.empty((3, size, size), np.float32)
            pixels[:] = np.array(MEAN, np.float32)[:, None, None]
            pixels[:, :height, :width] = to_float(np.asarray(resized(photo, height, width)))
            valid = np.zeros((size, size), bool)
            valid[:height, :width] = True
            labels = resize_mask(mask, small)
        else:
            pixels, valid, placement = resize_and_pad(photo, size)
            labels = resize_mask(mask, placement)
            if variant == "black":
                pixels[:, ~valid] = 0
        return pixels, binary_mask(labels, episode.class_id), valid, placement, mask

    *query, placement, mask = arrays(episode.query)
    (logits,) = scored(model, query, [[arrays(image)[:3] for image in episode.supports]])
    found = restore(margins(logits, size, mask_threshold(model)), placement) > 0
    return intersection_union(found.astype(np.uint8), binary_mask(mask, episode.class_id))


def squashed_counts(model: Any, index: ImageIndex, episode: Episode, side: int, variant: str) -> NDArray[np.int64]:
    """Counts [2,2] under `hsnet`, at 400 px, with an input of `side` px.

    `floor`: masks are shrunk by the pixel at or before each position, as in published code. `vote`: each shot alone.
    `shifted`: what a feature says is read `LEAN` px further up and left, in supports and query.
    """

    def arrays(image: int) -> list[Any]:
        photo, mask = load_pair(index, image)
        pixels, valid, placement = squash(photo, SQUARE)
        if variant == "floor":
            rows, columns = (np.arange(SQUARE) * length // SQUARE for length in mask.shape)
            labels = binary_mask(mask[np.ix_(rows, columns)], episode.class_id)
        else:
            labels = binary_mask(resize_mask(mask, placement), episode.class_id)
        extra = ((0, side - SQUARE), (0, side - SQUARE))
        return [
            np.pad(pixels, ((0, 0), *extra), mode="edge"),
            np.pad(labels, extra, constant_values=IGNORE),
            np.pad(valid, extra, constant_values=True),
        ]

    query, supports = arrays(episode.query), [arrays(image) for image in episode.supports]
    lean = LEAN if variant == "shifted" else 0
    for support in supports:
        support[1] = np.pad(support[1], ((lean, 0), (lean, 0)), constant_values=IGNORE)[:side, :side]
    logits = scored(model, query, [[support] for support in supports] if variant == "vote" else [supports])
    scores = [np.pad(margins(one, side, mask_threshold(model)), (0, lean), mode="edge")[lean:, lean:] for one in logits]
    masks = [(one[:SQUARE, :SQUARE] > 0).astype(np.uint8) for one in scores]
    return intersection_union(majority(masks), query[1][:SQUARE, :SQUARE])


@torch.inference_mode()
def scored(model: Any, query: Sequence[Any], groups: Sequence[Sequence[Sequence[Any]]]) -> list[torch.Tensor]:
    """Logits [1,2,h,w] of one query with each group of supports; query and supports are (pixels, mask, valid)."""
    pixels, _, real = (torch.from_numpy(part)[None] for part in query)
    features = model.encode_query(pixels, real)
    contexts = (
        model.encode_support(*(torch.from_numpy(np.stack(parts))[None] for parts in zip(*group, strict=True)))
        for group in groups
    )
    return [model.decode(features, context) for context in contexts]


def pack(rows: Sequence[Values], rule: str) -> str:
    """One string: class, query, large, classes shown, weight in thousandths, and the four counts of each episode."""
    table = [
        [row["class"], row["query"], row["large"], row["classes_shown"], round(1000 * row["weight"]),
         *row["counts"].reshape(-1)]
        for row in rows
        if row["rule"] == rule
    ]  # fmt: skip
    return base64.b64encode(zlib.compress(np.array(table, "<i4").tobytes(), 9)).decode("ascii")


def unpack(text: str) -> NDArray[np.int64]:
    """The inverse of `pack`, [N,9]."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").reshape(-1, 9).astype(np.int64)


def figures(record: Values) -> Values:
    """Scores and paired differences in points: [difference, low, high]."""
    tables = {rule: unpack(text) for rule, text in record["episodes"].items()}
    found: Values = {}
    if (base := tables.get("pfenet")) is not None:
        weight, large, shown = base[:, 4] / 1000, base[:, 2], base[:, 3]
        found = {
            "pfenet": score(base, weight),
            "small queries": [int((large == 0).sum()), round(float(weight.sum()))],
            "area": compared((base, weight), (base, weight * large)),
            "order": compared((base, weight / shown), (base, weight)),
            **{
                variant: compared((tables[f"pfenet {variant}"], weight), (base, weight))
                for variant in ("floor8", "black")
                if f"pfenet {variant}" in tables
            },
        }
    for shots in (1, 5):
        own = tables.get(f"hsnet {shots} {SQUARE}")
        if own is None:
            continue
        ones = own[:, 4] / 1000
        found[f"hsnet {shots}"] = {f"{side}": score(tables[f"hsnet {shots} {side}"], ones) for side in SIDES}
        for side in SIDES[1:]:
            other = tables[f"hsnet {shots} {side}"]
            found[f"hsnet {shots}, 400 - {side}"] = compared((own, ones), (other, ones))
        shifted = tables.get(f"hsnet {shots} 401 shifted")
        if shifted is not None:
            found[f"hsnet {shots}, 401 shifted - 401"] = compared((shifted, ones), (tables[f"hsnet {shots} 401"], ones))
        for variant in ("floor", "vote", "repeat"):
            changed = tables.get(f"hsnet {shots} {SQUARE} {variant}")
            if changed is not None:
                found[f"hsnet {shots}, {variant}"] = compared((changed, ones), (own, ones))
    return found


def miou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes of weighted intersections over unions, [...,C,2] -> [...]."""
    mean: NDArray[np.float64] = (sums[..., 0] / np.maximum(sums[..., 1], 1e-9)).mean(-1)
    return mean


def by_class(table: NDArray[np.int64], weight: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums of intersection and union of each class under draws [S,N] of the episodes: [S,C,2]."""
    classes = np.unique(table[:, 0])
    parts = [(draws * weight * (table[:, 0] == one)) @ table[:, 7:9] for one in classes]
    return np.stack(parts, 1)


def score(table: NDArray[np.int64], weight: NDArray[np.float64]) -> float:
    """mIoU in percent."""
    return round(100 * float(miou(by_class(table, weight, np.ones((1, len(table)))))[0]), 2)


Weighted = tuple[NDArray[np.int64], NDArray[np.float64]]


def compared(own: Weighted, other: Weighted) -> list[float]:
    """mIoU of `own` minus that of `other` on the same episodes, and its 95% interval, in points."""
    table = own[0]
    rng = np.random.default_rng(0)
    draws = np.zeros((SAMPLES, len(table)))
    for class_id in np.unique(table[:, 0]):  # a class has one episode of each of its photos
        rows = np.flatnonzero(table[:, 0] == class_id)
        draws[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), SAMPLES)
    whole = np.ones((1, len(table)))

    def gain(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 * (miou(by_class(*own, drawn)) - miou(by_class(*other, drawn)))

    return [round(float(value), 2) for value in (gain(whole)[0], *percentile_interval(gain(draws)))]


if __name__ == "__main__":
    main()
