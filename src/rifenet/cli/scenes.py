"""Georeferenced scenes among the photos of `rifenet segment`: their masks and polygons keep their place on the map."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import progress_bar
from rifenet.cli.segmented import done, stamp
from rifenet.formats.pages import ROWS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from rifenet.formats.geotiff import Scene
    from rifenet.segmenting.segmenter import Segmenter

FORMATS = ("gpkg", "geojson")
"""What is written of a scene beside its mask, if it is asked for."""
ENDINGS = ("_mask.tif", ".gpkg", ROWS)
"""Of a scene's files, beside those of photos."""


def scenes_among(queries: Iterable[Any]) -> list[Any]:
    """The scenes among what is segmented."""
    from rifenet.formats.geotiff import Scene

    return [query for query in queries if isinstance(query, Scene)]


def segment_scenes(
    segmenter: Segmenter,
    scenes: Sequence[Scene],
    names: dict[Any, str],
    out: Path,
    run: str,
    formats: Sequence[str],
    options: dict[str, Any],
    skip: Callable[[Any, Exception], None],
) -> dict[Any, dict[str, Any]]:
    """Segments the scenes that `run` has not, with a bar for each, and returns the records of all.

    `skip` is called with the path of a scene that cannot be read, and the error.
    """
    records = {}
    for scene in scenes:
        name, file = names[scene], Path(scene.file)
        if (known := done(out, name, file, run)) is None:
            try:
                with progress_bar() as bar:
                    task = bar.add_task(f"segmenting {file.name}", total=len(scene))
                    paths = segmenter.segment_scene(
                        scene,
                        out,
                        name,
                        {"file": stamp(file)},
                        formats=[each for each in formats if each in FORMATS],
                        run=run,
                        on_progress=partial(_advance, bar, task),
                        **options,
                    )
            except ValueError as error:
                skip(file, error)
                continue
            known = json.loads(paths["json"].read_text(encoding="utf-8"))
        records[scene] = known
    return records


def _advance(bar: Progress, task: TaskID, number: int, total: int) -> None:
    bar.update(task, completed=number, total=total)
