"""CD-FSS: sets of other worlds than everyday photos, for models trained on PASCAL (docs/data.md).

    deepglobe     CLASS/test/origin/TILE.jpg, CLASS/test/groundtruth/TILE.png; classes 1 to 6
    isic          ISIC2018_Task1-2_Training_Input/CLASS/ID.jpg, ISIC2018_Task1_Training_GroundTruth/ID_segmentation.png
    chest_xray    CXR_png/ID.png, masks/ID_mask.png or ID.png
    fss1000       see `fss1000`

A photo has one class, bright on a dark mask. All classes are novel in the one fold: nothing is trained on these sets.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from rifenet.data.index import Entry, ImageIndex, build_index

CLASSES = {
    "deepglobe": ("agriculture land", "urban land", "rangeland", "forest land", "water", "barren land"),
    "isic": ("seborrheic keratosis", "nevus", "melanoma"),
    "chest_xray": ("lungs",),
}
"""The classes of each set, in the order of its folders 1, 2, ..."""
_ISIC_PHOTOS = "ISIC2018_Task1-2_Training_Input"
_ISIC_MASKS = "ISIC2018_Task1_Training_GroundTruth"
_ISIC_CLASSES = "class_id.csv"
_Found = Iterator[Entry | tuple[str, str]]


def open_cdfss(dataset: str, root: Path, list_file: str, progress: bool) -> ImageIndex:
    """Index of one of `CLASSES`; both parts contain all photos. Raises FileNotFoundError or ValueError."""
    if list_file:
        raise ValueError(f"Expected no list for {dataset}, whose folders say what is used, but got {list_file}.")
    found = {"deepglobe": _deepglobe, "isic": _isic, "chest_xray": _chest_xray}[dataset](root)
    entries, bad = [], []
    for each in found:
        if isinstance(each, Entry):
            entries.append(each)
        else:
            bad.append(each)
    return build_index(
        entries,
        CLASSES[dataset],
        (tuple(range(1, len(CLASSES[dataset]) + 1)),),
        root=root,
        dataset=dataset,
        list_name="all photos",
        bad_files=bad,
        progress=progress,
    )


def _deepglobe(root: Path) -> _Found:
    """Tiles of satellite photos. A tile with several classes lies in the folder of each, with another mask."""
    for class_id, name in enumerate(CLASSES["deepglobe"], start=1):
        folder = root / str(class_id) / "test"
        tiles = sorted((folder / "origin").glob("*.jpg"))
        masks = {mask.stem: mask for mask in sorted((folder / "groundtruth").glob("*.png"))}
        if not tiles:
            yield str(class_id), f"Expected tiles of {name} in {folder / 'origin'}, but there are none."
        for tile in tiles:
            mask = masks.pop(tile.stem, folder / "groundtruth" / f"{tile.stem}.png")
            yield Entry(f"{class_id}/{tile.stem}", tile, mask, palette=(class_id,), bright=True)
        for stem, mask in masks.items():
            yield f"{class_id}/{stem}", f"Expected the tile of {mask} in origin/, but it is not there."


def _isic(root: Path) -> _Found:
    """Photos of skin, in a folder for each class, or as they come and with the published table of classes."""
    photos = _folder(root, _ISIC_PHOTOS)
    masks = _folder(root, _ISIC_MASKS)
    own = [photos / str(number) for number in range(1, len(CLASSES["isic"]) + 1)]
    if any(folder.is_dir() for folder in own):
        for class_id, (folder, name) in enumerate(zip(own, CLASSES["isic"], strict=True), start=1):
            found = sorted(folder.glob("*.jpg"))
            if not found:
                yield str(class_id), f"Expected photos of {name} in {folder}, but there are none."
            for photo in found:
                yield _lesion(photo, masks, class_id)
        return
    class_ids = _isic_classes(root)
    for photo in sorted(photos.glob("*.jpg")):
        class_id = class_ids.pop(photo.stem, 0)
        if class_id:
            yield _lesion(photo, masks, class_id)
        else:
            yield photo.name, f"Expected the class of the photo in {_ISIC_CLASSES}, but it is not there."
    for name in class_ids:
        yield name, f"Expected the photo {name}.jpg in {photos}, but there is none."


def _lesion(photo: Path, masks: Path, class_id: int) -> Entry:
    mask = masks / f"{photo.stem}_segmentation.png"
    return Entry(photo.stem, photo, mask, palette=(class_id,), bright=True)


def _isic_classes(root: Path) -> dict[str, int]:
    """Class id by photo, from the table with the columns ID and Class. Raises FileNotFoundError or ValueError."""
    path = root / _ISIC_CLASSES
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the photos of {root / _ISIC_PHOTOS} in folders 1, 2 and 3, or their classes in {path}, but"
            " there is neither."
        )
    ids = {name.replace(" ", "_"): class_id for class_id, name in enumerate(CLASSES["isic"], start=1)}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = next((row for row in rows if not row.get("ID") or row.get("Class") not in ids), None)
    if wrong is not None or not rows:
        raise ValueError(f"Expected rows of ID and Class ({', '.join(ids)}) in {path}, but got {wrong}.")
    return {row["ID"]: ids[row["Class"]] for row in rows}


def _chest_xray(root: Path) -> _Found:
    """X-ray photos; the set has more photos than masks."""
    photos = {photo.stem: photo for photo in sorted(_folder(root, "CXR_png").glob("*.png"))}
    for mask in sorted(_folder(root, "masks").glob("*.png")):
        name = mask.stem.removesuffix("_mask")
        photo = photos.pop(name, None)
        if photo is None:
            yield mask.name, f"Expected the photo {name}.png in {root / 'CXR_png'}, but there is none."
        else:
            yield Entry(name, photo, mask, palette=(1,), bright=True)
    for photo in photos.values():
        yield photo.name, "Expected a mask of the photo in masks/, but there is none."


def _folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise FileNotFoundError(f"Expected the folder {root / name}, but there is none.")
    return root / name
