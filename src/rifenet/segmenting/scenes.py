"""Segments scenes too large for memory, window by window, into masks and polygons with their place on the map.

The windows of a row make one file, which is kept until the scene is done: a scene that was stopped goes on with the row
that it lacks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.files import scratch_folder, write_atomically, write_bytes
from rifenet.formats.geotiff import NODATA, Scene, bounded_cache, write_mask, write_polygons
from rifenet.formats.pages import ROWS, Page
from rifenet.segmenting.result import Result


class SceneRow(NamedTuple):
    """What a row of windows holds."""

    mask: NDArray[np.uint8]
    """Of the cores of its windows, over the whole width of the scene, [H,W]."""
    confidence: NDArray[np.float64]
    """Of each class, in the window that is surest of it, [C]."""
    present: NDArray[np.bool_]
    """Of each class, whether a window shows it, [C]."""


@dataclass(frozen=True)
class _Kept:
    """The rows of a scene that are done, as files."""

    folder: Path
    key: str
    """Of all that the rows depend on: those of another key count as missing."""

    def read(self, number: int) -> SceneRow | None:
        """A row; None if it is not done, or its file is damaged."""
        import zipfile  # loaded where a file is read, as NumPy does it
        import zlib

        try:
            with np.load(self._file(number)) as held:
                return SceneRow(*(held[name] for name in SceneRow._fields)) if str(held["key"]) == self.key else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def write(self, number: int, row: SceneRow) -> None:
        """Keeps a row. Raises OSError on a full disk."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, key=np.array(self.key), **row._asdict())

        write_atomically(self._file(number), write)

    def forget(self) -> None:
        """Removes all rows."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


class _Tally:
    """What the rows of a scene hold, class by class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.pixels = np.zeros(256, np.int64)
        self.confidence = np.zeros(len(classes))
        self.present = np.zeros(len(classes), bool)

    def add(self, row: SceneRow) -> None:
        """Counts a row."""
        self.pixels += np.bincount(row.mask.ravel(), minlength=256)
        self.confidence = np.maximum(self.confidence, row.confidence)
        self.present |= row.present

    def entries(self) -> list[dict[str, Any]]:
        """An entry for each class, for JSON; the confidence is that of the surest window."""
        return [
            {
                "id": number,
                "name": name,
                "present": bool(self.present[number - 1]),
                "confidence": round(float(self.confidence[number - 1]), 4),
                "pixels": int(self.pixels[number]),
            }
            for number, name in enumerate(self.classes, 1)
        ]


def write_scene(
    scene: Scene,
    segment: Callable[[Iterable[Page]], Iterator[Result]],
    classes: Sequence[str],
    folder: Path,
    stem: str,
    formats: Sequence[str],
    facts: Mapping[str, Any],
    run: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Segments a scene and writes its files; see `Segmenter.segment_scene`.

    Args:
        scene: with its contrast.
        segment: gives the results of windows, one by one and in order.
        classes: names of the classes.
        folder: created if missing.
        stem: how the names of the files begin.
        formats: keys of `geotiff.DRIVERS`.
        facts: further entries for the JSON.
        run: differs where `segment` gives other results; rows of an earlier call with the same are taken as they are.
        on_progress: called after each window.
    """
    tally = _Tally(classes)
    kept = _Kept(folder / f"{stem}{ROWS}", _key(scene, run))
    paths = {"mask": folder / f"{stem}_mask.tif"} | {each: folder / f"{stem}.{each}" for each in formats}
    with scratch_folder(folder) as scratch, bounded_cache():
        made = {key: scratch / path.name for key, path in paths.items()}
        write_mask(made["mask"], scene, _rows(segment, scene, classes, kept, tally, on_progress))
        for each in formats:
            write_polygons(made[each], made["mask"], classes, each)
        for key, path in made.items():
            os.replace(path, paths[key])
    record = {
        "query": scene.file,
        "height": scene.height,
        "width": scene.width,
        "classes": tally.entries(),
        "files": {key: path.name for key, path in paths.items()},
        "run": run,
        **facts,
    }
    paths["json"] = folder / f"{stem}.json"
    write_bytes(paths["json"], f"{json.dumps(record, indent=1)}\n".encode())
    kept.forget()
    return paths


def _key(scene: Scene, run: str) -> str:
    """Of the run, the scene's file as it is now, and how its windows become photos."""
    status = os.stat(scene.file)
    size = [scene.height, scene.width, status.st_size, status.st_mtime_ns]
    parts = [run, *size, scene.side, scene.bands, scene.windows]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _rows(
    segment: Callable[[Iterable[Page]], Iterator[Result]],
    scene: Scene,
    classes: Sequence[str],
    kept: _Kept,
    tally: _Tally,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The first line of each row of windows, and the mask of the row."""
    total = len(scene)

    def told(done: int) -> None:
        if on_progress is not None:
            on_progress(done, total)

    for number in range(total // scene.across):
        row = kept.read(number)
        if row is None:
            row = _segmented(segment, scene, number, classes, told)
            kept.write(number, row)
        told((number + 1) * scene.across)
        tally.add(row)
        yield scene.core(number * scene.across).top, row.mask


def _segmented(
    segment: Callable[[Iterable[Page]], Iterator[Result]],
    scene: Scene,
    row: int,
    classes: Sequence[str],
    told: Callable[[int], None],
) -> SceneRow:
    """A row, by those of its windows that hold data."""
    first = row * scene.across
    seen: deque[int] = deque()

    def with_data() -> Iterator[Page]:
        for number in range(first, first + scene.across):
            if scene.there(scene.core(number)).any():
                seen.append(number)
                yield scene[number]

    top, _, bottom, _ = scene.core(first)
    made = SceneRow(
        np.full((bottom - top, scene.width), NODATA, np.uint8), np.zeros(len(classes)), np.zeros(len(classes), bool)
    )
    for result in segment(with_data()):
        number = seen.popleft()
        core = scene.core(number)
        there = scene.there(core)
        made.mask[:, core.left : core.right][there] = result.mask[core.within(scene.box(number))][there]
        np.maximum(made.confidence, [result.confidence[name] for name in classes], out=made.confidence)
        made.present[:] |= [result.shown(name) for name in classes]
        told(number + 1)
    return made
