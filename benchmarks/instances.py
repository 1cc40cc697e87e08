"""Measures how well objects of a class are told apart and counted: count error and AP50.

    python -m benchmarks.instances nuclei --root nuclei --out docs/results/instances/nuclei.json
    python -m benchmarks.instances rendered --root nuclei --out docs/results/instances/rendered.json
    python -m benchmarks.instances parts --root parts --out docs/results/instances/parts.json
    python -m benchmarks.instances coco --root coco --out docs/results/instances/coco.json

`nuclei`, `parts`: photos in the custom layout. Their masks do not tell touching objects apart, so each connected part
of a mask counts as one object. `rendered`: pictures made of nuclei cut out of the photos, which touch and overlap, so
that every object is known. `coco`: COCO's own objects, of a photo and a class at a time.

Every fourth nuclei photo and every COCO photo of an even id served to choose the settings, and is left out. Shots and
queries of `nuclei` and `rendered` are dark-field pictures, as of one microscope.

"truth": the true masks are taken apart, by the shapes in other photos' masks. "model": the model learns 1 and 5 shots.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.measure import label, regionprops

from benchmarks.common import Values, add_model, model_record, parser, write_record
from rifenet.data.transforms import place, resize_mask
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.run_lengths import encode_runs, pack_runs
from rifenet.metrics import mean_interval
from rifenet.segmenting.instances import Instance, instances, shapes_of
from rifenet.segmenting.segmenter import Segmenter

SHOTS = (1, 5)
DARK = 70  # mean level of a picture; those of dark-field microscopy are below
LEAST = 20  # pixels of an object of `nuclei` and `parts`
LEAST_SHARE = 0.002  # of the photo, of an object of COCO
OPTIONS: dict[str, dict[str, Any]] = {
    "nuclei": {"tiles": True, "refine": True},
    "rendered": {"tiles": True, "refine": True},
    "parts": {},
    "coco": {},
}

PHOTOS = {
    "nuclei": "nuclei, dark field, connected parts as objects",
    "rendered": "rendered overlaps of nuclei",
    "parts": "parts",
    "coco": "COCO",
}
FROM = {"truth": "true masks", "1 shots": "model, 1 shot", "5 shots": "model, 5 shots"}


class Scene(NamedTuple):
    """A photo [H,W,3], and its objects [H,W]: 0 none, i the i-th."""

    name: str
    photo: NDArray[np.uint8]
    labels: NDArray[np.int32]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """All objects as one mask."""
        return (self.labels > 0).astype(np.uint8)


class Trial(NamedTuple):
    """A class's scenes: the first ones are shots, the others queries."""

    shots: list[Scene]
    queries: list[Scene]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures one set and writes its figures."""
    words = parser(__doc__)
    words.add_argument("set", choices=tuple(OPTIONS))
    words.add_argument("--root", type=Path, required=True)
    words.add_argument("--trials", type=int, default=12, help="of the model; as many times five with true masks")
    words.add_argument("--queries", type=int, default=10, help="of a trial")
    add_model(words)
    options = words.parse_args(argv)
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    record: Values = {
        "set": options.set,
        "model": model_record(segmenter.engine),
        "git_commit": git_commit(),
        "seed": options.seed,
        "options": OPTIONS[options.set],
    }
    for what in ("truth", *SHOTS):
        count = options.trials * (5 if what == "truth" else 1)
        shots = 5 if what == "truth" else int(what)
        rows = []
        for trial in trials_of(options.set, options.root, shots, count, options.queries, options.seed):
            found = apart(trial, segmenter.engine.size) if what == "truth" else segmented(segmenter, trial, options.set)
            rows += [(scene, list(objects)) for scene, objects in zip(trial.queries, found, strict=True)]
            print(what, len(rows), flush=True)
        record["truth" if what == "truth" else f"{shots} shots"] = figures(rows)
        write_record(options.out, record)
    print("\n".join(table([record])))


def apart(trial: Trial, size: int) -> Iterator[Sequence[Instance]]:
    """The objects in the true masks of the queries, by the shapes of the shots' objects."""
    shapes = shapes_of(np.stack([resize_mask(shot.mask, place(*shot.mask.shape, size)) for shot in trial.shots]))
    for scene in trial.queries:
        inside = scene.labels > 0
        yield instances(inside, inside.astype(np.float32), shapes)


def segmented(segmenter: Segmenter, trial: Trial, kind: str) -> Iterator[Sequence[Instance]]:
    """The objects that the model finds in the queries; also where it takes the class for absent."""
    shots = [scene.photo for scene in trial.shots], [scene.mask for scene in trial.shots]
    segmenter.learn("object", *shots, replace=True, fit=False)
    photos = (scene.photo for scene in trial.queries)
    for result in segmenter.segment_many(photos, batch_size=1, keep_absent=True, **OPTIONS[kind]):
        yield result.instances("object")


def trials_of(kind: str, root: Path, shots: int, count: int, queries: int, seed: int) -> Iterator[Trial]:
    """Trials, each of which depends on the seed and its number alone."""
    if kind == "coco":
        yield from coco_trials(root, shots, count, seed)
        return
    groups = [dark_nuclei(root)] if kind != "parts" else list(scenes_by_class(root).values())
    for number in range(len(groups) if kind == "parts" else max(1, count // 6)):
        rng = Random(f"{seed} {kind} {shots} {number}")
        scenes = rng.sample(groups[number % len(groups)], len(groups[number % len(groups)]))
        rest = scenes[shots:]
        if kind == "rendered":
            rest = list(rendered(rest, 20, rng))
        yield Trial(scenes[:shots], rest[: 20 if kind == "rendered" else queries])
        if kind == "rendered":
            return


def scenes_by_class(root: Path) -> dict[int, list[Scene]]:
    """Scenes of each class of a set in the custom layout; each connected part of a mask is an object."""
    found: dict[int, list[Scene]] = {}
    for path in sorted((root / "masks").iterdir()):
        with Image.open(path) as picture:
            mask = np.asarray(picture)
        with Image.open(next((root / "images").glob(f"{path.stem}.*"))) as picture:
            photo = np.asarray(picture.convert("RGB"))
        for value in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
            found.setdefault(value, []).append(
                Scene(path.stem, photo, without_small(label(mask == value, connectivity=1)))
            )
    return found


def without_small(labels: NDArray[Any], least: float = LEAST) -> NDArray[np.int32]:
    """Labels of the objects of at least so many pixels, counted from 1."""
    kept = np.flatnonzero(np.bincount(labels.ravel()) >= least)
    numbers = np.zeros(labels.max() + 1, np.int32)
    numbers[kept[kept > 0]] = np.arange(1, np.count_nonzero(kept) + 1)
    return numbers[labels]


def dark_nuclei(root: Path) -> list[Scene]:
    """Dark-field pictures of `nuclei` without every fourth photo."""
    (scenes,) = scenes_by_class(root).values()
    return [scene for number, scene in enumerate(scenes) if number % 4 and scene.photo.mean() < DARK]


def rendered(scenes: Iterable[Scene], count: int, rng: Random) -> Iterator[Scene]:
    """`count` pictures of nuclei cut out of one scene each, turned and placed so that they touch and overlap.

    Only compact parts inside the photo are cut out, which are single nuclei. Two of three nuclei touch another. At most
    a fifth of a nucleus lies over others, and those keep at least 60% of their pixels.
    """
    usable = [(scene, cuts) for scene in scenes if len(cuts := cut_outs(scene)) >= 3]
    for number in range(count):
        scene, cuts = usable[number % len(usable)]
        yield composed(scene, cuts, np.random.default_rng(rng.randrange(2**32)))


def cut_outs(scene: Scene) -> list[tuple[NDArray[np.bool_], NDArray[np.uint8]]]:
    """Masks and pixels of the single nuclei of a scene."""
    height, width = scene.labels.shape
    found = []
    for region in regionprops(scene.labels):
        top, left, bottom, right = region.bbox
        if region.solidity >= 0.93 and region.area >= 30 and top > 0 and left > 0 and bottom < height and right < width:
            found.append((region.image, scene.photo[region.slice]))
    return found


def composed(
    scene: Scene, cuts: Sequence[tuple[NDArray[np.bool_], NDArray[np.uint8]]], rng: np.random.Generator, most: int = 24
) -> Scene:
    """A picture of up to `most` nuclei on ground like the scene's."""
    height, width = scene.labels.shape
    ground = scene.photo[~binary_dilation(scene.labels > 0, iterations=4)]
    noise = ground[rng.integers(len(ground), size=height * width)].reshape(height, width, 3)
    picture = gaussian_filter(noise.astype(np.float64), (1, 1, 0))
    labels = np.zeros((height, width), np.int32)
    placed = 0
    for _ in range(4000):
        turns = int(rng.integers(4))
        shape, pixels = (np.rot90(part, turns) for part in cuts[rng.integers(len(cuts))])
        if placed == most or min(height - shape.shape[0], width - shape.shape[1]) < 1:
            break
        top, left = rng.integers(height - shape.shape[0]), rng.integers(width - shape.shape[1])
        where = np.s_[top : top + shape.shape[0], left : left + shape.shape[1]]
        if fits(labels, labels[where], shape, touching=placed % 3 > 0):
            placed += 1
            labels[where][shape] = placed
            picture[where][shape] = pixels[shape]
    return Scene(f"of {scene.name}", picture.clip(0, 255).astype(np.uint8), labels)


def fits(labels: NDArray[np.int32], there: NDArray[np.int32], shape: NDArray[np.bool_], touching: bool) -> bool:
    """Whether a nucleus may lie over what is `there`."""
    under = there[shape]
    if touching != bool((there[binary_dilation(shape)] > 0).any()) or (under > 0).mean() > 0.2:
        return False
    hidden = np.bincount(under)
    return all(hidden[below] <= 0.4 * (labels == below).sum() for below in np.unique(under[under > 0]))


def coco_trials(root: Path, shots: int, count: int, seed: int) -> Iterator[Trial]:
    """A class, a photo that shows it and others as shots, drawn at random."""
    by_class: dict[str, list[Scene]] = {}
    for name, scene in coco_scenes(root):
        by_class.setdefault(name, []).append(scene)
    pairs = [(name, scene.name) for name, scenes in by_class.items() if len(scenes) > shots for scene in scenes]
    for name, query in Random(f"{seed} coco {shots}").sample(pairs, min(count, len(pairs))):
        others = [scene for scene in by_class[name] if scene.name != query]
        chosen = Random(f"{seed} {name} {query} {shots}").sample(others, shots)
        yield Trial(chosen, [scene for scene in by_class[name] if scene.name == query])


def coco_scenes(root: Path) -> Iterator[tuple[str, Scene]]:
    """Class and scene, of photos of odd ids; a smaller object lies on a larger one."""
    from pycocotools import mask as masks

    for part in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{part}2017.json").read_text(encoding="utf-8"))
        names = {row["id"]: row["name"] for row in content["categories"]}
        rows: dict[tuple[int, int], list[Values]] = {}
        for row in content["annotations"]:
            rows.setdefault((row["image_id"], row["category_id"]), []).append(row)
        images = {row["id"]: row for row in content["images"] if row["id"] % 2}
        for (image_id, category), own in rows.items():
            path = root / f"{part}2017" / images.get(image_id, {}).get("file_name", "")
            if not path.is_file() or any(row["iscrowd"] for row in own):
                continue
            with Image.open(path) as picture:
                photo = np.asarray(picture.convert("RGB"))
            labels = np.zeros(photo.shape[:2], np.int32)
            for number, row in enumerate(sorted(own, key=lambda row: -row["area"]), 1):
                runs = masks.merge(masks.frPyObjects(row["segmentation"], *labels.shape))
                labels[masks.decode(runs) > 0] = number
            labels = without_small(labels, LEAST_SHARE * labels.size)
            if labels.any():
                yield names[category], Scene(str(image_id), photo, labels)


def figures(rows: Sequence[tuple[Scene, Sequence[Instance]]]) -> Values:
    """Count error and AP50 of scenes and what was found in them.

    `count_error` is the mean over photos of |found - true| / true, with a 95% bootstrap interval; `total_error` that of
    the sums.
    """
    true = np.array([scene.labels.max() for scene, _ in rows], np.float64)
    found = np.array([len(objects) for _, objects in rows], np.float64)
    errors = np.abs(found - true) / true
    return {
        "queries": len(rows),
        "objects": int(true.sum()),
        "found": int(found.sum()),
        "count_error": round(float(errors.mean()), 4),
        "interval": [round(value, 4) for value in mean_interval(errors)],
        "median_error": round(float(np.median(errors)), 4),
        "total_error": round(float(abs(found.sum() - true.sum()) / true.sum()), 4),
        "ap50": round(ap50(rows), 4),
        "counts": [[int(a), int(b)] for a, b in zip(true, found, strict=True)],
    }


def table(records: Iterable[Values]) -> list[str]:
    """The table of the notebook's page."""
    heads = ("photos", "from", "queries", "objects", "found", "count error", "median", "total", "AP50")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for record in sorted(records, key=lambda each: list(PHOTOS).index(each["set"])):
        for what, name in FROM.items():
            if what not in record:
                continue
            row = record[what]
            low, high = (100 * each for each in row["interval"])
            counts = [str(row[each]) for each in ("queries", "objects", "found")]
            rest = [f"{100 * row[each]:.1f}" for each in ("median_error", "total_error", "ap50")]
            cells = [PHOTOS[record["set"]], name, *counts, f"{100 * row['count_error']:.1f} ({low:.1f} to {high:.1f})"]
            lines.append(f"| {' | '.join([*cells, *rest])} |")
    return lines


def ap50(rows: Sequence[tuple[Scene, Sequence[Instance]]]) -> float:
    """Average precision of the masks at IoU 0.5, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, found = [], []
    for image_id, (scene, objects) in enumerate(rows, 1):
        for number in range(1, int(scene.labels.max()) + 1):
            truth = {**_annotation(scene.labels == number, image_id), "id": len(annotations) + 1, "iscrowd": 0}
            annotations.append(truth)
        found += [{**_annotation(each.mask, image_id), "score": each.score} for each in objects]
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": number, "height": scene.labels.shape[0], "width": scene.labels.shape[1]}
                for number, (scene, _) in enumerate(rows, 1)
            ],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": annotations,
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found) if found else COCO(), "segm")
        judged.params.iouThrs = np.array([0.5])
        judged.params.maxDets = [10_000]
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.evaluate()
        judged.accumulate()
    return float(judged.eval["precision"].mean())


def _annotation(mask: NDArray[np.bool_], image_id: int) -> Values:
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {
        "image_id": image_id,
        "category_id": 1,
        "segmentation": {"size": list(mask.shape), "counts": pack_runs(encode_runs(mask))},
        "area": len(rows),
        "bbox": [int(each) for each in box],
    }


if __name__ == "__main__":
    main()
