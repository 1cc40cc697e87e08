"""Arrays of every layout and scale as a photo, each number by itself; and what is refused or said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rifenet.formats.bands import array_of, as_bytes, channels_last, is_transparency, over_white, scales_of
from rifenet.formats.remarks import collected


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((5, 7), (5, 7, 1)),
        ((5, 7, 1), (5, 7, 1)),
        ((5, 7, 3), (5, 7, 3)),
        ((5, 7, 4), (5, 7, 4)),
        ((3, 5, 7), (5, 7, 3)),
        ((1, 5, 7), (5, 7, 1)),
        ((4, 5, 7), (5, 7, 4)),
        ((3, 4, 3), (3, 4, 3)),  # can be read as it is
        ((1, 3, 5, 7), (5, 7, 3)),
        ((1, 5, 7, 3), (5, 7, 3)),
        ((3, 3, 7), None),  # no more rows than bands
        ((3, 2, 7), None),
        ((2, 5, 7), None),
        ((5, 7, 2), None),
        ((1, 1, 5, 7, 3), None),
        ((2, 5, 7, 3), None),
        ((1, 2, 3, 5, 7), None),
        ((5,), None),
        ((0, 7, 3), None),
        ((3, 0, 7), None),
    ],
)
def test_layouts(shape: tuple[int, ...], found: tuple[int, ...] | None) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    if found is None:
        message = (
            rf"Expected an image \[H, W\], \[H, W, 3\] or \[H, W, 4\], but it is \[{', '.join(map(str, shape))}\]\."
        )
        with pytest.raises(ValueError, match=message):
            channels_last(array, "it")
        return
    last = channels_last(array, "it")
    assert last.shape == found
    plain = array[0] if array.ndim == 4 else array
    first = plain.ndim == 3 and plain.shape[2] not in (1, 3, 4)
    for row, column, band in ((0, 0, 0), (2, 1, 0), (found[0] - 1, found[1] - 1, found[2] - 1)):
        place = (row, column) if plain.ndim == 2 else (band, row, column) if first else (row, column, band)
        assert last[row, column, band] == plain[place]


@pytest.mark.parametrize(
    ("dtype", "top", "full", "said"),
    [
        ("uint8", 3, 255, False),
        ("bool", 1, 1, False),
        ("float32", 1, 1, False),
        ("float64", 0.25, 1, False),
        ("int64", 255, 255, False),  # NumPy's own integers hold bytes
        ("int64", 256, 1023, True),
        ("uint16", 255, 255, True),
        ("uint16", 1023, 1023, True),
        ("uint16", 1024, 4095, True),
        ("uint16", 16383, 16383, True),
        ("uint16", 16384, 65535, False),
        ("uint32", 65535, 65535, False),
        ("uint16", 0, 255, False),  # all black
    ],
)
def test_scales(dtype: str, top: float, full: int, said: bool) -> None:
    array = np.zeros((4, 5, 3), dtype)
    array[1, 2, 1] = top
    with collected() as remarks:
        assert scales_of(array, "it") == (full, 0)
    assert len(remarks) == said
    bits = full.bit_length()
    wanted = f"it: Its largest value is {top}, so its numbers were taken for {bits} bits (0 to {full}), not for 16."
    assert all(each == f"{wanted} If that makes it too bright, scale it to 0..65535." for each in remarks)
    photo = as_bytes(array, scales_of(array, "it")) if not said else None
    if photo is not None:
        assert photo.dtype == np.uint8
        assert photo[1, 2].tolist() == [0, round(255 * float(top) / full), 0]


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 1.5), ("float32", -0.1), ("float32", np.nan), ("int64", -1), ("int64", 65536)]
)
def test_numbers_of_no_photo(dtype: str, value: float) -> None:
    array = np.zeros((2, 2, 3), dtype)
    array[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"but it holds {dtype} from .* Scale to 0\.\.255"):
        scales_of(array, "it")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_every_number_is_scaled_and_rounded(dtype: str) -> None:
    full = {"uint8": 255, "uint16": 4095, "float64": 1}[dtype]
    array = np.linspace(0, full, 4096).astype(dtype).reshape(64, 64, 1)
    with collected():
        found = as_bytes(array, scales_of(array, "it"))
    exact = 255 * array.astype(np.float64) / full
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 0.5 + 1e-9


def test_over_white_each_by_itself() -> None:
    draw = np.random.default_rng(0)
    colours, alpha = draw.integers(0, 256, (40, 50, 3), np.uint8), draw.integers(0, 256, (40, 50, 1), np.uint8)
    found = over_white(colours, alpha)
    exact = (colours * (alpha / 255.0)) + 255 * (1 - alpha / 255.0)
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool"])
def test_a_fourth_band_is_transparency_unless_its_values_say_otherwise(dtype: str) -> None:
    full = {"uint8": 255, "uint16": 65535, "float32": 1, "bool": 1}[dtype]
    array = np.zeros((4, 4, 4), dtype)
    array[..., 0] = full
    array[:2, :, 3] = full
    with collected() as said:
        photo = as_bytes(array, scales_of(array, "it"))
    assert said == []
    assert photo[0, 0].tolist() == [255, 0, 0]
    assert photo[3, 3].tolist() == [255, 255, 255]
    array[..., 3] = 0
    with collected() as said:
        photo = as_bytes(array, scales_of(array, "it"))
    assert said == ["it: It is transparent everywhere, so its colours were taken without the transparency."]
    assert photo[3, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("between", "anything", "by_format", "found"),
    [
        (0.5, True, False, True),
        (0.51, True, False, False),
        (0.51, True, True, True),
        (0.0, False, True, False),
        (1.0, False, False, False),
    ],
)
def test_what_counts_as_transparency(between: float, anything: bool, by_format: bool, found: bool) -> None:
    with collected() as said:
        assert is_transparency(between, anything, "it", by_format) is found
    band = "it: 51% of the values of its fourth band are neither all nor nothing, so the band was not"
    assert len(said) == (not found)
    assert all(each.startswith(band if anything else "it: It is transparent everywhere") for each in said)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "but got None."),
        (["a.jpg", "b.jpg"], "but got a list of 2. Give them one by one."),
        ([np.zeros((2, 2)), np.zeros((2, 2))], "but got a list of 2. Give them one by one."),
        ((b"a",), "but got a tuple of 1. Give them one by one."),
        (7, "but got a int."),
        ({"a": 1}, "but got a dict."),
        ([[1, 2], [3]], "but cannot make an array of a list:"),
        ([[None, 1]], "of numbers, but got a list of object."),
        (np.array(["a"]), r"of numbers, but got a ndarray of <U1."),
        (np.zeros((2, 2), complex), "of numbers, but got a ndarray of complex128."),
    ],
)
def test_what_is_no_array(source: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected the given mask as a path, a PIL picture or an array") as raised:
        array_of(source, "mask")
    assert sentence in str(raised.value)
    assert array_of([[1, 2], [3, 4]], "mask").tolist() == [[1, 2], [3, 4]]
