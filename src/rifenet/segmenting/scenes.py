"""Segments scenes too large for memory, window by window, into masks and polygons with their place on the map."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rifenet.files import scratch_folder, write_bytes
from rifenet.formats.contrast import How
from rifenet.formats.geotiff import DRIVERS, NODATA, SIDE, Scene, contrasted, open_scene, write_mask, write_polygons
from rifenet.formats.pages import Page
from rifenet.segmenting.queries import model_record

if TYPE_CHECKING:
    from rifenet.segmenting.segmenter import Segmenter

MOST_CLASSES = NODATA - 1


class _Tally:
    """What the windows of a scene held, class by class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.pixels = np.zeros(256, np.int64)
        self.confidence = dict.fromkeys(classes, 0.0)
        self.present = dict.fromkeys(classes, False)

    def add(self, result: Any, mask: NDArray[np.uint8]) -> None:
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


def segment_scene(
    segmenter: Segmenter,
    scene: str | PathLike[str] | Scene,
    folder: str | PathLike[str],
    name: str | None = None,
    facts: dict[str, Any] | None = None,
    *,
    formats: Sequence[str] = (),
    how: How | None = None,
    side: int = SIDE,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Path]:
    """`Segmenter.segment_scene`, which says more; `scene` may have its contrast, and `facts` go into the JSON."""
    if wrong := [each for each in formats if each not in DRIVERS]:
        raise ValueError(f"Expected formats of a scene among {', '.join(DRIVERS)}, but got {', '.join(wrong)}.")
    if not isinstance(scene, Scene):
        (scene,) = contrasted([open_scene(scene, side)], how or How())
    stem, place = name or Path(scene.file).stem, Path(folder)
    tally = _Tally(segmenter.classes)
    paths = {"mask": place / f"{stem}_mask.tif"} | {each: place / f"{stem}.{each}" for each in formats}
    with scratch_folder(place) as scratch:
        made = {key: scratch / path.name for key, path in paths.items()}
        write_mask(made["mask"], scene, _cores(segmenter, scene, tally, on_progress, options))
        for each in formats:
            write_polygons(made[each], made["mask"], segmenter.classes, each)
        for key, path in made.items():
            os.replace(path, paths[key])
    record = {
        "query": scene.file,
        "height": scene.height,
        "width": scene.width,
        "model": model_record(segmenter.engine),
        "classes": tally.rows(),
        "files": {key: path.name for key, path in paths.items()},
        **(facts or {}),
    }
    paths["json"] = place / f"{stem}.json"
    write_bytes(paths["json"], f"{json.dumps(record, indent=1)}\n".encode())
    return paths


def _cores(
    segmenter: Segmenter,
    scene: Scene,
    tally: _Tally,
    on_progress: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The mask of each window's core, for windows that hold data."""
    total = len(scene)
    seen: list[int] = []

    def with_data() -> Iterator[Page]:
        for number in range(total):
            if scene.there(scene.core(number)).any():
                seen.append(number)
                yield scene[number]

    for result in segmenter.segment_many(with_data(), batch_size=1, **options):
        number = seen.pop(0)
        core = scene.core(number)
        mask = result.mask[core.within(scene.box(number))].copy()
        mask[~scene.there(core)] = NODATA
        tally.add(result, mask)
        yield number, mask
        if on_progress is not None:
            on_progress(number + 1, total)
