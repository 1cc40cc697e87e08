"""Pairs photos with their masks or label files by name, in one folder or in two.

In one folder, `a.jpg` belongs to `a.png`, `a_mask.png` or `a.json`. Composed and decomposed accents (NFC, NFD) and
capitals make no difference. What CVAT exports is read as it is unpacked: `annotations.xml` beside `images/`, and
`SegmentationClass/` beside `JPEGImages/` (`rifenet.formats.cvat_files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rifenet.formats.cvat_files import CLASSES, XML, annotated_photos, colour_of, shows_colour
from rifenet.formats.label_json import composed, same_photo
from rifenet.formats.pictures import PHOTO_SUFFIXES
from rifenet.formats.remarks import remark

_LOSSY = (".jpg", ".jpeg", ".webp")  # no mask is such a file
_MASK = "_mask"  # how masks end that the program writes
_SHOWN = 3

Pair = tuple[Path, Path]


def pairs_in(folder: Path, name: str = "") -> list[Pair]:
    """The photos of a folder with their masks: of `images/` and `masks/` in it if there are, else of the folder itself.

    Of an export of CVAT, those photos that show the class `name`. Files without a partner are left out, with a remark.
    Raises ValueError for a folder without pairs, and where two files may be the mask.
    """
    if (folder / CLASSES).is_dir():
        return _of_class_pictures(folder, name)
    listed = [file for file in _files(folder) if file.suffix.lower() == XML]
    if len(listed) == 1 and (folder / "images").is_dir():
        return pairs_of(_files(folder / "images", deep=True), listed, str(folder), name)
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return pairs_of(_files(folder / "images"), _files(folder / "masks"), str(folder))
    files = _files(folder)
    photos, labels = [], []
    for group in _by_stem(files).values():
        pictures = [file for file in group if not _is_label(file)]
        if len(pictures) > 1:
            lossy = [file for file in pictures if file.suffix.lower() in _LOSSY]
            if len(lossy) != 1:
                raise ValueError(
                    f"Expected one photo (JPEG or WebP) beside a mask of the same name in {folder}, but got"
                    f" {_named(pictures)}. Put photos into images/ and masks into masks/."
                )
            labels += [file for file in pictures if file not in lossy]
            pictures = lossy
        photos += pictures
        labels += [file for file in group if _is_label(file)]
    return pairs_of(photos, labels, str(folder), name)


def _of_class_pictures(folder: Path, name: str) -> list[Pair]:
    """The photos of a folder of segmentation masks in which the class has pixels; all where no file names colours."""
    masks = _files(folder / CLASSES)
    if name and masks and (colour := colour_of(masks[0], name)) is not None:
        masks = [mask for mask in masks if shows_colour(mask, colour)]
    photos = next((folder / each for each in ("JPEGImages", "images") if (folder / each).is_dir()), folder)
    own = {_key(mask) for mask in masks}
    return pairs_of([file for file in _files(photos, deep=True) if _key(file) in own], masks, str(folder))


def pairs_of(photos: Sequence[Path], labels: Sequence[Path], where: str, name: str = "") -> list[Pair]:
    """Photos with the label files of their names, by name; a single JSON of another name belongs to all photos.

    A single XML of CVAT belongs to those in which it has shapes of the class `name`, or any shapes if it has none.

    `where`: what to call the place in messages. Raises as `pairs_in`.
    """
    photos, by_name = [file for file in photos if file.suffix.lower() in PHOTO_SUFFIXES], _by_stem(labels)
    if len(labels) == 1 and _lists(labels[0]) and not any(_key(photo) in by_name for photo in photos):
        if labels[0].suffix.lower() == XML:
            shown = annotated_photos(labels[0], name)
            photos = [photo for photo in photos if any(same_photo(photo.name, each) for each in shown)]
        by_name = {_key(photo): list(labels) for photo in photos}
    pairs: list[Pair] = []
    for photo in sorted(photos):
        found = by_name.get(_key(photo), [])
        if len(found) > 1:
            raise ValueError(f"Expected one mask of {photo.name} in {where}, but got {_named(found)}. Move one away.")
        pairs += [(photo, label) for label in found]
    if not pairs:
        raise ValueError(
            f"Expected photos with masks of the same name in {where}, such as a.jpg and a.png (or a.json), or in"
            f" images/ and masks/, but got {_named([*photos, *labels]) or 'no pictures'}."
        )
    used = {file for pair in pairs for file in pair}
    if alone := [file for file in (*photos, *labels) if file not in used]:
        remark(where, f"{len(alone)} files without a partner were left out: {_named(alone)}.")
    return pairs


def _files(folder: Path, deep: bool = False) -> list[Path]:
    """The pictures and files of shapes in a folder, by name; those of its folders, too, if `deep`."""
    kinds = (*PHOTO_SUFFIXES, ".json", XML)
    return sorted(
        file
        for file in (folder.rglob("*") if deep else folder.iterdir())
        if file.suffix.lower() in kinds and not file.name.startswith(".") and file.is_file()
    )


def _by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_key(file), []).append(file)
    return groups


def _key(file: Path) -> str:
    return composed(file.stem).casefold().removesuffix(_MASK)


def _lists(file: Path) -> bool:
    return file.suffix.lower() in (".json", XML)


def _is_label(file: Path) -> bool:
    return _lists(file) or file.stem.casefold().endswith(_MASK)


def _named(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(file.name for file in files[:_SHOWN]) + more
