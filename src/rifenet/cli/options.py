"""Options that several commands share, and the photos that they name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from pathlib import Path

from rifenet.formats.pictures import PHOTO_SUFFIXES

TRAINED = "default (bundled), a run folder, a .safetensors file"


def add_model(parser: argparse.ArgumentParser, *, exports: bool = True) -> None:
    """`--model`. Without `exports` the help names no export folder, because the command needs torch."""
    kinds = f"{TRAINED}, an export folder" if exports else TRAINED
    parser.add_argument("--model", default="default", help=f"{kinds} or hf:owner/name")


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
    """`--support` (with the help `shot`), `--query` and `--white-is-object`."""
    parser.add_argument(
        "--support", nargs=3, action="append", required=True, metavar=("CLASS", "PHOTO", "MASK"), help=shot
    )
    parser.add_argument(
        "--query",
        nargs="+",
        action="extend",
        default=[],
        required=query_required,
        metavar="PATH",
        help="photos or folders of photos",
    )
    parser.add_argument(
        "--white-is-object", action="store_true", help="255 in a mask marks the class, instead of pixels to ignore"
    )


def photos_in(folder: Path, leave_out: Collection[Path] = ()) -> list[Path]:
    """The photos directly in `folder`, by name, without the resolved paths of `leave_out`.

    Raises ValueError where there is none.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file())
    if photos := [file for file in files if file.resolve() not in leave_out]:
        return photos
    raise ValueError(f"Expected photos ({', '.join(PHOTO_SUFFIXES)}) in {folder}, but it holds none.")


def photos_of(queries: list[str], out: Path | None, masks: Collection[Path]) -> list[Path]:
    """The photos that `--query` names, each once: a file as given, a folder's photos except `masks`.

    A file that does not exist stays in the list: the command names it when it fails to read it.
    """
    photos: dict[Path, Path] = {}
    for path in map(Path, queries):
        is_folder = os.path.isdir(path)
        if is_folder and out is not None and path.resolve() == out.resolve():
            raise ValueError(f"Expected --out to be another folder than --query, but both are {path}.")
        for file in photos_in(path, masks) if is_folder else [path]:
            photos.setdefault(file.resolve(), file)
    return list(photos.values())
