"""Plots as SVG text: small, readable in a diff, and drawn by any browser and by Markdown viewers.

Light ground, labelled axes, Okabe and Ito's colours, and never colour alone: lines differ in dashes, too. The same
input gives the same text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_INK, _SOFT, _GRID = "#1b1f24", "#5b6570", "#dde2e7"
_CHARACTER = 7.0  # width of one at 13 px, about: SVG has no measure of text before it is drawn
_WIDTH = 760.0


class Series(NamedTuple):
    """One line: points by rising x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Panel(NamedTuple):
    """One pair of axes."""

    y_label: str
    series: Sequence[Series]
    smooth: bool = False
    """Show a running mean over a twentieth of the points, and the points themselves thin behind it."""
    mark: tuple[float, str] | None = None
    """An x to point out, and what it is."""


class Bar(NamedTuple):
    """One bar from 0 to `value`, a line over `interval`, and a ring at each of `points`."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    points: Sequence[float] = ()


class Bin(NamedTuple):
    """Examples whose confidence is from `low` to `high`: their number, mean confidence and share of positives."""

    low: float
    high: float
    examples: int
    confidence: float
    share: float


def curves(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """Panels below each other over one x axis, as SVG. Raises ValueError without a point."""
    xs = [x for panel in panels for series in panel.series for x in series.x]
    if not xs:
        raise ValueError(f"Expected points to draw for {title}, but got none.")
    left, right, top, height, gap = 70.0, 20.0, 44.0, 180.0, 52.0
    span = (min(0.0, *xs), max(xs))
    across = _scale(span, left, _WIDTH - right)
    parts = []
    for number, panel in enumerate(panels):
        upper = top + number * (height + gap) + 18
        parts += _panel(panel, across, span, upper, upper + height - 18)
    bottom = top + len(panels) * (height + gap) - gap
    parts.append(_text((left + _WIDTH - right) / 2, bottom + 38, x_label, anchor="middle", fill=_SOFT))
    return _svg(title, bottom + 50, parts)


def bars(title: str, x_label: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars with intervals around a line at 0, as SVG. Raises ValueError without a row."""
    if not rows:
        raise ValueError(f"Expected bars to draw for {title}, but got none.")
    pitch, top = 34.0, 44.0
    left = 24 + _CHARACTER * max(len(row.label) for row in rows)
    bottom = top + pitch * len(rows)
    values = [0.0, *(value for row in rows for value in (row.value, *(row.interval or ()), *row.points))]
    marks = ticks(min(values), max(values))
    across = _scale((marks[0], marks[-1]), left, _WIDTH - 190)
    parts = []
    for mark in marks:
        ink = _INK if mark == 0 else _GRID
        parts += [_line(across(mark), top, across(mark), bottom, ink), _tick(across(mark), bottom + 18, mark, marks)]
    for number, row in enumerate(rows):
        middle = top + pitch * (number + 0.5)
        start, width = min(across(0), across(row.value)), abs(across(row.value) - across(0))
        parts.append(
            f'<rect x="{start:.1f}" y="{middle - 8:.1f}" width="{width:.1f}" height="16" fill="{COLOURS[4]}"/>'
        )
        parts += [
            f'<circle cx="{across(point):.1f}" cy="{middle:.1f}" r="3" fill="none" stroke="{COLOURS[1]}"/>'
            for point in row.points
        ]
        if row.interval:
            low, high = map(across, row.interval)
            parts.append(_line(low, middle, high, middle, _INK, 2))
            parts += [_line(end, middle - 5, end, middle + 5, _INK, 2) for end in (low, high)]
        parts.append(_text(left - 10, middle + 4, row.label, anchor="end"))
        parts.append(_text(_WIDTH - 178, middle + 4, _amount(row)))
    parts.append(_text((left + _WIDTH - 190) / 2, bottom + 40, x_label, anchor="middle", fill=_SOFT))
    return _svg(title, bottom + 52, parts)


def reliability(title: str, bins: Sequence[Bin]) -> str:
    """How often a class is there against how sure the model says it is, as SVG. Raises ValueError without an example.

    Dots at each bin's mean confidence and share, as large as its number of examples asks, on the diagonal where the two
    agree; below, the examples of each bin.
    """
    total = sum(each.examples for each in bins)
    if not total:
        raise ValueError(f"Expected examples to draw for {title}, but got none.")
    left, top, side, low = 90.0, 52.0, 330.0, 70.0
    across, up = _scale((0, 1), left, left + side), _scale((0, 1), top + side, top)
    marks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    parts = []
    for mark in marks:
        parts += [
            _line(across(mark), top, across(mark), top + side, _GRID),
            _line(left, up(mark), left + side, up(mark), _GRID),
        ]
        parts += [
            _tick(left - 8, up(mark) + 4, mark, marks, "end"),
            _tick(across(mark), top + side + low + 42, mark, marks),
        ]
    parts.append(_line(across(0), up(0), across(1), up(1), _SOFT, 1.5, _DASHES[1]))
    parts.append(_text(across(0.03), up(0.9), "dashed: as often as it says", fill=_SOFT))
    shown = [each for each in bins if each.examples]
    parts.append(
        _path([each.confidence for each in shown], [each.share for each in shown], across, up, COLOURS[0], 2.2, "")
    )
    floor, most = top + side + low + 20, max(each.examples for each in bins)
    for each in shown:
        radius = 3 + 6 * math.sqrt(each.examples / most)
        place = f'cx="{across(each.confidence):.1f}" cy="{up(each.share):.1f}" r="{radius:.1f}"'
        parts.append(f'<circle {place} fill="{COLOURS[0]}" stroke="#ffffff"/>')
        height = low * each.examples / most
        size = f'width="{across(each.high) - across(each.low) - 2:.1f}" height="{height:.1f}"'
        parts.append(f'<rect x="{across(each.low) + 1:.1f}" y="{floor - height:.1f}" {size} fill="{COLOURS[4]}"/>')
        middle = (across(each.low) + across(each.high)) / 2
        parts.append(_text(middle, floor - height - 3, str(each.examples), anchor="middle", size=11))
    parts.append(_line(left, floor, left + side, floor, _SOFT))
    beside = left + side + 28
    gap = sum(each.examples * abs(each.confidence - each.share) for each in bins) / total
    lines = [
        "Up: share of photos that show the class.",
        "Across: the model's confidence that it is there.",
        "",
        f"{total:,} photos with and without it;",
        f"mean distance to the diagonal {gap:.3f}.",
        "Bars below: photos in each tenth.",
    ]
    parts += [_text(beside, top + 20 + 20 * number, line) for number, line in enumerate(lines)]
    parts.append(_text(left + side / 2, floor + 44, "confidence", anchor="middle", fill=_SOFT))
    return _svg(title, floor + 56, parts)


def confusion(title: str, names: Sequence[str], pixels: Sequence[Sequence[float]]) -> str:
    """What each class was taken for, as SVG: a row for each true class, in percent of it.

    Args:
        title: stands above.
        names: of the classes.
        pixels: [true][found], counts of any unit; a row without any is empty.

    Raises ValueError without a class.
    """
    if not names:
        raise ValueError(f"Expected classes to draw for {title}, but got none.")
    longest = _CHARACTER * max(map(len, names))
    cell, left, top = 34.0, 24 + longest, 56 + longest
    parts = []
    for row, (name, counts) in enumerate(zip(names, pixels, strict=True)):
        y, total = top + cell * row, sum(counts)
        parts.append(_text(left - 10, y + 22, name, anchor="end"))
        turned = f'transform="translate({left + cell * row + 21:.1f} {top - 8:.1f}) rotate(-60)"'
        parts.append(f"<g {turned}>{_text(0, 0, name)}</g>")
        for column, count in enumerate(counts):
            share, x = count / total if total else 0.0, left + cell * column
            place = f'x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}"'
            parts.append(f'<rect {place} fill="{COLOURS[0]}" fill-opacity="{0.9 * share:.3f}"/>')
            if share >= 0.005:
                ink = "#ffffff" if share > 0.5 else _INK
                parts.append(_text(x + cell / 2, y + 22, f"{100 * share:.0f}", anchor="middle", fill=ink))
    return _svg(title, top + cell * len(names) + 20, parts)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers, 1, 2 or 5 times a power of ten apart, the outer ones around `low` and `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width` // 2 neighbours on either side."""
    half = width // 2
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _panel(
    panel: Panel, across: Callable[[float], float], span: tuple[float, float], upper: float, lower: float
) -> list[str]:
    ys = [y for series in panel.series for y in series.y]
    marks = ticks(min(ys), max(ys), 4)
    up = _scale((marks[0], marks[-1]), lower, upper)
    left, right = across(span[0]), across(span[1])
    parts = []
    for mark in marks:
        parts += [_line(left, up(mark), right, up(mark), _GRID), _tick(left - 8, up(mark) + 4, mark, marks, "end")]
    for mark in ticks(*span, 8):
        if mark <= span[1]:
            parts += [_line(across(mark), lower, across(mark), lower + 5, _INK)]
            parts.append(_text(across(mark), lower + 19, f"{mark:g}", anchor="middle", fill=_SOFT))
    parts += [_line(left, lower, right, lower, _INK), _text(left - 60, upper - 12, panel.y_label, fill=_SOFT)]
    if panel.mark:
        at = across(panel.mark[0])
        anchor = "end" if at > (left + right) / 2 else "start"
        parts.append(_line(at, upper, at, lower, _SOFT, 1, "3 3"))
        parts.append(_text(at + (-6 if anchor == "end" else 6), lower - 8, panel.mark[1], anchor=anchor, fill=_SOFT))
    legend = right
    for number, series in reversed(list(enumerate(panel.series))):
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number % len(_DASHES)]
        shown = series.y
        if panel.smooth:
            parts.append(_path(series.x, series.y, across, up, colour, 0.8, "", 0.3))
            shown = running_mean(series.y, max(1, len(series.y) // 20))
        parts.append(_path(series.x, shown, across, up, colour, 2.2, dash))
        if len(panel.series) > 1:
            legend -= _CHARACTER * len(series.name) + 8
            parts.append(_text(legend, upper - 12, series.name))
            parts.append(_line(legend - 34, upper - 16, legend - 6, upper - 16, colour, 2.2, dash))
            legend -= 48
    return parts


def _scale(span: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    """A map of `span` to [start, end]."""
    length = (span[1] - span[0]) or 1.0
    return lambda value: start + (value - span[0]) / length * (end - start)


def _amount(row: Bar) -> str:
    interval = f" ({row.interval[0]:+.1f} to {row.interval[1]:+.1f})" if row.interval else ""
    return f"{row.value:+.1f}{interval}".replace("-", "−")


def _tick(x: float, y: float, mark: float, marks: Sequence[float], anchor: str = "middle") -> str:
    digits = max(len(f"{value:g}".partition(".")[2]) for value in marks)
    return _text(x, y, f"{mark:.{digits}f}".replace("-", "−"), anchor=anchor, fill=_SOFT)


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = _INK, size: int = 13) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
    return f'<text {place} font-size="{size}">{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, width: float = 1, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}" stroke-width="{width}"{dashes}/>'
    )


def _path(
    xs: Sequence[float],
    ys: Sequence[float],
    across: Callable[[float], float],
    up: Callable[[float], float],
    ink: str,
    width: float,
    dash: str,
    opacity: float = 1,
) -> str:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(xs, ys, strict=True))
    style = f'fill="none" stroke="{ink}" stroke-width="{width}" stroke-linejoin="round" opacity="{opacity}"'
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{points}" {style}{dashes}/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'width="{_WIDTH:.0f}" height="{height:.0f}" viewBox="0 0 {_WIDTH:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="DejaVu Sans, Verdana, sans-serif" role="img">'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    name = html.escape(title)
    body = [head, f"<title>{name}</title>", ground, _text(16, 24, title, size=16), *parts]
    return "\n".join([*body, "</svg>", ""])
