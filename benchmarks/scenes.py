"""A rendered scene of 20,000 x 20,000 pixels as a COG: peak memory, time and the place of what is found.

    python -m benchmarks.scenes --out docs/results/scenes.json [--folder FOLDER]

Needs `rifenet[geo]`. Round fields on a textured ground lie where a seed says; a GeoPackage labels five of them. The
bundled model learns them and segments the scene in windows. `--folder` keeps the scene, so that the same command goes
on where it was stopped; then `windows` tells how many the last process segmented, whose memory and time are told.

`peak_mib` is the peak of a process that does this and nothing else, and `peak_after` that after each tenth of the
windows. `iou` is that of all fields, pixel by pixel; `shift` the mean distance in pixels between the centres of fields
found and true, along each axis; and `polygons_differ` counts the pixels in which the polygons, drawn by their
coordinates, are not the mask.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Values, model_record, parser, write_record
from rifenet.bench.measure import machine
from rifenet.bench.memory import in_fresh_process, peak_resident
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.geotiff import SIDE
from rifenet.segmenting.segmenter import Segmenter

EAST, NORTH, PIXEL, CRS = 500_000.0, 5_200_000.0, 0.25, "EPSG:32633"
FIELDS, LABELLED, BLOCK = 300, 5, 1024
AROUND = 40  # pixels around a field, in which what is found counts for its centre
GROUND, CROP, ROUGH = (96, 112, 70), (178, 160, 84), 18


def fields(side: int) -> NDArray[np.int64]:
    """Row, column and radius of each field, [N,3]."""
    rng = np.random.default_rng(0)
    radii = rng.integers(60, 220, FIELDS)
    return np.stack([rng.integers(300, side - 300, FIELDS), rng.integers(300, side - 300, FIELDS), radii], axis=1)


def inside(top: int, left: int, size: tuple[int, int], where: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a part of the scene lies in a field, [H,W]."""
    rows, columns = np.ogrid[top : top + size[0], left : left + size[1]]
    found = np.zeros(size, bool)
    for row, column, radius in where.tolist():
        if top - radius < row < top + size[0] + radius and left - radius < column < left + size[1] + radius:
            found |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return found


def write_scene(path: Path, side: int, where: NDArray[np.int64]) -> None:
    """The scene as a COG with its smaller copies."""
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window

    plain = path.with_suffix(".plain.tif")
    transform = rasterio.Affine(PIXEL, 0, EAST, 0, -PIXEL, NORTH)
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": CRS, "transform": transform}
    profile |= {"height": side, "width": side, "tiled": True, "blockxsize": 512, "blockysize": 512}
    rng = np.random.default_rng(1)
    rough = rng.normal(0, ROUGH, (BLOCK, BLOCK, 3))
    crop, ground = ((colour + rough).clip(0, 255).astype(np.uint8) for colour in (CROP, GROUND))
    with rasterio.open(plain, "w", **profile) as out:
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                size = min(BLOCK, side - top), min(BLOCK, side - left)
                field = inside(top, left, size, where)[..., None]
                pixels = np.where(field, crop[: size[0], : size[1]], ground[: size[0], : size[1]])
                out.write(pixels.transpose(2, 0, 1), window=Window(left, top, size[1], size[0]))
    copy(plain, path, driver="COG", compress="lzw")
    plain.unlink()


def write_labels(path: Path, where: NDArray[np.int64]) -> None:
    """The first fields as polygons of 64 corners."""
    import fiona

    angles = np.linspace(0, 2 * np.pi, 65)
    with fiona.open(path, "w", driver="GPKG", crs=CRS, schema={"geometry": "Polygon", "properties": {}}) as out:
        for row, column, radius in where[:LABELLED].tolist():
            x = EAST + PIXEL * (column + 0.5 + radius * np.cos(angles))
            y = NORTH - PIXEL * (row + 0.5 + radius * np.sin(angles))
            ring = list(zip(x.tolist(), y.tolist(), strict=True))
            out.write({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}})


def segment(folder: str, model: str, threads: int, side: int, fit: bool) -> Values:
    """Learns the fields, segments the scene, and tells memory and time."""
    place = Path(folder)
    segmenter = Segmenter.from_pretrained(model, "cpu", threads)
    segmenter.learn("field", images=[place / "scene.tif"], masks=[place / "labels.gpkg"], fit=fit)
    started, clock = time.process_time(), time.perf_counter()
    paths = segmenter.segment_scene(
        place / "scene.tif",
        place / "out",
        formats=["gpkg", "geojson"],
        side=side,
        tiles=False,
        on_progress=(watched := Watched()),
    )
    record: Values = {"processor_seconds": time.process_time() - started, "seconds": time.perf_counter() - clock}
    record |= {"windows": watched.windows, "peak_after": watched.peaks, "peak_mib": peak_resident()}
    return {**record, "paths": {key: str(path) for key, path in paths.items()}, "model": model_record(segmenter.engine)}


class Watched:
    """Prints how far a scene is, and keeps the peak of memory after each tenth of its windows."""

    def __init__(self) -> None:
        self.windows = 0
        """Segmented by this process, as long as none was skipped."""
        self.peaks: list[float] = []
        self._last = 0

    def __call__(self, number: int, total: int) -> None:
        """Told of a window."""
        self.windows += number == self._last + 1
        if number * 10 // total > self._last * 10 // total:
            self.peaks.append(round(peak_resident() or 0, 1))
            print(f"{number} of {total} windows, {self.peaks[-1]} MiB", flush=True)
        self._last = number


def compared(mask: Path, polygons: Path, where: NDArray[np.int64]) -> Values:
    """IoU of the fields, how far their centres are off, and where polygons and mask differ."""
    import fiona
    import rasterio
    from rasterio.features import rasterize
    from rasterio.windows import Window

    both = either = 0
    shifts = []
    with rasterio.open(mask) as data:
        for top in range(0, data.height, BLOCK):
            for left in range(0, data.width, BLOCK):
                size = min(BLOCK, data.height - top), min(BLOCK, data.width - left)
                found = data.read(1, window=Window(left, top, size[1], size[0])) == 1
                there = inside(top, left, size, where)
                both, either = both + int((found & there).sum()), either + int((found | there).sum())
        for row, column, radius in where.tolist():
            top, left, reach = row - radius - AROUND, column - radius - AROUND, 2 * (radius + AROUND) + 1
            found = data.read(1, window=Window(left, top, reach, reach)) == 1
            there = inside(top, left, found.shape, where)
            if (found & there).sum() > 0.9 * (found | there).sum():
                shifts.append([np.nonzero(found)[axis].mean() - np.nonzero(there)[axis].mean() for axis in (0, 1)])
        with fiona.open(polygons) as layer:
            shapes = [(row.geometry.__geo_interface__, 1) for row in layer]
        differ = int((rasterize(shapes, data.shape, transform=data.transform) != (data.read(1) == 1)).sum())
    record: Values = {"iou": both / either, "fields_compared": len(shifts), "polygons": len(shapes)}
    return {**record, "shift": np.mean(shifts, axis=0).round(3).tolist(), "polygons_differ": differ}


def main() -> None:
    """Measures and writes."""
    made = parser(__doc__)
    made.add_argument("--side", type=int, default=20_000, help="of the scene")
    made.add_argument("--window", type=int, default=SIDE, help="side of the windows, which are seen without tiles")
    made.add_argument("--folder", type=Path, help="where the scene and its results are kept; else nothing is")
    made.add_argument("--no-fit", action="store_true", help="learn without a fit")
    made.add_argument("--model", default="default")
    options = made.parse_args()
    where = fields(options.side)
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "labels.gpkg").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_scene(folder / "scene.tif", options.side, where)
            write_labels(folder / "labels.gpkg", where)
            print("rendered", flush=True)
        record = in_fresh_process(
            segment, str(folder), options.model, options.threads, options.window, not options.no_fit
        )
        paths = record.pop("paths")
        record |= compared(Path(paths["mask"]), Path(paths["gpkg"]), where)
    settings = {"commit": git_commit(), "machine": machine(torch.device("cpu")), "threads": options.threads}
    write_record(
        options.out, {**settings, "side": options.side, "window": options.window, "fit": not options.no_fit, **record}
    )


if __name__ == "__main__":
    main()
