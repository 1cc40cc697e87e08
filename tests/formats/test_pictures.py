"""Photos and masks as people have them: each is read as they expect, or refused in a sentence that names it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from rendered import render, save_mask

import rifenet
from rifenet.data.transforms import place, resize_and_pad, resize_mask, resized, restore
from rifenet.examples.samples import load_examples
from rifenet.formats import picture_files, pictures
from rifenet.formats.pictures import load_image, load_mask


@pytest.fixture
def photo() -> np.ndarray:
    return render((1, 2), 0, width=60, height=40)[0]


def test_rgb_comes_back_exactly_from_path_picture_and_array(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    for source in (path, str(path), Image.fromarray(photo), Image.open(path), photo):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, photo)


def test_the_result_is_the_callers_own(photo: np.ndarray) -> None:
    before = photo.copy()
    load_image(photo)[:] = 0
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_gives_the_colours_one_sees(mode: str, photo: np.ndarray) -> None:
    picture = Image.fromarray(photo).convert("RGB" if mode == "LAB" else mode)
    expected = np.asarray(picture.convert("RGB"), int)
    loaded = load_image(picture)
    assert loaded.shape == photo.shape
    assert np.abs(loaded - expected).max() <= 1


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("RGB", (32, 32), (200, 60, 30)).convert("CMYK").save(path, quality=95)
    assert np.abs(load_image(path).reshape(-1, 3).mean(0) - (200, 60, 30)).max() < 6


def test_transparency_is_laid_over_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 255, 51)
    for source in (pixels, Image.fromarray(pixels)):
        np.testing.assert_array_equal(load_image(source)[0, :, 0], [255, 0, 204])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey(suffix: str, tmp_path: Path) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(deep).save(path)
    for source in (path, deep):
        np.testing.assert_array_equal(load_image(source)[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :8] = 255  # the top left corner is white once upright
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that a camera of that orientation has stored
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    stored.save(path, exif=exif, quality=95)
    loaded = load_image(path)
    assert loaded.shape == (24, 40, 3)
    assert loaded[:7, :7].min() > 200
    assert loaded[12:, 12:].max() < 50


def test_photos_of_one_pixel_and_of_24_megapixels(tmp_path: Path) -> None:
    for width, height in ((1, 1), (6000, 4000), (4000, 3)):
        path = tmp_path / "photo.jpg"
        Image.new("RGB", (width, height), (10, 200, 90)).save(path)
        photo = load_image(path)
        pixels, valid, placement = resize_and_pad(photo, 64)
        assert (placement.height, placement.width) == photo.shape[:2] == (height, width)
        assert max(placement.scaled_height, placement.scaled_width) == 64
        assert min(placement.scaled_height, placement.scaled_width) >= 1
        assert valid.sum() == placement.scaled_height * placement.scaled_width
        assert np.abs(pixels[:, valid].mean(1) * 255 - (10, 200, 90)).max() < 4
        assert restore(valid.astype(np.float32), placement).shape == (height, width)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.full((4, 4), 70_000), "0 .. ?70000|70000"),
        (np.full((4, 4), -1), "-1"),
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\[2, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ],
)
def test_arrays_that_are_no_image(array: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_image(array)


def test_floating_point_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        load_image(Image.new("F", (4, 4)))


@pytest.mark.parametrize("load", [load_image, load_mask])
def test_missing_and_broken_files_are_named(load, photo: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    whole = tmp_path / "whole.png"
    Image.fromarray(photo).save(whole)
    for name, content in {
        "empty.png": b"",
        "text.png": b"this is no picture",
        "cut.png": whole.read_bytes()[:2000],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


def test_truncated_jpeg_is_named(photo: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(photo).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"cut\.jpg.*truncated"):
        load_image(path)


@pytest.mark.parametrize("mode", ["palette", "L", "RGB", "I;16"])
def test_masks_keep_their_values(mode: str, tmp_path: Path) -> None:
    mask = render((3, 7), 1)[1]
    path = tmp_path / "mask.png"
    if mode == "palette":
        save_mask(mask, path)
    elif mode == "I;16":
        Image.fromarray(mask.astype(np.uint16)).save(path)
    else:
        Image.fromarray(mask).convert(mode).save(path)
    for source in (path, Image.open(path), mask, mask.astype(np.int64), mask[:, :, None], mask.astype(float)):
        loaded = load_mask(source)
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, mask)


def test_boolean_masks() -> None:
    mask = np.eye(5, dtype=bool)
    np.testing.assert_array_equal(load_mask(mask), mask)
    np.testing.assert_array_equal(load_mask(Image.fromarray(mask)), mask)


def test_colour_coded_mask_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "colours.png"
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[2:4] = (128, 0, 0)  # how VOC's viewers paint an aeroplane
    Image.fromarray(colours).save(path)
    with pytest.raises(ValueError, match=r"index mask .*class id.*colours\.png is coloured"):
        load_mask(path)


def test_transparent_mask_is_explained() -> None:
    with pytest.raises(ValueError, match="transparent"):
        load_mask(Image.new("LA", (4, 4), (1, 128)))


def test_jpeg_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    Image.new("L", (8, 8), 1).save(path)
    with pytest.raises(ValueError, match=r"mask\.jpg is a JPEG.*PNG"):
        load_mask(path)


@pytest.mark.parametrize(
    "array", [np.full((3, 3), 256), np.full((3, 3), -1), np.full((3, 3), 0.5), np.full((3, 3), np.nan)]
)
def test_values_that_are_no_label(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        load_mask(array)


def test_shapes_that_are_no_mask() -> None:
    for shape in ((4, 4, 3), (4,), (0, 4)):
        with pytest.raises(ValueError, match="Expected a mask"):
            load_mask(np.zeros(shape, np.uint8))


def test_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match="60 x 40, but got 40 x 60"):
        resize_mask(np.zeros((60, 40), np.uint8), place(40, 60, 32))


def test_a_single_pixel_survives_the_resize() -> None:
    mask = np.zeros((4000, 6000), np.uint8)
    mask[1234, 4321] = 9
    small = resize_mask(mask, place(4000, 6000, 60))
    assert np.argwhere(small == 9).tolist() == [[12, 43]]


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value_stay_so(value: int) -> None:
    placement = place(30, 50, 25)
    small = resize_mask(np.full((30, 50), value, np.uint8), placement)
    assert set(np.unique(small[: placement.scaled_height])) == {value}
    assert (small[placement.scaled_height :] == 255).all()


def test_place_refuses_nothing_to_place() -> None:
    with pytest.raises(ValueError, match="at least 1 px"):
        place(0, 4, 10)


@pytest.fixture(params=[1, 7 * 60, 10**9])
def strip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are read a row, seven rows, and whole at a time."""
    monkeypatch.setattr(pictures, "_STRIP", request.param)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_strips_give_what_the_whole_picture_gives(mode: str, photo: np.ndarray, strip: None) -> None:
    picture = Image.fromarray(photo).convert({"LAB": "RGB", "PA": "P"}.get(mode, mode))
    if mode in ("LAB", "PA"):
        picture = ImageCms.applyTransform(picture, LAB) if mode == "LAB" else picture.convert("PA")
    np.testing.assert_array_equal(load_image(picture), np.asarray(picture.convert("RGB")))


LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_files_of_every_kind_in_strips(
    kind: str, orientation: int, photo: np.ndarray, tmp_path: Path, strip: None
) -> None:
    path = tmp_path / f"photo.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(path, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        np.testing.assert_array_equal(load_image(picture), expected)
    np.testing.assert_array_equal(load_image(path), expected)


def test_transparency_of_a_palette_or_one_colour_in_strips(photo: np.ndarray, tmp_path: Path, strip: None) -> None:
    for mode in ("P", "RGB", "L"):
        path = tmp_path / f"{mode}.png"
        picture = Image.fromarray(photo).convert(mode)
        picture.save(path, transparency=picture.getpixel((5, 3)))
        rgba = np.asarray(Image.open(path).convert("RGBA")).astype(int)
        expected = np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)
        assert (rgba[..., 3] < 255).any()
        np.testing.assert_array_equal(load_image(path), expected)


def test_the_example_photos_in_strips_and_their_resize(strip: None) -> None:
    for example in load_examples()[1][:3]:
        with Image.open(example.image) as picture:
            whole = picture.convert("RGB")
            photo = load_image(example.image)
            np.testing.assert_array_equal(photo, np.asarray(whole))
            for size in ((97, 61), (whole.width, 50), (1200, whole.height)):
                expected = whole.resize(size, Image.Resampling.BILINEAR)
                np.testing.assert_array_equal(resized(photo, size[1], size[0]), np.asarray(expected))


def test_restoring_in_strips_gives_what_the_whole_map_gives(strip: None) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 33, 33)).astype(np.float32)
    for height, width in ((200, 333), (333, 7), (20, 11)):
        placement = place(height, width, 33)
        cut = maps[:, : placement.scaled_height, : placement.scaled_width]
        whole = [Image.fromarray(each.copy()).resize((width, height), Image.Resampling.BILINEAR) for each in cut]
        np.testing.assert_array_equal(restore(maps, placement), np.stack([np.asarray(each) for each in whole]))


MEASURE = """
import sys
from memory import peak
from rifenet.formats.pictures import load_image
load_image(sys.argv[1])
before = peak()
load_image(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells it in /proc.")
@pytest.mark.parametrize(("mode", "most"), [("RGB", 8.5), ("RGBA", 9.5), ("L", 5.5)])
def test_a_large_photo_is_in_memory_as_pillow_has_it_and_once_more(mode: str, most: float, tmp_path: Path) -> None:
    """Bytes a pixel: Pillow keeps 4 of RGB and 1 of grey, and the array has 3. Before: 14, 40 and 11."""
    side = 6000
    Image.new(mode, (64, 64)).save(tmp_path / "small.png")
    Image.linear_gradient("L").resize((side, side)).convert(mode).save(tmp_path / "large.png", compress_level=1)
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}){MEASURE}"
    words = [sys.executable, "-c", program, str(tmp_path / "small.png"), str(tmp_path / "large.png")]
    peak = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    assert 3 < int(peak) / side**2 < most


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "compressed.tif", "gif"])
def test_no_limit_of_pillows_stops_a_large_photo(
    kind: str, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow refuses more than 179 megapixels; here, its limit is lowered instead."""
    path = tmp_path / f"large.{kind}"
    Image.fromarray(photo).save(path, **({"compression": "tiff_lzw"} if kind == "compressed.tif" else {}))
    expected = load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    np.testing.assert_array_equal(load_image(path), expected)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(picture_files, "MOST_PIXELS", 60 * 40 - 1)
    with pytest.raises(ValueError, match=r"large.* has 60 x 40 pixels, more than 2,399\. Cut it into parts"):
        load_image(path)


@pytest.mark.slow
def test_a_photo_of_180_megapixels(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (18_000, 10_000)).save(path)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert load_image(path).shape == (10_000, 18_000, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_turn_as_pictures_do(orientation: int, photo: np.ndarray) -> None:
    turned = picture_files.turned(Image.fromarray(photo), orientation)
    np.testing.assert_array_equal(picture_files.turned_array(photo, orientation), np.asarray(turned))


def test_the_ignored_label_is_written_once() -> None:
    package = Path(rifenet.__file__).parent
    assert rifenet.IGNORE == 255
    again = [
        path for path in package.rglob("*.py") if re.search(r"^\w*IGNORE\w* *(: *\w+)? *= *255", path.read_text(), re.M)
    ]
    assert again == [package / "__init__.py"]
