"""Plots: well-formed SVG whose marks stand where the numbers say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from rifenet.drawing.plots import Bar, Bin, Panel, Series, bars, confusion, curves, reliability, running_mean, ticks

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def drawn(text: str, kind: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(text).findall(f"svg:{kind}", NAMES)


def words(text: str) -> dict[str, tuple[float, float]]:
    return {item.text or "": (float(item.get("x", 0)), float(item.get("y", 0))) for item in drawn(text, "text")}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3.2, 4.1, [-4, -2, 0, 2, 4, 6]),
        (0.31, 0.64, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (5, 5, [5, 6]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_running_mean_by_hand() -> None:
    assert running_mean([1, 2, 6, 3], 3) == pytest.approx([1.5, 3, 11 / 3, 4.5])


def test_bars_are_where_their_numbers_are() -> None:
    rows = [Bar("up & away", 2.0, (-1.0, 5.0), (1.0, 3.0)), Bar("down", -4.0)]
    text = bars("Title <1>", "points", rows)
    assert {"Title <1>", "up & away", "points", "+2.0 (−1.0 to +5.0)", "−4.0"} <= words(text).keys()
    zero, one_unit = words(text)["0"][0], (words(text)["4"][0] - words(text)["0"][0]) / 4
    up, down = (item for item in drawn(text, "rect") if item.get("height") == "16")
    assert float(up.get("x", 0)) == pytest.approx(zero, abs=0.11)
    assert float(up.get("width", 0)) == pytest.approx(2 * one_unit, abs=0.11)
    assert float(down.get("x", 0)) == pytest.approx(zero - 4 * one_unit, abs=0.11)
    rings = [float(item.get("cx", 0)) for item in drawn(text, "circle")]
    assert rings == pytest.approx([zero + one_unit, zero + 3 * one_unit], abs=0.11)
    whiskers = [item for item in drawn(text, "line") if item.get("stroke-width") == "2"]
    ends = {float(item.get(side, 0)) for item in whiskers for side in ("x1", "x2")}
    assert (min(ends), max(ends)) == pytest.approx((zero - one_unit, zero + 5 * one_unit), abs=0.11)


def test_curves_have_a_line_for_each_series_and_differ_without_colour() -> None:
    first = Series("one", [0, 50, 100], [1.0, 0.5, 0.0])
    text = curves(
        "Run", "steps", [Panel("loss", [first, first._replace(name="two")]), Panel("mIoU", [first], mark=(50, "best"))]
    )
    lines = drawn(text, "polyline")
    assert len(lines) == 3
    assert lines[0].get("stroke-dasharray") != lines[1].get("stroke-dasharray")
    points = [tuple(map(float, pair.split(","))) for pair in (lines[2].get("points") or "").split()]
    assert points[1] == pytest.approx(((points[0][0] + points[2][0]) / 2, (points[0][1] + points[2][1]) / 2), abs=0.11)
    assert points[0][1] < points[2][1]  # a larger value is higher up
    assert {"one", "two", "best", "steps"} <= words(text).keys()
    assert re.search(r'fill="#ffffff"', text)


def test_reliability_dots_stand_at_confidence_and_share() -> None:
    bins = [Bin(0, 0.5, 1, 0.25, 0.0), Bin(0.5, 1, 3, 0.75, 1.0)]
    text = reliability("Run", bins)
    first, second = (
        (float(item.get("cx", 0)), float(item.get("cy", 0)), float(item.get("r", 0))) for item in drawn(text, "circle")
    )
    (diagonal,) = (item for item in drawn(text, "line") if item.get("stroke-dasharray"))
    x1, x2, y1, y2 = (float(diagonal.get(side, 0)) for side in ("x1", "x2", "y1", "y2"))
    assert first[:2] == pytest.approx((x1 + 0.25 * (x2 - x1), y1), abs=0.11)
    assert second[:2] == pytest.approx((x1 + 0.75 * (x2 - x1), y2), abs=0.11)
    assert first[2] < second[2]
    heights = [float(item.get("height", 0)) for item in drawn(text, "rect")[1:]]
    assert heights == pytest.approx([heights[1] / 3, heights[1]], abs=0.11)
    assert any("mean distance to the diagonal 0.250" in each for each in words(text))


def test_confusion_has_a_field_for_each_pair_as_dark_as_its_share() -> None:
    text = confusion("Taken for", ["a", "bus", "c"], [[3, 1, 0], [0, 200, 0], [0, 0, 0]])
    fields = drawn(text, "rect")[1:]
    opacity = [float(item.get("fill-opacity", 0)) for item in fields]
    assert opacity == pytest.approx([0.675, 0.225, 0, 0, 0.9, 0, 0, 0, 0], abs=1e-3)
    assert float(fields[1].get("x", 0)) > float(fields[0].get("x", 0)) == float(fields[3].get("x", 0))
    assert float(fields[3].get("y", 0)) > float(fields[0].get("y", 0)) == float(fields[1].get("y", 0))
    assert {"75", "25", "100", "bus", "Taken for"} <= words(text).keys()
    assert "0" not in words(text)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected classes to draw for Run"):
        confusion("Run", [], [])
    with pytest.raises(ValueError, match="Expected examples to draw for Run"):
        reliability("Run", [Bin(0, 1, 0, 0, 0)])
    with pytest.raises(ValueError, match="Expected points to draw for Run"):
        curves("Run", "steps", [])
    with pytest.raises(ValueError, match="Expected bars to draw for Run"):
        bars("Run", "points", [])
