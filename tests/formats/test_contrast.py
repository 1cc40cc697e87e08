"""Scientific numbers as bytes, each computed by itself, and which bands are taken."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rifenet.formats import contrast
from rifenet.formats.contrast import as_photo, checked, chosen_bands, full_range, windows_of
from rifenet.formats.remarks import collected


def by_hand(values: NDArray[Any], windows: list[tuple[float, float]]) -> NDArray[np.uint8]:
    height, width, count = values.shape
    photo = np.zeros((height, width, 3), np.uint8)
    for row, column, band in itertools.product(range(height), range(width), range(3)):
        low, high = windows[band if count == 3 else 0]
        value = float(values[row, column, band if count == 3 else 0])
        share = 0.0 if np.isnan(value) else min(max((value - low) / (high - low), 0.0), 1.0)
        photo[row, column, band] = round(255 * share)
    return photo


@pytest.mark.parametrize("strip", [1, 30, 2**20])
@pytest.mark.parametrize("count", [1, 3])
def test_each_number_by_itself(count: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row, three rows and all rows at a time."""
    monkeypatch.setattr(contrast, "_STRIP", strip)
    values = np.random.default_rng(0).normal(0, 40, (7, 10, count))
    values[2, 3], values[4, 4], values[5, 5] = np.nan, np.inf, -np.inf
    windows = [(-30.0, 50.0), (0.0, 3.0), (-100.0, -10.0)][:count]
    photo = as_photo(values, windows)
    assert photo.dtype == np.uint8
    np.testing.assert_array_equal(photo, by_hand(values, windows))


def test_percentiles_of_all_pages_and_of_bands_alone_or_together() -> None:
    draw = np.random.default_rng(0)
    samples = [draw.normal(10, 3, (500, 2)), draw.normal(40, 9, (300, 2))]
    samples[0][3, 0], samples[1][4, 1] = np.nan, np.inf
    whole = np.concatenate(samples)
    alone = windows_of(samples, together=False)
    assert len(alone) == 2
    for band, found in enumerate(alone):
        own = whole[np.isfinite(whole[:, band]), band]
        assert found == pytest.approx(tuple(np.percentile(own, (0.1, 99.9))))
    together = windows_of(samples, together=True)
    assert together[0] == together[1] == pytest.approx(tuple(np.percentile(whole[np.isfinite(whole)], (0.1, 99.9))))


@pytest.mark.parametrize(
    ("numbers", "window"),
    [
        ([7.0] * 5000 + [9.0], (7.0, 9.0)),  # a bright pixel on one level
        ([5.0] + [7.0] * 5000, (5.0, 7.0)),
        ([7.0] * 10, (7.0, 8.0)),
        ([np.nan], (0.0, 1.0)),
    ],
)
def test_windows_of_one_level(numbers: list[float], window: tuple[float, float]) -> None:
    assert windows_of([np.array(numbers)[:, None]], together=False) == (window,)


def test_numbers_that_need_no_window() -> None:
    assert full_range(np.dtype(bool)) == (0.0, 1.0)
    assert full_range(np.dtype(np.uint8)) == (0.0, 255.0)
    assert all(full_range(np.dtype(kind)) is None for kind in ("int8", "uint16", "float32"))


@pytest.mark.parametrize(
    ("count", "colours", "bands", "said"),
    [
        (1, False, (1,), ""),
        (2, False, (1,), "It has 2 bands, and band 1 was taken, as grey."),
        (2, True, (1,), ""),
        (3, False, (1, 2, 3), ""),
        (4, False, (1, 2, 3), "It has 4 bands, and bands 1, 2 and 3 were taken as red, green and blue."),
        (4, True, (1, 2, 3), ""),
        (5, True, (1, 2, 3), "It has 5 bands, and bands 1, 2 and 3 were taken as red, green and blue."),
    ],
)
def test_bands_that_nobody_chose(count: int, colours: bool, bands: tuple[int, ...], said: str) -> None:
    with collected() as remarks:
        assert chosen_bands(count, (), "a.tif", colours) == bands
    assert remarks == ([f"a.tif: {said} Choose with --bands (bands=)."] if said else [])


def test_bands_that_somebody_chose() -> None:
    with collected() as remarks:
        assert chosen_bands(5, (5, 1, 2), "a.tif", False) == (5, 1, 2)
        with pytest.raises(ValueError, match=r"bands from 1 to 5, which a\.tif has, but got 6\."):
            chosen_bands(5, (1, 6, 2), "a.tif", False)
    assert remarks == []


def test_options() -> None:
    assert checked(None, None) == (None, ())
    assert checked("auto", [1]) == ("auto", (1,))
    assert checked([1, 2], (3, 2, 1)) == ((1.0, 2.0), (3, 2, 1))
    for window, bands in ((None, (1.0,)), (None, (1, 2, 3, 4)), ((2, 1), None), ((0, np.inf), None), ("0,1", None)):
        with pytest.raises(ValueError, match=r"^Expected (window|one or three bands)"):
            checked(window, bands)
