"""Plots: figures whose marks stand where the numbers say, as SVG whose text is text."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from rifenet.drawing import plots
from rifenet.drawing.plots import (
    COLOURS,
    Bar,
    Bin,
    Panel,
    Series,
    bars,
    confusion,
    curves,
    draw_bars,
    draw_confusion,
    draw_curves,
    draw_reliability,
    reliability,
    running_mean,
)

NAMES = {"svg": "http://www.w3.org/2000/svg"}
ROWS = [Bar("up & away", 2.0, (-1.0, 5.0), (1.0, 3.0)), Bar("down", -4.0)]
LINE = Series("one", [0, 50, 100], [1.0, 0.5, 0.0])
PANELS = [Panel("loss", [LINE, LINE._replace(name="two")]), Panel("mIoU", [LINE], mark=(50, "best"))]
BINS = [Bin(0, 0.5, 1, 0.25, 0.0), Bin(0.5, 1, 3, 0.75, 1.0)]
PIXELS = [[3, 1, 0], [0, 200, 0], [0, 0, 0]]


def words(text: str) -> set[str]:
    """What a reader of an SVG reads."""
    return {"".join(item.itertext()).strip() for item in ElementTree.fromstring(text).iterfind(".//svg:text", NAMES)}


def laid_out(figure: Figure) -> Figure:
    with plots._style():
        figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3.2, 4.1, [-4, -2, 0, 2, 4, 6]),
        (0.31, 0.64, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (71, 78, [70, 72, 74, 76, 78]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    (axes,) = laid_out(draw_curves("Run", "steps", [Panel("y", [Series("one", [0, 1], [low, high])])])).axes
    assert axes.get_yticks() == pytest.approx(expected)
    assert axes.get_ylim() == pytest.approx((expected[0], expected[-1]))


def test_one_value_alone_is_within_its_axes() -> None:
    (axes,) = laid_out(draw_curves("Run", "steps", [Panel("y", [Series("one", [3], [5.0])])])).axes
    low, high = axes.get_ylim()
    assert low < 5 < high


def test_running_mean_by_hand() -> None:
    assert running_mean([1, 2, 6, 3], 3) == pytest.approx([1.5, 3, 11 / 3, 4.5])


def test_bars_are_where_their_numbers_are() -> None:
    figure = laid_out(draw_bars("Title <1>", "points", ROWS))
    (axes,) = figure.axes
    up, down = axes.patches
    assert (up.get_x(), up.get_width()) == (0, 2)  # type: ignore[attr-defined]
    assert (down.get_x(), down.get_width()) == (0, -4)  # type: ignore[attr-defined]
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]  # type: ignore[arg-type]
    rings, interval, none, zero = lines
    assert rings == ([1.0, 3.0], [0, 0])
    assert interval == ([-1.0, 5.0], [0, 0])
    assert none == ([], [])  # the second row has no points
    assert zero[0] == [0, 0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["up & away", "down"]
    first, second = (axes.transData.transform((0, place))[1] for place in (0, 1))
    assert first > second  # the first row is above
    low, high = axes.get_xlim()
    assert low <= -4
    assert high >= 5
    text = bars("Title <1>", "points", ROWS)
    assert {"Title <1>", "up & away", "points", "+2.0 (−1.0 to +5.0)", "−4.0", "−4", "4"} <= words(text)


def test_curves_have_a_line_for_each_series_and_differ_without_colour() -> None:
    upper, lower = laid_out(draw_curves("Run", "steps", PANELS)).axes
    first, second = upper.lines
    assert first.get_linestyle() != second.get_linestyle() or first.is_dashed() != second.is_dashed()
    for line in (first, second, lower.lines[0]):
        assert list(line.get_xdata()) == [0, 50, 100]  # type: ignore[arg-type]
        assert list(line.get_ydata()) == [1.0, 0.5, 0.0]  # type: ignore[arg-type]
    assert upper.transData.transform((0, 1))[1] > upper.transData.transform((0, 0))[1]  # a larger value is higher up
    assert upper.get_xlim() == lower.get_xlim() == (0, 100)
    assert list(lower.lines[1].get_xdata()) == [50, 50]  # type: ignore[arg-type]
    (mark,) = lower.texts
    assert mark.xy[0] == 50  # type: ignore[attr-defined]
    legend = upper.get_legend()
    assert legend is not None
    named = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert to_hex(named["one"].get_color()) == to_hex(first.get_color()) == COLOURS[0]
    assert to_hex(named["two"].get_color()) == to_hex(second.get_color()) == COLOURS[1]
    assert lower.get_legend() is None
    text = curves("Run", "steps", PANELS)
    assert {"one", "two", "best", "steps", "loss", "mIoU", "Run", "100"} <= words(text)
    assert 'style="fill: #ffffff"' in text
    assert "stroke-dasharray" in text


def test_every_series_of_a_panel_has_dashes_of_its_own() -> None:
    (axes,) = draw_curves("Run", "steps", [Panel("y", [LINE] * len(COLOURS))]).axes
    assert len({(line.get_linestyle(), str(line._dash_pattern)) for line in axes.lines}) == len(COLOURS)  # type: ignore[attr-defined]


def test_a_smooth_panel_shows_the_mean_over_the_points() -> None:
    values = [float(index % 7) for index in range(60)]
    (axes,) = draw_curves("Run", "steps", [Panel("y", [Series("one", range(60), values)], smooth=True)]).axes
    thin, thick = axes.lines
    assert list(thin.get_ydata()) == values  # type: ignore[arg-type]
    assert list(thick.get_ydata())[30] == pytest.approx(sum(values[29:32]) / 3)  # type: ignore[arg-type]
    assert thin.get_linewidth() < thick.get_linewidth()


def test_reliability_dots_stand_at_confidence_and_share() -> None:
    figure = laid_out(draw_reliability("Run", BINS))
    upper, _, lower, _ = figure.axes
    (dots,) = upper.collections
    assert np.asarray(dots.get_offsets()).tolist() == [[0.25, 0.0], [0.75, 1.0]]
    small, large = dots.get_sizes()  # type: ignore[attr-defined]
    assert small < large
    diagonal, line = upper.lines
    assert (list(diagonal.get_xdata()), list(diagonal.get_ydata())) == ([0, 1], [0, 1])  # type: ignore[arg-type]
    assert diagonal.is_dashed()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.25, 0.75], [0, 1])  # type: ignore[arg-type]
    assert upper.get_xlim() == upper.get_ylim() == lower.get_xlim() == (0, 1)
    assert [bar.get_height() for bar in lower.patches] == [1, 3]  # type: ignore[attr-defined]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in lower.patches]  # type: ignore[attr-defined]
    assert middles == pytest.approx([0.25, 0.75])
    read = words(reliability("Run", BINS))
    assert {"1", "3", "confidence", "4 photos with and without it;"} <= read
    assert any("mean distance to the diagonal 0.250" in each for each in read)


def test_bins_without_examples_are_not_drawn() -> None:
    upper, _, lower, _ = draw_reliability("Run", [*BINS, Bin(0.9, 1, 0, 0, 0)]).axes
    assert len(np.asarray(upper.collections[0].get_offsets())) == len(lower.patches) == 2


def test_confusion_has_a_field_for_each_pair_as_dark_as_its_share() -> None:
    figure = laid_out(draw_confusion("Taken for", ["a", "bus", "c"], PIXELS))
    (axes,) = figure.axes
    (fields,) = axes.collections
    assert np.asarray(fields.get_array()).tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    brightness = [fields.to_rgba(share)[0] for share in (0, 0.25, 0.75, 1)]  # type: ignore[attr-defined]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] == 1
    to_page = axes.transData.transform
    assert to_page((1, 0))[0] > to_page((0, 0))[0]  # what it was taken for, from the left
    assert to_page((0, 1))[1] < to_page((0, 0))[1]  # what it is, from above
    assert {text.get_text(): text.get_position() for text in axes.texts} == {"75": (0, 0), "25": (1, 0), "100": (1, 1)}
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["a", "bus", "c"]
    text = confusion("Taken for", ["a", "bus", "c"], PIXELS)
    assert {"75", "25", "100", "bus", "Taken for"} <= words(text)
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


def test_the_same_input_gives_the_same_text_whatever_a_user_has_set() -> None:
    """In another process, too; and pyplot, which would look for a screen, is never loaded."""
    text = curves("Run <&>", "steps", PANELS)
    assert text.startswith("<svg")  # it may stand within HTML
    assert "<title>Run &lt;&amp;&gt;</title>" in text
    assert "date" not in text
    assert matplotlib.__version__ not in text
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        assert curves("Run <&>", "steps", PANELS) == text
    code = (
        "import sys\n"
        "from rifenet.drawing.plots import Panel, Series, curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        "line = Series('one', [0, 50, 100], [1.0, 0.5, 0.0])\n"
        "panels = [Panel('loss', [line, line._replace(name='two')]), Panel('mIoU', [line], mark=(50, 'best'))]\n"
        "sys.stdout.buffer.write(curves('Run <&>', 'steps', panels).encode())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)
    assert done.stdout.decode() == text
