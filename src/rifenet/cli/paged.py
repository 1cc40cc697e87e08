"""Files of several pages among the photos of a command: `--window` and `--bands`, and their pages in their place."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rifenet.formats.contrast import How, Window, checked
from rifenet.formats.pages import Page, Pages, number_in_names, readable

if TYPE_CHECKING:
    from rifenet.formats.geotiff import Scene
    from rifenet.segmenting.result import Result
    from rifenet.segmenting.segmenter import Segmenter


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

    Georeferenced photos become opened scenes, and a scene with a vector file the windows around its labels. Contrast by
    percentiles is that of shots and photos together.

    Args:
        shots: class, photo and mask of each (`cli.supports.shots_of`).
        photos: to segment.
        how: contrast and bands.
        labels: class -> its label in mask files.
        skip: called with a photo that cannot be opened, and the error.
    """
    from rifenet.formats.geotiff import is_scene, is_vector, labelled
    from rifenet.formats.paged_files import opened
    from rifenet.segmenting.annotated import of_pages

    of_scenes = [is_vector(mask) for _, _, mask in shots]
    are_scenes = [is_scene(photo) for photo in photos]
    left_out = set()

    def failed(source: Any, error: Exception) -> None:
        if not isinstance(source, Path):
            raise error
        left_out.add(source)
        skip(source, error)

    scenes = _scenes(
        [shot[1] for shot, vector in zip(shots, of_scenes, strict=True) if vector],
        [photo for photo, is_one in zip(photos, are_scenes, strict=True) if is_one],
        how,
        failed,
    )
    supports = [None if vector else support for (_, support, _), vector in zip(shots, of_scenes, strict=True)]
    queries = [None if is_one else photo for photo, is_one in zip(photos, are_scenes, strict=True)]
    found = opened([*supports, *queries], how, first_will_do=True, on_error=failed)
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for (name, support, mask), pages in zip(shots, found, strict=False):
        own = pairs.setdefault(name, [])
        if is_vector(mask):
            own += labelled(scenes[str(Path(support))], mask, name, labels.get(name))
        else:
            own += [(support, mask)] if pages is None else of_pages(pages, mask, labels.get(name))
    todo: list[Any] = []
    for photo, pages, is_one in zip(photos, found[len(shots) :], are_scenes, strict=True):
        if photo not in left_out:
            todo += [scenes[str(photo)]] if is_one else [photo] if pages is None else pages.chosen()
    return pairs, todo


def _scenes(
    supports: Sequence[str], photos: Sequence[Path], how: How, failed: Callable[[Any, Exception], None]
) -> dict[str, Scene]:
    """The scenes of shots and photos by their paths, with the contrast of all together."""
    from rifenet.formats.geotiff import contrasted, open_scene

    found: dict[str, Scene] = {}
    sources: list[str | Path] = [*supports, *photos]
    for source in sources:
        path = str(Path(source))
        try:
            found[path] = found[path] if path in found else open_scene(path)
        except (ValueError, OSError) as error:
            failed(source, error)
    by_path = {str(Path(source)): source for source in reversed(sources)}  # a shot rather than a photo
    return readable(found, partial(contrasted, how=how), lambda path, error: failed(by_path[path], error))


class Whole(NamedTuple):
    """A file of pages that is segmented whole."""

    pages: Pages
    name: str
    """How the names of its own results begin."""
    parts: list[str]
    """How those of its pages do, in their order."""


def whole_files(queries: Mapping[Any, str]) -> list[Whole]:
    """The files of which all pages are among what is segmented, with the names of results."""
    found: dict[str, list[Page]] = {}
    for query in queries:
        if isinstance(query, Page):
            found.setdefault(query.file, []).append(query)
    return [
        Whole(own[0].pages, queries[own[0]].replace(number_in_names(0), "", 1), [queries[page] for page in own])
        for own in found.values()
        if len(own) == len(own[0].pages) > 1
    ]


def segmented(
    segmenter: Segmenter,
    todo: Sequence[Any],
    steadied_files: Sequence[Whole],
    options: dict[str, Any],
    skip: Callable[[Any, Exception], None],
) -> Iterator[Result]:
    """The results of photos and pages, one at a time; frames of videos that are steadied with their neighbours."""
    from rifenet.segmenting.steadying import REACH, steadied

    def of(queries: Iterable[Any]) -> Iterator[Result]:
        return segmenter.segment_many(queries, batch_size=1, on_error=skip, **options)

    moving = [each.pages for each in steadied_files if each.pages.moving]
    for pages, group in groupby(todo, lambda query: query.pages if isinstance(query, Page) else None):
        if pages not in moving or pages is None:
            yield from of(group)
            continue
        numbers = {page.number for page in group}
        needed = {near for own in numbers for near in range(own - REACH, own + REACH + 1) if 0 <= near < len(pages)}
        wanted = {str(pages[number]) for number in numbers}
        yield from (each for each in steadied(of(pages[near] for near in sorted(needed))) if each.source in wanted)
