"""Text files that name images, one a line."""

from __future__ import annotations

import re
from pathlib import Path

from rifenet.formats.pictures import PHOTO_SUFFIXES

_LISTS = Path("ImageSets") / "Segmentation"
_PAIR = re.compile(r"(\S+)__(\d+)")


def list_path(root: Path, list_file: str) -> Path:
    """Path of `list_file`: an absolute path, a path below `root`, or a name in VOC's `ImageSets/Segmentation/`.

    Raises FileNotFoundError.
    """
    candidates = [root / list_file, root / _LISTS / list_file, root / _LISTS / f"{list_file}.txt"]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"Expected a list of image names at {candidates[0]}, but there is none.")


def read_pairs(path: Path) -> dict[tuple[str, int], None]:
    """(image name, class id) of each line `NAME__CLASS`, such as `2007_000033__01`, in the list's order.

    Empty for a list of images. Raises ValueError for a list that mixes images and pairs.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    found = [_PAIR.fullmatch(line) for line in lines]
    if any(found) and not all(found):
        raise ValueError(f"Expected {path} to name images or pairs (NAME__CLASS), but it mixes both.")
    return {(pair[1], int(pair[2])): None for pair in found if pair}


def read_list(path: Path) -> list[str]:
    """Image names of a list, one a line, or as published: `JPEGImages/ID.jpg SegmentationClassAug/ID.png`."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    paths = (Path(line.split()[0] if "/" in line else line) for line in lines if line)
    names = [path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name for path in paths]
    if not names:
        raise ValueError(f"Expected image names in {path}, one a line, but the list is empty.")
    return list(dict.fromkeys(names))
