"""Grey levels are told from class numbers on real masks and on what programs make of them; each guess is said."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rifenet.examples.samples import load_examples
from rifenet.formats.label_files import load_labels
from rifenet.formats.mask_values import listed
from rifenet.formats.remarks import collected

EXAMPLES = [example.mask for example in load_examples()[1]]


def numbers_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def read(numbers: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    """The mask of a grey picture, and what was said."""
    with collected() as said:
        mask = load_labels(Image.fromarray(numbers), "thing")
    return mask, said


def soft(inside: NDArray[np.bool_], how: str) -> NDArray[np.uint8]:
    white = Image.fromarray(255 * inside.astype(np.uint8))
    if how == "half the size":
        return np.asarray(white.resize((white.width // 2, white.height // 2), Image.Resampling.BOX))
    return np.asarray(white.filter(ImageFilter.GaussianBlur(float(how))))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_numbers_of_real_masks_stay_numbers(path: Path) -> None:
    """Grey, without the palette that would tell."""
    numbers = numbers_of(path)
    mask, said = read(numbers)
    np.testing.assert_array_equal(mask, np.where(numbers == 255, 255, numbers > 0))
    several = len(set(np.unique(numbers).tolist()) - {0, 255}) > 1
    assert len(said) == several
    assert all("It holds several numbers" in sentence for sentence in said)


@pytest.mark.parametrize("how", ["half the size", "1", "2.5"])
@pytest.mark.parametrize("path", EXAMPLES[::4], ids=lambda path: path.stem)
def test_real_objects_with_a_soft_edge(path: Path, how: str) -> None:
    numbers = numbers_of(path)
    grey = soft((numbers > 0) & (numbers < 255), how)
    mask, (said,) = read(grey)
    np.testing.assert_array_equal(mask, grey >= 128)
    assert "as a soft edge does" in said


def test_thin_soft_lines_and_thin_numbers() -> None:
    rows, columns = np.mgrid[:120, :160]
    lines = (np.abs(rows - 0.4 * columns - 10) < 1.5) | (np.abs(rows + 0.7 * columns - 90) < 1.2)
    grey = soft(lines, "half the size")
    mask, (said,) = read(grey)
    np.testing.assert_array_equal(mask, grey >= 128)
    assert "as a soft edge does" in said
    cracks = np.zeros((120, 160), np.uint8)
    for number in range(1, 7):  # each a pixel wide
        cracks[np.abs(rows - 0.3 * columns - 12 * number) < 0.5] = number
    mask, (said,) = read(cracks)
    np.testing.assert_array_equal(mask, cracks > 0)
    assert "several numbers, 1, 2, 3, 4, 5, 6," in said


def test_touching_cells_of_many_numbers_are_no_smooth_map() -> None:
    rows, columns = np.mgrid[:150, :150]
    cells = ((rows // 10) * 15 + columns // 10 + 1).astype(np.uint8)  # 1 to 225, which touch
    mask, said = read(cells)
    assert mask.all()
    assert ["several numbers" in said[0], "Nothing in it is background" in said[1]] == [True, True]


def test_a_map_of_scores_with_flat_parts_is_halved() -> None:
    rows, columns = np.mgrid[:200, :200]
    scores = 1 / (1 + np.exp((np.hypot(rows - 99.5, columns - 99.5) - 60) / 6))
    grey = np.rint(255 * scores).astype(np.uint8)
    mask, (said,) = read(grey)
    np.testing.assert_array_equal(mask, scores >= 127.5 / 255)
    assert "as a soft edge does" in said


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (1, 9), (9, 1), (2, 2)])
def test_masks_of_any_size(size: tuple[int, int]) -> None:
    for values in ((0, 255), (0, 1, 255), (1,), (3, 200, 255), (0, 90, 170, 255)):
        numbers = np.random.default_rng(0).choice(np.array(values, np.uint8), size)
        with collected():
            mask = load_labels(numbers, "thing")
        assert mask.shape == size
        assert set(np.unique(mask).tolist()) <= {0, 1, 255}


def test_white_is_object_counts_a_soft_edge_the_same() -> None:
    grey = soft(np.pad(np.ones((20, 20), bool), 20), "1")
    with collected() as said:
        mask = load_labels(grey, "thing", white_is_object=True)
    np.testing.assert_array_equal(mask, grey >= 128)
    assert len(said) == 1


def test_a_chosen_number_is_taken_without_a_word() -> None:
    grey = soft(np.pad(np.ones((20, 20), bool), 20), "1")
    number = int(grey[20, 30])
    assert 0 < number < 255
    with collected() as said:
        mask = load_labels(grey, "thing", label=number)
    np.testing.assert_array_equal(mask == 1, grey == number)
    assert said == []


def test_the_examples_are_there() -> None:
    assert len(EXAMPLES) > 20
    assert all(str(path).startswith(str(files("rifenet"))) for path in EXAMPLES)


@pytest.mark.parametrize("shape", [(2, 7), (7, 2), (1, 7), (5, 7)])
def test_a_colour_mask_in_memory_is_read_as_one_in_a_file(shape: tuple[int, int]) -> None:
    """Also one of two rows, which are no two channels; a third axis of length 1 is a mask of numbers."""
    red = np.zeros((*shape, 3), np.uint8)
    red[0, 1:] = (200, 20, 30)
    expected = (red[..., 0] > 0).astype(np.uint8)
    if shape[0] > 1:
        np.testing.assert_array_equal(load_labels(red, "thing", label="#c8141e"), expected)
    np.testing.assert_array_equal(load_labels(Image.fromarray(red), "thing", label="#c8141e"), expected)
    np.testing.assert_array_equal(load_labels(expected[..., None], "thing"), expected)
    np.testing.assert_array_equal(load_labels(expected[None], "thing"), expected)


def in_areas(*numbers: int, white: int = 0) -> NDArray[np.uint8]:
    """Fields of 10 x 10 pixels of each number on black, then so many of white."""
    fields = [0, *numbers, *[255] * white, 0]
    return np.repeat(np.repeat(np.array([fields], np.uint8), 10, axis=0), 10, axis=1)


@pytest.mark.parametrize(
    ("numbers", "white", "grey"),
    [
        ((96,), 2, True),  # one light number beside more white
        ((95,), 2, False),  # one that is too dark
        ((96,), 1, False),  # as much of it as of white
        ((96,), 0, False),
        ((254,), 2, True),
        ((100, 170), 3, True),
        ((100, 170), 2, False),
        ((90, 170), 3, False),  # the darker is a class
        ((1, 90), 3, False),
        ((1, 254), 3, False),
        ((100, 170, 240), 4, True),
        ((100, 170, 240), 3, False),
        ((100, 170, 200, 240), 9, False),  # four numbers in areas
    ],
)
def test_few_numbers_in_areas_are_grey_beside_more_white(numbers: tuple[int, ...], white: int, grey: bool) -> None:
    index = in_areas(*numbers, white=white)
    mask, said = read(index)
    if grey:
        np.testing.assert_array_equal(mask, index >= 128)
        what = f"a grey level, {numbers[0]}," if len(numbers) == 1 else f"{len(numbers)} grey levels"
        assert len(said) == 1
        assert f"It holds {what} between black and white, as a soft edge does." in said[0]
    else:
        np.testing.assert_array_equal(mask, np.where(index == 255, 255, index > 0))
        assert ["several numbers" in sentence for sentence in said] == [True] * (len(numbers) > 1)


@pytest.mark.parametrize("numbers", [(126,), (130,), (126, 128, 130), (125,), (131,), (125, 128), (128, 131)])
def test_a_trimap_ignores_its_middle(numbers: tuple[int, ...]) -> None:
    index = in_areas(*numbers, white=9)
    mask, (said,) = read(index)
    if set(numbers) <= set(range(126, 131)):
        expected = np.where(index == 255, 1, np.where(index > 0, 255, 0))
        assert f"It holds 0, {', '.join(map(str, numbers))} and 255, as a trimap does" in said
        assert f"If {numbers[0]} is the class" in said
    else:
        expected = index >= 128
        assert "as a soft edge does" in said
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("few", [(2, 100), (2, 60, 100)])
def test_few_numbers_that_change_from_pixel_to_pixel_are_grey(few: tuple[int, ...]) -> None:
    """Unless the lightest is dark: those are scattered numbers of classes."""
    draw = np.random.default_rng(0)
    for lightest, grey in ((0, True), (-5, False)):
        values = np.array([0, *few[:-1], few[-1] + lightest, 255], np.uint8)
        index = draw.choice(values, (30, 30), p=[0.4] + [0.2 / len(few)] * len(few) + [0.4])
        mask, said = read(index)
        assert len(said) == 1
        np.testing.assert_array_equal(mask, index >= 128 if grey else np.where(index == 255, 255, index > 0))


def test_many_numbers_without_white_are_numbers() -> None:
    """A fifth of what is not black has to be light before a change from pixel to pixel means a soft edge."""
    draw = np.random.default_rng(0)
    dark = draw.integers(1, 128, (40, 50)).astype(np.uint8)
    dark[:, :26] = 0
    few = dark.copy()
    few[:8, 26:] = 200  # 192 of 960: exactly a fifth
    fewer = dark.copy()
    fewer[:8, 26:49] = 200
    for index, grey in ((few, True), (fewer, False), (dark, False)):
        mask, said = read(index)
        np.testing.assert_array_equal(mask, index >= 128 if grey else index > 0)
        assert len(said) == 1


@pytest.mark.parametrize(("levels", "photo"), [(31, False), (32, True)])
def test_a_photo_is_no_mask(levels: int, photo: bool) -> None:
    """A picture of 32 and more levels, most of them between nearly black and nearly white."""
    draw = np.random.default_rng(0)
    index = draw.choice(np.arange(9, 9 + 7 * levels, 7).astype(np.uint8), (60, 60))
    assert index.max() < 247
    index[:10] = 255
    if photo:
        with pytest.raises(ValueError, match=rf"the given mask holds {levels} grey levels, and most of it is between"):
            load_labels(index, "thing")
        index[:30] = 255  # half of it is white: no more than that may lie between
    mask, said = read(index)
    np.testing.assert_array_equal(mask, index >= 128)
    assert f"It holds {levels} grey levels between" in said[0]


def test_which_ignored_pixels_are_too_many() -> None:
    """More than twenty times as many as marked ones."""
    for white, remarks in ((20, 0), (21, 1)):
        mask, said = read(in_areas(3, white=white))
        assert (mask == 1).sum() == 100
        assert len(said) == remarks
        assert all(
            "Nearly all that it marks is 255, which is ignored; 3 was taken for the class" in each for each in said
        )


@pytest.mark.parametrize(("count", "ending"), [(12, ", 12"), (13, ", 12 and 1 more"), (20, ", 12 and 8 more")])
def test_a_dozen_values_are_listed(count: int, ending: str) -> None:
    numbers = list(range(1, count + 1))
    assert listed(numbers).endswith(ending)
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"


def a_frame(area: float, edge: float) -> NDArray[np.uint8]:
    """A mask of 100 x 100 of which such a share is marked, and such a share of its 396 pixels of edge."""
    mask = np.zeros((100, 100), np.uint8)
    rim = np.zeros((100, 100), bool)
    rim[[0, -1]] = rim[:, [0, -1]] = True
    mask[tuple(np.argwhere(rim)[: round(edge * 396)].T)] = 1
    inner = np.argwhere(~rim)
    mask[tuple(inner[: round(area * 10_000) - int(mask.sum())].T)] = 1
    return mask


@pytest.mark.parametrize(
    ("area", "edge", "odd"), [(0.6, 0.9, True), (0.52, 0.83, True), (0.6, 0.7, False), (0.48, 0.9, False)]
)
def test_a_mask_that_may_be_inverted(area: float, edge: float, odd: bool) -> None:
    mask = a_frame(area, edge)
    found, said = read(mask)
    np.testing.assert_array_equal(found, mask)
    assert len(said) == odd
    corners = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    shares = f"It marks {100 * mask.mean():.0f}% of the photo and {100 * corners.mean():.0f}% of its edge."
    assert all(shares in sentence and "choose its 0 as the label" in sentence for sentence in said)
    with collected() as unsaid:
        np.testing.assert_array_equal(load_labels(mask, "thing", label=1), mask)
    assert unsaid == []


def test_a_mask_without_background() -> None:
    full = np.ones((9, 9), np.uint8)
    _, (said,) = read(full)
    assert "all of it is the object. The class" in said
    full[0] = 255
    _, (said,) = read(full)
    assert "all of it is the object, and the rest is ignored (255). The class" in said
    full[0] = 0
    full[1:] = 255
    assert read(full)[1] == []  # 0 beside 255 is black and white
