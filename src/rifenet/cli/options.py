"""Options that several commands share, and the photos that they name."""

from __future__ import annotations

import argparse
import glob
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from rifenet.cli.supports import add_support
from rifenet.formats.pages import is_folder_of_photos, is_zarr
from rifenet.formats.pictures import PHOTO_SUFFIXES
from rifenet.formats.remarks import counted, remark

_LONGEST_PATH = 256  # a longer word is no folder that somebody has lost, and is named like a photo
OVER_BACKBONE = ("any-backbone", "prototype")
"""Values of `--model` that work over the backbone of `--backbone`."""
_SYSTEM = ("Thumbs.db", "desktop.ini")  # files that no user has put into a folder
TRAINED = "default (bundled), a run folder, a .safetensors file"


def add_model(parser: argparse.ArgumentParser, *, exports: bool = True) -> None:
    """`--model`. Without `exports` the help names no export folder, because the command needs torch."""
    kinds = f"{TRAINED}, an export folder" if exports else TRAINED
    parser.add_argument(
        "--model",
        default="default",
        help=f"{kinds}, hf:owner/name; or any-backbone or prototype, with --backbone",
    )
    add_backbone(parser)


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """`--backbone`, for the models of `OVER_BACKBONE`."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="of --model any-backbone or prototype, which need no training: resnet50 or another of the program's own,"
        " hf:owner/name of Hugging Face, a folder that holds such a backbone, or module:name of your own code",
    )


def model_of(arguments: argparse.Namespace) -> str:
    """The model that `--model` and `--backbone` name together. Raises ValueError where only one of them is there."""
    if (arguments.model in OVER_BACKBONE) != (arguments.backbone is not None):
        raise ValueError(
            f"Expected --backbone with --model any-backbone or prototype, and only with them, but got --model "
            f"{arguments.model} and "
            f"{'no --backbone' if arguments.backbone is None else f'--backbone {arguments.backbone}'}."
        )
    return arguments.model if arguments.backbone is None else f"{arguments.model}:{arguments.backbone}"


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def add_threads(parser: argparse.ArgumentParser, library: str = "the library") -> None:
    """`--threads`; `library` chooses the default."""
    parser.add_argument("--threads", type=int, help=f"CPU threads (default: {library}'s choice)")


def add_list_file(parser: argparse.ArgumentParser, text: str) -> None:
    """`--list-file`, with the help `text`; the name in a config and an older name mean the same."""
    parser.add_argument(
        "--list-file", "--data.list_file", "--list", dest="list_file", default="", metavar="FILE", help=text
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--device` and `--threads`, which open an engine."""
    add_model(parser)
    add_device(parser)
    add_threads(parser)


def add_photos(parser: argparse.ArgumentParser, *, shot: str, query_required: bool) -> None:
    """`--support` (with the help `shot`), `--query`, `--label` and `--white-is-object`."""
    add_support(parser, shot)
    parser.add_argument(
        "--query",
        nargs="+",
        action="extend",
        default=[],
        required=query_required,
        metavar="PATH",
        help="photos, folders of photos, or quoted patterns; in rifenet segment, a stack (TIFF, OME-Zarr) or a video"
        " (MP4, MOV, GIF) counts as its pages or frames, also in a folder, and scan.tif#3 is one of them, from 0",
    )
    parser.add_argument(
        "--white-is-object", action="store_true", help="255 in a mask marks the class, instead of pixels to ignore"
    )

    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="CLASS=LABEL",
        help="the class's label in its mask files: a name, a number or a colour (#rrggbb); in a JSON the default is the"
        " class's own name",
    )


def labels_of(words: list[str], classes: list[str]) -> dict[str, str]:
    """Class -> its label in mask files, from `--label`. Raises ValueError for a word that begins with no class."""
    labels: dict[str, str] = {}
    for word in words:
        fitting = [name for name in classes if word.startswith(f"{name}=") and len(word) > len(name) + 1]
        if not fitting:
            raise ValueError(
                f"Expected --label CLASS=LABEL with a class of --support ({', '.join(classes)}), but got {word!r}."
            )
        name = max(fitting, key=len)
        labels[name] = word[len(name) + 1 :]
    return labels


def photos_in(folder: Path) -> list[Path]:
    """The photos directly in `folder`, by name. Raises ValueError where there is none."""
    if photos := sorted(file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file()):
        return photos
    raise ValueError(f"Expected photos ({', '.join(PHOTO_SUFFIXES)}) in {folder}, but it holds none.")


def photos_of(queries: list[str], out: Path | None, masks: Collection[Path], *, pages: bool = False) -> list[Path]:
    """The photos that `--query` names, each once: a file as given, a folder's photos except `masks`, a pattern's files.

    With `pages` videos and OME-Zarr of a folder count, too. A remark says what else of a folder is left out. A
    file that does not exist stays in the list: the command names it when it fails to read it.
    """
    photos: dict[Path, Path] = {}
    for word in queries:
        for path in _expanded(word):
            is_folder = is_folder_of_photos(path)
            if is_folder and out is not None and path.resolve() == out.resolve():
                raise ValueError(f"Expected --out to be another folder than --query, but both are {path}.")
            known = [*masks] if out is None else [*masks, out.resolve()]
            for file in _queries_in(path, known, pages) if is_folder else [path]:
                photos.setdefault(file.resolve(), file)
    return list(photos.values())


def _queries_in(folder: Path, leave_out: Collection[Path], pages: bool) -> list[Path]:
    """What a command can take of a folder, by name. Raises ValueError where there is nothing.

    A VRT is left out: the pictures that it is made of often lie beside it.
    """
    from rifenet.formats.video import VIDEO_SUFFIXES

    there = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name not in _SYSTEM]
    there = [path for path in there if path.resolve() not in leave_out]
    suffixes = (*PHOTO_SUFFIXES, *VIDEO_SUFFIXES) if pages else PHOTO_SUFFIXES
    taken = [
        path
        for path in there
        if (pages and is_zarr(path)) or (path.suffix.lower() in suffixes and not is_folder_of_photos(path))
    ]
    if others := Counter(_kind(path) for path in there if path not in taken):
        remark(f"folder {folder}", f"Left out: {counted(others)}. What should count, too, needs a --query of its own.")
    if taken:
        return taken
    raise ValueError(f"Expected photos ({', '.join(suffixes)}) in {folder}, but it holds none.")


def _kind(path: Path) -> str:
    """What to call what is left out, after its number."""
    if path.is_dir():
        return "OME-Zarr" if is_zarr(path) else "folder(s)"
    return path.suffix.lower() or "without a suffix"


def _expanded(word: str) -> list[Path]:
    """What a pattern matches, by name; else the path itself, which may be a photo that does not exist."""
    if os.path.exists(word) or "://" in word:
        return [Path(word)]
    if glob.has_magic(word):
        if found := sorted(glob.glob(word, recursive=True)):
            return [Path(each) for each in found]
        raise FileNotFoundError(f"Expected photos that match the pattern {word} of --query, but there are none.")
    if not Path(word).suffix and len(os.fsencode(word)) < _LONGEST_PATH:
        raise FileNotFoundError(f"Expected photos or a folder of photos for --query, but there is no folder {word}.")
    return [Path(word)]
