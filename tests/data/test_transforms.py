"""Geometry. A coordinate image (every pixel holds its own position) shows where each pixel went."""

from __future__ import annotations

import numpy as np
import pytest
from coordinates import assert_same_place, coordinates, grid_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hsnet as slow

from rifenet.data.transforms import MEAN, place, resize_and_pad, resize_mask, restore, squash

SIZES = st.integers(8, 256)
ODD = st.integers(20, 63).map(lambda half: 2 * half + 1)  # of an odd side no two pixels are equally near to a centre


@settings(max_examples=60, deadline=None)
@given(height=st.integers(8, 128), width=st.integers(8, 128), size=st.integers(32, 500))
def test_there_and_back_leaves_no_offset(height: int, width: int, size: int) -> None:
    pixels, valid, placement = resize_and_pad(2 * coordinates(height, width), size)
    back = restore(pixels, placement) * 255 / 2  # rounding to whole levels moves a position by a quarter of a pixel
    assert back.shape == (3, height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    # Within a filter's width of the border a ramp flattens; inside, the whole way must be the identity.
    margin = int(np.ceil(2 * max(1, max(height, width) / size)))
    inner = np.s_[margin : height - margin, margin : width - margin]
    if min(height, width) > 2 * margin:
        assert np.abs(back[0] - columns)[inner].max() < 0.5
        assert np.abs(back[1] - rows)[inner].max() < 0.5
    assert valid[: placement.scaled_height, : placement.scaled_width].all()
    assert valid.sum() == placement.scaled_height * placement.scaled_width


@pytest.mark.parametrize(("height", "width", "size"), [(375, 500, 473), (500, 333, 320), (97, 40, 473), (1, 1, 32)])
def test_restore_is_half_pixel_bilinear(height: int, width: int, size: int) -> None:
    """Against bilinear interpolation written out, where the picture grows on both sides."""
    placement = place(height, width, size)
    if placement.scaled_height > height:
        placement = place(placement.scaled_height * 2, placement.scaled_width * 2, size)
    maps = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    cut = maps[..., : placement.scaled_height, : placement.scaled_width].astype(np.float64)

    def weights(n_out: int, n_in: int) -> np.ndarray:
        table = np.zeros((n_out, n_in))
        for i in range(n_out):
            position = (i + 0.5) * n_in / n_out - 0.5
            low = int(np.floor(position))
            for index, weight in ((low, low + 1 - position), (low + 1, position - low)):
                table[i, min(max(index, 0), n_in - 1)] += weight
        return table

    rows = weights(placement.height, placement.scaled_height)
    columns = weights(placement.width, placement.scaled_width)
    expected = rows @ cut @ columns.T
    np.testing.assert_allclose(restore(maps, placement), expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(height=SIZES, width=SIZES, size=st.integers(32, 500))
def test_mask_and_image_shrink_together(height: int, width: int, size: int) -> None:
    pixels, valid, placement = resize_and_pad(coordinates(height, width), size)
    labels = resize_mask(grid_labels(height, width), placement)
    assert (labels[~valid] == 255).all()
    assert_same_place(pixels, labels, valid, tolerance=1 + 0.5 * max(height, width) / size)


def test_padding_is_the_mean() -> None:
    pixels, valid, _ = resize_and_pad(np.full((10, 20, 3), 7, np.uint8), 16)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, ~valid].T, np.broadcast_to(np.float32(MEAN), (16 * 8, 3)))
    np.testing.assert_allclose(pixels[:, valid], 7 / 255, rtol=1e-6)


def test_restore_refuses_maps_of_another_size() -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        restore(np.zeros((4, 4), np.float32), place(4, 4, 16))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 128), width=st.integers(8, 128), size=st.integers(32, 400))
def test_squash_there_and_back_leaves_no_offset_on_either_axis(height: int, width: int, size: int) -> None:
    pixels, valid, placement = squash(2 * coordinates(height, width), size)
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == np.float32
    assert valid.shape == (size, size)
    assert valid.all()
    shown = pixels * 255 / 2
    inner = np.s_[size // 3 : -(size // 3)]
    for channel, axis, side in ((0, 1, width), (1, 0, height)):
        line = shown[channel].mean(1 - axis)[inner]
        positions = np.array([slow.squash_coordinate(value, side, size) for value in line])
        assert np.abs(positions - np.arange(size)[inner]).max() < 0.5 * max(1, size / side)
    back = restore(pixels, placement) * 255 / 2
    assert back.shape == (3, height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    for channel, wanted, side in ((0, columns, width), (1, rows, height)):
        margin = int(np.ceil(2 * max(1, side / size)))
        far = np.take(np.abs(back[channel] - wanted), range(margin, side - margin), axis=1 - channel)
        assert far.size == 0 or far.max() < 0.5


@settings(max_examples=15, deadline=None)
@given(height=ODD, width=ODD, size=st.integers(32, 90))
def test_squashed_masks_are_nearest_and_lie_under_their_image(height: int, width: int, size: int) -> None:
    pixels, valid, placement = squash(coordinates(height, width), size)
    mask = grid_labels(height, width)
    mask[:20, :20] = 255
    labels = resize_mask(mask, placement)
    expected = slow.squash_mask(mask, size)
    met = np.isin(mask, expected)  # a block cut narrow by the border may fall between the centres
    assert set(np.unique(labels)) == set(np.unique(mask))
    assert (labels != expected).sum() <= len(np.unique(mask[~met]))
    real = valid & (labels != 255)
    assert_same_place(pixels, labels, real, tolerance=1 + 0.5 * max(height, width) / size)


def test_an_object_between_the_samples_keeps_one_squashed_pixel() -> None:
    mask = np.zeros((500, 2000), np.uint8)
    mask[250, 1001] = 7
    labels = resize_mask(mask, squash(np.zeros((500, 2000, 3), np.uint8), 400)[2])
    assert np.argwhere(labels == 7).tolist() == [[200, 200]]


def test_squash_refuses_an_empty_picture() -> None:
    with pytest.raises(ValueError, match="at least 1 px"):
        squash(np.zeros((0, 4, 3), np.uint8), 400)
