"""Stacks through `Segmenter` and the command line: annotated pages are shots, and each page gets its mask."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image

from rifenet.cli.main import main
from rifenet.formats.video import write_video
from rifenet.segmenting.segmenter import Segmenter

PAGES, HEIGHT, WIDTH = 5, 48, 64
BRIGHT, DARK = 3000, 200


def where(number: int) -> NDArray[np.bool_]:
    """The object of a page, which wanders to the right."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:34, 5 + 8 * number : 25 + 8 * number] = True
    return mask


def scan() -> NDArray[np.uint16]:
    """Pages of 12 bits in 16, [5,48,64]: bright where the object is."""
    return np.stack([np.where(where(number), BRIGHT, DARK) for number in range(PAGES)]).astype(np.uint16)


def labels(*annotated: int) -> NDArray[np.uint8]:
    """Masks of which only some pages mark anything."""
    return np.stack([where(number) * (number in annotated) for number in range(PAGES)]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "scan.tif", scan(), photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels(1, 3), photometric="minisblack")
    return tmp_path


def check(results: list[Any]) -> None:
    assert len(results) == PAGES
    for number, result in enumerate(results):
        found = result.mask == 1
        assert (found & where(number)).sum() / (found | where(number)).sum() > 0.85, number


@pytest.mark.filterwarnings("ignore:.*have marks and are shots")
def test_a_stack_is_its_pages(folder: Path) -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("cell", images=[folder / "scan.tif"], masks=[folder / "labels.tif"])
    assert segmenter.shots == {"cell": 2}
    results = segmenter.segment(folder / "scan.tif")
    assert iter(results) is results
    found = list(results)
    check(found)
    assert found[3].source == f"{folder / 'scan.tif'}#3"
    assert sorted(path.name for path in found[3].save(folder / "out").values()) == [
        "scan_00003.json",
        "scan_00003_mask.png",
        "scan_00003_overlay.jpg",
    ]
    one = segmenter.segment(str(folder / "scan.tif#3"))
    np.testing.assert_array_equal(one.mask, found[3].mask)


def test_the_network_sees_black_and_white(folder: Path) -> None:
    """By percentiles, what is dark in the file is black, and what is bright is white; by a window, what it says."""
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("cell", images=[folder / "scan.tif#1"], masks=[where(1)])
    photo = next(segmenter.segment(folder / "scan.tif")).image
    assert np.unique(photo).tolist() == [0, 255]
    photo = segmenter.segment(folder / "scan.tif#0", window=(0, 6000)).image
    assert np.unique(photo).tolist() == [round(255 * DARK / 6000), round(255 * BRIGHT / 6000)]


def test_pages_with_marks_are_shots_and_the_others_are_not(folder: Path) -> None:
    segmenter = Segmenter(ColourEngine())
    with pytest.warns(UserWarning, match="2 of its 5 pages have marks and are shots; the others are not"):
        segmenter.learn("cell", images=[folder / "scan.tif"], masks=[labels(0, 4)])
    assert segmenter.shots == {"cell": 2}


def test_numbers_of_objects_are_marks(folder: Path) -> None:
    """Label pictures of microscopy count objects, beyond 255: object 255 is no pixel to ignore."""
    numbers = labels(2).astype(np.uint16) * 255
    numbers[2, 12] *= 2
    tifffile.imwrite(folder / "objects.tif", numbers, photometric="minisblack")
    segmenter = Segmenter(ColourEngine())
    with pytest.warns(UserWarning, match="numbers go beyond 255, so they were taken for numbers of objects"):
        segmenter.learn("cell", images=[folder / "scan.tif"], masks=[folder / "objects.tif"])
    shots = segmenter.learned[0].inputs
    assert shots is not None
    np.testing.assert_array_equal(shots.masks[0][:HEIGHT] == 1, where(2))


def test_a_page_of_masks_is_that_of_its_page(folder: Path) -> None:
    for image, mask in (("scan.tif#3", "labels.tif"), ("scan.tif#3", "labels.tif#3")):
        segmenter = Segmenter(ColourEngine())
        segmenter.learn("cell", images=[folder / image], masks=[folder / mask])
        shots = segmenter.learned[0].inputs
        assert shots is not None
        np.testing.assert_array_equal(shots.masks[:, :HEIGHT] == 1, where(3)[None])


def test_masks_that_do_not_fit_get_a_sentence(folder: Path) -> None:
    segmenter = Segmenter(ColourEngine())
    tifffile.imwrite(folder / "short.tif", labels(1)[:4], photometric="minisblack")
    for mask, sentence in (
        ("short.tif", r"as many masks as \S+scan.tif has pages, 5, but got 4"),
        ("labels.tif#7", r"a page of \S+labels.tif, 0 to 4, but got 7"),
    ):
        with pytest.raises(ValueError, match=sentence):
            segmenter.learn("cell", images=[folder / "scan.tif"], masks=[folder / mask])
    with pytest.raises(ValueError, match="mark a pixel, but they mark none"):
        segmenter.learn("cell", images=[folder / "scan.tif#0"], masks=[folder / "labels.tif"])
    with pytest.raises(ValueError, match=r"a page of \S+scan.tif, 0 to 4, but got 5"):
        segmenter.learn("cell", images=[folder / "scan.tif#5"], masks=[where(0)])
    Image.fromarray(scan()[0] // 16).save(folder / "photo.png")
    with pytest.raises(ValueError, match="a file of several pages, such as a TIFF or a video, but got"):
        segmenter.learn("cell", images=[folder / "photo.png#1"], masks=[where(0)])
    with pytest.raises(ValueError, match="TIFF files or OME-Zarr folders for window and bands, but got none"):
        segmenter.learn("cell", images=[folder / "photo.png"], masks=[where(0)], window=(0, 10))
    assert segmenter.classes == []


def test_without_the_extra_one_sentence_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack needs it to be segmented; its first page teaches without, as it always did; photos need nothing."""
    segmenter = Segmenter(ColourEngine())
    for package in ("tifffile", "imagecodecs", "zarr"):
        monkeypatch.setitem(sys.modules, package, None)
    bright = np.dstack([(scan()[0] // 16).astype(np.uint8)] * 3)
    pages = [Image.fromarray(bright), Image.fromarray(bright // 2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"It has 2 pages, and only the first was read.*rifenet\[tiff\]"):
        segmenter.learn("cell", images=[folder / "pages.tif"], masks=[where(0)])
    sentence = r"^Expected the package \w+, but it is not installed. Run: pip install 'rifenet\[tiff\]'$"
    for path in ("pages.tif", "scan.tif", "scan.tif#2"):
        with pytest.raises(ValueError, match=sentence):
            segmenter.segment(folder / path)
    Image.fromarray(bright).save(folder / "photo.tif")
    assert segmenter.segment(folder / "photo.tif").mask.any()


def test_scenes_without_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GeoTIFF is a photo then, and a remark says what its mask lacks; labels and a VRT need the extra."""
    for package in ("rasterio", "fiona"):
        monkeypatch.setitem(sys.modules, package, None)
    place = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True)]
    photo = np.dstack([(scan()[0] // 16).astype(np.uint8)] * 3)
    tifffile.imwrite(folder / "scene.tif", photo, photometric="rgb", extratags=place)
    Image.fromarray(where(0).astype(np.uint8)).save(folder / "mask.png")
    (folder / "labels.gpkg").touch()
    (folder / "scene.vrt").write_text("<VRTDataset/>")
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *words: cls(ColourEngine())))
    words = ["segment", "--support", "cell", str(folder / "scene.tif"), str(folder / "mask.png")]
    assert main([*words, "--query", str(folder / "scene.tif"), "--out", str(folder / "out")]) == 0
    assert "It has a place on the map, which its mask will lack" in capsys.readouterr().err
    assert (folder / "out" / "scene_mask.png").is_file()
    sentence = "Expected the package rasterio, but it is not installed. Run: pip install 'rifenet[geo]'"
    assert main([*words, "--query", str(folder / "scene.vrt"), "--out", str(folder / "other")]) == 1
    assert sentence in capsys.readouterr().err
    segmenter = Segmenter(ColourEngine())
    with pytest.raises(ValueError, match=r"Expected the package rasterio, .*'rifenet\[geo\]'"):
        segmenter.learn("cell", [folder / "scene.tif"], [folder / "labels.gpkg"])
    with pytest.raises(ValueError, match=r"Expected the package rasterio, .*'rifenet\[geo\]'"):
        segmenter.segment_scene(folder / "scene.tif", folder / "out")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ColourEngine:
    engine = ColourEngine()
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(engine)))
    return engine


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_command_line(kind: str, folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str]) -> None:
    query = folder / "scan.tif"
    if kind == "zarr":
        query = folder / "scan.zarr"
        group = zarr.open_group(query, mode="w", zarr_format=2)
        group.create_array("0", data=scan(), chunks=(1, HEIGHT, WIDTH))
        group.attrs["multiscales"] = [{"axes": [{"name": name} for name in "zyx"], "datasets": [{"path": "0"}]}]
    words = ["segment", "--support", "cell", str(query), str(folder / "labels.tif"), "--query", str(query)]
    words += ["--out", str(folder / "out")]
    assert main([*words, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert [Path(record["query"]).name for record in manifest["results"]] == [f"{query.name}#{n}" for n in range(PAGES)]
    masks = tifffile.imread(folder / "out" / "scan_masks.tif")
    assert masks.shape == (PAGES, HEIGHT, WIDTH)
    for number in range(PAGES):
        np.testing.assert_array_equal(
            masks[number], np.asarray(Image.open(folder / "out" / f"scan_0000{number}_mask.png"))
        )
        found = masks[number] == 1
        assert (found & where(number)).sum() / (found | where(number)).sum() > 0.85

    (folder / "out" / "scan_00002.json").unlink()
    assert main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["resumed"] == PAGES - 1
    assert again["results"] == manifest["results"]
    assert main([*words, "--window", "0,5000"]) == 1  # another command
    assert "Choose another --out" in capsys.readouterr().err


def test_a_window_and_bands_of_the_command_line(folder: Path, engine: ColourEngine) -> None:
    channels = np.stack([scan(), np.zeros_like(scan()), scan() // 2], axis=1)
    tifffile.imwrite(folder / "hyper.tif", channels, imagej=True, metadata={"axes": "ZCYX"})
    words = ["segment", "--support", "cell", str(folder / "hyper.tif"), str(folder / "labels.tif")]
    words += ["--query", str(folder / "hyper.tif#0"), "--window", "0,6000", "--bands", "3,2,1"]
    assert main([*words, "--out", str(folder / "out"), "--format", "cutout"]) == 0
    with Image.open(folder / "out" / "hyper_00000_cutout.png") as picture:
        inside = np.asarray(picture)[20, 15]
    assert inside.tolist() == [round(255 * 1500 / 6000), 0, round(255 * 3000 / 6000), 255]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--window", "5"], "expected auto or two numbers, such as 100,4000, but got 5"),
        (["--window", "9,3"], "low below high"),
        (["--bands", "1,2"], "one or three bands"),
        (["--bands", "red"], "expected one or three bands, such as 4,3,2, but got red"),
    ],
)
def test_wrong_words_are_usage_errors(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--support", "a", "b.png", "c.png", "--query", "d.png", "--out", "e", *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_stack_that_cannot_be_read_is_named_and_skipped(
    folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.tif").write_bytes(b"II*\0 nothing")
    words = ["segment", "--support", "cell", str(folder / "scan.tif"), str(folder / "labels.tif")]
    words += ["--query", str(folder / "bad.tif"), str(folder / "scan.tif"), "--out", str(folder / "out"), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert f"skipped {folder / 'bad.tif'}: Expected a readable TIFF" in said.err
    manifest = json.loads(said.out)
    assert [entry["query"] for entry in manifest["failed"]] == [str(folder / "bad.tif")]
    assert len(manifest["results"]) == PAGES


def fill(folder: Path) -> Path:
    """A folder of a photo, a stack, an OME-Zarr, a video, a moving GIF, and of what is none of these."""
    folder.mkdir()
    pixels = (scan() // 16).astype(np.uint8)
    pictures = [np.dstack([page] * 3) for page in pixels]
    Image.fromarray(pictures[0]).save(folder / "photo.png")
    tifffile.imwrite(folder / "scan.tif", scan(), photometric="minisblack")
    group = zarr.open_group(folder / "deep.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=scan()[:2], chunks=(1, HEIGHT, WIDTH))
    group.attrs["multiscales"] = [{"axes": [{"name": name} for name in "zyx"], "datasets": [{"path": "0"}]}]
    write_video(folder / "clip.mp4", pictures[:3], Fraction(25))
    first, *others = map(Image.fromarray, pictures[:4])
    first.save(folder / "moving.gif", save_all=True, append_images=others, duration=40)
    for name in ("notes.txt", "more.TXT", "phone.heic", ".hidden", "Thumbs.db"):
        (folder / name).write_bytes(b"something")
    (folder / "older").mkdir()
    return folder


def test_a_folder_of_photos_stacks_and_videos_is_segmented_whole(
    folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    query = fill(folder / "all")
    words = ["segment", "--support", "cell", str(folder / "scan.tif"), str(folder / "labels.tif")]
    assert main([*words, "--query", str(query), "--out", str(folder / "out"), "--json"]) == 0
    said = capsys.readouterr()
    results = [Path(record["query"]).name for record in json.loads(said.out)["results"]]
    assert results == [
        *(f"clip.mp4#{number}" for number in range(3)),
        *(f"deep.zarr#{number}" for number in range(2)),
        *(f"moving.gif#{number}" for number in range(4)),
        "photo.png",
        *(f"scan.tif#{number}" for number in range(PAGES)),
    ]
    told = "Left out: 1 .heic, 2 .txt, 1 folder(s). What should count, too, needs a --query of its own."
    assert said.err.count(told) == 1
    assert f"folder {query}" in said.err
    assert (folder / "out" / "clip_overlay.mp4").is_file()
    assert (folder / "out" / "scan_masks.tif").is_file()


def test_videos_of_a_folder_without_the_extra_are_named_and_skipped(
    folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = fill(folder / "all")
    monkeypatch.setitem(sys.modules, "av", None)
    words = ["segment", "--support", "cell", str(folder / "scan.tif"), str(folder / "labels.tif")]
    assert main([*words, "--query", str(query), "--out", str(folder / "out"), "--json"]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "clip.mp4" in line]
    assert line.endswith("Expected the package av, but it is not installed. Run: pip install 'rifenet[video]'")
    assert len(json.loads(said.out)["results"]) == 2 + 4 + 1 + PAGES


def test_advice_names_the_videos_and_stacks_that_it_leaves_out(
    folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    query = fill(folder / "all")
    Image.fromarray(where(0).astype(np.uint8)).save(folder / "mask.png")
    words = ["advise", "--support", "cell", str(query / "photo.png"), str(folder / "mask.png")]
    assert main([*words, "--query", str(query), "--json"]) == 0
    assert "Left out: 1 .heic, 1 .mp4, 2 .txt, 1 OME-Zarr, 1 folder(s)." in capsys.readouterr().err


def test_a_stack_with_damaged_pages_costs_no_other(
    folder: Path, engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its contrast needs the numbers of its pages, which cannot be read."""
    content = (folder / "scan.tif").read_bytes()
    (folder / "cut.tif").write_bytes(content[: len(content) // 2])
    words = ["segment", "--support", "cell", str(folder / "scan.tif"), str(folder / "labels.tif")]
    words += ["--query", str(folder / "cut.tif"), str(folder / "scan.tif"), "--out", str(folder / "out"), "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    manifest = json.loads(said.out)
    assert [entry["query"] for entry in manifest["failed"]] == [str(folder / "cut.tif")]
    assert len(manifest["results"]) == PAGES
