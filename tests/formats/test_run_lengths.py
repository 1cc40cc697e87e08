"""COCO's run lengths, against pycocotools and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as masks

from rifenet.formats.run_lengths import decode_runs, encode_part, encode_runs, pack_runs, unpack_runs

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1))


@given(MASKS)
@settings(max_examples=80, deadline=None)
def test_text_is_that_of_pycocotools(mask: NDArray[np.uint8]) -> None:
    runs = encode_runs(mask)
    theirs = masks.encode(np.asfortranarray(mask))
    assert pack_runs(runs) == theirs["counts"].decode()
    assert np.array_equal(decode_runs(theirs["counts"].decode(), *mask.shape), mask)
    assert np.array_equal(decode_runs(runs, *mask.shape), mask)


@given(st.lists(st.integers(0, 2**28), max_size=30))
def test_text_holds_any_numbers(runs: list[int]) -> None:
    assert unpack_runs(pack_runs(runs)) == runs


def test_by_hand() -> None:
    mask = np.array([[0, 1], [1, 1]])
    assert encode_runs(mask) == [1, 3]
    assert encode_runs(1 - mask) == [0, 1, 3]
    assert decode_runs([0, 1, 3], 2, 2).tolist() == [[1, 0], [0, 0]]
    assert encode_runs(np.zeros((2, 3))) == [6]
    assert pack_runs([1, 3]) == "13"


@pytest.mark.parametrize("counts", ["", "1", "13\x7f", "1é3", "o", "o" * 40, [1, 2], [5, -1], [1.0, 3.0], 4, [True, 3]])
def test_broken(counts: object) -> None:
    with pytest.raises(ValueError, match=r"Expected .*run lengths"):
        decode_runs(counts, 2, 2)  # type: ignore[arg-type]


@given(MASKS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_part_of_a_mask(part: NDArray[np.uint8], left: int, top: int, right: int, bottom: int) -> None:
    whole = np.pad(part, ((top, bottom), (left, right)))
    assert encode_part(part, left, top, *whole.shape) == encode_runs(whole)


def test_what_ends_on_the_object_is_followed_by_a_run_of_none() -> None:
    assert encode_part(np.ones((2, 1)), 1, 0, 2, 3) == [2, 2, 2]
    assert encode_part(np.ones((2, 1)), 2, 0, 2, 3) == [4, 2]
    assert encode_part(np.ones((1, 1)), 0, 0, 2, 2) == [0, 1, 3]


def test_a_long_text_is_read_with_pauses() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1

    assert len(unpack_runs("1" * (2**17 + 1), check)) == 2**17 + 1
    assert calls == 3
