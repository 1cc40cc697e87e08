"""Masks of a video: neighbours weigh in where frames look alike, and nowhere else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image

from rifenet.cli.main import main
from rifenet.formats.video import open_video, write_video
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.steadying import FADING, LIKENESS, REACH, steadied

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)
HEIGHT, WIDTH, COUNT = 48, 64, 7


def where(number: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:36, 4 + 4 * number : 24 + 4 * number] = True
    return mask


def frame(number: int) -> NDArray[np.uint8]:
    picture = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    picture[where(number)] = RED
    return picture


def results(segmenter: Segmenter, pictures: list[NDArray[np.uint8]]) -> list[Any]:
    return list(segmenter.segment_many(pictures))


@pytest.fixture
def segmenter() -> Segmenter:
    segmenter = Segmenter(ColourEngine(calibration={"a": 8.0, "b": -4.0}))
    segmenter.learn("red", [frame(0)], [where(0)])
    return segmenter


def slow(found: list[Any], own: int) -> NDArray[np.float64]:
    """Steadied margins of a frame of still size, [C,H,W], pixel by pixel."""
    margins = np.zeros(found[own].margins[:, :HEIGHT, :WIDTH].shape)
    pictures = [each.image.astype(float) for each in found]
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        around = np.s_[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        total, weights = 0.0, 0.0
        for other in range(max(0, own - REACH), min(len(found), own + REACH + 1)):
            apart = ((pictures[own] - pictures[other]) ** 2).mean(-1)[around].mean()
            weight = FADING ** abs(own - other) * np.exp(-apart / (2 * LIKENESS**2))
            total, weights = total + weight * found[other].margins[:, row, column], weights + weight
        margins[:, row, column] = total / weights
    return margins


def test_the_weights_are_those_of_the_definition(segmenter: Segmenter) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        np.clip(frame(number) + rng.normal(0, 8, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8) for number in range(5)
    ]
    found = results(segmenter, pictures)
    steady = list(steadied(found))
    assert len(steady) == len(found)
    for number in (0, 2, 4):
        np.testing.assert_allclose(steady[number].margins[:, :HEIGHT, :WIDTH], slow(found, number), atol=1e-4)
        assert steady[number].image is found[number].image


def test_a_frame_that_flickers_is_mended(segmenter: Segmenter) -> None:
    """A still scene, of which the network misses the object in one frame."""
    from dataclasses import replace

    found = results(segmenter, [frame(2)] * 5)
    found[2] = replace(found[2], margins=-np.ones_like(found[2].margins), confidence={"red": 0.2})
    assert not found[2].mask.any()
    mended = list(steadied(found))[2]
    np.testing.assert_array_equal(mended.mask, found[1].mask)
    assert mended.confidence["red"] > 0.5


def test_another_scene_has_no_say(segmenter: Segmenter) -> None:
    other = np.full((HEIGHT, WIDTH, 3), BLUE, np.uint8)
    found = results(segmenter, [frame(1), frame(1), other, other])
    for own, steady in zip(found, steadied(found), strict=True):
        np.testing.assert_allclose(steady.margins, own.margins, atol=1e-5)
        assert steady.confidence["red"] == pytest.approx(own.confidence["red"], abs=1e-3)


def test_frames_of_another_size_or_with_tiles(segmenter: Segmenter) -> None:
    still = np.full((2 * HEIGHT, 2 * WIDTH, 3), GREY, np.uint8)
    still[20:70, 30:90] = RED
    found = results(segmenter, [still, still[:HEIGHT, :WIDTH], still])
    assert [each.mask.shape for each in steadied(found)] == [each.mask.shape for each in found]
    mixed = [segmenter.segment(still, tiles=tiles) for tiles in (False, True, False)]
    assert len({each.margins.shape for each in mixed}) == 2
    for own, steady in zip(mixed, steadied(mixed), strict=True):
        there = (still == RED).all(-1)
        found_pixels = steady.mask == 1
        assert steady.margins.shape == own.margins.shape
        assert (found_pixels & there).sum() / (found_pixels | there).sum() > 0.9


def test_it_runs_two_frames_late_and_no_more() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [frame(0)], [where(0)])
    taken: list[int] = []

    def watched() -> Iterator[NDArray[np.uint8]]:
        for number in range(COUNT):
            taken.append(number)
            yield frame(number)

    steady = steadied(segmenter.segment_many(watched(), batch_size=1))
    next(steady)
    assert len(taken) == REACH + 1
    next(steady)
    assert len(taken) == REACH + 2
    assert len(list(steady)) == COUNT - 2


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", (frame(number) for number in range(COUNT)), Fraction(10))
    return tmp_path / "clip.mp4"


def iou(found: NDArray[np.bool_], there: NDArray[np.bool_]) -> float:
    return float((found & there).sum() / (found | there).sum())


@pytest.mark.parametrize("steady", [True, False])
def test_a_video_is_its_frames(clip: Path, steady: bool) -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", images=[f"{clip}#3"], masks=[where(3)])
    found = list(segmenter.segment(clip, steady=steady))
    assert [each.source for each in found] == [f"{clip}#{number}" for number in range(COUNT)]
    for number, each in enumerate(found):
        assert iou(each.mask == 1, where(number)) > 0.8, number


def test_command_line(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *words: cls(ColourEngine())))
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in (1, 5):
        Image.fromarray(where(number).astype(np.uint8)).save(masks / f"clip_{number:05d}_mask.png")
    words = ["segment", "--support", "red", str(clip), str(masks), "--query", str(clip)]
    words += ["--out", str(tmp_path / "out"), "--format", "index,overlay,coco", "--json"]
    assert main(words) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert len(manifest["results"]) == COUNT
    overlay = open_video(str(tmp_path / "out" / "clip_overlay.mp4"))
    assert (len(overlay), overlay.rate) == (COUNT, 10)
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [f"clip.mp4#{number}" for number in range(COUNT)]
    before = {number: (tmp_path / "out" / f"clip_{number:05d}_mask.png").read_bytes() for number in range(COUNT)}

    for number in (3, 4):
        (tmp_path / "out" / f"clip_{number:05d}.json").unlink()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == COUNT - 2
    for number in range(COUNT):  # a frame that is made again has the same neighbours
        assert (tmp_path / "out" / f"clip_{number:05d}_mask.png").read_bytes() == before[number]
