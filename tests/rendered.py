"""Small rendered datasets for tests: textured, coloured shapes on textured ground, with exact masks.

Each class has its own shape, colour and stripes, so that a network can learn it and a person can see what is wrong. The
same arguments give the same files, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

VOC_IDS = (1, 2, 6, 7, 8, 11, 12, 13, 16, 17)  # at least two classes of every PASCAL fold
CUSTOM_NAMES = ("disc", "block", "roof", "gem", "slab", "spire")
PALETTE = np.array([(0, 0, 0)] + [((67 * i) % 256, (131 * i) % 256, (29 * i) % 256) for i in range(1, 256)], np.uint8)


def render(
    class_ids: Sequence[int], seed: int, *, width: int = 160, height: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photo uint8 [H, W, 3] and index mask uint8 [H, W]: one object of each class side by side, each under 2 px of 255.

    A lone object covers more than 2,048 px at the sizes used here, and each of two more than 500 px.
    """
    rng = np.random.default_rng([len(class_ids), *class_ids, seed])
    rows, columns = np.mgrid[0:height, 0:width]
    ground = 110 + 25 * np.sin(columns / rng.uniform(5, 12) + rng.uniform(0, 6)) * np.cos(rows / rng.uniform(5, 12))
    photo = np.repeat(ground[:, :, None], 3, axis=2) + rng.uniform(-20, 20, 3)
    mask = np.zeros((height, width), np.uint8)
    cell = width / len(class_ids)
    for slot, class_id in enumerate(class_ids):
        radius = min(height, cell) / 2 * rng.uniform(0.72, 0.95)
        x = slot * cell + rng.uniform(radius, max(radius, cell - radius))
        y = rng.uniform(radius, max(radius, height - radius))
        inside = _silhouette(class_id, x, y, radius, width, height)
        core = _silhouette(class_id, x, y, radius - 2, width, height)
        stripes = 1 + 0.35 * np.sign(np.sin((columns + (class_id % 3) * rows) * np.pi / (3 + class_id % 5)))
        photo[inside] = (_colour(class_id) * stripes[:, :, None])[inside]
        mask[inside] = 255
        mask[core] = class_id
    photo += rng.normal(0, 4, photo.shape)
    return photo.clip(0, 255).astype(np.uint8), mask


def _colour(class_id: int) -> NDArray[np.float64]:
    turn = 2 * np.pi * (class_id * 0.381966)
    return 120 + 80 * np.cos(turn + np.array([0.0, 2.1, 4.2]))


def _silhouette(class_id: int, x: float, y: float, radius: float, width: int, height: int) -> NDArray[np.bool_]:
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    if class_id % 4 == 1:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    else:
        corners = {2: (45, 135, 225, 315), 3: (30, 150, 270), 0: (0, 60, 120, 180, 240, 300)}[class_id % 4]
        angles = np.radians(corners)
        pen.polygon([(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles], fill=1)
    return np.asarray(canvas)


def save_mask(mask: NDArray[np.uint8], path: Path) -> None:
    """Palette PNG whose values are the mask's."""
    picture = Image.fromarray(mask).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(PALETTE.tobytes())
    picture.save(path)


def _scenes(
    class_ids: Sequence[int], per_class: int, mixed: int, seed: int
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """`per_class` pictures of each class alone, then `mixed` pictures of two classes; every third one upright."""
    shown = [(class_id,) for _ in range(per_class) for class_id in class_ids]
    shown += [(class_ids[i % len(class_ids)], class_ids[(i + 3) % len(class_ids)]) for i in range(mixed)]
    sizes = [(160, 128), (176, 144), (128, 160)]
    return [render(ids, 1000 * seed + i, width=sizes[i % 3][0], height=sizes[i % 3][1]) for i, ids in enumerate(shown)]


def make_voc(
    root: Path, *, class_ids: Sequence[int] = VOC_IDS, per_class: int = 4, mixed: int = 4, seed: int = 0
) -> Path:
    """VOC layout at `root`: JPEGImages, SegmentationClassAug, ImageSets/Segmentation/{train,val}.txt (equal lists)."""
    folders = [root / name for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i, (photo, mask) in enumerate(_scenes(class_ids, per_class, mixed, seed)):
        names.append(f"2007_{i:06d}")
        Image.fromarray(photo).save(folders[0] / f"{names[-1]}.jpg", quality=92)
        save_mask(mask, folders[1] / f"{names[-1]}.png")
    for part in ("train", "val"):
        (folders[2] / f"{part}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return root


def make_custom(
    root: Path,
    *,
    class_names: Sequence[str] = CUSTOM_NAMES,
    per_class: int = 4,
    mixed: int = 4,
    seed: int = 0,
    folds: Mapping[int, Sequence[str]] | None = None,
) -> Path:
    """The custom layout at `root`: images (PNG), masks, classes.txt and, where given, folds.yaml."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    class_ids = range(1, len(class_names) + 1)
    for i, (photo, mask) in enumerate(_scenes(class_ids, per_class, mixed, seed)):
        Image.fromarray(photo).save(root / "images" / f"photo {i:03d}.png")
        save_mask(mask, root / "masks" / f"photo {i:03d}.png")
    (root / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
    if folds is not None:
        lines = [f"{fold}: [{', '.join(names)}]" for fold, names in folds.items()]
        (root / "folds.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed run lengths, column after column, of zeros first: written from the format's definition."""
    runs = [(bool(value), len(list(same))) for value, same in groupby(mask.T.ravel().tolist())]
    counts = [count for _, count in runs]
    return {"size": list(mask.shape), "counts": [0, *counts] if runs[0][0] else counts}


def coco_categories() -> list[dict[str, Any]]:
    """80 categories with gaps in their ids, as COCO's, and not in order."""
    named = [{"id": class_id + class_id // 8, "name": f"thing {class_id}"} for class_id in range(1, 81)]
    return named[40:] + named[:40]


def make_coco(
    root: Path, *, class_ids: Sequence[int], per_class: int = 3, mixed: int = 2, seed: int = 0, year: int = 2017
) -> Path:
    """COCO's layout at `root`: train2017/, val2017/, annotations/instances_{train,val}2017.json; other photos in each.

    Objects are run lengths, and the ring of 255 around them is a crowd of the first class, so that `masks/NAME.npy`,
    the rendered masks, are what has to come out.
    """
    (root / "annotations").mkdir(parents=True)
    (root / "masks").mkdir()
    for number, part in enumerate(("train", "val")):
        (root / f"{part}{year}").mkdir()
        images, annotations = [], []
        for i, (photo, mask) in enumerate(_scenes(class_ids, per_class, mixed, seed + number)):
            image_id = 1000 * (number + 1) + 7 * i
            name = f"{image_id:012d}"
            Image.fromarray(photo).save(root / f"{part}{year}" / f"{name}.jpg", quality=92)
            np.save(root / "masks" / f"{name}.npy", mask)
            height, width = mask.shape
            images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
            shown = [label for label in np.unique(mask).tolist() if label not in (0, 255)]
            for label in (255, *shown):
                class_id = shown[0] if label == 255 else label
                annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": int(label == 255)}
                annotation |= {"category_id": class_id + class_id // 8, "segmentation": run_lengths(mask == label)}
                annotation["area"] = int((mask == label).sum())
                annotations.append(annotation)
        content = {"images": images, "annotations": annotations, "categories": coco_categories()}
        (root / "annotations" / f"instances_{part}{year}.json").write_text(json.dumps(content))
    return root


def make_fss(root: Path, lists: Mapping[str, Sequence[str]], *, per_class: int = 3, size: int = 96) -> Path:
    """FSS-1000's layout at `root`: CLASS/N.jpg, CLASS/N.png (white on black, RGB, soft edges) and splits.txt."""
    root.mkdir(parents=True, exist_ok=True)
    names = [name for listed in lists.values() for name in listed]
    for class_id, name in enumerate(names, start=1):
        (root / name).mkdir()
        for i in range(1, per_class + 1):
            photo, mask = render(((class_id - 1) % 250 + 1,), i, width=size, height=size)
            Image.fromarray(photo).save(root / name / f"{i}.jpg", quality=92)
            soft = np.where(mask == 255, 100, np.where(mask == 0, 0, 255)).astype(np.uint8)
            Image.fromarray(soft).convert("RGB").save(root / name / f"{i}.png")
    sections = (f"[{part}]\n" + "".join(f"{name}\n" for name in listed) for part, listed in lists.items())
    (root / "splits.txt").write_text("\n".join(sections), encoding="utf-8")
    return root
