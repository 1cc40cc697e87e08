"""Plots as SVG text, drawn by matplotlib, for browsers and Markdown viewers.

Lines have Okabe and Ito's colours and also differ in their dashes. Labels stay text in the SVG. Equal input gives equal
SVG: the file has no date and no version, and its ids depend only on the drawing.

Each plot has two functions: `draw_...` returns the figure, whose numbers tests can read, and the other one the SVG.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("-", (0, (3, 1.5)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1)), (0, (0.7, 1)))
_INK, _SOFT, _GRID = "#1b1f24", "#5b6570", "#dde2e7"
_WIDTH = 570.0  # points, 760 px in a browser
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rifenet",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9.5,
    "figure.titlesize": 12,
    "text.color": _INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": _SOFT,
    "axes.titlelocation": "left",
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 2.8,
}


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
    """Draw a running mean over a twentieth of the points, and behind it the points as a thin line."""
    mark: tuple[float, str] | None = None
    """An x to mark by a dotted line, and the text beside the line."""


class Bar(NamedTuple):
    """One bar from 0 to `value`, a line over `interval`, and a ring at each of `points`."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    points: Sequence[float] = ()


class Bin(NamedTuple):
    """Examples with a confidence from `low` to `high`: their number, mean confidence and share of positives."""

    low: float
    high: float
    examples: int
    confidence: float
    share: float


def curves(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """Panels below each other over one x axis, as SVG. Raises ValueError if there are no points."""
    return _svg(title, draw_curves(title, x_label, panels))


def bars(title: str, x_label: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from a line at 0, with intervals, as SVG. Raises ValueError if there are no rows."""
    return _svg(title, draw_bars(title, x_label, rows))


def reliability(title: str, bins: Sequence[Bin]) -> str:
    """Reliability diagram as SVG: the share of examples that show the class, against the model's confidence.

    Each bin is a dot at its mean confidence and share; its area grows with the number of examples. On the diagonal,
    confidence and share agree. Bars below count the examples of each bin. Raises ValueError if there are no examples.
    """
    return _svg(title, draw_reliability(title, bins))


def confusion(title: str, names: Sequence[str], pixels: Sequence[Sequence[float]]) -> str:
    """Confusion matrix as SVG: a row for each true class, in percent of that class.

    Args:
        title: title above the plot.
        names: names of the classes.
        pixels: counts [true][predicted] in any unit; a row of zeros stays empty.

    Raises ValueError if there are no classes.
    """
    return _svg(title, draw_confusion(title, names, pixels))


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width` // 2 neighbours on either side."""
    half = width // 2
    windows = (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


@contextmanager
def _style() -> Iterator[None]:
    """Uses our style over matplotlib's defaults and ignores the user's own settings."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


@_style()
def draw_curves(title: str, x_label: str, panels: Sequence[Panel]) -> Figure:
    """The figure of `curves`."""
    xs = [x for panel in panels for series in panel.series for x in series.x]
    if not xs:
        raise ValueError(f"Expected points to draw for {title}, but got none.")
    figure = _figure(title, 50 + 174 * len(panels))
    every = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for number, (axes, panel) in enumerate(zip(every, panels, strict=True), 1):
        axes.set_xlim(min(0.0, *xs), max(xs))
        _draw_panel(axes, panel, number)
    every[-1].set_xlabel(x_label)
    return figure


def _draw_panel(axes: Axes, panel: Panel, number: int) -> None:
    axes.set_title(panel.y_label)
    axes.locator_params("y", nbins=5, steps=[1, 2, 5, 10])
    axes.locator_params("x", nbins=8, steps=[1, 2, 5, 10])
    axes.grid(False, axis="x")
    for index, series in enumerate(panel.series):
        colour, dashes, name = COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)], f"series-{number}-{index}"
        shown = series.y
        if panel.smooth:
            axes.plot(series.x, series.y, color=colour, linewidth=0.6, alpha=0.3, gid=f"{name}-points")
            shown = running_mean(series.y, max(1, len(series.y) // 20))
        axes.plot(series.x, shown, color=colour, linestyle=dashes, label=series.name, gid=name)
    if len(panel.series) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(panel.series))
    if panel.mark:
        at, what = panel.mark
        axes.axvline(at, color=_SOFT, linewidth=0.8, linestyle=":")
        right = at > sum(axes.get_xlim()) / 2
        axes.annotate(
            what,
            (at, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, 5),
            textcoords="offset points",
            ha="right" if right else "left",
            color=_SOFT,
        )


@_style()
def draw_bars(title: str, x_label: str, rows: Sequence[Bar]) -> Figure:
    """The figure of `bars`."""
    if not rows:
        raise ValueError(f"Expected bars to draw for {title}, but got none.")
    figure = _figure(title, 72 + 26 * len(rows))
    axes, places = figure.subplots(), range(len(rows))
    axes.locator_params("x", nbins=5, steps=[1, 2, 5, 10])
    axes.barh(places, [row.value for row in rows], height=0.5, color=COLOURS[4])
    for place, row in zip(places, rows, strict=True):
        rings: dict[str, Any] = {
            "marker": "o",
            "markersize": 4.5,
            "mfc": "none",
            "mec": COLOURS[1],
            "linestyle": "none",
        }
        axes.plot(row.points, [place] * len(row.points), **rings, gid=f"rings-{place}")
        if row.interval:
            axes.plot(row.interval, [place] * 2, "|-", color=_INK, linewidth=1.5, markersize=8, markeredgewidth=1.5)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(places, [row.label for row in rows], color=_INK)
    axes.grid(False, axis="y")
    axes.set_xlabel(x_label)
    amounts = axes.secondary_yaxis("right")
    amounts.set_yticks(places, [_amount(row) for row in rows], color=_INK)
    for side in (axes, amounts):
        side.tick_params("y", length=0)
        side.spines[:].set_visible(False)
    return figure


@_style()
def draw_reliability(title: str, bins: Sequence[Bin]) -> Figure:
    """The figure of `reliability`."""
    shown = [each for each in bins if each.examples]
    if not shown:
        raise ValueError(f"Expected examples to draw for {title}, but got none.")
    figure = _figure(title, 372)
    (upper, text), (lower, rest) = figure.subplots(
        2, 2, sharex="col", gridspec_kw={"height_ratios": (4, 1), "width_ratios": (5, 5)}
    )
    upper.set(xlim=(0, 1), ylim=(0, 1), yticks=np.linspace(0, 1, 6), xticks=np.linspace(0, 1, 6), ylabel="share")
    upper.plot((0, 1), (0, 1), color=_SOFT, linewidth=1.1, linestyle=_DASHES[1])
    upper.text(0.03, 0.9, "dashed: perfectly calibrated", color=_SOFT)
    confidence, share, examples = np.array([(each.confidence, each.share, each.examples) for each in shown]).T
    upper.plot(confidence, share, color=COLOURS[0])
    sizes = (4.5 + 9 * np.sqrt(examples / examples.max())) ** 2  # square points
    upper.scatter(confidence, share, s=sizes, color=COLOURS[0], edgecolor="white", linewidth=0.8, zorder=3)
    middles, widths = [(each.low + each.high) / 2 for each in shown], [each.high - each.low for each in shown]
    drawn = lower.bar(middles, examples, [width - 0.006 for width in widths], color=COLOURS[4])
    lower.bar_label(drawn, [f"{each.examples:,}" for each in shown], fontsize=7.5, padding=1)
    lower.set(yticks=(), xlabel="confidence", ylim=(0, 1.3 * examples.max()))
    lower.spines["left"].set_visible(False)
    gap = float((examples * np.abs(confidence - share)).sum() / examples.sum())
    lines = [
        "Vertical: share of photos that show the class.",
        "Horizontal: the model's confidence that they do.",
        "",
        f"{int(examples.sum()):,} photos with and without it;",
        f"mean distance to the diagonal {gap:.3f}.",
        "Bars below: number of photos in each bin.",
    ]
    for number, line in enumerate(lines):
        text.text(0, 0.96 - 0.07 * number, line, va="top")
    text.set_axis_off()
    rest.set_axis_off()
    return figure


@_style()
def draw_confusion(title: str, names: Sequence[str], pixels: Sequence[Sequence[float]]) -> Figure:
    """The figure of `confusion`."""
    if not names:
        raise ValueError(f"Expected classes to draw for {title}, but got none.")
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.array(pixels, np.float64).reshape(len(names), len(names))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)
    figure = _figure(title, 110 + 24 * len(names))
    axes, places = figure.subplots(), np.arange(len(names))
    white_to_blue = LinearSegmentedColormap.from_list("share", ["#ffffff", COLOURS[0]])
    axes.pcolormesh(places, places, share, cmap=white_to_blue, vmin=0, vmax=1)
    for row, column in np.argwhere(share >= 0.005):
        ink = "white" if share[row, column] > 0.6 else _INK
        percent = f"{100 * share[row, column]:.0f}"
        axes.text(column, row, percent, ha="center", va="center", color=ink, fontsize=8.5)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.set_yticks(places, names, color=_INK)
    axes.set_xticks(places, names, color=_INK, rotation=60, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def _figure(title: str, height: float) -> Figure:
    """An empty figure, `height` in points."""
    from matplotlib.figure import Figure

    figure = Figure((_WIDTH / 72, height / 72), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _amount(row: Bar) -> str:
    interval = f" ({row.interval[0]:+.1f} to {row.interval[1]:+.1f})" if row.interval else ""
    return f"{row.value:+.1f}{interval}".replace("-", "−")


@_style()
def _svg(title: str, figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = file.getvalue()
    lines = text[text.index("<svg") :].splitlines()  # without the XML header, so that HTML can contain it
    return "\n".join([*map(str.rstrip, lines), ""])
