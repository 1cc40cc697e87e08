"""Makes the training set of the bundled model, a custom dataset, from several sets of photos and from made pictures.

    python scripts/make_union.py --voc VOC2012 --voc-list balanced --coco coco \
        --sets coseg icoseg clothes nuclei magnetic-tile --out union

It holds the photos of all sets, except the program's example photos. Each photo has one index mask. A class is one
class, whatever a set calls it (`rifenet.data.class_names`). Crops around single objects (`NAME~0`, `NAME~1`) add
pictures with larger objects; `--made` adds classes of strokes, spots and regions (`made_classes.py`). A set marks its
own classes only, so `unmarked.yaml` names the classes that its photos may show without a mark. Fold 0 of `folds.yaml`
names the classes that the bundled model never sees, so that it can be scored on them. These are the demo's classes and
every fifth other class of COCO, except person and cat. Training also leaves out photos of what is nearly one of them,
as a panda is a bear (`ImageIndex.held_back`).
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from made_classes import blobs, regions, strokes
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rifenet import IGNORE
from rifenet.data.class_names import canonical, related, same_class
from rifenet.data.folds import VOC_CLASSES

EVERYDAY = {"coco", "voc", "coseg", "icoseg", "clothes"}
EVERY = {"clothes": 2}  # every second photo: with all of them, a quarter of the episodes would be of clothes
ENLARGED = 480  # pixels of the shorter side of sets in the custom layout, as of most photos of COCO
MADE = {"strokes": (20, 7), "spots": (20, 7), "region": (30, 5)}  # classes of each kind, pictures of each class

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


def enlarged(picture: Image.Image, mask: Image.Image) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Picture and mask with a shorter side of at least `ENLARGED` pixels."""
    scale = max(1.0, ENLARGED / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC), np.asarray(mask.resize(size, Image.Resampling.NEAREST))


def set_photos(root: Path, classes: list[str]) -> Iterator[tuple[str, Image.Image, NDArray[np.uint8]]]:
    """(name, picture, mask) of a set in the custom layout, enlarged; adds its classes to `classes`."""
    own = [canonical(name) for name in (root / "classes.txt").read_text().split("\n") if name]
    classes += [name for name in own if name not in classes]
    numbers = np.arange(256, dtype=np.uint8)
    numbers[1 : len(own) + 1] = [classes.index(name) + 1 for name in own]
    for path in sorted((root / "images").iterdir())[:: EVERY.get(root.name, 1)]:
        picture, mask = enlarged(Image.open(path).convert("RGB"), Image.open(root / "masks" / f"{path.stem}.png"))
        yield f"{root.name}_{path.stem}", picture, numbers[mask]


def may_show_unmarked(own: dict[str, set[str]], classes: Sequence[str]) -> dict[str, list[str]]:
    """Classes that photos of a set may show without a mark, by the start of the photos' names.

    A photo of `coseg` marks one class of several, so nothing is known of all others. Elsewhere, classes of other sets
    of everyday photos are unknown: there are shoes and hair in COCO, persons and chairs in `clothes`. So is one of two
    classes of a set that overlap, as a mask marks each pixel once. Other sets, of cells and tiles, show nothing else.
    """
    everyday = set().union(*(own.get(name, ()) for name in EVERYDAY))
    unknown = {"made_": {name for name in classes if not name.startswith("made ")}}
    for name in EVERYDAY & own.keys():
        twofold = {one for one in own[name] if any(one != other and related(one, other) for other in own[name])}
        unknown[f"{name}_"] = everyday if name == "coseg" else everyday - own[name] | twofold
    # Any photo may show a patch of what is a region's class elsewhere.
    unknown[""] = {name for name in classes if name.startswith("made region")}
    return {start: sorted(unknown[start], key=classes.index) for start in sorted(unknown)}


def made_pictures(
    photos: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]], rng: np.random.Generator
) -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """(class, name, picture, mask) of the made classes; `photos`: each with where it shows no marked object."""
    grounds = [photo for photo, _ in photos]
    for kind, make in (("strokes", strokes), ("spots", blobs)):
        classes, count = MADE[kind]
        for number in range(classes):
            for part, (picture, mask) in enumerate(make(rng, count, grounds)):
                yield f"made {kind} {number}", f"made_{kind}{number}~{part}", picture, mask
    classes, count = MADE["region"]
    number = 0
    for place in rng.permutation(len(photos)):
        cuts = regions(*photos[place], rng, count) if number < classes else []
        for part, (picture, mask) in enumerate(cuts):
            yield f"made region {number}", f"made_region{number}~{part}", picture, mask
        number += bool(cuts)


class Union:
    """The folder that is written: `classes` grows with the sets, `own` names the classes that each set marks."""

    def __init__(self, folder: Path, classes: list[str], unseen: Sequence[str]) -> None:
        self.folder, self.classes, self.unseen = folder, classes, unseen
        self.own = {
            "coco": set(classes),
            "voc": {name for name in classes if any(same_class(name, other) for other in VOC_CLASSES)},
        }
        self.grounds: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = []
        self.rng = random.Random(0)
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def save(self, name: str, picture: Image.Image, mask: NDArray[np.uint8]) -> None:
        """Writes one picture and its mask."""
        picture.save(self.folder / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(self.folder / "masks" / f"{name}.png")

    def add_scenes(self, photos: Iterator[Photo]) -> None:
        """Adds photos and crops around their objects. Photos without a class never seen serve as grounds."""
        seen: Counter[int] = Counter()
        never = [self.classes.index(name) + 1 for name in self.unseen]
        for name, path, mask in photos:
            picture = Image.open(path).convert("RGB")
            self.save(name, picture, mask)
            for number, (left, top, right, bottom) in enumerate(crops(mask, self.rng, seen)):
                self.save(f"{name}~{number}", picture.crop((left, top, right, bottom)), mask[top:bottom, left:right])
            if not np.isin(mask, never).any():
                self.grounds.append((np.asarray(picture), mask == 0))

    def add_set(self, root: Path) -> None:
        """Adds a set in the custom layout."""
        shown: set[int] = set()
        for name, picture, mask in set_photos(root, self.classes):
            self.save(name, picture, mask)
            shown.update(np.unique(mask).tolist())
        self.own[root.name] = {self.classes[value - 1] for value in shown - {0, IGNORE}}

    def add_made(self) -> None:
        """Adds the made classes."""
        for class_name, name, pixels, inside in made_pictures(self.grounds, np.random.default_rng(0)):
            self.classes += [class_name] if class_name not in self.classes else []
            labels = (inside * (self.classes.index(class_name) + 1)).astype(np.uint8)
            self.save(name, *enlarged(Image.fromarray(pixels), Image.fromarray(labels)))

    def finish(self) -> None:
        """Writes classes.txt, folds.yaml and, where sets differ in what they mark, unmarked.yaml."""
        (self.folder / "classes.txt").write_text("\n".join(self.classes) + "\n")
        (self.folder / "folds.yaml").write_text(json.dumps({0: self.unseen}).replace('"0"', "0") + "\n")
        if len(self.classes) > len(self.own["coco"]):
            unmarked = may_show_unmarked(self.own, self.classes)
            (self.folder / "unmarked.yaml").write_text(json.dumps(unmarked, indent=1) + "\n")


def main() -> None:
    """Writes images/, masks/, classes.txt, folds.yaml and unmarked.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--voc-list", default="balanced")
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--sets", type=Path, nargs="*", default=[], help="folders of sets in the custom layout")
    parser.add_argument("--made", action="store_true", help="add made classes")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    examples = json.loads((files("rifenet") / "examples" / "examples.json").read_text())
    classes, photos = coco_photos(options.coco, {photo["coco_id"] for photo in examples["photos"]})
    shown = [classes[number - 1] for name in examples["classes"] for number in same_classes(name, classes)]
    others = [name for name in classes if name not in shown]
    unseen = sorted({*shown, *(name for name in others[4::5] if name not in ("person", "cat"))}, key=classes.index)
    union = Union(options.out, classes, unseen)
    union.add_scenes(photos)
    union.add_scenes(voc_photos(options.voc, options.voc_list, classes))
    for root in options.sets:
        union.add_set(root)
    if options.made:
        union.add_made()
    union.finish()
    print(f"{len(list((options.out / 'images').iterdir()))} pictures; never seen in fold 0: {', '.join(unseen)}")


if __name__ == "__main__":
    main()
