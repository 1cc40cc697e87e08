"""Judging shots, over the colour engine on pictures of flat colours, where every IoU is known."""

from __future__ import annotations

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray

from rifenet.advice import shot_agreement as judging
from rifenet.advice.shot_agreement import ShotAgreement, agreement, judged, teachers
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.storage import Shots

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


def scene() -> NDArray[np.uint8]:
    """Grey, with a red left quarter and a blue right one, as large as the network's input."""
    picture = np.full((64, 64, 3), GREY, np.uint8)
    picture[:, :16], picture[:, 48:] = RED, BLUE
    return picture


def mask(*, left: bool = False, middle: bool = False, right: bool = False) -> NDArray[np.uint8]:
    marked = np.zeros((64, 64), np.uint8)
    marked[:, :16], marked[:, 16:48], marked[:, 48:] = left, middle, right
    return marked


GOOD, OTHER, INVERSE = mask(left=True), mask(right=True), mask(middle=True, right=True)


def inputs(masks: list[NDArray[np.uint8]]) -> Shots:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [scene() for _ in masks], masks)
    (known,) = segmenter.learned
    assert known.inputs is not None
    return known.inputs


def advice(masks: list[NDArray[np.uint8]]) -> list[judging.ShotAdvice]:
    return judged("red", [f"{i}.png" for i in range(len(masks))], agreement(ColourEngine(), inputs(masks)))


def test_leave_one_out_of_shots_that_agree() -> None:
    found = advice([GOOD] * 3)
    assert [shot.iou for shot in found] == [1.0, 1.0, 1.0]
    assert [(shot.verdict, shot.warns, shot.number, shot.source) for shot in found] == [
        ("good", False, i + 1, f"{i}.png") for i in range(3)
    ]


def test_the_photo_itself_never_teaches_it() -> None:
    # Red and blue are one another's only teacher, so neither finds itself; a shot among its own teachers would.
    found = advice([GOOD, OTHER])
    assert [shot.iou for shot in found] == [0.0, 0.0]
    assert [shot.verdict for shot in found] == ["doubtful", "doubtful"]
    assert "third" in found[0].reason


@pytest.mark.parametrize("place", range(5))
def test_a_mask_of_another_object_is_named(place: int) -> None:
    masks = [GOOD] * 5
    masks[place] = OTHER
    found = advice(masks)
    assert [shot.number for shot in found if shot.warns] == [place + 1]
    assert found[place].iou == 0.0


def test_a_shot_that_spoils_the_others_hurts_by_what_its_removal_gains() -> None:
    # Two teachers, red and blue, make purple, which finds grey: IoU 0. Without the blue one it is 1.
    found = advice([GOOD, GOOD, OTHER])
    assert [shot.iou for shot in found] == [0.0, 0.0, 0.0]
    assert found[2].gain == pytest.approx(1.0)
    assert [shot.verdict for shot in found] == ["good", "good", "hurts"]
    assert "by 100 points" in found[2].reason


def test_an_inverted_mask_is_called_inverted() -> None:
    found = advice([GOOD, GOOD, GOOD, INVERSE])
    assert [shot.verdict for shot in found] == ["good", "good", "good", "inverted"]
    assert "0, but 100" in found[3].reason


def test_one_shot_is_judged_by_itself_and_says_so() -> None:
    (shot,) = advice([GOOD])
    assert (shot.verdict, shot.iou, shot.gain, shot.warns) == ("alone", 1.0, None, False)
    assert "only shot" in shot.reason
    (weak,) = judged("red", [""], agreement(ColourEngine(), inputs([mask(left=True, right=True)])))
    assert "only shot" in weak.reason


def measured(ious: list[float], pairs: float, gains: dict[int, float]) -> ShotAgreement:
    table = np.full((len(ious), len(ious)), pairs)
    np.fill_diagonal(table, np.nan)
    return ShotAgreement((), np.array(ious), np.zeros(len(ious)), table, gains)


@pytest.mark.parametrize(("gain", "verdict"), [(0.081, "hurts"), (0.079, "good")])
def test_the_margin(gain: float, verdict: str) -> None:
    assert judging.MARGIN == 0.08
    found = judged("red", [""] * 3, measured([0.5, 0.5, 0.5], 0.5, {0: gain}))
    assert [shot.verdict for shot in found] == [verdict, "good", "good"]


def test_nothing_follows_from_shots_that_do_not_find_each_other() -> None:
    # The first fits not at all, but the others fit only 0.1 themselves.
    poor = measured([0.0, 0.1, 0.1, 0.1], 0.1, {})
    poor.pairs[0, 1:] = 0
    assert [shot.verdict for shot in judged("red", [""] * 4, poor)] == ["good"] * 4
    rich = measured([0.0, 0.6, 0.6, 0.6], 0.6, {})
    rich.pairs[0, 1:] = 0
    assert [shot.verdict for shot in judged("red", [""] * 4, rich)] == ["doubtful", "good", "good", "good"]


def test_many_shots_are_taught_by_a_few_others_each() -> None:
    assert teachers(0, range(6)) == [1, 2, 3, 4, 5]
    assert teachers(2, range(4)) == [0, 1, 3]
    assert teachers(0, range(20)) == [1, 2, 3, 4, 5]
    assert teachers(18, range(20)) == [0, 1, 2, 3, 19]
    assert teachers(18, [i for i in range(20) if i != 1]) == [0, 2, 3, 4, 19]
    assert teachers(0, range(1)) == [0]


class Counting(ColourEngine):
    def __init__(self) -> None:
        super().__init__()
        self.taught = self.decoded = 0

    def encode_support(self, images, masks, valid):  # type: ignore[no-untyped-def]
        self.taught += len(images)
        return super().encode_support(images, masks, valid)

    def decode(self, features, context):  # type: ignore[no-untyped-def]
        self.decoded += 1
        return super().decode(features, context)


def test_work_grows_with_the_number_of_shots_and_not_its_square() -> None:
    work = []
    for count in (10, 20):
        engine = Counting()
        agreement(engine, inputs([GOOD] * count))
        work.append((engine.taught, engine.decoded))
    assert work[0] == (10 * (1 + 5) + 2 * 5 * 5, 10 * (5 + 1) + 2 * 5)
    assert work[1] == (20 * (1 + 5) + 2 * 5 * 5, 20 * (5 + 1) + 2 * 5)
