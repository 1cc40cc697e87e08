"""Georeferenced scenes with rasterio and fiona; what is written is read back by GDAL's own programs where they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from docs_blocks import ROOT, blocks
from memory import peak_of
from numpy.typing import NDArray

from rifenet.cli.main import main
from rifenet.formats.contrast import How
from rifenet.formats.geotiff import MARGIN, NODATA, Scene, contrasted, is_scene, labelled, open_scene
from rifenet.segmenting.segmenter import Segmenter

pytestmark = pytest.mark.partner("geo")

HEIGHT, WIDTH, SIDE = 1500, 1700, 640
EAST, NORTH, PIXEL = 500_000.0, 5_200_000.0, 0.5
RED, GREY = (220, 30, 30), (128, 128, 128)
FIELDS = ((100, 150, 300, 420), (700, 300, 900, 520), (360, 1200, 700, 1500), (1350, 900, 1480, 1600))
"""Top, left, bottom and right of each, in pixels; some lie across the edges of windows."""


def truth() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for top, left, bottom, right in FIELDS:
        mask[top:bottom, left:right] = True
    return mask


def write_scene(path: Path, pixels: NDArray[Any], **more: Any) -> Path:
    """A GeoTIFF of an array [B,H,W] in UTM 33N, in tiles."""
    import rasterio

    profile: dict[str, Any] = {"driver": "GTiff", "dtype": pixels.dtype, "count": len(pixels), "crs": "EPSG:32633"}
    profile |= {"height": pixels.shape[1], "width": pixels.shape[2], "tiled": True, "compress": "deflate"}
    profile["transform"] = rasterio.Affine(PIXEL, 0, EAST, 0, -PIXEL, NORTH)
    with rasterio.open(path, "w", **(profile | more)) as out:
        out.write(pixels)
    return path


def place(top: int, left: int, bottom: int, right: int, crs: str = "EPSG:32633") -> dict[str, Any]:
    """A box of pixels as a polygon on the map."""
    from fiona.transform import transform_geom

    rows, columns = (top, top, bottom, bottom, top), (left, right, right, left, left)
    ring = [(EAST + PIXEL * x, NORTH - PIXEL * y) for x, y in zip(columns, rows, strict=True)]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return dict(transform_geom("EPSG:32633", crs, geometry)) if crs != "EPSG:32633" else geometry


def write_labels(path: Path, boxes: Any, crs: str = "EPSG:32633", names: Any = None) -> Path:
    import fiona

    driver = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix]
    schema = {"geometry": "Polygon", "properties": {"class": "str"}}
    with fiona.open(path, "w", driver=driver, crs=crs, schema=schema) as out:
        for box, name in zip(boxes, names or ["field"] * len(boxes), strict=True):
            out.write({"type": "Feature", "geometry": place(*box, crs=crs), "properties": {"class": name}})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`scene.tif` with red fields on grey, no data in its upper right corner, and `labels.gpkg` of two fields."""
    colours = np.where(truth()[..., None], RED, GREY).astype(np.uint8)
    pixels = np.moveaxis(colours, -1, 0).copy()
    pixels[:, :200, -300:] = 0
    write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    write_labels(tmp_path / "labels.gpkg", FIELDS[:2])
    return tmp_path


@pytest.fixture
def segmenter(folder: Path) -> Segmenter:
    segmenter = Segmenter(ColourEngine(size=160))
    segmenter.learn("field", images=[folder / "scene.tif"], masks=[folder / "labels.gpkg"])
    return segmenter


def iou(found: NDArray[np.bool_], there: NDArray[np.bool_]) -> float:
    return float((found & there).sum() / (found | there).sum())


def test_windows_cover_the_scene_once(folder: Path) -> None:
    scene = open_scene(folder / "scene.tif", SIDE)
    seen = np.zeros((HEIGHT, WIDTH), int)
    for number in range(len(scene)):
        core, box = scene.core(number), scene.box(number)
        seen[core.top : core.bottom, core.left : core.right] += 1
        assert (box.bottom - box.top, box.right - box.left) == (SIDE, SIDE)
        assert 0 <= box.top <= core.top < core.bottom <= box.bottom <= HEIGHT
        assert 0 <= box.left <= core.left < core.right <= box.right <= WIDTH
        rows, columns = core.within(box)
        inner = core.top == 0 or core.top - box.top >= MARGIN
        assert inner
        assert rows.stop - rows.start == core.bottom - core.top
        assert columns.stop - columns.start == core.right - core.left
    assert (seen == 1).all()


def test_a_mask_keeps_the_place_to_a_pixel(folder: Path, segmenter: Segmenter) -> None:
    import rasterio

    told: list[tuple[int, int]] = []
    paths = segmenter.segment_scene(
        folder / "scene.tif", folder / "out", side=SIDE, on_progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (20, 20)
    with rasterio.open(folder / "scene.tif") as scene, rasterio.open(paths["mask"]) as mask:
        assert (mask.crs, mask.transform, mask.shape) == (scene.crs, scene.transform, scene.shape)
        assert mask.nodata == NODATA
        found = mask.read(1)
    assert (found[:200, -300:] == NODATA).all()
    assert (found == NODATA).sum() == 200 * 300
    assert iou(found == 1, truth()) > 0.97
    record = json.loads(paths["json"].read_text())
    assert record["classes"][0]["pixels"] == (found == 1).sum()


class Stopped(Exception):
    """What a power cut is to a run."""


def test_a_stopped_scene_goes_on(folder: Path) -> None:
    """Where it was stopped in its third row of four, only the windows from that row on are looked at again."""
    engine = ColourEngine(size=160)
    segmenter = Segmenter(engine)
    segmenter.learn("field", images=[folder / "scene.tif"], masks=[folder / "labels.gpkg"])
    whole = segmenter.segment_scene(folder / "scene.tif", folder / "whole", side=SIDE, tiles=False)

    def stop(done: int, total: int) -> None:
        if done == 11:
            raise Stopped

    with pytest.raises(Stopped):
        segmenter.segment_scene(folder / "scene.tif", folder / "out", side=SIDE, tiles=False, on_progress=stop)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["scene_rows"]
    engine.encoded_queries.clear()
    told: list[int] = []
    paths = segmenter.segment_scene(
        folder / "scene.tif",
        folder / "out",
        side=SIDE,
        tiles=False,
        on_progress=lambda done, total: told.append(done),
    )
    assert len(engine.encoded_queries) == 10  # two of four rows of five
    assert told[:2] == [5, 10]
    assert not (folder / "out" / "scene_rows").exists()
    for kind in ("mask", "json"):
        assert paths[kind].read_bytes() == whole[kind].read_bytes()


@pytest.mark.parametrize("change", ["class", "option", "contrast", "scene", "damage"])
def test_rows_of_another_run_are_not_taken(change: str, folder: Path) -> None:
    engine = ColourEngine(size=160)
    segmenter = Segmenter(engine)
    segmenter.learn("field", images=[folder / "scene.tif"], masks=[folder / "labels.gpkg"])

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise Stopped

    with pytest.raises(Stopped):
        segmenter.segment_scene(folder / "scene.tif", folder / "out", side=SIDE, tiles=False, on_progress=stop)
    (row,) = (folder / "out" / "scene_rows").iterdir()
    options: dict[str, Any] = {"tiles": False}
    if change == "class":
        photo = np.zeros((64, 64, 3), np.uint8)
        photo[:9] = GREY
        segmenter.learn("field", [photo], [photo[..., 0] > 0], replace=True)
    elif change == "option":
        options["keep_absent"] = True
    elif change == "contrast":
        options["window"] = (0.0, 200.0)
    elif change == "scene":
        os.utime(folder / "scene.tif", (1, 1))
    else:
        row.write_bytes(row.read_bytes()[:-30])
    engine.encoded_queries.clear()
    segmenter.segment_scene(folder / "scene.tif", folder / "out", side=SIDE, **options)
    assert len(engine.encoded_queries) == 20


@pytest.mark.parametrize("kind", ["gpkg", "geojson"])
def test_polygons_are_the_mask(kind: str, folder: Path, segmenter: Segmenter) -> None:
    """Drawn again, pixel by pixel, they are the mask; their coordinates are those of the scene."""
    import fiona
    import rasterio
    from rasterio.features import rasterize

    paths = segmenter.segment_scene(folder / "scene.tif", folder / "out", formats=[kind], side=SIDE)
    with fiona.open(paths[kind]) as layer:
        assert rasterio.crs.CRS.from_wkt(layer.crs_wkt).to_epsg() == 32633
        rows = [(row.geometry.__geo_interface__, row.properties) for row in layer]
    assert {properties["class"] for _, properties in rows} == {"field"}
    with rasterio.open(paths["mask"]) as mask:
        drawn = rasterize([(geometry, 1) for geometry, _ in rows], mask.shape, transform=mask.transform)
        np.testing.assert_array_equal(drawn == 1, mask.read(1) == 1)
    assert sum(properties["pixels"] for _, properties in rows) == (drawn == 1).sum()
    corners = np.array([corner for geometry, _ in rows for ring in geometry["coordinates"] for corner in ring])
    columns, lines = (corners[:, 0] - EAST) / PIXEL, (NORTH - corners[:, 1]) / PIXEL
    np.testing.assert_allclose(columns, columns.round(), atol=1e-6)  # on the edges of pixels
    np.testing.assert_allclose(lines, lines.round(), atol=1e-6)


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="needs GDAL's programs (Debian: apt-get install gdal-bin)")
def test_gdal_reads_it_back(folder: Path) -> None:
    """By an engine that sees every pixel, so that each field is found, and lies on the map, to the pixel."""
    segmenter = Segmenter(ColourEngine(size=SIDE))
    segmenter.learn("field", images=[folder / "scene.tif"], masks=[folder / "labels.gpkg"])
    paths = segmenter.segment_scene(
        folder / "scene.tif", folder / "out", formats=["gpkg", "geojson"], side=SIDE, tiles=False
    )

    def said(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    info = json.loads(said("gdalinfo", "-json", "-stats", str(paths["mask"])))
    assert info["size"] == [WIDTH, HEIGHT]
    assert info["geoTransform"] == [EAST, PIXEL, 0.0, NORTH, 0.0, -PIXEL]
    assert "WGS 84 / UTM zone 33N" in info["coordinateSystem"]["wkt"]
    assert info["bands"][0]["noDataValue"] == NODATA
    assert (info["bands"][0]["minimum"], info["bands"][0]["maximum"]) == (0, 1)
    boxes = sorted(
        (EAST + PIXEL * left, NORTH - PIXEL * bottom, EAST + PIXEL * right, NORTH - PIXEL * top)
        for top, left, bottom, right in FIELDS
    )
    for kind in ("gpkg", "geojson"):
        text = said("ogrinfo", "-al", str(paths[kind]))
        assert "WGS 84 / UTM zone 33N" in text
        assert f"Feature Count: {len(FIELDS)}" in text
        rings = [
            np.array([corner.split()[:2] for corner in ring.split(",")], np.float64)
            for ring in re.findall(r"POLYGON \(\(([^)]*)\)\)", text)
        ]
        found = sorted((*ring.min(0).tolist(), *ring.max(0).tolist()) for ring in rings)
        np.testing.assert_allclose(found, boxes, atol=PIXEL)


@pytest.mark.parametrize(("suffix", "crs"), [(".gpkg", "EPSG:32633"), (".geojson", "EPSG:4326"), (".shp", "EPSG:3857")])
def test_labels_of_any_coordinates_are_drawn_in_the_scene(suffix: str, crs: str, folder: Path) -> None:
    labels = write_labels(folder / f"other{suffix}", FIELDS, crs)
    (scene,) = contrasted([open_scene(folder / "scene.tif", SIDE)], How())
    shots = labelled(scene, labels, "field")
    assert len(shots) == 4
    for photo, mask in shots:
        red = (photo == RED).all(-1)
        assert photo.shape == (SIDE, SIDE, 3)
        # Through degrees and back, an edge may fall on the other side of a pixel's middle.
        assert (red != (mask == 1))[mask != NODATA].mean() < (1e-9 if crs == "EPSG:32633" else 0.002)


def test_a_field_of_classes_chooses_the_polygons(folder: Path) -> None:
    labels = write_labels(folder / "classes.gpkg", FIELDS[:3], names=["field", "Road", "water"])
    (scene,) = contrasted([open_scene(folder / "scene.tif", SIDE)], How())
    for name, label in (("road", None), ("way", "Road")):
        ((_, mask),) = labelled(scene, labels, name, label)
        assert (mask == 1).sum() == 200 * 220
    with pytest.raises(ValueError, match=r"Expected polygons of 'tree' in .*field class holds Road, field, water"):
        labelled(scene, labels, "tree")
    far = write_labels(folder / "far.gpkg", [(-900, -900, -800, -800)])
    with pytest.raises(ValueError, match="but none lies there"):
        labelled(scene, far, "field")


def test_no_data_teaches_nothing_and_has_the_mean_colour(folder: Path) -> None:
    labels = write_labels(folder / "corner.gpkg", [(250, 1400, 320, 1500)])
    (scene,) = contrasted([open_scene(folder / "scene.tif", SIDE)], How())
    ((photo, mask),) = labelled(scene, labels, "field")
    box = scene.around(285, 1450)
    empty = np.zeros((HEIGHT, WIDTH), bool)
    empty[:200, -300:] = True
    empty = empty[box.top : box.bottom, box.left : box.right]
    np.testing.assert_array_equal(mask == NODATA, empty)
    assert len(np.unique(photo[empty], axis=0)) == 1
    assert photo[empty][0, 0] > 100


def test_bands_by_their_colours_and_by_number(folder: Path) -> None:
    from rasterio.enums import ColorInterp

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4000, (4, 300, 300)).astype(np.uint16)
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    path = write_scene(folder / "bands.tif", pixels)
    import rasterio

    with rasterio.open(path, "r+") as data:
        data.colorinterp = colours

    def scene(**how: Any) -> Scene:
        (found,) = contrasted([open_scene(path, SIDE)], How(**how))
        return found

    assert scene().bands == (3, 2, 1)
    photo = scene(window=(0.0, 4000.0), bands=(4, 3, 2)).photo(0)
    np.testing.assert_allclose(photo[..., 0], pixels[3] / 4000 * 255, atol=0.51)
    low, high = scene().windows[0]
    assert (low, high) == pytest.approx(tuple(np.percentile(pixels[2], (0.1, 99.9))))


GREY_LEVELS = np.full((300, 300), 90, np.uint8)
GREY_LEVELS[50:150, 100:250] = 220


def photo_of(path: Path) -> NDArray[np.uint8]:
    (scene,) = contrasted([open_scene(path, SIDE)], How())
    return scene.photo(0)


def test_a_palette_gives_the_colours(folder: Path) -> None:
    import rasterio

    path = write_scene(folder / "map.tif", GREY_LEVELS[None], photometric="palette")
    with rasterio.open(path, "r+") as data:
        data.write_colormap(1, {90: (10, 165, 60, 255), 220: (255, 35, 60, 255)})
    photo = photo_of(path)
    assert photo[0, 0].tolist() == [10, 165, 60]
    assert photo[60, 120].tolist() == [255, 35, 60]
    (grey,) = contrasted([open_scene(path, SIDE)], How(bands=(1,)))
    np.testing.assert_array_equal(grey.photo(0)[..., 0], GREY_LEVELS)


def test_few_bits_are_black_and_white(folder: Path) -> None:
    path = write_scene(folder / "bits.tif", (GREY_LEVELS[None] > 100).astype(np.uint8), nbits=1)
    np.testing.assert_array_equal(photo_of(path)[..., 0], np.where(GREY_LEVELS > 100, 255, 0))


def test_nan_is_no_data_and_complex_numbers_get_a_sentence(folder: Path) -> None:
    pixels = np.stack([GREY_LEVELS] * 3).astype(np.float32)
    pixels[1, :40, :50] = np.nan
    (scene,) = contrasted([open_scene(write_scene(folder / "floats.tif", pixels), SIDE)], How())
    empty = np.zeros((300, 300), bool)
    empty[:40, :50] = True
    np.testing.assert_array_equal(scene.there(scene.box(0)), ~empty)
    with pytest.raises(ValueError, match=r"Expected integers or floats, but \S+radar.tif holds complex numbers"):
        open_scene(write_scene(folder / "radar.tif", pixels[:1].astype(np.complex64)))


def test_turned_scenes_and_scenes_without_a_system_keep_their_place(folder: Path) -> None:
    import fiona
    import rasterio
    from rasterio.features import rasterize

    pixels = np.moveaxis(np.where(GREY_LEVELS[..., None] > 100, RED, GREY).astype(np.uint8), -1, 0)
    segmenter = Segmenter(ColourEngine(size=SIDE))
    segmenter.learn("field", [np.moveaxis(pixels, 0, -1)], [(GREY_LEVELS > 100).astype(np.uint8)])
    turned = rasterio.Affine.translation(EAST, NORTH) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(0.5, -0.5)
    for name, options in (("turned", {"transform": turned}), ("bare", {"crs": None})):
        path = write_scene(folder / f"{name}.tif", pixels, **options)
        (folder / "out").mkdir(exist_ok=True)
        (folder / "out" / f"{name}_mask.tif").write_bytes(b"of another program")
        paths = segmenter.segment_scene(path, folder / "out", formats=["gpkg"], side=SIDE, tiles=False)
        with rasterio.open(path) as scene, rasterio.open(paths["mask"]) as mask, fiona.open(paths["gpkg"]) as layer:
            assert (mask.crs, mask.transform) == (scene.crs, scene.transform)
            np.testing.assert_array_equal(mask.read(1) == 1, GREY_LEVELS > 100)
            shapes = [(row.geometry.__geo_interface__, 1) for row in layer]
            drawn = rasterize(shapes, mask.shape, transform=mask.transform)
            np.testing.assert_array_equal(drawn == 1, GREY_LEVELS > 100)


def test_a_scene_that_cannot_be_read_costs_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is found out when its contrast is looked for, the other in the middle of the work."""
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *words: cls(ColourEngine(size=SIDE))))
    rng = np.random.default_rng(0)
    deep = write_scene(folder / "deep.tif", rng.integers(0, 4000, (3, 400, 400)).astype(np.uint16)).read_bytes()
    (folder / "deep.tif").write_bytes(deep[: len(deep) // 2])
    flat = write_scene(folder / "flat.tif", rng.integers(0, 255, (3, 800, 800)).astype(np.uint8)).read_bytes()
    (folder / "flat.tif").write_bytes(flat[: len(flat) // 2])
    words = ["segment", "--support", "field", str(folder / "scene.tif"), str(folder / "labels.gpkg"), "--query"]
    words += [str(folder / f"{name}.tif") for name in ("deep", "flat", "scene")]
    assert main([*words, "--out", str(folder / "out"), "--tiles", "no", "--json"]) == 0
    said = capsys.readouterr()
    manifest = json.loads(said.out)
    assert [Path(each["query"]).name for each in manifest["failed"]] == ["deep.tif", "flat.tif"]
    assert [Path(each["query"]).name for each in manifest["results"]] == ["scene.tif"]
    assert said.err.count("skipped") == 2


def test_a_vrt_and_what_is_no_scene(folder: Path) -> None:
    import rasterio
    from rasterio.shutil import copy

    with rasterio.open(folder / "scene.tif") as data:
        copy(data, folder / "scene.vrt", driver="VRT")
    assert is_scene(folder / "scene.vrt")
    assert len(open_scene(folder / "scene.vrt", SIDE)) == 20
    from PIL import Image

    Image.new("RGB", (30, 30)).save(folder / "plain.tif")
    assert not is_scene(folder / "plain.tif")
    (folder / "bad.tif").write_bytes(b"II*\0 nothing")
    assert not is_scene(folder / "bad.tif")
    with pytest.raises(ValueError, match="Expected a GeoTIFF or a VRT, but cannot read"):
        open_scene(folder / "bad.tif")


def test_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *words: cls(ColourEngine(size=256))))
    words = ["segment", "--support", "field", str(folder / "scene.tif"), str(folder / "labels.gpkg")]
    words += [
        "--query",
        str(folder / "scene.tif"),
        "--out",
        str(tmp_path / "out"),
        "--format",
        "gpkg,geojson",
        "--json",
    ]
    assert main(words) == 0
    manifest = json.loads(capsys.readouterr().out)
    (record,) = manifest["results"]
    assert record["files"] == {"mask": "scene_mask.tif", "gpkg": "scene.gpkg", "geojson": "scene.geojson"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "scene.geojson",
        "scene.gpkg",
        "scene.json",
        "scene_mask.tif",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 1


def test_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and Python block of docs/maps.md, in order."""
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *words: cls(ColourEngine(size=256))))
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks((ROOT / "docs" / "maps.md").read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compile(block.text, "docs/maps.md", "exec"), names)
        elif block.text.startswith("rifenet "):
            assert main(shlex.split(block.text)[1:]) == 0
    assert {path.name for path in (folder / "fields").iterdir()} >= {"scene_mask.tif", "scene.gpkg", "scene.geojson"}
    assert (folder / "fields_python" / "scene.gpkg").is_file()


@pytest.mark.slow
def test_memory_is_that_of_a_window(tmp_path: Path) -> None:
    """A scene of 12,000 x 12,000 takes little more than one of 3,000 x 3,000."""
    peaks = []
    for side in (3000, 12000):
        path = write_scene(tmp_path / f"{side}.tif", np.full((3, side, side), 128, np.uint8))
        script = (
            "import numpy as np; from colour_engine import ColourEngine\n"
            "from rifenet.segmenting.segmenter import Segmenter\n"
            "segmenter = Segmenter(ColourEngine()); photo = np.zeros((64, 64, 3), np.uint8); photo[:9] = 128\n"
            "segmenter.learn('field', [photo], [photo[..., 0] > 0])\n"
            f"segmenter.segment_scene({str(path)!r}, {str(tmp_path / 'out')!r}, formats=['gpkg'], side=2560)\n"
        )
        peaks.append(peak_of(script))
    assert peaks[1] - peaks[0] < 150 * 2**20, peaks
