"""Measures how many strokes an object needs (`Segmenter.complete`), on photos with known masks, as JSON and a table.

    python -m benchmarks.strokes --data coco=coco icoseg=icoseg parts=parts nuclei=nuclei --out strokes.json

The protocol is that of interactive segmentation (NoC, number of clicks), with strokes for clicks. The first stroke runs
through the middle of the object. Each further one runs through the middle of the largest connected region that is
wrong, and is on the object or beside it, as that region is; it corrects the mask so far (`start`), as on the page. An
object ends at an IoU of 0.90 or after `--most` strokes.
Beside that, each object is completed from a loose box alone: its bounding box, larger by a fifth on each side, where
that leaves any of the photo outside.

A set is a folder of COCO (`annotations/instances_*.json`), where an object is an instance, or a custom dataset, where
an object is a connected part of a mask. Half of the photos are measured: COCO's of odd ids, every second of the others,
by name. The other half was for development.

If the output exists, the objects in it stay, and the run goes on after them.

Seconds are processor time. With one thread they are what one free core takes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from benchmarks.common import Values, add_model, model_record, parser, write_record
from rifenet import IGNORE
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.pictures import load_image, load_mask
from rifenet.segmenting.segmenter import Segmenter

Mask = NDArray[np.bool_]

GOALS = (0.85, 0.90)
LEAST_AREA = 1024  # pixels of an object, as COCO calls it not small
SMALL_SETS = {"nuclei": 100}  # sets whose objects are all small
EVERYDAY = ("coco", "icoseg")
CORE = 0.4  # a stroke stays where the distance to the region's edge is at least this share of its largest
WIDTH = 0.01  # of a stroke, in the photo's longer side
SIDE = 192  # pixels of the picture of a region in which its stroke is found
LOOSE = 0.2  # of a box's sides


class Example(NamedTuple):
    """An object in a photo."""

    name: str
    image: NDArray[np.uint8]
    object: Mask
    ignored: Mask


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, measures and writes."""
    words = parser(__doc__)
    add_model(words)
    words.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER")
    words.add_argument("--objects", type=int, default=25, help="of each set")
    words.add_argument("--most", type=int, default=20, help="strokes on an object")
    options = words.parse_args(argv)
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    folders = dict(pair.split("=", 1) for pair in options.data)
    sets = {name: drawn(name, Path(folder), options.objects, options.seed) for name, folder in folders.items()}
    record: Values = {
        "model": model_record(segmenter.engine),
        "git_commit": git_commit(),
        "seed": options.seed,
        "most": options.most,
        "threads": options.threads,
    }
    objects: list[Values] = (
        json.loads(options.out.read_text(encoding="utf-8"))["objects"] if options.out.exists() else []
    )
    known = iter(objects.copy())
    for _ in range(options.objects):  # one of each set in turns, so that a stopped run has as many of each
        for name, examples in sets.items():
            if (example := next(examples, None)) is None or next(known, None):
                continue
            objects.append({"set": name, **measured(segmenter, example, options.most)})
            record |= {"summary": summarised(objects, options.most), "objects": objects}
            write_record(options.out, record)
            print(len(objects), json.dumps(objects[-1]), flush=True)
    print("\n".join(table(record)))


def measured(segmenter: Segmenter, example: Example, most: int) -> Values:
    """IoU and seconds after each stroke on an object, and of a loose box alone."""
    on, beside = np.zeros((2, *example.object.shape), bool)
    mask, wrong, missing = None, example.object, True
    ious: list[float] = []
    seconds: list[float] = []
    while len(ious) < most and (not ious or ious[-1] < GOALS[-1]):
        mark = stroke(wrong)
        on, beside = (on | mark, beside & ~mark) if missing else (on & ~mark, beside | mark)
        started = time.process_time()
        mask = segmenter.complete(example.image, on, beside if beside.any() else None, start=mask) > 0
        seconds.append(round(time.process_time() - started, 3))
        ious.append(iou(mask, example))
        regions = [largest(each & ~example.ignored) for each in (example.object & ~mask, mask & ~example.object)]
        missing = bool(regions[0].sum() >= regions[1].sum())
        wrong = regions[0] if missing else regions[1]
    record: Values = {"photo": example.name, "pixels": int(example.object.sum()), "box": None}
    if (loose := outside(example.object)).any():
        record["box"] = iou(segmenter.complete(example.image, background=loose) > 0, example)
    return {**record, "iou": ious, "seconds": seconds}


def iou(mask: Mask, example: Example) -> float:
    """IoU of a mask with the object, without ignored pixels."""
    real = ~example.ignored
    both, either = mask & example.object & real, (mask | example.object) & real
    return round(float(both.sum() / either.sum()), 4)


def outside(mask: Mask) -> Mask:
    """All that is outside a loose box around a mask [H,W]."""
    found = np.ones_like(mask)
    bounds = []
    for axis, length in zip((1, 0), mask.shape, strict=True):
        places = np.flatnonzero(mask.any(axis))
        more = LOOSE * (places[-1] + 1 - places[0])
        bounds.append(slice(max(0, round(places[0] - more)), min(length, round(places[-1] + 1 + more))))
    found[tuple(bounds)] = False
    return found


def largest(region: Mask) -> Mask:
    """The largest connected part of a region [H,W]."""
    numbers, count = ndimage.label(region)
    if count == 0:
        return region
    found: Mask = numbers == 1 + int(np.argmax(np.bincount(numbers.ravel())[1:]))
    return found


def stroke(region: Mask) -> Mask:
    """A stroke through the middle of a region's largest connected part, [H,W].

    It is the path between the two ends of the part's core, along which being near the middle is cheap.
    """
    region = largest(region)
    rows, columns = (slice(places[0], places[-1] + 1) for places in map(np.flatnonzero, (region.any(1), region.any(0))))
    cut = np.pad(region[rows, columns], 1)
    depth = ndimage.distance_transform_edt(cut)
    scale = min(1.0, SIDE / max(cut.shape))
    size = tuple(max(1, round(length * scale)) for length in cut.shape)
    small = np.asarray(Image.fromarray(cut.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)) > 0.5
    drawn = np.zeros_like(cut)
    drawn[np.unravel_index(depth.argmax(), depth.shape)] = True  # a region too thin for a path gets a dot
    if small.any():
        stretch = [whole / part for whole, part in zip(cut.shape, small.shape, strict=True)]
        points = [((x + 0.5) * stretch[1] - 0.5, (y + 0.5) * stretch[0] - 0.5) for y, x in path(largest(small))]
        width = min(max(1, round(WIDTH * max(region.shape))), max(1, int(depth.max())))
        picture = Image.new("L", cut.shape[::-1])
        ImageDraw.Draw(picture).line(points, fill=1, width=width, joint="curve")
        drawn |= np.asarray(picture) > 0
    found = np.zeros_like(region)
    found[rows, columns] = (drawn & cut)[1:-1, 1:-1]
    return found


def path(region: Mask) -> list[tuple[int, int]]:
    """Cells of the path through the middle of a connected region [h,w], at most about 25 of them."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    core = largest(depth >= max(1.0, CORE * depth.max()))
    cost = (depth.max() / np.maximum(depth, 1)) ** 2
    cells = np.argwhere(core)
    numbers = np.full(region.shape, -1)
    numbers[core] = np.arange(len(cells))
    ends, lengths = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        there = cells + np.array((down, right))
        inside = ((there >= 0) & (there < region.shape)).all(1)
        here, there = cells[inside], there[inside]
        joined = core[tuple(there.T)]
        here, there = here[joined], there[joined]
        ends.append(np.stack([numbers[tuple(here.T)], numbers[tuple(there.T)]]))
        lengths.append(np.hypot(down, right) * (cost[tuple(here.T)] + cost[tuple(there.T)]) / 2)
    graph = coo_matrix((np.concatenate(lengths), tuple(np.concatenate(ends, 1))), [len(cells)] * 2).tocsr()
    first = farthest(graph, int(cost[core].argmin()))[0]
    last, before = farthest(graph, first)
    way = [last]
    while way[-1] != first:
        way.append(int(before[way[-1]]))
    step = max(1, len(way) // 24)
    return [(int(cells[each][0]), int(cells[each][1])) for each in [*way[::step], first]]


def farthest(graph: Any, start: int) -> tuple[int, NDArray[np.int32]]:
    """The node of a graph that is farthest from another, and the node before each on its way."""
    lengths, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    return int(np.where(np.isfinite(lengths), lengths, -1).argmax()), before


def drawn(name: str, folder: Path, count: int, seed: int) -> Iterator[Example]:
    """Objects of a set in random order, that of a custom dataset at most one from each photo."""
    rng = random.Random(f"{seed} {name}")
    examples = instances(folder, rng) if (folder / "annotations").is_dir() else parts(name, folder, rng)
    return (example for example, _ in zip(examples, range(count), strict=False))


def instances(folder: Path, rng: random.Random) -> Iterator[Example]:
    """Instances of COCO that are no crowd."""
    from pycocotools.coco import COCO

    found = []
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        annotations = COCO(str(path))
        for row in annotations.loadAnns(annotations.getAnnIds(iscrowd=False)):
            if row["image_id"] % 2 == 1 and row["area"] >= LEAST_AREA:
                found.append((path.stem.removeprefix("instances_"), annotations, row))
    rng.shuffle(found)
    for part, annotations, row in found:
        name = annotations.imgs[row["image_id"]]["file_name"]
        mask = annotations.annToMask(row).astype(bool)
        yield Example(name, load_image(folder / part / name), mask, np.zeros_like(mask))


def parts(name: str, folder: Path, rng: random.Random) -> Iterator[Example]:
    """Connected parts of the masks of a custom dataset, one of each photo."""
    masks = sorted((folder / "masks").glob("*.png"))[1::2]
    rng.shuffle(masks)
    photos = {path.stem: path for path in (folder / "images").iterdir()}
    for path in masks:
        mask = load_mask(path)
        ignored = mask == IGNORE
        found: list[Mask] = []
        for value in np.unique(mask[(mask > 0) & ~ignored]):
            numbers, count = ndimage.label(mask == value)
            areas = np.bincount(numbers.ravel())
            least = SMALL_SETS.get(name, LEAST_AREA)
            found += [numbers == number for number in range(1, count + 1) if areas[number] >= least]
        if found:
            yield Example(path.name, load_image(photos[path.stem]), rng.choice(found), ignored)


def summarised(objects: Sequence[Values], most: int) -> Values:
    """Figures of each set, of everyday objects, and of all."""
    names = list(dict.fromkeys(each["set"] for each in objects))
    groups = {name: [each for each in objects if each["set"] == name] for name in names}
    groups["everyday"] = [each for each in objects if each["set"] in EVERYDAY]
    groups["all"] = list(objects)
    return {name: figures(group, most) for name, group in groups.items() if group}


def figures(objects: Sequence[Values], most: int) -> Values:
    """Strokes to each goal (median with a 95% bootstrap interval, mean, share of failures), IoU, and seconds."""
    found: Values = {"objects": len(objects)}
    for goal in GOALS:
        needed = np.array([strokes_to(goal, each["iou"], most) for each in objects])
        low, high = interval(needed, np.median)
        found[f"to {goal:.2f}"] = {
            "median": float(np.median(needed)),
            "low": low,
            "high": high,
            "mean": round(float(needed.mean()), 2),
            "failed": round(float((needed > most).mean()), 3),
        }
    for strokes in (1, 2, 3, 5):
        found[f"iou {strokes}"] = round(float(np.mean([each["iou"][:strokes][-1] for each in objects])), 3)
    boxes = np.array([each["box"] for each in objects if each["box"] is not None])
    found["box"] = [round(value, 3) for value in (float(boxes.mean()), *interval(boxes, np.mean))]
    first = [each["seconds"][0] for each in objects]
    later = [value for each in objects for value in each["seconds"][1:]] or first
    found["seconds"] = {
        "first": round(float(np.median(first)), 2),
        "later": round(float(np.median(later)), 2),
        "95%": round(float(np.quantile([*first, *later], 0.95)), 2),
    }
    return found


def strokes_to(goal: float, ious: Sequence[float], most: int) -> int:
    """Strokes until the IoU is at least `goal` for the first time; `most` + 1 if it never is."""
    return next((number for number, value in enumerate(ious, 1) if value >= goal), most + 1)


def interval(values: NDArray[Any], of: Callable[[NDArray[Any]], Any]) -> tuple[float, float]:
    """95% bootstrap interval of a statistic of values [M]."""
    rng = np.random.default_rng(0)
    drawn = [float(of(rng.choice(values, len(values)))) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return round(float(low), 3), round(float(high), 3)


def table(record: Values) -> list[str]:
    """The table of the notebook's page."""
    heads = ("set", "objects", "strokes to 0.85", "never", "strokes to 0.90", "never", "IoU after 1, 3, 5 strokes")
    lines = [f"| {' | '.join((*heads, 'loose box', 'seconds: first, later, 95%'))} |", "|---" * 9 + "|"]
    for name, found in record["summary"].items():
        cells = [name, str(found["objects"])]
        for goal in GOALS:
            own = found[f"to {goal:.2f}"]
            cells += [f"{own['median']:g} ({own['low']:g} to {own['high']:g})", f"{100 * own['failed']:.0f}%"]
        cells.append(", ".join(f"{found[f'iou {strokes}']:.2f}" for strokes in (1, 3, 5)))
        cells.append("{:.2f} ({:.2f} to {:.2f})".format(*found["box"]))
        cells.append(", ".join(f"{found['seconds'][each]:.2f}" for each in ("first", "later", "95%")))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
