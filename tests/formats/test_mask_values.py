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
