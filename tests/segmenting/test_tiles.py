"""Tiles: what they cover, that no seam is seen, and that they refine and never invent; edges by the guided filter."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image

from rifenet.data.transforms import place, resize_and_pad, restore
from rifenet.segmenting.refine import refined, refined_margins
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.tiles import cell_of, is_large, tiles_of, with_tiles

RED, GREY = (220, 30, 30), (128, 128, 128)


class OffsetEngine(ColourEngine):
    """Each image's map is a number of its own, so that seams would be seen."""

    def __init__(self, whole: float, tiles: list[float]) -> None:
        super().__init__()
        self.whole, self.numbers = whole, iter(tiles)

    def encode_query(self, images: NDArray[np.float32], valid: NDArray[np.bool_]) -> Any:
        self.encoded_queries.append(len(images))
        return images

    def decode(self, features: Any, context: Any) -> NDArray[np.float32]:
        logits = np.zeros((1, 2, self.size, self.size), np.float32)
        logits[:, 1] = next(self.numbers)
        return logits


def whole_map(image: NDArray[np.uint8], value: float, size: int = 64) -> tuple[NDArray[np.float32], Any]:
    return np.full((1, size, size), value, np.float32), resize_and_pad(image, size)[2]


def test_a_photo_of_common_ratio_has_six_tiles() -> None:
    """Its sides are 2 and 1.5 times the network's: three and two windows that overlap by half, rounding or not."""
    for size in (321, 449, 473):
        starts = tiles_of(place(480, 640, 2 * size), size)
        assert len(starts) == 6
        assert sorted({top for top, _ in starts})[1] <= size / 2 + 1
        assert len(tiles_of(place(640, 480, 2 * size), size)) == 6


@pytest.mark.parametrize("shape", [(100, 100), (60, 500), (500, 60), (333, 401), (1, 9)])
def test_tiles_cover_the_photo_and_overlap_by_half(shape: tuple[int, int]) -> None:
    canvas = place(*shape, 128)
    covered = np.zeros((128, 128), int)
    tiles = tiles_of(canvas, 64)
    for top, left in tiles:
        assert 0 <= top <= max(0, canvas.scaled_height - 64)
        assert 0 <= left <= max(0, canvas.scaled_width - 64)
        covered[top : top + 64, left : left + 64] += 1
    assert covered[: canvas.scaled_height, : canvas.scaled_width].all()
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(later - earlier <= 32 for earlier, later in itertools.pairwise(starts))


def test_no_seam_is_seen_where_tiles_disagree() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    tiles = tiles_of(place(200, 200, 128), 64)
    values = np.random.default_rng(0).uniform(-4, 4, len(tiles)).tolist()
    engine = OffsetEngine(0.0, list(values))
    maps, canvas = with_tiles(engine, image, [{}], *whole_map(image, 0.0))
    jumps = max(np.abs(np.diff(maps[0], axis=axis)).max() for axis in (0, 1))
    assert np.ptp(maps[0]) > 2
    assert jumps < 8 / 32 * 1.5  # pasted side by side, neighbours are up to 8 apart
    # By hand: the corner is the first tile's alone, at three quarters beside the whole photo's 0.
    assert maps[0, 0, 0] == pytest.approx(0.75 * values[0])
    assert canvas.size == 128


def test_tiles_have_no_say_where_the_whole_photo_rules_it_out() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    engine = OffsetEngine(0.0, [9.0] * 99)
    maps, _ = with_tiles(engine, image, [{}], *whole_map(image, -3.1))
    assert engine.encoded_queries == []  # nor are they looked at
    np.testing.assert_allclose(maps, -3.1)
    whole, placement = whole_map(image, -3.1)
    whole[:, 20:40, 20:40] = 0.5  # here there may be something
    maps = with_tiles(engine, image, [{}], whole, placement)[0]
    coarse = restore(whole, replace(placement, height=128, width=128))
    assert (maps[0][coarse[0] <= -3] < 0).all()
    assert (maps[0][coarse[0] > 0] > 5).all()
    maps = with_tiles(engine, image, [None], whole, placement)[0]  # a class that is not looked for
    np.testing.assert_array_equal(maps, coarse)


@pytest.mark.parametrize("shape", [(100, 100), (480, 640), (60, 500), (333, 401), (1, 9)])
def test_a_cell_is_where_no_tile_sees_better(shape: tuple[int, int]) -> None:
    """A tile sees best the pixels that lie furthest from its border, by a walk over all pixels and tiles."""
    canvas, size = place(*shape, 128), 64
    tiles = tiles_of(canvas, size)
    owned = np.zeros((canvas.scaled_height, canvas.scaled_width), int)
    for tile in tiles:
        cell = cell_of(tile, tiles, size)
        owned[cell] += 1
        rows, columns = np.mgrid[: owned.shape[0], : owned.shape[1]]
        for row, column in zip(rows[cell].flat, columns[cell].flat, strict=True):
            away = [abs(row + 0.5 - tile.top - size / 2), abs(column + 0.5 - tile.left - size / 2)]
            for other in tiles:
                assert away[0] <= abs(row + 0.5 - other.top - size / 2) + 1
                assert away[1] <= abs(column + 0.5 - other.left - size / 2) + 1
    assert (owned == 1).all()


def test_a_tile_that_sees_an_object_at_its_border_alone_is_left_out() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    whole, placement = whole_map(image, -9.0)
    whole[:, 18:24, 8:14] = 0.5
    engine = OffsetEngine(0.0, [9.0] * 99)
    maps, canvas = with_tiles(engine, image, [{}], whole, placement)
    counts = restore(whole, replace(placement, height=128, width=128))[0] > -3
    tiles = tiles_of(canvas, 64)
    needed = sum(bool(counts[cell_of(tile, tiles, 64)].any()) for tile in tiles)
    seen = sum(bool(counts[tile.top : tile.top + 64, tile.left : tile.left + 64].any()) for tile in tiles)
    assert len(engine.encoded_queries) == needed < seen
    assert (maps[0][counts] > -1.5).all(), "what counts is looked at"


def small_red_things() -> NDArray[np.uint8]:
    image = np.full((480, 640, 3), GREY, np.uint8)
    for start in range(100, 400, 28):
        image[start : start + 14, 60:560] = RED
    return image


def test_details_are_found_that_the_whole_photo_cannot_show() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [np.full((64, 64, 3), RED, np.uint8)], [np.ones((64, 64), np.uint8)])
    image = small_red_things()
    truth = (image == RED).all(-1)

    def iou(**options: Any) -> float:
        mask = segmenter.segment(image, **options).mask == 1
        return float((mask & truth).sum() / (mask | truth).sum())

    assert iou(tiles=True) > iou(tiles=False) + 0.1
    assert iou() == iou(tiles="auto") == iou(tiles=True)
    with pytest.raises(ValueError, match="True, False or 'auto', but got 'yes'"):
        segmenter.segment(image, tiles="yes")


def test_auto_looks_again_at_large_photos_only() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [np.full((64, 64, 3), RED, np.uint8)], [np.ones((64, 64), np.uint8)])
    engine = segmenter.engine
    for side, several in ((191, False), (192, True)):
        assert is_large(place(40, side, 64)) == several
        engine.encoded_queries.clear()  # type: ignore[attr-defined]
        segmenter.segment(np.full((40, side, 3), RED, np.uint8))
        assert (len(engine.encoded_queries) > 1) == several  # type: ignore[attr-defined]
    engine.calibration = {"a": 1.0, "b": -9.0}  # type: ignore[misc] # it is judged absent
    engine.encoded_queries.clear()  # type: ignore[attr-defined]
    segmenter.segment(np.full((40, 400, 3), RED, np.uint8))
    assert len(engine.encoded_queries) == 1  # type: ignore[attr-defined]


def guided_slowly(guide: NDArray[np.float64], coarse: NDArray[np.float64], radius: int, epsilon: float) -> Any:
    """The filter at one size, window by window."""
    height, width = coarse.shape
    fits = np.zeros((height, width, 4))
    for row in range(height):
        for column in range(width):
            window = np.s_[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
            colours, values = guide[window].reshape(-1, 3), coarse[window].ravel()
            centred = colours - colours.mean(0)
            slope = np.linalg.solve(
                centred.T @ centred / len(values) + epsilon * np.eye(3), centred.T @ values / len(values)
            )
            fits[row, column] = [*slope, values.mean() - slope @ colours.mean(0)]
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            window = np.s_[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
            mean = fits[window].reshape(-1, 4).mean(0)
            out[row, column] = mean[:3] @ guide[row, column] + mean[3]
    return out.clip(-1, 1)


def test_the_guided_filter_is_the_one_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (14, 17, 3), np.uint8)
    coarse = rng.uniform(-1, 1, (14, 17)).astype(np.float32)
    slow = guided_slowly(image / 255, coarse.astype(np.float64), 2, 0.01)
    np.testing.assert_allclose(refined(image, coarse, radius=2, epsilon=0.01), slow, atol=2e-5)
    large = rng.integers(0, 256, (70, 51, 3), np.uint8)
    at_once = refined(large, coarse, radius=2, epsilon=0.01)
    monkeypatch.setattr("rifenet.segmenting.refine.STRIP", 51 * 3)
    np.testing.assert_allclose(refined(large, coarse, radius=2, epsilon=0.01), at_once, atol=1e-5)


def test_margins_are_refined_at_half_their_size() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (61, 90, 3), np.uint8)
    margins = rng.normal(size=(31, 46)).astype(np.float32)
    small = np.asarray(Image.fromarray(np.tanh(margins / 2)).resize((23, 16), Image.Resampling.BILINEAR))
    slopes = refined(image, small, radius=4)
    found = np.concatenate([rows for _, rows in refined_margins(image, margins)])
    np.testing.assert_allclose(np.tanh(found / 2), slopes, atol=2e-5)


def test_refined_edges_lie_on_the_photos() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [np.full((64, 64, 3), RED, np.uint8)], [np.ones((64, 64), np.uint8)])
    rows, columns = np.mgrid[:700, :900]
    disc = np.hypot(rows - 333, columns - 444) < 250
    image = np.where(disc[..., None], np.uint8(RED), np.uint8(GREY))
    plain, fine = (segmenter.segment(image, tiles=False, refine=refine) for refine in (False, True))
    wrong = [((result.mask == 1) ^ disc).sum() for result in (plain, fine)]
    assert wrong[1] < wrong[0] / 2
    assert ((fine.scores["red"] > 0.5) == (fine.mask == 1)).all()
    assert 0 <= fine.scores["red"].min() <= fine.scores["red"].max() <= 1


MEMORY = """
import re, resource, sys
from importlib.resources import files
from pathlib import Path
from rifenet import Segmenter

examples = files("rifenet") / "examples"
segmenter = Segmenter.from_pretrained(threads=1)
base = int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # with the model, before any work
segmenter.learn("dog", [str(examples / "photos/000000377575.jpg")], [str(examples / "masks/000000377575.png")])
result = segmenter.segment(sys.argv[1], tiles=True, refine=True)
assert result.mask.shape == (4000, 6000) and (result.mask == 1).mean() > 0.01
result.save(sys.argv[2], formats=("index", "binary", "overlay", "coco", "labelme", "cutout"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="There is no /proc.")
def test_24_megapixels_take_at_most_1500_megabytes(tmp_path: Path) -> None:
    from importlib.resources import files

    with Image.open(str(files("rifenet") / "examples/photos/000000377575.jpg")) as photo:
        photo.convert("RGB").resize((6000, 4000), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=90)
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "large.jpg"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1500
