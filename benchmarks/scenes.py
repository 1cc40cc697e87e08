"""A rendered scene of 20,000 x 20,000 pixels as a COG: peak memory, time and the place of what is found.

    python -m benchmarks.scenes --out docs/results/scenes.json

Needs `rifenet[geo]`. Round fields on a textured ground lie where a seed says; a GeoPackage labels five of them. The
bundled model learns them and segments the scene in windows. Memory is the peak of the process that does, and nothing
else; `iou` is that of all fields, pixel by pixel, and `shift` the mean distance in pixels between the centres of fields
found and true, along each axis.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Values, model_record, parser, write_record
from rifenet.bench.memory import in_fresh_process, peak_resident
from rifenet.evaluation.provenance import git_commit
from rifenet.segmenting.segmenter import Segmenter

EAST, NORTH, PIXEL, CRS = 500_000.0, 5_200_000.0, 0.25, "EPSG:32633"
FIELDS, LABELLED, BLOCK = 300, 5, 1024
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


def segment(folder: str, model: str, threads: int, side: int) -> Values:
    """Learns the fields, segments the scene, and tells memory and time."""
    place = Path(folder)
    segmenter = Segmenter.from_pretrained(model, "cpu", threads)
    segmenter.learn("field", images=[place / "scene.tif"], masks=[place / "labels.gpkg"], fit=False)
    started, clock = time.process_time(), time.perf_counter()
    paths = segmenter.segment_scene(
        place / "scene.tif",
        place / "out",
        formats=["gpkg", "geojson"],
        side=side,
        tiles=False,
        on_progress=lambda number, total: print(f"{number} of {total}", flush=True),
    )
    record: Values = {"processor_seconds": time.process_time() - started, "seconds": time.perf_counter() - clock}
    return {**record, "peak_mib": peak_resident(), "mask": str(paths["mask"]), "model": model_record(segmenter.engine)}


def compared(mask: Path, where: NDArray[np.int64]) -> Values:
    """IoU of the fields, and how far their centres are off."""
    import rasterio
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
            top, left, reach = max(0, row - radius), max(0, column - radius), 2 * radius + 1
            found = data.read(1, window=Window(left, top, reach, reach)) == 1
            there = inside(top, left, found.shape, where)
            if (found & there).sum() > 0.9 * (found | there).sum():
                shifts.append([np.nonzero(found)[axis].mean() - np.nonzero(there)[axis].mean() for axis in (0, 1)])
    return {"iou": both / either, "fields_compared": len(shifts), "shift": np.mean(shifts, axis=0).round(3).tolist()}


def main() -> None:
    """Measures and writes."""
    made = parser(__doc__)
    made.add_argument("--side", type=int, default=20_000, help="of the scene")
    made.add_argument("--window", type=int, default=4096, help="side of the windows, which are seen without tiles")
    made.add_argument("--model", default="default")
    options = made.parse_args()
    where = fields(options.side)
    with TemporaryDirectory() as folder:
        write_scene(Path(folder) / "scene.tif", options.side, where)
        write_labels(Path(folder) / "labels.gpkg", where)
        print("rendered", flush=True)
        record = in_fresh_process(segment, folder, options.model, options.threads, options.window)
        record |= compared(Path(record.pop("mask")), where)
    settings = {"commit": git_commit(), "side": options.side, "window": options.window}
    write_record(options.out, {**settings, **record})


if __name__ == "__main__":
    main()
