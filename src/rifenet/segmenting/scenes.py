"""Segments scenes too large for memory, window by window, into masks and polygons with their place on the map."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rifenet.files import scratch_folder, write_bytes
from rifenet.formats.geotiff import NODATA, Scene, write_mask, write_polygons
from rifenet.formats.pages import Page
from rifenet.segmenting.result import Result


class _Tally:
    """What the windows of a scene held, class by class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.pixels = np.zeros(256, np.int64)
        self.confidence = dict.fromkeys(classes, 0.0)
        self.present = dict.fromkeys(classes, False)

    def add(self, result: Result, mask: NDArray[np.uint8]) -> None:
        """A window's result, and the mask of its core."""
        self.pixels += np.bincount(mask.ravel(), minlength=256)
        for name, confidence in result.confidence.items():
            self.confidence[name] = max(self.confidence[name], confidence)
            self.present[name] |= result.shown(name)

    def rows(self) -> list[dict[str, Any]]:
        """An entry for each class, for JSON; the confidence is that of the surest window."""
        return [
            {
                "id": number,
                "name": name,
                "present": bool(self.present[name]),
                "confidence": round(float(confidence), 4),
                "pixels": int(self.pixels[number]),
            }
            for number, (name, confidence) in enumerate(self.confidence.items(), 1)
        ]


def write_scene(
    scene: Scene,
    segment: Callable[[Iterable[Page]], Iterator[Result]],
    classes: Sequence[str],
    folder: Path,
    stem: str,
    formats: Sequence[str],
    facts: Mapping[str, Any],
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
        on_progress: called after each window.
    """
    tally = _Tally(classes)
    paths = {"mask": folder / f"{stem}_mask.tif"} | {each: folder / f"{stem}.{each}" for each in formats}
    with scratch_folder(folder) as scratch:
        made = {key: scratch / path.name for key, path in paths.items()}
        write_mask(made["mask"], scene, _cores(segment, scene, tally, on_progress))
        for each in formats:
            write_polygons(made[each], made["mask"], classes, each)
        for key, path in made.items():
            os.replace(path, paths[key])
    record = {
        "query": scene.file,
        "height": scene.height,
        "width": scene.width,
        "classes": tally.rows(),
        "files": {key: path.name for key, path in paths.items()},
        **facts,
    }
    paths["json"] = folder / f"{stem}.json"
    write_bytes(paths["json"], f"{json.dumps(record, indent=1)}\n".encode())
    return paths


def _cores(
    segment: Callable[[Iterable[Page]], Iterator[Result]],
    scene: Scene,
    tally: _Tally,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The mask of each window's core, for windows that hold data."""
    total = len(scene)
    seen: deque[int] = deque()

    def with_data() -> Iterator[Page]:
        for number in range(total):
            if scene.there(scene.core(number)).any():
                seen.append(number)
                yield scene[number]

    for result in segment(with_data()):
        number = seen.popleft()
        core = scene.core(number)
        mask = result.mask[core.within(scene.box(number))].copy()
        mask[~scene.there(core)] = NODATA
        tally.add(result, mask)
        yield number, mask
        if on_progress is not None:
            on_progress(number + 1, total)
