"""What to annotate next, against slow loops and hand-made examples."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray

from rifenet.advice import advise
from rifenet.advice.photos import Look, describe, doubt, expected_iou, looks, ranked
from rifenet.segmenting.segmenter import Segmenter

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


def picture(colour: tuple[int, int, int], side: int = 64) -> NDArray[np.uint8]:
    photo = np.full((side, side, 3), GREY, np.uint8)
    photo[:, : side // 2] = colour
    return photo


def half(side: int = 64) -> NDArray[np.uint8]:
    marked = np.zeros((side, side), np.uint8)
    marked[:, : side // 2] = 1
    return marked


def look(number: int, angle: float, loss: float, area: float = 0.25) -> Look:
    """A photo as a direction in the plane, degrees, whose class is there and whose mask is wrong by `loss`."""
    turned = math.radians(angle)
    vector = np.array([math.cos(turned), math.sin(turned)], np.float16)
    return Look(f"{number}.jpg", number, "red", 0.5, 0.9, area, 1 - loss, vector)


def slow_ranking(found: list[Look], annotated: list[NDArray[np.float16]], count: int) -> list[int]:
    """`ranked`, photo by photo."""

    def distance(a: NDArray[np.float16], b: NDArray[np.float16]) -> float:
        return max(0.0, 1 - sum(float(x) * float(y) for x, y in zip(a, b, strict=True)))

    known, order = list(annotated), []
    while len(order) < min(count, len(found)):
        best, most = -1, -1.0
        for i, candidate in enumerate(found):
            if i in order:
                continue
            nearest = min(distance(candidate.description, one) for one in known)
            value = min(candidate.confidence / 0.3, 1) * (1 - candidate.expected) * min(nearest / 0.35, 1)
            if value > most + 1e-7:
                best, most = i, value
        order.append(best)
        known.append(found[best].description)
    return order


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = [
        dataclasses.replace(
            look(i + 1, float(rng.uniform(0, 90)), float(rng.uniform(0.1, 1))), confidence=float(rng.uniform(0, 1))
        )
        for i in range(25)
    ]
    annotated = [look(0, float(angle), 1).description for angle in rng.uniform(0, 90, 2)]
    chosen = ranked(found, annotated, 6)
    assert [photo.number - 1 for photo in chosen] == slow_ranking(found, annotated, 6)
    assert [photo.rank for photo in chosen] == [1, 2, 3, 4, 5, 6]


def test_neither_what_is_annotated_nor_the_same_twice() -> None:
    # Three like the annotated one, three alike at 60 degrees, one at 90: one of each of the latter comes first.
    found = [look(i + 1, angle, 0.5) for i, angle in enumerate((0, 1, 2, 60, 60, 61, 90))]
    chosen = ranked(found, [look(0, 0, 1).description], 2)
    assert {photo.number for photo in chosen} in ({4, 7}, {5, 7}, {6, 7})
    assert "look like it" in next(photo for photo in chosen if photo.number < 7).reason


def test_the_worst_mask_decides_among_photos_equally_unlike() -> None:
    found = [look(1, 45, 0.1), look(2, -45, 0.9), look(3, 0, 0.9)]
    (chosen,) = ranked(found, [look(0, 0, 1).description], 1)
    assert (chosen.number, chosen.expected) == (2, pytest.approx(0.1))
    assert chosen.unlike == pytest.approx(1 - math.cos(math.radians(45)), abs=2e-3)


def test_a_bad_mask_of_what_is_hardly_there_counts_less() -> None:
    absent = dataclasses.replace(
        look(1, 80, 0.9), confidence=0.05
    )  # the class is probably not there, and that is right
    assert [photo.number for photo in ranked([absent, look(2, 80, 0.4)], [look(0, 0, 1).description], 2)] == [2, 1]


@pytest.mark.parametrize(
    ("scores", "inside", "expected"),
    [
        ([1.0, 1.0, 0.0], [True, True, False], 1.0),
        ([0.8, 0.4, 0.2, 0.1], [True, True, False, False], 1.2 / 2.3),
        ([0.3, 0.1], [False, False], 0.0),
        ([0.0, 0.0], [False, False], 1.0),
    ],
)
def test_expected_iou(scores: list[float], inside: list[bool], expected: float) -> None:
    assert expected_iou(np.array(scores, np.float32), np.array(inside)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("angle", "loss", "confidence", "area", "words"),
    [
        (85, 0.7, 0.9, 0.3, ["probably wrong or incomplete: by the model's own scores 30 %", "unlike all that is"]),
        (55, 0.4, 0.5, 0.01, ["probably has faults", "sure that there is a red at all (50 %)", "only 1.0 % of"]),
        (5, 0.2, 0.9, 0.3, ["is probably good", "much like one"]),
        (55, 0.9, 0.1, 0.0, ["finds hardly any red (10 %); skip the photo if there is none."]),
    ],
)
def test_the_reason_says_what_the_figures_say(
    angle: float, loss: float, confidence: float, area: float, words: list[str]
) -> None:
    found = dataclasses.replace(look(1, angle, loss, area), confidence=confidence)
    (chosen,) = ranked([found], [look(0, 0, 1).description], 1)
    assert chosen.reason.count(".") - chosen.reason.count("1.0") == len(words)
    assert all(each in chosen.reason for each in words)


def test_fewer_photos_than_asked_for_and_none() -> None:
    assert len(ranked([look(1, 10, 0.5)], [look(0, 0, 1).description], 5)) == 1
    assert ranked([], [look(0, 0, 1).description], 5) == []


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.5, 0.5], 1.0), ([1.0, 0.0, 0.0], 0.0), ([0.0, 0.0], 0.0), ([0.25], 0.811278), ([0.5, 1.0], 1 / 3)],
)
def test_doubt(scores: list[float], expected: float) -> None:
    assert doubt(np.array(scores, np.float32)) == pytest.approx(expected, abs=1e-5)


def test_a_description_is_of_the_whole_photo_and_has_unit_length() -> None:
    engine = ColourEngine()
    pixels = np.zeros((3, 64, 64), np.float32)
    pixels[0, :, :32], pixels[2, :, 32:] = 1, 1
    valid = np.ones((64, 64), bool)
    np.testing.assert_allclose(describe(engine, pixels, valid), [math.sqrt(0.5), 0, math.sqrt(0.5)], atol=1e-3)
    valid[:, 32:] = False
    np.testing.assert_allclose(describe(engine, pixels, valid), [1, 0, 0], atol=1e-3)


def test_advise_end_to_end_leaves_the_segmenter_as_it_was() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("blue", [picture(BLUE)], [half()])
    failed = []
    found = advise(
        segmenter,
        {"red": [(picture(RED), half()), (picture(RED), half())]},
        [picture(RED), "missing.jpg", picture(BLUE)],
        suggest=1,
        on_error=lambda query, error: failed.append(query),
    )
    assert segmenter.classes == ["blue"]
    assert [(shot.class_name, shot.iou) for shot in found.shots] == [("red", 1.0), ("red", 1.0)]
    assert [(photo.number, photo.class_name) for photo in found.next] == [(3, "red")]
    assert (found.looked_at, failed, [name for name, _ in found.failed]) == (2, ["missing.jpg"], ["missing.jpg"])
    told = found.to_dict()
    assert told["next"][0]["reason"] == found.next[0].reason
    assert told["shots"][0]["warns"] is False


def test_advise_on_what_a_segmenter_has_learned() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [picture(RED)] * 2, [half()] * 2)
    segmenter.learn("blue", [picture(BLUE)], [half()])
    found = advise(segmenter)
    assert [(shot.class_name, shot.number, shot.verdict) for shot in found.shots] == [
        ("red", 1, "good"),
        ("red", 2, "good"),
        ("blue", 1, "alone"),
    ]
    assert found.next == ()


def test_wrong_calls_are_refused() -> None:
    segmenter = Segmenter(ColourEngine())
    with pytest.raises(ValueError, match="Expected classes with their photos"):
        advise(segmenter)
    with pytest.raises(ValueError, match="Expected suggest to be at least 1"):
        advise(segmenter, {"red": [(picture(RED), half())]}, suggest=0)


def test_photos_are_read_one_by_one_and_not_kept() -> None:
    def many(count: int) -> Iterator[NDArray[np.uint8]]:
        for i in range(count):
            yield picture((200, i % 256, 30), 200)

    def peak(count: int) -> int:
        segmenter = Segmenter(ColourEngine())
        segmenter.learn("red", [picture(RED)], [half()])
        tracemalloc.start()
        found = advise(segmenter, None, many(count), suggest=3)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.looked_at == count
        return most

    peak(5)  # what the first call loads
    few, lots = peak(20), peak(220)
    assert lots - few < 200 * 200 * 200 * 3 / 50  # a fiftieth of what the further photos take


def test_the_class_with_the_worst_mask_speaks_for_a_photo() -> None:
    segmenter = Segmenter(ColourEngine())
    for name, colour in (("red", RED), ("blue", BLUE)):
        segmenter.learn(name, [picture(colour)], [half()])
    (found,) = looks(
        segmenter.engine, segmenter.learned, [picture((160, 30, 90))], segmenter.confidence, lambda query, error: None
    )
    pixels = np.array(picture((160, 30, 90)).transpose(2, 0, 1)[None] / 255, np.float32)
    worst = []
    for known in segmenter.learned:
        logits = segmenter.engine.decode(pixels, known.context)[0]
        scores = (1 / (1 + np.exp(-(logits[1] - logits[0])))).ravel()
        inside = logits.ravel().reshape(2, -1)
        mask = inside[1] > inside[0]
        right = scores[mask].sum() / (mask.sum() + scores[~mask].sum())
        there = min(segmenter.confidence(np.log(scores / (1 - scores))) / 0.3, 1)
        worst.append((there * (1 - right), known.name, doubt(scores), right))
    _, name, unsure, right = max(worst)
    assert found.class_name == name
    assert (found.doubt, found.expected) == (pytest.approx(unsure, abs=1e-4), pytest.approx(right, abs=1e-4))
