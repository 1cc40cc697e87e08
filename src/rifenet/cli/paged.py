"""Files of several pages among the photos of a command: `--window` and `--bands`, and their pages in their place."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rifenet.formats.contrast import How, Window, checked


def add_contrast(parser: argparse.ArgumentParser) -> None:
    """`--window` and `--bands`."""
    parser.add_argument(
        "--window",
        type=_window,
        metavar="LOW,HIGH | auto",
        help="of scientific files: the numbers that become black and white, or auto for percentiles over all files of"
        " the run (default: auto for all but bytes; plain photos stay as they are)",
    )
    parser.add_argument(
        "--bands",
        type=_bands,
        metavar="R,G,B | N",
        help="of scientific files: the bands taken as red, green and blue, or as grey, counted from 1 (default: the"
        " first three, or the first)",
    )


def _window(text: str) -> Window | str:
    number = r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*"
    if text == "auto":
        return text
    if not re.fullmatch(f"{number},{number}", text):
        raise argparse.ArgumentTypeError(f"expected auto or two numbers, such as 100,4000, but got {text}")
    return _or_usage(lambda: checked(tuple(map(float, text.split(","))), None)).window  # type: ignore[return-value]


def _bands(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise argparse.ArgumentTypeError(f"expected one or three bands, such as 4,3,2, but got {text}")
    return _or_usage(lambda: checked(None, tuple(map(int, text.split(","))))).bands


def _or_usage(check: Callable[[], How]) -> How:
    try:
        return check()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def paged(
    shots: Sequence[tuple[str, str, str]],
    photos: Sequence[Path],
    how: How,
    labels: dict[str, str],
    skip: Callable[[Any, Exception], None],
) -> tuple[dict[str, list[tuple[Any, Any]]], list[Any]]:
    """The pairs of photo and mask of each class, and the photos, with pages in place of files that hold several.

    Contrast by percentiles is that of shots and photos together.

    Args:
        shots: class, photo and mask of each (`cli.supports.shots_of`).
        photos: to segment.
        how: contrast and bands.
        labels: class -> its label in mask files.
        skip: called with a photo that cannot be opened, and the error.
    """
    from rifenet.formats.opening import opened
    from rifenet.segmenting.annotated import of_pages

    supports = [photo for _, photo, _ in shots]
    left_out = set()

    def failed(source: Any, error: Exception) -> None:
        if not isinstance(source, Path):
            raise error
        left_out.add(source)
        skip(source, error)

    found = opened([*supports, *photos], how, first_will_do=True, on_error=failed)
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for (name, photo, mask), pages in zip(shots, found, strict=False):
        pairs.setdefault(name, []).extend([(photo, mask)] if pages is None else of_pages(pages, mask, labels.get(name)))
    queries: list[Any] = []
    for photo, pages in zip(photos, found[len(shots) :], strict=True):
        if photo not in left_out:
            queries += [photo] if pages is None else pages.chosen()
    return pairs, queries


def stacks_among(queries: Iterable[Any], names: dict[Any, str]) -> dict[str, list[str]]:
    """Names of the results of all pages of each stack that is segmented whole, by the name of the stack's own."""
    from rifenet.formats.pages import Page, number_in_names
    from rifenet.formats.stacks import Stack

    found: dict[str, list[str]] = {}
    for page in queries:
        if isinstance(page, Page) and isinstance(page.pages, Stack) and page.number == 0 and len(page.pages) > 1:
            found[page.file] = []
        if isinstance(page, Page) and page.file in found:
            found[page.file].append(names[page])
    return {own[0].replace(number_in_names(0), "", 1): own for own in found.values() if len(own) > 1}
