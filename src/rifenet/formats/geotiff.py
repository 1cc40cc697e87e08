"""Georeferenced scenes (GeoTIFF, COG, VRT): windows read from disk, labels out of vector files, masks with their place.

A scene is cut into cores, whose windows overlap by a margin on each side, so that what lies at the edge of a core is
seen with its surroundings. Windows lie within the scene.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rifenet.config import needs
from rifenet.formats.contrast import How, Window, as_photo, chosen_bands, full_range, windows_of
from rifenet.formats.pages import DamagedFile, Pages
from rifenet.formats.picture_files import open_picture
from rifenet.formats.remarks import remark

SIDE, MARGIN = 1024, 128
"""Pixels of a window, and of its overlap with the window beside it, on each side."""
NODATA = 255
"""In a mask, where the scene holds no data."""
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
SCENE_SUFFIXES = (".tif", ".tiff", ".vrt")
DRIVERS = {"gpkg": "GPKG", "geojson": "GeoJSON"}
MOST_WINDOWS = 5
"""Shots that are taken of one scene."""
_SAMPLED = 1024  # longer side of a scene, read for its percentiles
_GEO_TAGS = (33550, 33922, 34264, 34735)  # of a GeoTIFF: scale, tie points, transform, coordinate system
_CACHE = 32 * 2**20  # bytes of blocks that GDAL keeps; by itself it takes 5 % of the machine's memory
_FIELDS = ("class", "label", "name", "category")  # of a vector file, which name the class of a label, in this order


class Extent(NamedTuple):
    """A part of a scene in pixels: rows top to bottom, columns left to right, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def within(self, outer: Extent) -> tuple[slice, slice]:
        """Rows and columns of this part in an array of `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True, eq=False)
class Scene(Pages):
    """A georeferenced picture as its windows, row by row. `open_scene` makes one, and `contrasted` its contrast."""

    file: str
    data: Any
    """The opened dataset of rasterio."""
    side: int = SIDE
    bands: tuple[int, ...] = ()
    """The bands of its photos, counted from 1."""
    windows: tuple[Window, ...] = ()
    """Numbers that become black and white, of each of `bands`."""
    palette: NDArray[np.uint8] | None = None
    """Colours [256,3] that its numbers stand for, unless somebody chose bands or a window."""
    called = "windows"

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.data.height)

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.data.width)

    @property
    def step(self) -> int:
        """Side of a core."""
        return max(1, self.side - 2 * MARGIN)

    @property
    def across(self) -> int:
        """Windows from left to right."""
        return -(-self.width // self.step)

    def __len__(self) -> int:
        """Number of windows."""
        return -(-self.height // self.step) * self.across

    def core(self, number: int) -> Extent:
        """The part of the scene that a window's mask is for; together they are the scene, without overlap."""
        row, column = divmod(number, self.across)
        top, left = row * self.step, column * self.step
        return Extent(top, left, min(self.height, top + self.step), min(self.width, left + self.step))

    def box(self, number: int) -> Extent:
        """The window around a core: `side` pixels square, or as many as the scene has."""
        core = self.core(number)
        return self.around(core.top + self.step // 2, core.left + self.step // 2)

    def around(self, row: int, column: int) -> Extent:
        """The window around a pixel, moved to lie within the scene."""
        top = max(0, min(row - self.side // 2, self.height - self.side))
        left = max(0, min(column - self.side // 2, self.width - self.side))
        return Extent(top, left, min(self.height, top + self.side), min(self.width, left + self.side))

    def photo(self, number: int) -> NDArray[np.uint8]:
        """A window as a photo, [H,W,3]."""
        return self.photo_of(self.box(number))

    def photo_of(self, box: Extent) -> NDArray[np.uint8]:
        """A part of the scene as a photo, [H,W,3]; where it holds no data, the mean colour of where it does."""
        values = np.moveaxis(self._read(self.data.read, box, list(self.bands)), 0, -1)
        photo = as_photo(values, self.windows) if self.palette is None else self.palette[values[..., 0]]
        there = self.there(box)
        if there.any() and not there.all():
            photo[~there] = photo[there].mean(0).round()
        return photo

    def there(self, box: Extent) -> NDArray[np.bool_]:
        """Where a part of the scene holds data, [H,W]."""
        found: NDArray[np.bool_] = self._read(self.data.dataset_mask, box) > 0
        if np.dtype(self.data.dtypes[self.bands[0] - 1]).kind == "f":  # NaN is no data, whatever the file declares
            found &= ~np.isnan(self._read(self.data.read, box, list(self.bands))).any(0)
        return found

    def _read(self, read: Any, box: Extent, *what: Any) -> NDArray[Any]:
        from rasterio.windows import Window as Part

        part = Part(box.left, box.top, box.right - box.left, box.bottom - box.top)
        try:
            return np.asarray(read(*what, window=part))
        except Exception as error:  # GDAL's errors of damaged files
            raise self._damaged(f"{self.file} at {box}", error) from error

    def _damaged(self, what: str, error: Exception) -> DamagedFile:
        with suppress(Exception):  # GDAL keeps an error, and rasterio raises it at the next call, of any file
            _ = self.data.colorinterp
        return DamagedFile(self.file, f"Expected to read {what}, but cannot: {str(error).rstrip('.')}.")

    def sample(self) -> NDArray[Any]:
        """Numbers of its bands, [N,B], where it holds data, at a smaller scale."""
        scale = max(1.0, max(self.height, self.width) / _SAMPLED)
        size = max(1, round(self.height / scale)), max(1, round(self.width / scale))
        try:
            values = self.data.read(list(self.bands), out_shape=(len(self.bands), *size))
            there = self.data.dataset_mask(out_shape=size) > 0
        except Exception as error:  # GDAL's errors of damaged files
            raise self._damaged(self.file, error) from error
        found: NDArray[Any] = np.moveaxis(values, 0, -1)[there]
        return found


def is_scene(path: str | PathLike[str]) -> bool:
    """Whether a path is a picture with a place on the map, which rasterio reads.

    Without rasterio only a VRT is, which nothing else reads; of a GeoTIFF a remark then says what its mask lacks.
    """
    if Path(path).suffix.lower() not in SCENE_SUFFIXES or not os.path.isfile(path):
        return False
    try:
        import rasterio
    except ModuleNotFoundError:
        _say_what_is_lost(path)
        return Path(path).suffix.lower() == ".vrt"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            data = rasterio.open(path)
        with data:
            return data.crs is not None or not data.transform.is_identity
    except rasterio.errors.RasterioIOError:
        return False


def _say_what_is_lost(path: str | PathLike[str]) -> None:
    try:
        with open_picture(path, ("TIFF",)) as picture:
            placed = is_placed(picture)
    except Exception:  # Pillow's errors on what is no TIFF, or one that it does not read
        return
    if placed:
        told = "It has a place on the map, which its mask will lack. With it: pip install 'rifenet[geo]'"
        remark(f"image file {fspath(path)}", told)


def is_placed(picture: Image.Image) -> bool:
    """Whether an opened TIFF has a place on the map."""
    return any(tag in getattr(picture, "tag_v2", {}) for tag in _GEO_TAGS)


def is_vector(path: Any) -> bool:
    """Whether a path is a vector file."""
    return isinstance(path, str | PathLike) and Path(path).suffix.lower() in VECTOR_SUFFIXES


def open_scene(path: str | PathLike[str], side: int = SIDE) -> Scene:
    """Opens a scene without reading pixels.

    Raises FileNotFoundError, ValueError where it cannot be read, and `rifenet.config.MissingExtra` (`rifenet[geo]`).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected image file {fspath(path)}, but there is no such file.")
    if side <= 2 * MARGIN:
        raise ValueError(f"Expected windows of more than {2 * MARGIN} pixels, but got {side}.")
    with needs("rifenet[geo]"):
        import rasterio
    try:
        data = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"Expected a GeoTIFF or a VRT, but cannot read {fspath(path)}: {error}.") from error
    if any("complex" in kind for kind in data.dtypes):
        raise ValueError(
            f"Expected integers or floats, but {fspath(path)} holds complex numbers. Save what should be seen, such as"
            " magnitudes, as floats."
        )
    return Scene(fspath(path), data, side)


def contrasted(scenes: Sequence[Scene], how: How) -> list[Scene]:
    """Scenes with bands and contrast. Percentiles are those of all scenes together that have as many bands."""
    chosen = [
        replace(scene, bands=_bands(scene, how), palette=_palette(scene) if how == How() else None) for scene in scenes
    ]
    known = [_known_window(scene, how) for scene in chosen]
    groups: dict[int, list[NDArray[Any]]] = {}
    for scene, window in zip(chosen, known, strict=True):
        if window is None:
            groups.setdefault(len(scene.bands), []).append(scene.sample())
    found = {count: windows_of(samples, together=False) for count, samples in groups.items()}
    return [
        replace(scene, windows=found[len(scene.bands)] if window is None else (window,) * len(scene.bands))
        for scene, window in zip(chosen, known, strict=True)
    ]


def _known_window(scene: Scene, how: How) -> Window | None:
    if isinstance(how.window, tuple):
        return how.window
    if how.window == "auto":
        return None
    bits = scene.data.tags(scene.bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
    few = (0.0, 2.0 ** int(bits) - 1) if bits is not None and int(bits) < 8 else None
    return few or full_range(np.dtype(scene.data.dtypes[scene.bands[0] - 1]))


def _palette(scene: Scene) -> NDArray[np.uint8] | None:
    """The colours of a scene of one band that has a palette, [256,3]."""
    if scene.data.count != 1 or scene.data.dtypes[0] != "uint8" or scene.data.colorinterp[0].name != "palette":
        return None
    table = np.zeros((256, 3), np.uint8)
    for number, colour in scene.data.colormap(1).items():
        table[number] = colour[:3]
    return table


def _bands(scene: Scene, how: How) -> tuple[int, ...]:
    """The bands that were chosen, or that the file calls red, green and blue, or the first."""
    names = [colour.name for colour in scene.data.colorinterp]
    if not how.bands and {"red", "green", "blue"} <= {*names}:
        return tuple(names.index(name) + 1 for name in ("red", "green", "blue"))
    count = sum(name != "alpha" for name in names)
    return chosen_bands(count, how.bands, f"image file {scene.file}", colours=False)


def labelled(
    scene: Scene, labels: str | PathLike[str], name: str, label: str | None = None
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Windows of a scene around the polygons of a vector file: photos [H,W,3] and masks [H,W] (1, 0, 255 no data).

    Args:
        scene: with its contrast.
        labels: GeoPackage, GeoJSON, Shapefile or FlatGeobuf, in any coordinate system.
        name: the class. Where a field `class`, `label`, `name` or `category` holds it, its polygons count alone.
        label: another text to look for in that field.

    Raises FileNotFoundError, and ValueError where no polygon lies in the scene.
    """
    from rasterio.features import rasterize

    shapes = list(_shapes(scene, labels, name, label))
    found = []
    for box in _boxes(scene, shapes, fspath(labels)):
        there = scene.there(box)
        size = box.bottom - box.top, box.right - box.left
        mask = rasterize(shapes, size, transform=_transform(scene, box), dtype="uint8").astype(np.uint8)
        mask[~there] = NODATA
        found.append((scene.photo_of(box), mask))
    return found


def _transform(scene: Scene, box: Extent) -> Any:
    from rasterio.transform import Affine

    return scene.data.transform @ Affine.translation(box.left, box.top)


def _shapes(scene: Scene, labels: str | PathLike[str], name: str, label: str | None) -> Iterator[dict[str, Any]]:
    """The polygons of the class in the scene's coordinates."""
    if not Path(labels).is_file():
        raise FileNotFoundError(f"Expected label file {fspath(labels)}, but there is no such file.")
    with needs("rifenet[geo]"):
        import fiona
        from fiona.transform import transform_geom
    try:
        with fiona.open(labels) as layer:
            rows = [(dict(row.properties or {}), row.geometry) for row in layer if row.geometry is not None]
            crs = layer.crs_wkt
    except fiona.errors.FionaError as error:
        raise ValueError(f"Expected a vector file, but cannot read {fspath(labels)}: {error}.") from error
    own = scene.data.crs.to_wkt() if scene.data.crs else ""
    if not crs or not own:
        remark(f"label file {fspath(labels)}", "Its coordinates were taken for those of the scene.")
    for geometry in _of_class(rows, name, label, fspath(labels)):
        if "Polygon" in geometry.type:
            moved = transform_geom(crs, own, geometry) if crs and own and crs != own else geometry
            yield dict(moved.__geo_interface__)


def _of_class(rows: list[tuple[dict[str, Any], Any]], name: str, label: str | None, file: str) -> list[Any]:
    """The geometries whose field names the class; all where no field names classes."""
    wanted = (label or name).strip().casefold()
    fields = {key.casefold(): key for properties, _ in rows[:1] for key in properties}
    for field in (fields[each] for each in _FIELDS if each in fields):
        values = [str(properties.get(field)).strip() for properties, _ in rows]
        if found := [row[1] for row, value in zip(rows, values, strict=True) if value.casefold() == wanted]:
            return found
        if label is not None or len({*values}) > 1:
            held = ", ".join(sorted({*values})[:10])
            raise ValueError(
                f"Expected polygons of {label or name!r} in {file}, but its field {field} holds {held}. Choose one:"
                f" label=... in Python, --label '{name}=...' on the command line."
            )
    return [geometry for _, geometry in rows]


def _boxes(scene: Scene, shapes: list[dict[str, Any]], file: str) -> list[Extent]:
    """Windows that hold the polygons, those around the largest first, at most `MOST_WINDOWS`."""
    from rasterio.features import bounds

    places = []
    for shape in shapes:
        west, south, east, north = bounds(shape)
        corners = [~scene.data.transform @ corner for corner in ((west, north), (east, south), (west, south))]
        columns, rows = zip(*corners, strict=True)
        if max(rows) > 0 and min(rows) < scene.height and max(columns) > 0 and min(columns) < scene.width:
            places.append((min(rows), min(columns), max(rows), max(columns)))
    if not places:
        raise ValueError(f"Expected polygons of {file} in {scene.file}, but none lies there. Compare their places.")
    left = sorted(places, key=lambda place: -(place[2] - place[0]) * (place[3] - place[1]))
    boxes: list[Extent] = []
    while left and len(boxes) < MOST_WINDOWS:
        top, first, bottom, last = left[0]
        box = scene.around(round((top + bottom) / 2), round((first + last) / 2))
        boxes.append(box)
        left = [place for place in left[1:] if not _inside(place, box)]
    if left:
        told = f"{len(left)} of its {len(places)} polygons lie outside of the {MOST_WINDOWS} windows that are shots."
        remark(f"label file {file}", told)
    return boxes


def _inside(place: tuple[float, float, float, float], box: Extent) -> bool:
    top, left, bottom, right = place
    return box.top <= top and bottom <= box.bottom and box.left <= left and right <= box.right


@contextmanager
def bounded_cache() -> Iterator[None]:
    """While entered, GDAL keeps few blocks of the files that it reads and writes."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=_CACHE):
        yield


def write_mask(path: Path, scene: Scene, rows: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
    """Writes a GeoTIFF of a scene's size, coordinate system and transform, in tiles of 256 pixels.

    `rows`: masks [H,W] over the whole width, each with the number of its first line.
    """
    import rasterio
    from rasterio.windows import Window as Part

    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": NODATA}
    profile |= {"width": scene.width, "height": scene.height, "crs": scene.data.crs, "transform": scene.data.transform}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    with bounded_cache(), rasterio.open(path, "w", **profile) as out:
        for top, mask in rows:
            out.write(mask, 1, window=Part(0, top, mask.shape[1], mask.shape[0]))


def write_polygons(path: Path, mask: Path, classes: Sequence[str], kind: str) -> None:
    """Writes the outlines of a mask's connected parts along the edges of its pixels, in its coordinate system.

    Args:
        path: to write to.
        mask: a GeoTIFF of `write_mask`.
        classes: the names of the values 1, 2, ...
        kind: a key of `DRIVERS`.
    """
    import fiona
    import rasterio
    from rasterio.features import shapes

    schema = {"geometry": "Polygon", "properties": {"class": "str", "class_id": "int", "pixels": "int"}}
    with bounded_cache(), rasterio.open(mask) as data:
        crs = data.crs.to_wkt() if data.crs else None
        pixel = abs(data.transform.determinant)
        found = shapes(rasterio.band(data, 1), transform=data.transform)
        records = (
            {"type": "Feature", "geometry": geometry, "properties": _properties(geometry, int(value), classes, pixel)}
            for geometry, value in found
            if 0 < value <= len(classes)
        )
        layer = {"layer": path.stem} if kind == "gpkg" else {}
        with fiona.open(path, "w", driver=DRIVERS[kind], crs_wkt=crs, schema=schema, **layer) as out:
            out.writerecords(records)


def _properties(geometry: dict[str, Any], class_id: int, classes: Sequence[str], pixel: float) -> dict[str, Any]:
    return {"class": classes[class_id - 1], "class_id": class_id, "pixels": _pixels(geometry, pixel)}


def _pixels(geometry: dict[str, Any], pixel: float) -> int:
    """Pixels in a polygon with holes, by the areas of its rings."""
    areas = []
    for ring in geometry["coordinates"]:
        x, y = np.asarray(ring, np.float64).T - np.asarray(ring[0], np.float64)[:, None]
        areas.append(abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2)
    return round((areas[0] - sum(areas[1:])) / pixel)
