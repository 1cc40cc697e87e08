"""Makes the training set of the bundled model, a custom dataset, from voc-mini and coco-mini.

    python scripts/make_union.py --voc VOC2012 --voc-list balanced --coco coco --out union

It holds the photos of both, except the program's example photos. Each photo has one index mask of COCO's 80 classes,
which include VOC's 20. Crops around single objects (`NAME~0`, `NAME~1`) add pictures with larger objects. Fold 0 of
`folds.yaml` names the classes that the bundled model never sees, so that it can be scored on them. These are the demo's
classes and every fifth other class of COCO, except person and cat.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rifenet import IGNORE
from rifenet.data.class_names import same_class
from rifenet.data.folds import VOC_CLASSES

LEAST_CROP = 2_500  # pixels of the object
CROPS_OF_A_CLASS = 60  # from each source

Photo = tuple[str, Path, NDArray[np.uint8]]


def coco_photos(root: Path, left_out: set[int]) -> tuple[list[str], Iterator[Photo]]:
    """Class names by category id, and (name, file, mask). Smaller objects lie on larger ones; crowds are ignored."""
    from pycocotools.coco import COCO

    parts = {part: COCO(root / "annotations" / f"instances_{part}2017.json") for part in ("train", "val")}
    numbers = sorted(parts["train"].cats)

    def photos() -> Iterator[Photo]:
        for part, coco in parts.items():
            for image in sorted(set(coco.imgs) - left_out):
                mask = np.zeros((coco.imgs[image]["height"], coco.imgs[image]["width"]), np.uint8)
                for annotation in sorted(coco.imgToAnns[image], key=lambda one: (not one["iscrowd"], -one["area"])):
                    value = IGNORE if annotation["iscrowd"] else numbers.index(annotation["category_id"]) + 1
                    mask[coco.annToMask(annotation) > 0] = value
                name = coco.imgs[image]["file_name"]
                yield f"coco_{Path(name).stem}", root / f"{part}2017" / name, mask

    return [parts["train"].cats[number]["name"] for number in numbers], photos()


def same_classes(name: str, classes: list[str]) -> list[int]:
    """Numbers, from 1, of the classes that mean the same as `name`: one class is one class in all sets."""
    return [number for number, other in enumerate(classes, start=1) if same_class(name, other)]


def voc_photos(root: Path, list_name: str, classes: list[str]) -> Iterator[Photo]:
    """(name, file, mask) of each photo of the list, with classes numbered as in COCO."""
    numbers = np.arange(256, dtype=np.uint8)
    numbers[1:21] = [same_classes(name, classes)[0] for name in VOC_CLASSES]
    for name in (root / "ImageSets" / "Segmentation" / f"{list_name}.txt").read_text().split():
        mask = np.asarray(Image.open(root / "SegmentationClassAug" / f"{name}.png"))
        yield f"voc_{name}", root / "JPEGImages" / f"{name}.jpg", numbers[mask]


def crops(mask: NDArray[np.uint8], rng: random.Random, seen: Counter[int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) around each class's two largest objects, about 1.25 to 2.2 times as wide."""
    height, width = mask.shape
    for value in sorted(set(np.unique(mask).tolist()) - {0, IGNORE}):
        parts, _ = ndimage.label(mask == value)
        sizes = np.bincount(parts.ravel())[1:]
        for part in np.argsort(-sizes, kind="stable")[:2]:
            if sizes[part] < LEAST_CROP or seen[value] >= CROPS_OF_A_CLASS:
                continue
            rows, columns = np.nonzero(parts == part + 1)
            spans = [(int(axis.min()), int(axis.max()) + 1) for axis in (rows, columns)]
            side = max(end - start for start, end in spans) * rng.uniform(1.25, 2.2)
            box = []
            for (start, end), limit in zip(spans, (height, width), strict=True):
                length = min(limit, max(side * rng.uniform(0.8, 1.0), (end - start) * 1.1))
                shifted = (start + end - length) / 2 + rng.uniform(-0.5, 0.5) * (length - (end - start))
                first = int(min(max(shifted, 0), limit - length))
                box.append((first, int(first + length)))
            (top, bottom), (left, right) = box
            if (bottom - top) * (right - left) <= 0.8 * height * width:
                seen[value] += 1
                yield left, top, right, bottom


def main() -> None:
    """Writes images/, masks/, classes.txt and folds.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--voc-list", default="balanced")
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    examples = json.loads((files("rifenet") / "examples" / "examples.json").read_text())
    classes, photos = coco_photos(options.coco, {photo["coco_id"] for photo in examples["photos"]})
    for folder in ("images", "masks"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)

    def save(name: str, picture: Image.Image, mask: NDArray[np.uint8]) -> None:
        picture.save(options.out / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(options.out / "masks" / f"{name}.png")

    for source in (photos, voc_photos(options.voc, options.voc_list, classes)):
        seen: Counter[int] = Counter()
        for name, path, mask in source:
            picture = Image.open(path).convert("RGB")
            save(name, picture, mask)
            for number, (left, top, right, bottom) in enumerate(crops(mask, rng, seen)):
                save(f"{name}~{number}", picture.crop((left, top, right, bottom)), mask[top:bottom, left:right])
    (options.out / "classes.txt").write_text("\n".join(classes) + "\n")
    shown = [classes[number - 1] for name in examples["classes"] for number in same_classes(name, classes)]
    others = [name for name in classes if name not in shown]
    unseen = sorted({*shown, *(name for name in others[4::5] if name not in ("person", "cat"))}, key=classes.index)
    (options.out / "folds.yaml").write_text(json.dumps({0: unseen}).replace('"0"', "0") + "\n")
    print(f"{len(list((options.out / 'images').iterdir()))} pictures; never seen in fold 0: {', '.join(unseen)}")


if __name__ == "__main__":
    main()
