"""Readers: turn a dataset's folder into an `ImageIndex` (protocols.md 1, interface.md "A custom dataset")."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rifenet.data.coco import Annotations, open_annotations
from rifenet.data.folds import PASCAL_FOLDS, VOC_CLASSES, Folds, contiguous_folds, interleaved_folds
from rifenet.data.fss1000 import open_fss1000
from rifenet.data.index import Entry, ImageIndex, build_index

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
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
    """Index of the `part` ("train" or "val") of the dataset at `root`; `list_file` names other images to use.

    pascal: a VOC folder (`JPEGImages/`; masks in `SegmentationClassAug/`, `SegmentationClass/` or SBD's `cls/*.mat`,
    looked up in that order for every image). Without a list file: the root's own `train_aug.txt`; else the field's
    5,953 ids where the root has masks for at least 95% of them; else the root's `train.txt`. For "val": the root's
    `val.txt`, else the field's 1,449 ids.
    coco: `annotations/instances_PART*.json`, all that there are, or the json that `list_file` names; images in
    `train2017/`, `images/train2017/` or `images/`, after the json's name. `folds`: interleaved or contiguous.
    fss1000: `CLASS/N.jpg` and `CLASS/N.png`; the class lists in `splits.txt` or `list_file`.
    custom: `images/`, `masks/`, `classes.txt`, or `images/` and `annotations.json`; optional `folds.yaml`. Either part
    is all images: folds part classes.

    Raises FileNotFoundError or ValueError, naming what is missing.
    """
    folder = Path(root).expanduser()
    if part not in ("train", "val"):
        raise ValueError(f"Expected part to be train or val, but got {part!r}.")
    if folds not in _FOLDS:
        raise ValueError(f"Expected folds to be interleaved or contiguous, but got {folds!r}.")
    if not str(root) or not folder.is_dir():
        raise FileNotFoundError(
            f"Expected a dataset folder, but {str(root)!r} is none. Give it with --root or data.root."
        )
    if dataset == "pascal":
        return _open_pascal(folder, list_file, part, progress)
    if dataset == "coco":
        return _open_coco(folder, list_file, part, folds, progress)
    if dataset == "fss1000":
        return open_fss1000(folder, list_file, part, progress)
    if dataset == "custom":
        json_file = folder / "annotations.json"
        return (_open_annotated if json_file.is_file() else _open_custom)(folder, list_file, progress)
    raise ValueError(f"Expected dataset to be pascal, coco, fss1000 or custom, but got {dataset!r}.")


def _open_pascal(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    images = _first_folder(root, "JPEGImages", "img")
    mask_folders = [
        root / name for name in ("SegmentationClassAug", "SegmentationClass", "cls") if (root / name).is_dir()
    ]
    if not mask_folders:
        raise FileNotFoundError(
            f"Expected masks in {root}: SegmentationClassAug/ or SegmentationClass/ (PNG), or SBD's cls/ (.mat)."
        )
    masks: dict[str, Path] = {}
    for folder in mask_folders:
        suffix = ".mat" if folder.name == "cls" else ".png"
        for path in folder.iterdir():
            if path.suffix == suffix:
                masks.setdefault(path.stem, path)
    names, list_name = _pascal_names(root, list_file, part, masks)
    entries = [Entry(name, images / f"{name}.jpg", masks.get(name, mask_folders[0] / f"{name}.png")) for name in names]
    return build_index(
        entries, VOC_CLASSES, PASCAL_FOLDS, root=root, dataset="pascal", list_name=list_name, progress=progress
    )


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
    """Image ids of the list that `open_dataset` describes, and the list's name."""
    if list_file:
        return _read_list(_list_path(root, list_file)), list_file
    shipped = files("rifenet.data") / "lists" / f"pascal_{part}.txt"
    field = shipped.read_text(encoding="utf-8").split()
    complete = sum(name in masks for name in field) >= 0.95 * len(field)
    own = ["val"] if part == "val" else ["train_aug", "trainaug"] if complete else ["train_aug", "trainaug", "train"]
    for path in (folder / f"{name}.txt" for name in own for folder in (root / _LISTS, root)):
        if path.is_file():
            return _read_list(path), path.relative_to(root).as_posix()
    return field, f"rifenet's own pascal_{part}.txt"


def _list_path(root: Path, list_file: str) -> Path:
    candidates = [root / list_file, root / _LISTS / list_file, root / _LISTS / f"{list_file}.txt"]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"Expected a list of image names at {candidates[0]}, but there is none.")


def _read_list(path: Path) -> list[str]:
    """Image names of a list, one a line; also `JPEGImages/ID.jpg SegmentationClassAug/ID.png`, as published."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    paths = (Path(line.split()[0] if "/" in line else line) for line in lines if line)
    names = [path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name for path in paths]
    if not names:
        raise ValueError(f"Expected image names in {path}, one a line, but the list is empty.")
    return list(dict.fromkeys(names))


def _open_coco(root: Path, list_file: str, part: str, folds: str, progress: bool) -> ImageIndex:
    named = list_file if list_file.endswith(".json") else ""
    paths = [root / named] if named else sorted((root / "annotations").glob(f"instances_{part}*.json"))
    if not paths:
        raise FileNotFoundError(f"Expected {root / 'annotations' / f'instances_{part}*.json'}, but there is none.")
    annotations = [open_annotations(path, progress=progress) for path in paths]
    found: dict[int, Annotations] = {}
    for source in annotations:
        if source.class_names != annotations[0].class_names or len(source.class_names) != _COCO_CLASSES:
            raise ValueError(
                f"Expected COCO's {_COCO_CLASSES} categories in {source.path}, but got {len(source.class_names)}: "
                f"{', '.join(source.class_names)}. Other annotations are read as a custom dataset."
            )
        if twice := next((picture for picture in source.pictures if picture.image_id in found), None):
            raise ValueError(
                f"Expected each image in one file, but {found[twice.image_id].path.name} and {source.path.name} both"
                f" have image {twice.image_id}. Name one of them as the list file."
            )
        found.update(dict.fromkeys((picture.image_id for picture in source.pictures), source))
    entries, bad = _annotated(annotations, root, "" if named else list_file)
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


def _annotated(
    annotations: Sequence[Annotations], root: Path, list_file: str
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Entries of the pictures that the files (and the list, where one is given) name, and what is left out."""
    entries: dict[str, Entry] = {}
    bad: list[tuple[str, str]] = []
    for source in annotations:
        year = source.path.stem.removeprefix("instances_")
        folders = [root / year, root / "images" / year, root / "images", root]
        folders = [folder for folder in folders if folder.is_dir()]
        bad += source.bad_files
        for picture in source.pictures:
            paths = [folder / picture.file_name for folder in folders]
            path = next((path for path in paths if path.is_file()), paths[0])
            if picture.name in entries:
                bad.append((picture.file_name, f"Expected each file name once, but it is also in {source.path.name}."))
            entries.setdefault(picture.name, Entry(picture.name, path, source.mask_path(picture), picture.palette))
    if not list_file:
        return list(entries.values()), bad
    names = _read_list(_list_path(root, list_file))
    missing = [name for name in names if name not in entries]
    return [entries[name] for name in names if name in entries], [
        (name, dict(bad).get(name, "Expected an annotated image of this name, but there is none.")) for name in missing
    ]


def _open_annotated(root: Path, list_file: str, progress: bool) -> ImageIndex:
    """A custom dataset with `annotations.json` in place of `masks/` and `classes.txt`."""
    path = root / "annotations.json"
    if (root / "masks").is_dir():
        raise ValueError(f"Expected masks/ or annotations.json in {root}, but it has both. Move one away.")
    if not (root / "images").is_dir():
        raise FileNotFoundError(f"Expected the folder {root / 'images'} beside annotations.json.")
    annotations = open_annotations(path, progress=progress)
    entries, bad = _annotated([annotations], root, list_file)
    if not list_file:
        listed = {Path(name).name for name in (*(picture.file_name for picture in annotations.pictures), *dict(bad))}
        bad += [
            (image.name, f"Expected the picture in {path.name}, but it is not there.")
            for image in sorted((root / "images").iterdir())
            if image.suffix.lower() in IMAGE_SUFFIXES and image.name not in listed and not image.name.startswith(".")
        ]
    return build_index(
        entries,
        annotations.class_names,
        _read_folds(root / "folds.yaml", annotations.class_names),
        root=root,
        dataset="custom",
        list_name=list_file or path.name,
        bad_files=bad,
        progress=progress,
    )


def _open_custom(root: Path, list_file: str, progress: bool) -> ImageIndex:
    for needed in ("images", "masks"):
        if not (root / needed).is_dir():
            raise FileNotFoundError(
                f"Expected the folder {root / needed}. A custom dataset has images/, masks/ and classes.txt, or images/"
                " and annotations.json."
            )
    class_names = _read_classes(root / "classes.txt")
    folds = _read_folds(root / "folds.yaml", class_names)
    images: dict[str, Path] = {}
    bad = []
    for path in sorted((root / "images").iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            if path.stem in images:
                bad.append((path.name, f"Expected one image of each name, but {images[path.stem].name} has it too."))
            images.setdefault(path.stem, path)
    masks = {path.stem: path for path in sorted((root / "masks").iterdir()) if path.suffix.lower() == ".png"}
    names = _read_list(_list_path(root, list_file)) if list_file else list(images)
    if not list_file:
        bad += [
            (masks[name].name, "Expected an image of the same name in images/.") for name in masks if name not in images
        ]
    entries = [
        Entry(name, images.get(name, root / "images" / f"{name}.jpg"), masks.get(name, root / "masks" / f"{name}.png"))
        for name in names
    ]
    return build_index(
        entries,
        class_names,
        folds,
        root=root,
        dataset="custom",
        list_name=list_file or "all images",
        bad_files=bad,
        progress=progress,
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path} with one class name a line (line i names mask value i), but there is none."
        )
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    if not names or not all(names) or len(set(names)) < len(names) or len(names) > 254:
        raise ValueError(
            f"Expected 1 to 254 different class names in {path}, one a line without gaps, but got {names}."
        )
    return tuple(names)


def _read_folds(path: Path, class_names: Sequence[str]) -> Folds:
    """Folds that the user wrote as `{0: [names], 1: [names]}`; without the file, 4 contiguous ones."""
    if not path.is_file():
        return contiguous_folds(len(class_names))
    import yaml

    text = path.read_text(encoding="utf-8-sig")
    try:
        written = yaml.safe_load(text)
    except yaml.YAMLError:
        written = None
    numbered = isinstance(written, dict) and written and set(written) == set(range(len(written)))
    if not numbered or not all(isinstance(names, list) for names in written.values()):
        raise ValueError(f"Expected {path} to read like {{0: [names], 1: [names]}}, but it reads {text!r}.")
    folds = [written[fold] for fold in range(len(written))]
    listed = [str(name) for fold in folds for name in fold]
    unknown = sorted(set(listed) - set(class_names))
    if unknown:
        raise ValueError(
            f"Expected known classes in {path}, but got {', '.join(unknown)}. Known: {', '.join(class_names)}."
        )
    if len(set(listed)) < len(listed) or not all(folds):
        raise ValueError(f"Expected each class in at most one fold and no empty fold in {path}, but got {written}.")
    return tuple(tuple(class_names.index(str(name)) + 1 for name in fold) for fold in folds)
