"""Opens a dataset's folder as an `ImageIndex` (docs/data.md)."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from rifenet.config import DATASETS
from rifenet.data.cdfss import CLASSES, open_cdfss
from rifenet.data.coco import annotated_entries, open_annotations
from rifenet.data.custom import open_custom
from rifenet.data.drawn import Drawn
from rifenet.data.folds import PASCAL_FOLDS, VOC_CLASSES, contiguous_folds, interleaved_folds
from rifenet.data.fss1000 import open_fss1000
from rifenet.data.image_lists import list_path, read_list, read_pairs
from rifenet.data.index import Entry, ImageIndex, build_index
from rifenet.data.lvis import open_lvis
from rifenet.data.parts import open_paco, open_pascal_part

_LISTS = Path("ImageSets") / "Segmentation"
_COCO_CLASSES = 80
_FOLDS = {"interleaved": interleaved_folds, "contiguous": contiguous_folds}


def open_dataset(
    dataset: str,
    root: str | Path,
    *,
    list_file: str = "",
    part: str = "train",
    folds: str = "interleaved",
    progress: bool = True,
) -> ImageIndex:
    """Index of the `part` ("train" or "val") of the dataset at `root`; `list_file` replaces the dataset's own list.

    pascal: a VOC folder with `JPEGImages/`. Each mask comes from `SegmentationClassAug/`, else `SegmentationClass/`,
    else SBD's `cls/*.mat`. The list for "train": the root's `train_aug.txt` or `trainaug.txt` (usually 10,582
    ids, not the field's); else the published 5,953 ids, if the root has masks for at least 95% of them; else the root's
    `train.txt`. For "val": the root's `val.txt`, else the published 1,449 ids.
    coco: all `annotations/instances_PART*.json`, or the json `list_file`. Images of `instances_train2017.json` lie in
    `train2017/`, `images/train2017/`, `images/` or the root. `folds`: interleaved or contiguous.
    fss1000: `CLASS/N.jpg` and `CLASS/N.png`; class lists in `splits.txt` or `list_file`.
    lvis: `annotations/lvis_v1_PART.json`, or the json `list_file`; COCO 2017's photos in `coco/` or as for coco.
    paco_part: `annotations/paco_lvis_v1_PART.json`, or the json `list_file`; photos as for lvis.
    pascal_part: `all_obj_part_to_image.json`, `Annotations_Part_json_merged_part_classes/` and `JPEGImages/`.
    deepglobe, isic, chest_xray: the folders of CD-FSS (`cdfss`). Both parts contain all photos.
    custom: `images/`, `masks/` and `classes.txt`, or `images/` and `annotations.json`; optional `folds.yaml`. Both
    parts contain all images, because folds split the classes.

    Raises FileNotFoundError or ValueError, naming what is missing.
    """
    folder = Path(root).expanduser()
    if part not in ("train", "val"):
        raise ValueError(f"Expected part to be train or val, but got {part!r}.")
    if folds not in _FOLDS:
        raise ValueError(f"Expected folds to be interleaved or contiguous, but got {folds!r}.")
    if not str(root) or not folder.is_dir():
        raise FileNotFoundError(
            f"Expected a dataset folder, but there is none at {str(root)!r}. Set it with --root or data.root."
        )
    if dataset == "coco":
        return _open_coco(folder, list_file, part, folds, progress)
    if dataset == "custom":
        return open_custom(folder, list_file, progress)
    if dataset in CLASSES:
        return open_cdfss(dataset, folder, list_file, progress)
    if dataset in _OF_A_PART:
        return _OF_A_PART[dataset](folder, list_file, part, progress)
    raise ValueError(f"Expected dataset to be one of {', '.join(DATASETS)}, but got {dataset!r}.")


def _open_pascal(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    images = _first_folder(root, "JPEGImages", "img")
    mask_folders = [
        root / name for name in ("SegmentationClassAug", "SegmentationClass", "cls") if (root / name).is_dir()
    ]
    if not mask_folders:
        raise FileNotFoundError(
            f"Expected masks in {root}: SegmentationClassAug/ or SegmentationClass/ (PNG), or SBD's cls/ (.mat), but it"
            " has none."
        )
    masks: dict[str, Path] = {}
    for folder in mask_folders:
        suffix = ".mat" if folder.name == "cls" else ".png"
        for path in folder.iterdir():
            if path.suffix == suffix:
                masks.setdefault(path.stem, path)
    pairs = read_pairs(list_path(root, list_file)) if list_file else {}
    names, list_name = _pascal_names(root, list_file, part, masks)
    names = list(dict.fromkeys(name for name, _ in pairs)) or names
    entries = [Entry(name, images / f"{name}.jpg", masks.get(name, mask_folders[0] / f"{name}.png")) for name in names]
    index = build_index(
        entries, VOC_CLASSES, PASCAL_FOLDS, root=root, dataset="pascal", list_name=list_name, progress=progress
    )
    areas = {record.name: record.areas for record in index.records}
    bad = [
        (f"{name}__{class_id:02d}", "Expected the class in the image's mask, but it is not there.")
        for name, class_id in pairs
        if class_id not in areas.get(name, (class_id,))
    ]
    return replace(index, listed=frozenset(pairs), bad_files=(*index.bad_files, *bad))


def _first_folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    nested = next(
        (path.parent for path in sorted(root.glob("*/JPEGImages")) + sorted(root.glob("*/*/JPEGImages"))), None
    )
    hint = f" Did you mean {nested}?" if nested else ""
    raise FileNotFoundError(f"Expected a VOC folder with JPEGImages/, but {root} has none.{hint}")


def _pascal_names(root: Path, list_file: str, part: str, masks: dict[str, Path]) -> tuple[list[str], str]:
    """Image ids and name of the list that `open_dataset` describes."""
    if list_file:
        return read_list(list_path(root, list_file)), list_file
    shipped = files("rifenet.data") / "lists" / f"pascal_{part}.txt"
    field = shipped.read_text(encoding="utf-8").split()
    complete = sum(name in masks for name in field) >= 0.95 * len(field)
    own = ["val"] if part == "val" else ["train_aug", "trainaug"] if complete else ["train_aug", "trainaug", "train"]
    for path in (folder / f"{name}.txt" for name in own for folder in (root / _LISTS, root)):
        if path.is_file():
            return read_list(path), path.relative_to(root).as_posix()
    return field, f"rifenet's own pascal_{part}.txt"


def _open_coco(root: Path, list_file: str, part: str, folds: str, progress: bool) -> ImageIndex:
    named = list_file if list_file.endswith(".json") else ""
    paths = [root / named] if named else sorted((root / "annotations").glob(f"instances_{part}*.json"))
    if not paths:
        raise FileNotFoundError(f"Expected {root / 'annotations' / f'instances_{part}*.json'}, but there is none.")
    annotations = [open_annotations(path, progress=progress) for path in paths]
    found: dict[int, Drawn] = {}
    for source in annotations:
        if source.class_names != annotations[0].class_names or len(source.class_names) != _COCO_CLASSES:
            raise ValueError(
                f"Expected COCO's {_COCO_CLASSES} categories in {source.path}, but got {len(source.class_names)}: "
                f"{', '.join(source.class_names)}. Open other annotations as a custom dataset."
            )
        if twice := next((picture for picture in source.pictures if picture.image_id in found), None):
            raise ValueError(
                f"Expected each image in one file, but {found[twice.image_id].path.name} and {source.path.name} both"
                f" have image {twice.image_id}. Name one of them as the list file."
            )
        found.update(dict.fromkeys((picture.image_id for picture in source.pictures), source))
    entries, bad = annotated_entries(annotations, root, "" if named else list_file)
    return build_index(
        entries,
        annotations[0].class_names,
        _FOLDS[folds](_COCO_CLASSES),
        root=root,
        dataset="coco",
        list_name=list_file or ", ".join(path.name for path in paths),
        bad_files=bad,
        progress=progress,
    )


_OF_A_PART = {
    "pascal": _open_pascal,
    "fss1000": open_fss1000,
    "lvis": open_lvis,
    "paco_part": open_paco,
    "pascal_part": open_pascal_part,
}
