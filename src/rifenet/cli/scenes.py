"""Georeferenced scenes among the photos of `rifenet segment`: their masks and polygons keep their place on the map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import progress_bar
from rifenet.cli.segmented import done, stamp
from rifenet.formats.geotiff import Scene

if TYPE_CHECKING:
    from rifenet.segmenting.segmenter import Segmenter

FORMATS = ("gpkg", "geojson")
"""What is written of a scene beside its mask, if it is asked for."""
ENDINGS = ("_mask.tif", ".gpkg")
"""Of a scene's files, beside those of photos."""


def segment_scenes(
    segmenter: Segmenter,
    scenes: Sequence[Scene],
    names: dict[Any, str],
    out: Path,
    run: str,
    formats: Sequence[str],
    options: dict[str, Any],
) -> dict[Any, dict[str, Any]]:
    """Segments the scenes that `run` has not, with a bar for each, and returns the records of all."""
    from rifenet.segmenting.scenes import segment_scene

    records = {}
    for scene in scenes:
        name, file = names[scene], Path(scene.file)
        if (known := done(out, name, file, run)) is None:
            with progress_bar() as bar:
                task = bar.add_task(f"segmenting {file.name}", total=len(scene))
                paths = segment_scene(
                    segmenter,
                    scene,
                    out,
                    name,
                    {"run": run, "file": stamp(file)},
                    formats=[each for each in formats if each in FORMATS],
                    on_progress=lambda number, total, bar=bar, task=task: bar.update(task, completed=number),
                    **options,
                )
            known = json.loads(paths["json"].read_text(encoding="utf-8"))
        records[scene] = known
    return records
