"""A custom dataset: images with index masks and `classes.txt`, or images with a COCO json (docs/data.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rifenet.config import needs
from rifenet.data.coco import annotated_entries, open_annotations
from rifenet.data.folds import Folds, contiguous_folds
from rifenet.data.image_lists import list_path, read_list
from rifenet.data.index import Entry, ImageIndex, build_index
from rifenet.formats.label_json import composed
from rifenet.formats.pictures import PHOTO_SUFFIXES


def open_custom(root: Path, list_file: str, progress: bool) -> ImageIndex:
    """Index of the folder; reads `annotations.json` if there is one. Raises FileNotFoundError or ValueError."""
    opened = _open_annotated if (root / "annotations.json").is_file() else _open_masks
    return opened(root, list_file, progress)


def _open_masks(root: Path, list_file: str, progress: bool) -> ImageIndex:
    for needed in ("images", "masks"):
        if not (root / needed).is_dir():
            raise FileNotFoundError(
                f"Expected the folder {root / needed}, but there is none. A custom dataset has images/, masks/ and"
                " classes.txt, or images/ and annotations.json."
            )
    class_names = _read_classes(root / "classes.txt")
    folds = _read_folds(root / "folds.yaml", class_names)
    unmarked = _read_unmarked(root / "unmarked.yaml", class_names)
    images: dict[str, Path] = {}
    bad = []
    for path in sorted((root / "images").iterdir()):
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith("."):
            name = composed(path.stem)
            if name in images:
                bad.append((path.name, f"Expected one image of each name, but {images[name].name} has the same."))
            images.setdefault(name, path)
    masks = {composed(path.stem): path for path in sorted((root / "masks").iterdir()) if path.suffix.lower() == ".png"}
    names = [composed(name) for name in read_list(list_path(root, list_file))] if list_file else list(images)
    if not list_file:
        bad += [
            (masks[name].name, "Expected an image of the same name in images/, but there is none.")
            for name in masks
            if name not in images
        ]
    entries = [
        Entry(
            name,
            images.get(name, root / "images" / f"{name}.jpg"),
            masks.get(name, root / "masks" / f"{name}.png"),
            unmarked=frozenset().union(*(classes for start, classes in unmarked.items() if name.startswith(start))),
        )
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


def _open_annotated(root: Path, list_file: str, progress: bool) -> ImageIndex:
    """A custom dataset with `annotations.json` in place of `masks/` and `classes.txt`."""
    path = root / "annotations.json"
    if (root / "masks").is_dir():
        raise ValueError(f"Expected masks/ or annotations.json in {root}, but it has both. Move one away.")
    if not (root / "images").is_dir():
        raise FileNotFoundError(f"Expected the folder {root / 'images'} beside annotations.json, but there is none.")
    annotations = open_annotations(path, progress=progress)
    entries, bad = annotated_entries([annotations], root, list_file)
    if not list_file:
        listed = {
            composed(Path(name).name) for name in (*(picture.file_name for picture in annotations.pictures), *dict(bad))
        }
        bad += [
            (image.name, f"Expected the picture in {path.name}, but it is not there.")
            for image in sorted((root / "images").iterdir())
            if image.suffix.lower() in PHOTO_SUFFIXES
            and composed(image.name) not in listed
            and not image.name.startswith(".")
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


def _read_yaml(path: Path) -> tuple[str, Any]:
    """The file's text and what it means; None where it is no YAML."""
    with needs("rifenet[train]"):
        import yaml

    text = path.read_text(encoding="utf-8-sig")
    try:
        return text, yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):  # nested too deep for any of these files
        return text, None


def _read_unmarked(path: Path, class_names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Classes that images may show unmarked, by the start of the images' names; none without the file."""
    if not path.is_file():
        return {}
    text, written = _read_yaml(path)
    lists = isinstance(written, dict) and all(isinstance(names, list) for names in written.values())
    if not lists or not all(isinstance(start, str) for start in written):
        raise ValueError(f"Expected {path} to look like {{start of names: [classes]}}, but it holds {text!r}.")
    unknown = sorted({str(name) for names in written.values() for name in names} - set(class_names))
    if unknown:
        raise ValueError(
            f"Expected known classes in {path}, but got {', '.join(unknown)}. Known: {', '.join(class_names)}."
        )
    return {start: frozenset(class_names.index(str(name)) + 1 for name in names) for start, names in written.items()}


def _read_folds(path: Path, class_names: Sequence[str]) -> Folds:
    """Folds of the user's file, `{0: [names], 1: [names]}`; 4 contiguous folds if there is no file."""
    if not path.is_file():
        return contiguous_folds(len(class_names))
    text, written = _read_yaml(path)
    numbered = isinstance(written, dict) and written and set(written) == set(range(len(written)))
    if not numbered or not all(isinstance(names, list) for names in written.values()):
        raise ValueError(f"Expected {path} to look like {{0: [names], 1: [names]}}, but it holds {text!r}.")
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
