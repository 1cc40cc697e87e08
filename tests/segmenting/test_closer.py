"""A shot is cut around an object that its whole photo would not show to the network."""

from __future__ import annotations

import numpy as np
import pytest
from colour_engine import ColourEngine

from rifenet.segmenting.closer import window_around
from rifenet.segmenting.segmenter import Segmenter

RED, GREEN = (210, 30, 20), (30, 160, 60)


def marked(height: int, width: int, *boxes: tuple[int, int, int]) -> np.ndarray:
    """A mask with squares: row, column and side of each."""
    mask = np.zeros((height, width), np.uint8)
    for row, column, side in boxes:
        mask[row : row + side, column : column + side] = 1
    return mask


@pytest.mark.parametrize("corner", [(0, 0), (500, 900), (588, 1188), (300, 0)])
def test_the_window_holds_the_object_and_lies_within_the_photo(corner: tuple[int, int]) -> None:
    labels = marked(600, 1200, (*corner, 12))
    window = window_around(labels, 64)
    assert window is not None
    rows, columns = window
    assert (rows.stop - rows.start, columns.stop - columns.start) == (64, 64)
    assert rows.start >= 0 <= columns.start
    assert rows.stop <= 600
    assert columns.stop <= 1200
    assert labels[window].sum() == 144


def test_the_window_is_around_most_of_what_is_marked() -> None:
    labels = marked(1000, 2000, (100, 100, 6), (800, 1500, 9), (815, 1520, 9))
    window = window_around(labels, 64)
    assert window is not None
    assert labels[window].sum() == 2 * 81
    middle = [(each.start + each.stop) / 2 for each in window]
    assert abs(middle[0] - 812) < 2
    assert abs(middle[1] - 1514.5) < 2


def test_an_object_is_cut_with_four_times_its_side_around_it() -> None:
    window = window_around(marked(3000, 9000, (1000, 2000, 28)), 64)
    assert window == (slice(958, 1070), slice(1958, 2070))  # 4 x 28 px, around (1014, 2014)


@pytest.mark.parametrize(
    ("labels", "cut"),
    [
        (marked(600, 1200, (100, 100, 74)), True),  # 74 * 64 / 1200 < 4 px of the network's
        (marked(600, 1200, (100, 100, 76)), False),
        (marked(60, 64, (10, 10, 2)), False),  # the photo is no larger than the network's square
        (marked(600, 1200), False),
        (marked(600, 1200) + 255, False),  # nothing but ignored pixels
    ],
)
def test_only_what_the_network_cannot_see_is_cut(labels: np.ndarray, cut: bool) -> None:
    assert (window_around(labels.astype(np.uint8), 64) is not None) == cut


def test_a_small_object_teaches_its_colour_and_its_surroundings() -> None:
    photo = np.full((644, 1288, 3), 128, np.uint8)
    photo[300:306, 700:706] = RED
    photo[280:300, 690:720] = GREEN
    engine = ColourEngine()
    segmenter = Segmenter(engine)
    with pytest.warns(UserWarning, match=r"too small .* photo of 1288 x 644, so .* from 64 x 64 px around it"):
        segmenter.learn("red", [photo], [(photo == RED).all(2)])
    (known,) = segmenter.learned
    assert known.inputs is not None
    assert known.inputs.valid.all()
    assert (known.inputs.masks == 1).sum() == 36
    seen = np.rint(255 * known.inputs.images[0].transpose(1, 2, 0))
    assert (seen[known.inputs.masks[0] == 1] == RED).all()
    assert (seen == GREEN).all(2).sum() == 600
