"""Label Studio's packed run lengths, against bits written down by hand and a slow reader of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rifenet.formats.brush_rle import decode_brush, encode_brush

HEAD = "00111" + "0010" + "0011" + "0111" + "1111"  # words of 8 bits; sizes 3, 4, 8, 16


def packed(count: int, *blocks: str) -> list[int]:
    bits = f"{count:032b}{HEAD}{''.join(blocks)}".replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def slowly(rle: list[int]) -> list[int]:
    """All values of a stream of whole words, bit by bit."""
    bits = "".join(f"{number:08b}" for number in rle)
    count, word, sizes, place = int(bits[:32], 2), int(bits[32:37], 2) + 1, [], 37
    for _ in range(4):
        sizes.append(int(bits[place : place + 4], 2) + 1)
        place += 4
    values: list[int] = []
    while len(values) < count:
        size = sizes[int(bits[place + 1 : place + 3], 2)]
        length = int(bits[place + 3 : place + 3 + size], 2) + 1
        start, words = place + 3 + size, 1 if bits[place] == "1" else length
        block = [int(bits[start + word * n : start + word * (n + 1)], 2) for n in range(words)]
        values += block * length if words < length else block
        place = start + word * words
    return values


def test_bits_by_hand() -> None:
    # 2 x 2 pixels: transparent, white, white, transparent
    blocks = ("1 00 011 00000000", "1 00 111 11111111", "1 00 011 00000000")
    assert decode_brush(packed(16, *blocks), 2, 2).tolist() == [[0, 1], [1, 0]]
    assert encode_brush(np.array([[0, 1], [1, 0]])) == packed(16, *blocks)


def test_words_of_their_own_and_other_sizes() -> None:
    # a coloured stroke: red, half transparent; then one value alone; 3 values of their own
    literal = "0 00 011" + "11001000" + "00000000" + "00000000" + "01111111"
    assert decode_brush(packed(8, literal, "1 01 0011 00000000"), 1, 2).tolist() == [[1, 0]]
    assert decode_brush(packed(8, literal, "1 10 00000011 11111111"), 1, 2).tolist() == [[0, 1]]  # 127 of 255: outside
    assert decode_brush(packed(4, "1 11 0000000000000011 00000000"), 1, 1).tolist() == [[0]]


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=st.sampled_from([0, 1, 255])))
@settings(max_examples=60, deadline=None)
def test_round_trip(mask: NDArray[np.uint8]) -> None:
    rle = encode_brush(mask)
    assert np.array_equal(decode_brush(rle, *mask.shape), mask != 0)
    assert slowly(rle) == (255 * np.repeat(mask.ravel() != 0, 4)).tolist()


def test_runs_longer_than_a_block_holds() -> None:
    mask = np.zeros((300, 400), bool)
    mask[100:250] = True  # 240,000 values: four blocks
    rle = encode_brush(mask)
    assert len(rle) < 60
    assert np.array_equal(decode_brush(rle, 300, 400), mask)


@pytest.mark.parametrize(
    ("rle", "sentence"),
    [
        ([], "head of 7 bytes"),
        ([0, 0, 0, 16, 300, 1, 2], "list of numbers 0..255"),
        (["a"], "list of numbers 0..255"),
        (packed(20), "but got 20"),
        (packed(16, "1 00 011 00000000"), "ends too early"),
        (packed(16, "1 10 11111111 00000000"), "its blocks hold more"),
        ([0, 0, 0, 16, 0xFF, 0xFF, 0xFF, 0xFF], "words of at most 8 bits"),
    ],
)
def test_broken(rle: list[int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decode_brush(rle, 2, 2)


def test_what_is_no_mask() -> None:
    with pytest.raises(ValueError, match="a mask \\[H, W\\]"):
        encode_brush(np.zeros((2, 2, 4), np.uint8))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_words_of_fewer_bits(bits: int) -> None:
    """Alpha counts where it is more than half of its largest value."""
    head = f"{8:032b}{bits - 1:05b}" + "0010" + "0011" + "0111" + "1111"
    top = 2**bits - 1
    text = f"{head}0" + "00" + "111" + "".join(f"{word:0{bits}b}" for word in (0, 0, 0, top, 0, 0, 0, top // 2))
    text += "0" * (-len(text) % 8)
    rle = [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]
    assert decode_brush(rle, 1, 2).tolist() == [[1, 0]]


def test_words_of_nine_bits_are_refused() -> None:
    text = f"{4:032b}{8:05b}" + "0" * 40
    rle = [int(text[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(text), 8)]
    with pytest.raises(ValueError, match="of at most 8 bits, but got 9"):
        decode_brush(rle, 1, 1)
