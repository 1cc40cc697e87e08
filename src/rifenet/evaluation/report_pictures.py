"""Report sections with charts drawn from files alone: training curves, bars of ablations, reliability diagrams.

Each function writes its charts into `folder` and returns lines of Markdown with links relative to `relative_to`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rifenet.drawing.plots import Bar, Bin, Panel, Series, bars, curves, reliability
from rifenet.evaluation.ablation_table import ablation_markdown, read_table
from rifenet.evaluation.report import link
from rifenet.evaluation.result_file import read_result
from rifenet.files import write_text

METRICS_FILE = "metrics.jsonl"
_NO_LOSS = ("step", "gradient_norm", "lr", "episodes_per_second")  # fields beside the losses in a line of the log


def curve_sections(results: Iterable[Path], folder: Path, relative_to: Path) -> list[str]:
    """Training curves of each run with a `metrics.jsonl` beside one of its results; no lines where no run has one."""
    runs = list(dict.fromkeys(path.parent for path in results if (path.parent / METRICS_FILE).is_file()))
    if not runs:
        return []
    lines = [
        "## Training",
        "",
        "Losses of single steps (thin) and their running mean; held-out mIoU is on base classes.",
    ]
    taken: set[str] = set()
    for run in runs:
        name = run.resolve().name
        path = folder / f"{unused(name, taken)}-curves.svg"
        write_text(path, training_curves(run / METRICS_FILE, name))
        log = link(run / METRICS_FILE, relative_to)
        lines += ["", image(path, f"training curves of {name}", relative_to), "", f"From [{METRICS_FILE}]({log})."]
    return [*lines, ""]


def training_curves(path: Path, name: str) -> str:
    """SVG of a run's log over steps: each of its loss terms, and mIoU on held-out images of base classes.

    Raises ValueError for a log without a line of losses, or a line that is not JSON.
    """
    try:
        logged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(
            f"Expected JSON lines in {path}, but could not read one ({error}). Remove that line."
        ) from error
    terms = list(dict.fromkeys(field for line in logged if "loss" in line for field in line if field not in _NO_LOSS))
    panels = []
    for label, fields, factor in (("loss", terms, 1), ("mIoU", ["heldout_miou"], 100)):
        drawn = [_series(logged, field, factor) for field in fields]
        drawn = [series for series in drawn if series.x]
        if label == "mIoU":
            best = [line["step"] for line in logged if line.get("best")]
            mark = (float(best[-1]), f"kept: step {best[-1]}") if best else None
            panels += [Panel("held-out mIoU, percent", drawn, mark=mark)] * bool(drawn)
        else:
            panels += [Panel(label, drawn, smooth=True)] * bool(drawn)
    return curves(f"Training of {name}", "optimiser steps", panels)


def ablation_sections(tables: Sequence[Path], folder: Path, relative_to: Path) -> list[str]:
    """Bars and table of each ablation, from its JSON file."""
    lines: list[str] = []
    taken: set[str] = set()
    for path in tables:
        table = read_table(path)
        written = ablation_markdown(table, path, relative_to, level=2)
        if any(row["difference"] for row in table["rows"]):
            picture = folder / f"{unused(path.stem, taken)}-ablation.svg"
            write_text(picture, ablation_bars(table))
            written[2:2] = [image(picture, f"ablation: {table['title']}", relative_to), ""]
        lines += written
    return lines


def ablation_bars(table: dict[str, Any]) -> str:
    """SVG of each row's difference to the baseline: mean, paired 95% interval, and each pair of runs.

    Raises ValueError where no row has a difference yet.
    """
    baseline = next(row for row in table["rows"] if row["name"] == table["baseline"])
    rows = [
        Bar(
            row["name"],
            100 * row["difference"]["miou"],
            (100 * row["difference"]["interval"][0], 100 * row["difference"]["interval"][1]),
            [100 * value for value in _pairs(row, baseline)],
        )
        for row in table["rows"]
        if row["difference"]
    ]
    x_label = f"mIoU minus {table['baseline']}, points: mean, paired 95% interval, one ring for each fold and seed"
    return bars(f"Ablation: {table['title']}", x_label, rows)


def reliability_sections(results: Sequence[Path], folder: Path, relative_to: Path) -> list[str]:
    """The reliability diagram of each result scored with `--presence`; no lines where there is none."""
    lines: list[str] = []
    taken: set[str] = set()
    for path in results:
        result = read_result(path)
        if not result.get("presence", {}).get("pairs"):
            continue
        known, name = result["presence"], result["model"]["name"]
        picture = folder / f"{unused(path.stem, taken)}-reliability.svg"
        write_text(picture, reliability(f"Confidence of {name}", [Bin(**each) for each in known["bins"]]))
        lines += ["", image(picture, f"reliability of {name}", relative_to), ""]
        lines.append(
            f"{name}: area under the ROC curve {known['auroc']:.3f}, calibration error "
            f"{known['expected_calibration_error']:.3f}, over {known['pairs']} photos that show the class and as many "
            "that do not."
        )
        if hard := known.get("hard"):
            lines.append(
                f"With hard negatives, {hard['negatives']}: {hard['auroc']:.3f} and "
                f"{hard['expected_calibration_error']:.3f}."
            )
    return ["## Confidence that a class is there", *lines, ""] if lines else []


def image(path: Path, text: str, relative_to: Path) -> str:
    """A picture in Markdown."""
    return f"![{text}]({link(path, relative_to)})"


def unused(name: str, taken: set[str]) -> str:
    """Returns `name`, or the first free one of `name-2`, `name-3` and so on, and adds it to `taken`.

    Names are compared without case, because some file systems ignore it.
    """
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    found = next(each for each in names if each.casefold() not in taken)
    taken.add(found.casefold())
    return found


def _series(logged: Iterable[dict[str, Any]], field: str, factor: float) -> Series:
    points = [(line["step"], factor * line[field]) for line in logged if field in line]
    return Series(field, [step for step, _ in points], [value for _, value in points])


def _pairs(row: dict[str, Any], baseline: dict[str, Any]) -> list[float]:
    return [
        value - baseline["folds"][fold]["seeds"][seed]
        for fold, found in row["folds"].items()
        for seed, value in found["seeds"].items()
        if seed in baseline["folds"].get(fold, {"seeds": {}})["seeds"]
    ]
