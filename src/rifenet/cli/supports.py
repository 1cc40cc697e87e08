"""Reads the words after `--support`: a class and a photo with its mask, or a class and a folder or pattern of both."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

from rifenet.formats.label_json import SHAPE_FILES
from rifenet.formats.pages import is_folder_of_photos
from rifenet.formats.pictures import PHOTO_SUFFIXES

_FORMS = "CLASS PHOTO MASK, or CLASS FOLDER"
_FILES = (*PHOTO_SUFFIXES, *SHAPE_FILES)


def add_support(parser: argparse.ArgumentParser, shot: str) -> None:
    """`--support`, with the help `shot`."""
    parser.add_argument(
        "--support",
        nargs="+",
        action="append",
        required=True,
        metavar=("CLASS", "FOLDER | PHOTO MASK"),
        help=f"{shot}. Or a class and a folder of photos with masks of the same name (a.jpg and a.png, or images/ and"
        " masks/), or two quoted patterns",
    )


def shots_of(parser: argparse.ArgumentParser, supports: list[list[str]]) -> list[tuple[str, str, str]]:
    """Class, photo and mask of each shot of all `--support` options. Ends the program (2) where words are missing.

    Raises ValueError for folders and patterns without pairs.
    """
    shots: list[tuple[str, str, str]] = []
    for words in supports:
        if fault := _fault(words):
            parser.error(f"argument --support: expected {_FORMS}, but got {' '.join(words)}: {fault}")
        name, *paths = words
        found = [tuple(map(Path, paths))] if len(paths) == 2 and not _several(paths[0]) else _pairs(name, paths)
        shots += [(name, str(photo), str(mask)) for photo, mask in found]
    return shots


def _fault(words: list[str]) -> str:
    """Which word is missing; empty if none is."""
    name, *paths = words
    names_a_file = Path(name).suffix.lower() in _FILES and os.path.isfile(name)
    if names_a_file and len(paths) < 3:
        return "the CLASS is missing."
    if not paths:
        return "the photo and the mask are missing."
    if len(paths) == 1 and not _several(paths[0]):
        if Path(paths[0]).suffix.lower() in _FILES:
            return f"the MASK of {paths[0]} is missing."
        return f"there is no folder {paths[0]}, and the MASK is missing if it is a photo."
    if len(paths) > 2:
        return f"these are {len(words)} words. Repeat --support for each shot, and quote patterns."
    return ""


def _several(path: str) -> bool:
    """Whether a word names a folder or is a pattern."""
    return is_folder_of_photos(path) or (glob.has_magic(path) and not os.path.exists(path))


def _pairs(name: str, paths: list[str]) -> list[tuple[Path, Path]]:
    from rifenet.formats.pairs import pairs_in, pairs_of

    if len(paths) == 1 and is_folder_of_photos(paths[0]):
        return pairs_in(Path(paths[0]), name)
    if len(paths) == 1:
        raise ValueError(f"Expected a second pattern after {paths[0]}, for the masks, but got one. Quote both.")
    photos, masks = map(_expanded, paths)
    return pairs_of(photos, masks, " and ".join(paths), name)


def _expanded(path: str) -> list[Path]:
    """The files of a folder or a pattern, by name; the file itself for any other path. Raises ValueError for none."""
    if is_folder_of_photos(path):
        files = [file for file in sorted(Path(path).iterdir()) if file.suffix.lower() in _FILES and file.is_file()]
    elif _several(path):
        files = [Path(each) for each in sorted(glob.glob(path, recursive=True)) if Path(each).is_file()]
    else:
        return [Path(path)]
    if not files:
        raise ValueError(f"Expected files that match {path}, but there are none.")
    return files
