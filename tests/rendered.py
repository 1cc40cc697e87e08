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


def make_lvis(root: Path, *, classes: int = 24) -> Path:
    """LVIS v1's layout at `root`: annotations/lvis_v1_{train,val}.json over COCO's photos in coco/{train,val}2017/.

    A photo shows three classes: a wide block, a disc wholly in it, and a slab that overlaps both. The
    layers of all photos are in masks/NAME.npz by category id. Photos have an address and no name of a file. Odd on
    purpose: class 3 is in one photo of the test part alone, one photo of the test part lies in train2017/, category ids
    have gaps and are not in order, and the last category is nowhere.
    """
    for folder in ("annotations", "masks", "coco/train2017", "coco/val2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    categories = [{"id": 2 * number + 1, "name": f"thing_{number:02d}"} for number in range(1, classes + 1)]
    for part, first in (("train", 5000), ("val", 100)):
        images, annotations = [], []
        for number in range(2 * classes // 3 if part == "val" else classes):
            image_id = first + number
            folder = "train2017" if part == "train" or number == 1 else "val2017"
            shown = [categories[(3 * number + turn) % (classes - 1)]["id"] for turn in range(3)]
            if part == "val" and number >= classes // 3:
                shown = [each for each in shown if each != 7] or [9]
            layers = _lvis_layers(shown, number)
            name = f"{image_id:012d}"
            photo = render((number % 30 + 1,), image_id, width=90, height=70)[0]
            Image.fromarray(photo).save(root / "coco" / folder / f"{name}.jpg")
            np.savez(root / "masks" / f"{name}.npz", **{str(key): mask for key, mask in layers.items()})
            url = f"http://images.cocodataset.org/{folder}/{name}.jpg"
            images.append({"id": image_id, "coco_url": url, "width": 90, "height": 70, "neg_category_ids": []})
            for category, mask in layers.items():
                halves = np.zeros((2, *mask.shape), bool)
                halves[0, :35], halves[1, 35:] = mask[:35], mask[35:]
                for half in halves:
                    row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
                    annotations.append(row | {"segmentation": run_lengths(half), "area": int(half.sum())})
        content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
        (root / "annotations" / f"lvis_v1_{part}.json").write_text(json.dumps(content))
    return root


def _lvis_layers(shown: Sequence[int], number: int) -> dict[int, NDArray[np.bool_]]:
    rows, columns = np.mgrid[0:70, 0:90]
    shift = number % 7
    block = (rows > 10) & (rows < 60) & (columns > 5 + shift) & (columns < 70)
    disc = (rows - 35) ** 2 + (columns - 35 - shift) ** 2 < 15**2
    slab = (rows > 30 + shift) & (rows < 45) & (columns > 30)
    return dict(zip(shown, (block, disc, slab), strict=False))


def make_paco(root: Path) -> Path:
    """PACO-LVIS's layout at `root`: annotations/paco_lvis_v1_{train,val}.json; photos in coco/{train,val}2017/.

    Two cups a photo, each with a rim and a handle that overlap, the second with a lid, too. The rim reaches out of its
    cup's box. Layers of all objects, in the box, are in masks/PHOTO~OBJECT.npz by class name.
    """
    names = ["cup", "cup:rim", "cup:handle", "cup:lid", "cup:logo", "pan", "pan:rim"]
    categories = [
        {"id": 10 + 3 * number, "name": name, "supercategory": "PART" if ":" in name else "OBJECT"}
        for number, name in enumerate(names)
    ]
    ids = {row["name"]: row["id"] for row in categories}
    for folder in ("annotations", "masks", "coco/train2017", "coco/val2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for part, first, count in (("train", 7000, 4), ("val", 300, 5)):
        images, annotations = [], []
        for number in range(count):
            image_id, height, width = first + number, 80, 120
            name = f"{image_id:012d}"
            Image.fromarray(render((number + 1,), image_id, width=width, height=height)[0]).save(
                root / "coco" / f"{part}2017" / f"{name}.jpg"
            )
            file = f"{part}2017/{name}.jpg"
            images.append({"id": image_id, "file_name": file, "width": width, "height": height})
            for side in range(2):
                object_id = 10 * image_id + side
                left, top, wide, high = 5.7 + 55 * side, 12.4, 50.6, 60.2
                common = {"image_id": image_id, "obj_ann_id": object_id}
                whole = np.zeros((height, width), bool)
                whole[12:72, int(left) : int(left + wide)] = True
                box = {"bbox": [left, top, wide, high], "segmentation": run_lengths(whole)}
                annotations.append({"id": object_id, "category_id": ids["cup"], **common, **box})
                layers = _cup(left, number, height, width)
                if side == 0:
                    layers.pop("cup:lid")
                for turn, (label, mask) in enumerate(layers.items()):
                    row = {"id": 100 * object_id + turn, "category_id": ids[label], **common}
                    annotations.append(row | {"segmentation": run_lengths(mask)})
                inside = {key: mask[12:72, int(left) : int(left + wide)] for key, mask in layers.items()}
                np.savez(root / "masks" / f"{name}~{object_id}.npz", **inside)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"paco_lvis_v1_{part}.json").write_text(json.dumps(content))
    return root


def _cup(left: float, number: int, height: int, width: int) -> dict[str, NDArray[np.bool_]]:
    rows, columns = np.mgrid[0:height, 0:width]
    rim = (rows > 6) & (rows < 24 + number) & (columns > left + 4) & (columns < left + 40)
    handle = (rows - 40) ** 2 + (columns - left - 38) ** 2 < 20**2
    lid = (rows > 18) & (rows < 30) & (columns > left + 10) & (columns < left + 48)
    return {"cup:rim": rim, "cup:handle": handle, "cup:lid": lid, "cup:logo": rim & handle}


def make_pascal_part(root: Path) -> Path:
    """PASCAL-Part's layout at `root`: all_obj_part_to_image.json, a json of objects a photo, and JPEGImages/.

    Each photo shows two dogs, of which the second has no tail, or two of another thing. Layers in the box of the object
    are in masks/PHOTO~OBJECT.npz by class name.
    """
    things = {"animals": "dog", "indoor": "bottle", "person": "person", "vehicles": "aeroplane"}
    parts = {
        "dog": ("HEAD", "TAIL"),
        "bottle": ("CAP", "BODY"),
        "person": ("HEAD", "ARM"),
        "aeroplane": ("TAIL", "BODY"),
    }
    for folder in ("JPEGImages", "Annotations_Part_json_merged_part_classes", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lists: dict[str, Any] = {}
    for group, (kind, thing) in enumerate(things.items()):
        named = {part: {"train": [], "val": []} for part in (*parts[thing], "EXTRA")}
        for number in range(6):
            photo = f"2008_{100 * group + number:06d}"
            split = "val" if number < 4 else "train"
            height, width = 72, 110
            Image.fromarray(render((group + 1,), number, width=width, height=height)[0]).save(
                root / "JPEGImages" / f"{photo}.jpg"
            )
            objects = []
            for side in range(2):
                left = 4 + 52 * side
                rows, columns = np.mgrid[0:height, 0:width]
                first = (rows > 10) & (rows < 40 + number) & (columns >= left) & (columns < left + 30)
                second = (rows - 40) ** 2 + (columns - left - 28) ** 2 < 18**2
                masks = {parts[thing][0]: [first & (rows < 20), first & (rows >= 20)], parts[thing][1]: [second]}
                if side == 1:
                    masks.pop(parts[thing][1])
                box = {"xmin": left, "ymin": 8, "xmax": left + 48, "ymax": 66}
                written = [{"name": part, "mask": [text_runs(one) for one in each]} for part, each in masks.items()]
                objects.append(
                    {"name": thing, "bndbox": {key: str(side) for key, side in box.items()}, "parts": written}
                )
                inside = {
                    f"{thing}+{part}": np.any(each, axis=0)[8:66, left : left + 48] for part, each in masks.items()
                }
                np.savez(root / "masks" / f"{photo}~{side}.npz", **inside)
            file = root / "Annotations_Part_json_merged_part_classes" / f"{photo}.json"
            file.write_text(json.dumps({"filename": photo, "object": objects}))
            for part in parts[thing]:
                named[part][split].append(photo)
        lists[kind] = {"object": {thing: {"part": named}}}
    (root / "all_obj_part_to_image.json").write_text(json.dumps(lists))
    return root


def text_runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths as pycocotools packs them into text, which is how PASCAL-Part has them."""
    from pycocotools import mask as masks

    packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}


def make_target(root: Path, dataset: str, *, photos: int = 3, size: int = 96) -> Path:
    """One of CD-FSS's sets at `root`: `photos` photos of each class, masks white on black with a grey edge of 100."""
    for class_id in range(1, {"deepglobe": 6, "isic": 3, "chest_xray": 1}[dataset] + 1):
        for number in range(photos):
            name = f"{100 * class_id + number}"
            place, mask = {
                "deepglobe": (f"{class_id}/test/origin/{name}_sat_0{number}.jpg",) * 2,
                "isic": (
                    f"ISIC2018_Task1-2_Training_Input/{class_id}/ISIC_{name}.jpg",
                    f"ISIC2018_Task1_Training_GroundTruth/ISIC_{name}_segmentation.png",
                ),
                "chest_xray": (f"CXR_png/CXR_{name}.png", f"masks/CXR_{name}_mask.png"),
            }[dataset]
            mask = mask.replace("origin", "groundtruth").replace(".jpg", ".png")
            photo, labels = render((class_id,), number, width=size, height=size)
            soft = np.where(labels == 255, 100, np.where(labels == 0, 0, 255)).astype(np.uint8)
            for file, pixels in ((place, photo), (mask, soft)):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / file)
    return root
