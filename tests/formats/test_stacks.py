"""Scientific pictures of every kind: the right page, bands and contrast, checked against arrays made by hand."""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from memory import peak_of
from numpy.typing import NDArray
from PIL import Image

from rifenet.formats.contrast import How, as_photo, checked, chosen_bands, windows_of
from rifenet.formats.paged_files import opened
from rifenet.formats.pages import stem_of
from rifenet.formats.pictures import load_image, load_mask
from rifenet.formats.remarks import collected
from rifenet.formats.stacks import PageStack, open_stack, settled, write_masks

HEIGHT, WIDTH = 20, 30


def numbers(*shape: int, top: int = 4000, seed: int = 0) -> NDArray[np.uint16]:
    """Numbers of which each page and band has others."""
    return np.random.default_rng(seed).integers(0, top, (*shape, HEIGHT, WIDTH)).astype(np.uint16)


def stack_of(path: Path, **how: Any) -> PageStack:
    (stack,) = settled([open_stack(str(path))], checked(how.get("window"), how.get("bands")))
    return stack


def by_hand(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Grey photo of numbers [H,W], one number at a time."""
    photo = np.zeros((*values.shape, 3), np.uint8)
    for row, column in itertools.product(*map(range, values.shape)):
        share = (float(values[row, column]) - low) / (high - low)
        photo[row, column] = round(255 * min(max(share, 0), 1))
    return photo


def write_zarr(path: Path, array: NDArray[Any], axes: str, version: int = 2) -> Path:
    """An OME-Zarr image of two levels, of format 0.4 (Zarr 2) or 0.5 (Zarr 3)."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for level, data in enumerate((array, array[..., ::2, ::2])):
        group.create_array(str(level), data=data, chunks=(1,) * (array.ndim - 2) + data.shape[-2:])
    content = [{"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}, {"path": "1"}]}]
    group.attrs.update(
        {"multiscales": content} if version == 2 else {"ome": {"version": "0.5", "multiscales": content}}
    )
    return path


@pytest.mark.parametrize("kind", ["imagej", "ome", "zarr 2", "zarr 3"])
def test_axes_are_read_by_their_meaning(kind: str, tmp_path: Path) -> None:
    """4 times, 3 slices and 2 channels: page 7 is time 2, slice 1, and the channels are bands."""
    array, path = numbers(4, 3, 2), tmp_path / "scan.tif"
    if kind == "imagej":
        tifffile.imwrite(path, array, imagej=True, metadata={"axes": "TZCYX"})
    elif kind == "ome":
        tifffile.imwrite(path, array, ome=True, metadata={"axes": "TZCYX"}, compression="zlib")
    else:
        path = write_zarr(tmp_path / "scan.zarr", array, "tzcyx", int(kind[-1]))
    stack = stack_of(path, window=(0, 4000), bands=(2,))
    assert len(stack) == 12
    np.testing.assert_array_equal(stack[7].read(), by_hand(array[2, 1, 1], 0, 4000))
    assert (str(stack[7]), stack[7].stem) == (f"{path}#7", "scan_00007")


@pytest.mark.parametrize("order", ["CZYX", "ZCYX", "TCZYX"])
def test_channels_stand_where_the_file_says(order: str, tmp_path: Path) -> None:
    lengths = {"C": 2, "Z": 3, "T": 2}
    array, path = numbers(*(lengths[axis] for axis in order[:-2])), tmp_path / "scan.ome.tif"
    tifffile.imwrite(path, array, ome=True, metadata={"axes": order})
    stack = stack_of(path, window=(0, 4000), bands=(2,))
    page = {"T": 1, "Z": 2, "C": 1} if "T" in order else {"Z": 2, "C": 1}
    number = 5 if "T" in order else 2
    np.testing.assert_array_equal(
        stack[number].read(), by_hand(array[tuple(page[axis] for axis in order[:-2])], 0, 4000)
    )


def test_tiles_compression_and_pyramids(tmp_path: Path) -> None:
    """The largest level of a pyramid of compressed tiles, and no page for the smaller one."""
    array = np.random.default_rng(1).integers(0, 4096, (200, 240)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "scan.tif") as out:
        options: dict[str, Any] = {"tile": (64, 64), "compression": "lzw", "predictor": True}
        out.write(array, subifds=1, **options)
        out.write(array[::2, ::2], subfiletype=1, **options)
    stack = stack_of(tmp_path / "scan.tif", window=(0, 4095))
    assert len(stack) == 1
    np.testing.assert_array_equal(stack[0].read()[..., 0], by_hand(array, 0, 4095)[..., 0])


def test_numbers_of_12_packed_bits(tmp_path: Path) -> None:
    array = numbers(top=4096)
    tifffile.imwrite(tmp_path / "scan.tif", array, bitspersample=12)
    np.testing.assert_array_equal(stack_of(tmp_path / "scan.tif", window=(0, 4095))[0].read(), by_hand(array, 0, 4095))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"])
def test_every_type_of_numbers(dtype: str, tmp_path: Path) -> None:
    array = (numbers(3).astype(np.float64) / 40 - 20).astype(dtype)
    tifffile.imwrite(tmp_path / "scan.tif", array, photometric="minisblack")
    stack = stack_of(tmp_path / "scan.tif", window=(-10, 60))
    # Rounding of halves apart: float64 sums in another order.
    assert np.abs(stack[2].read().astype(int) - by_hand(array[2].astype(np.float64), -10, 60)).max() <= 1


def test_contrast_is_that_of_all_files_together(tmp_path: Path) -> None:
    """A dark and a bright stack keep their difference: by percentiles of their own, both would look the same."""
    dark, bright = numbers(2, top=1000), numbers(2, top=1000) + 3000
    for name, array in (("dark", dark), ("bright", bright)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="minisblack")
    paths = [tmp_path / "dark.tif", tmp_path / "bright.tif"]
    found = [each.pages for each in opened(paths, How()) if each]
    low, high = np.percentile(np.concatenate([dark, bright]), (0.1, 99.9))
    for stack, array in zip(found, (dark, bright), strict=True):
        np.testing.assert_array_equal(stack[1].read(), by_hand(array[1], low, high))
    (alone,) = opened(paths[:1], How())
    assert alone is not None
    assert np.abs(alone.pages[1].read().astype(int) - found[0][1].read()).max() > 100


def test_channels_have_a_contrast_each_and_colours_one() -> None:
    sample = np.stack([np.linspace(0, 100, 1001), np.linspace(500, 700, 1001)], axis=1)
    (low, high), (second_low, second_high) = windows_of([sample], together=False)
    assert (low, high, second_low, second_high) == pytest.approx((0.1, 99.9, 500.2, 699.8))
    assert len({*windows_of([sample], together=True)}) == 1


def test_bytes_stay_what_they_are_unless_asked(tmp_path: Path) -> None:
    array = numbers(2, top=100).astype(np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", array, photometric="minisblack")
    np.testing.assert_array_equal(stack_of(tmp_path / "scan.tif")[0].read()[..., 1], array[0])
    assert stack_of(tmp_path / "scan.tif", window="auto")[0].read().max() == 255


def test_what_is_no_number_is_black() -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 1.0]])[..., None]
    assert as_photo(values, [(0, 2)])[0, :, 0].tolist() == [0, 0, 255, 128]
    assert windows_of([values.reshape(-1, 1)], together=False) == ((1.0, 2.0),)


def test_bands_are_chosen_by_number_from_1(tmp_path: Path) -> None:
    array = numbers(5)
    tifffile.imwrite(tmp_path / "scan.tif", array, metadata={"axes": "CYX"}, ome=True)
    photo = stack_of(tmp_path / "scan.tif", window=(0, 4000), bands=(4, 3, 2))[0].read()
    np.testing.assert_array_equal(photo, np.stack([by_hand(array[n], 0, 4000)[..., 0] for n in (3, 2, 1)], axis=-1))
    with pytest.warns(UserWarning, match="It has 5 bands, and bands 1, 2 and 3 were taken as red, green and blue"):
        stack_of(tmp_path / "scan.tif")
    with pytest.raises(ValueError, match=r"bands from 1 to 5, which \S+scan.tif has, but got 6"):
        stack_of(tmp_path / "scan.tif", bands=(6,))


def test_interleaved_bands(tmp_path: Path) -> None:
    array = np.moveaxis(numbers(2, 5), 1, -1)
    tifffile.imwrite(tmp_path / "scan.tif", array, photometric="minisblack", planarconfig="contig")
    photo = stack_of(tmp_path / "scan.tif", window=(0, 4000), bands=(5, 1, 3))[1].read()
    want = np.stack([by_hand(array[1, ..., n], 0, 4000)[..., 0] for n in (4, 0, 2)], axis=-1)
    np.testing.assert_array_equal(photo, want)


@pytest.mark.parametrize(("count", "colours", "bands"), [(1, False, (1,)), (3, False, (1, 2, 3)), (4, True, (1, 2, 3))])
def test_usual_bands_get_no_remark(
    count: int, colours: bool, bands: tuple[int, ...], recwarn: pytest.WarningsRecorder
) -> None:
    assert chosen_bands(count, (), "a.tif", colours) == bands
    assert list(recwarn) == []


@pytest.mark.parametrize(
    ("window", "bands"),
    [((3, 3), None), ((1,), None), ("wide", None), ((0, np.nan), None), (None, (1, 2)), (None, (0,))],
)
def test_wrong_options_get_a_sentence(window: Any, bands: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected .* but got "):
        checked(window, bands)


def test_pages_of_different_sizes_follow_each_other(tmp_path: Path) -> None:
    first, second = numbers(1)[0], numbers(1, seed=1)[0][:11, :17]
    with tifffile.TiffWriter(tmp_path / "scan.tif") as out:
        for page in (first, second, first // 2):
            out.write(page, metadata=None)
    stack = stack_of(tmp_path / "scan.tif", window=(0, 4000))
    assert [page.read().shape for page in stack] == [(20, 30, 3), (11, 17, 3), (20, 30, 3)]
    np.testing.assert_array_equal(stack[1].read(), by_hand(second, 0, 4000))
    np.testing.assert_array_equal(stack[2].read(), by_hand(first // 2, 0, 4000))
    with pytest.raises(ValueError, match=r"a page of .*, 0 to 2, but got 3"):
        stack.page(3)


def test_plain_photos_stay_photos(tmp_path: Path) -> None:
    for name, picture in (("a.png", Image.new("RGB", (8, 8))), ("b.tif", Image.new("RGB", (8, 8)))):
        picture.save(tmp_path / name)
    tifffile.imwrite(tmp_path / "deep.tif", numbers())
    tifffile.imwrite(tmp_path / "shares.tif", (numbers() / 4000).astype(np.float32))
    names = ["a.png", "b.tif", "deep.tif", "shares.tif", "missing.tif"]
    assert opened([*(tmp_path / name for name in names), np.zeros((3, 3))], How()) == [None] * 6
    (asked,) = opened([tmp_path / "deep.tif"], How("auto"))
    assert asked is not None
    assert not asked.several


def test_a_photo_of_other_numbers_says_what_was_taken(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", numbers().astype(np.float32))
    with pytest.warns(UserWarning, match=r"numbers \(float32\) are not those of a photo, so \S+ to \S+ was taken"):
        (found,) = opened([tmp_path / "scan.tif"], How())
    assert found is not None
    assert not found.several


def test_what_cannot_be_read_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(ValueError, match=r"Expected a readable TIFF, but cannot read \S+bad.tif"):
        opened([tmp_path / "bad.tif"], How())
    zarr.open_group(tmp_path / "bad.zarr", mode="w")
    with pytest.raises(ValueError, match=r"Expected an OME-Zarr image, .*it has no multiscales"):
        opened([tmp_path / "bad.zarr"], How())
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, numbers(3), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(whole) as file:
        start, length = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
    content = bytearray(whole.read_bytes())
    content[start : start + length] = bytes(length)
    whole.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected to read page 1 of \S+whole.tif, but cannot"):
        opened([whole], How())


def test_masks_come_back_as_a_stack(tmp_path: Path) -> None:
    masks = [np.full((8, 9), value, np.uint8) for value in (0, 1, 255)]
    write_masks(tmp_path / "masks.tif", iter(masks))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks.tif"), masks)
    assert [open_stack(str(tmp_path / "masks.tif")).numbers(n)[0, 0] for n in range(3)] == [0, 1, 255]
    with Image.open(tmp_path / "masks.tif") as picture:
        picture.seek(2)
        assert load_mask(picture).max() == 255


def test_names(tmp_path: Path) -> None:
    assert stem_of("a/scan.tif#12") == "scan_00012"
    assert stem_of("a/scan.tif") == "scan"
    (tmp_path / "scan#12").touch()
    assert stem_of(str(tmp_path / "scan#12")) == "scan#12"


def test_memory_is_that_of_a_page(tmp_path: Path) -> None:
    """40 pages of 2 MB: reading all takes what reading a few does, give or take the codec's own buffers."""
    array = np.random.default_rng(0).integers(0, 4000, (1024, 1024)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "scan.tif") as out:
        for _ in range(40):
            out.write(array, contiguous=True)
    script = (
        "from rifenet.formats.stacks import open_stack, settled; from rifenet.formats.contrast import How\n"
        f"(stack,) = settled([open_stack({str(tmp_path / 'scan.tif')!r})], How('auto'))\n"
        "for page in stack[:{}]: page.read()\n"
    )
    few, all_pages = (peak_of(script.format(count)) for count in (3, 40))
    assert all_pages - few < 20 * 2**20, json.dumps([few, all_pages])


GREY = np.full((HEIGHT, WIDTH), 40, np.uint8)
GREY[4:12, 5:20] = 220


def shown(path: Path, pixels: Any, **options: Any) -> list[NDArray[np.uint8]]:
    """The photos of a TIFF, by whatever reads it."""
    tifffile.imwrite(path, pixels, **options)
    (found,) = opened([path], How())
    return [load_image(path)] if found is None else [page.read() for page in found.pages]


def test_white_is_white_where_the_smallest_number_stands_for_it(tmp_path: Path) -> None:
    alone = shown(tmp_path / "a.tif", GREY, photometric="miniswhite")
    stack = shown(tmp_path / "b.tif", np.stack([GREY] * 2), photometric="miniswhite")
    for photo in (*alone, *stack):
        np.testing.assert_array_equal(photo[..., 0], 255 - GREY)
    (deep,) = shown(tmp_path / "c.tif", GREY.astype(np.uint16) * 100, photometric="miniswhite")
    np.testing.assert_array_equal(deep[..., 1] == 255, GREY == 40)
    np.testing.assert_array_equal(deep[..., 1] == 0, GREY == 220)


def test_a_palette_gives_the_colours_unless_bands_or_a_window_are_chosen(tmp_path: Path) -> None:
    table = np.zeros((3, 256), np.uint16)
    table[:, 40], table[:, 220] = (0, 65535, 10 * 257), (65535, 0, 0)
    pages = shown(tmp_path / "a.tif", np.stack([GREY] * 3), photometric="palette", colormap=table)
    assert len(pages) == 3
    for photo in (*pages, *shown(tmp_path / "b.tif", GREY, photometric="palette", colormap=table)):
        assert photo[0, 0].tolist() == [0, 255, 10]
        assert photo[6, 8].tolist() == [255, 0, 0]
    chosen = stack_of(tmp_path / "a.tif", bands=(1,))
    np.testing.assert_array_equal(chosen.photo(0)[..., 2], GREY)
    np.testing.assert_array_equal(stack_of(tmp_path / "a.tif").numbers(2), GREY)  # a mask's own numbers


def test_signed_bytes_are_signed(tmp_path: Path) -> None:
    """Pillow takes them for unsigned ones, so that the darkest become the brightest."""
    (photo,) = shown(tmp_path / "a.tif", (GREY.astype(np.int16) - 128).astype(np.int8), photometric="minisblack")
    np.testing.assert_array_equal(photo[..., 0], np.where(GREY == 220, 255, 0))


def test_two_bands_side_by_side(tmp_path: Path) -> None:
    """Pillow opens such a file, and cannot read it."""
    pixels = np.stack([GREY.astype(np.uint16) * 100, GREY.astype(np.uint16)])
    (photo,) = shown(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(photo[..., 0], np.where(GREY == 220, 255, 0))


def test_complex_numbers_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected integers or floats, but \S+a.tif holds complex64. Save what"):
        shown(tmp_path / "a.tif", GREY.astype(np.complex64), photometric="minisblack")


def test_pages_that_differ_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(GREY, photometric="minisblack")
        out.write(np.dstack([GREY] * 3), photometric="rgb")
        out.write(GREY[:9].astype(np.uint16) * 100, photometric="minisblack")
    with pytest.warns(UserWarning, match=r"Its pages differ in numbers or bands \(uint8, uint16\), and share one"):
        opened([tmp_path / "a.tif"], How())


def test_numbers_of_two_types_are_told_and_one_is_not(tmp_path: Path) -> None:
    for name, second in (("one", GREY[:9]), ("two", GREY[:9].astype(np.uint16))):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as out:
            out.write(GREY, photometric="minisblack")
            out.write(second, photometric="minisblack")
    with collected() as said:
        opened([tmp_path / "one.tif"], How())
    assert said == []
    with collected() as said:
        opened([tmp_path / "two.tif"], How())
    assert len(said) == 1
    assert "differ in numbers or bands (uint8, uint16), and share one contrast and 1 band(s)" in said[0]


@pytest.mark.parametrize(("side", "step"), [(256, 1), (257, 2), (1000, 4), (1024, 4), (1025, 5)])
def test_so_many_numbers_of_a_page_are_sampled(side: int, step: int, tmp_path: Path) -> None:
    """Those of every so many rows and columns: at most 65,536 a page, from at most 32 pages."""
    page = np.random.default_rng(0).integers(0, 4000, (side, side)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "scan.tif", page, photometric="minisblack")
    np.testing.assert_array_equal(stack_of(tmp_path / "scan.tif").sample(), page[::step, ::step].reshape(-1, 1))


def test_pages_are_sampled_at_equal_distances(tmp_path: Path) -> None:
    pages = np.repeat(np.arange(100, dtype=np.uint16), 4).reshape(100, 2, 2)
    tifffile.imwrite(tmp_path / "scan.tif", pages, photometric="minisblack")
    sampled = np.unique(stack_of(tmp_path / "scan.tif").sample()).tolist()
    assert sampled == sorted({round(number * 99 / 31) for number in range(32)})


@pytest.mark.parametrize("axes", [None, "tczyx", ["t", "c", "z", "y", "x"]])
def test_axes_of_old_zarr_files(axes: Any, tmp_path: Path) -> None:
    """Before format 0.4, axes are letters, or not told at all."""
    array = numbers(2, 1, 3)
    path = write_zarr(tmp_path / "scan.zarr", array, "tczyx")
    group = zarr.open_group(path, mode="r+")
    content = group.attrs["multiscales"][0]
    group.attrs["multiscales"] = [{"datasets": content["datasets"]} | ({} if axes is None else {"axes": axes})]
    stack = stack_of(path, window=(0, 4000))
    assert len(stack) == 6
    np.testing.assert_array_equal(stack[4].read(), by_hand(array[1, 0, 1], 0, 4000))


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux lists open files in /proc.")
def test_a_file_is_closed_once_nobody_has_its_stack(tmp_path: Path) -> None:
    def is_open() -> bool:
        return str(path) in {os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")}

    path = (tmp_path / "scan.tif").resolve()
    tifffile.imwrite(path, numbers(2), photometric="minisblack")
    stack = stack_of(path)
    page = stack[1]
    page.read()
    assert is_open()
    del stack
    assert is_open()  # the page needs it
    del page
    gc.collect()
    assert not is_open()
