"""Writes the tables of docs/performance.md from the files of `benchmarks.performance` and `benchmarks.export`.

    python -m benchmarks.performance_tables --page docs/performance.md --figures docs/results/performance.json

The exports' figures are in the folders `export*` beside the JSON; `waiting.json` and `waiting_one_thread.json`, of
`benchmarks.waiting`, lie there, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Values
from rifenet.files import write_text

MARKERS = "<!-- {} of performance.json -->", "<!-- end of {} -->"
BARS = (  # what, part, figure, upper bound, what it counts
    ("a query, class learned from 1 photo", "query", "query", 1.45, "units"),
    ("the same, 5 photos", "query", "query_5_shots", 1.6, "units"),
    ("the same, 10 photos", "query", "query_10_shots", 1.7, "units"),
    ("five classes at once", "query", "query_5_classes", 2.8, "units"),
    ("learning a class from one photo", "query", "learn", 1.2, "units"),
    ("a query of the bundled model", "query", "bundled_query", 0.25, "units"),
    ("a training step, batch 1, U = 2", "training", "training_step", 12, "units"),
    ("its peak memory", "training", "memory_mib", 3 * 1024, "MiB"),
    ("its peak memory, activations checkpointed", "training", "checkpointed_memory_mib", 3 * 1024, "MiB"),
    ("evaluation over its passes and decodes", "evaluation", "ratio", 1.2, "times"),
    ("its peak memory with a full cache", "evaluation", "memory_mib", 4 * 1024, "MiB"),
    ("mIoU that the caps cost, 5 photos", "caps", "cost_5_shots", 0.3, "points"),
    ("mIoU that the caps cost, 10 photos", "caps", "cost_10_shots", 0.3, "points"),
    ("index of 12,031 masks, first", "index", "first_seconds", 90, "s"),
    ("the same from its cache", "index", "cached_seconds", 1, "s"),
    ("rifenet --help", "start", "help_seconds", 0.5, "s"),
    ("rifenet info over import torch", "start", "info_ratio", 1.5, "times"),
    ("memory that a folder of 1,000 photos adds from its 100th photo on", "folder", "growth_mib", 50, "MiB"),
)
WAITING = (  # what, figure, upper bound, what it counts
    ("a photo", "photo", 0.10, "units"),
    ("five classes at once", "five_classes_over_photo", 1.6, "photos"),
    ("with tiles and refined edges", "tiles_refined_over_photo", 5, "photos"),
    ("learning from 1 photo", "learn_1_without_fit", 0.2, "units"),
    ("learning from 1 photo, with its fit", "learn_1", 0.2, "units"),
    ("learning from 5 photos", "learn_5_without_fit", 0.7, "units"),
    ("learning from 5 photos, with their fit", "learn_5", 0.7, "units"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page", type=Path, required=True, help="document whose tables are written")
    words.add_argument("--figures", type=Path, required=True, help="JSON of benchmarks.performance")
    options = words.parse_args(argv)
    parts = json.loads(options.figures.read_text(encoding="utf-8"))["parts"]
    write_tables(options.page, parts, exports_beside(options.figures), waiting_beside(options.figures))


def exports_table(records: list[Values]) -> list[str]:
    """Rows of the exports' table, from the records of `benchmarks/export.py`."""
    rows = ["| model | what | measured | bar | |", "|---|---|---|---|---|"]
    for record in records:
        times, masks = record.get("seconds", {}), record["agreement_with_torch"]
        points = record.get("scores", {}).get("engines", {}).get("onnx_int8", {}).get("minus_torch")
        for what, value, least, bound in (
            ("float32, masks: IoU with torch's", masks["onnx_float32"]["mask_iou"], True, 0.999),
            ("float32, a query: times torch's", times.get("onnx_float32_over_torch"), False, 1.2),
            ("8 bits, a query: faster than float32", times.get("int8_speedup_over_onnx_float32"), True, 1.8),
            ("8 bits, a query: faster than torch", times.get("int8_speedup_over_torch"), True, 1.4),
            ("8 bits, mIoU minus torch's, points", points, True, -0.7),
        ):
            if value is not None:
                held = value >= bound if least else value <= bound
                bar = f"at {'least' if least else 'most'} {bound:g}"
                rows.append(
                    f"| {record['model']}, {record['size']} px | {what} | {value:.3f} | {bar} | {_verdict(held)} |"
                )
    return rows


def _verdict(held: bool) -> str:
    return "yes" if held else "no"


def waiting_beside(figures_file: Path) -> dict[str, list[str]]:
    """Tables of `benchmarks.waiting`, from its files beside the JSON; none without them."""
    tables = {}
    for name in ("waiting", "waiting_one_thread"):
        file = figures_file.with_name(f"{name}.json")
        if file.is_file():
            tables = waiting_tables(json.loads(file.read_text(encoding="utf-8")), name) | tables
    return tables


def waiting_tables(record: Values, table: str = "waiting") -> dict[str, list[str]]:
    """Tables of what users wait for, named `table`, and of other programs, from a record of `benchmarks.waiting`."""
    waiting = ["| what | measured | at most | |", "|---|---|---|---|"]
    for what, name, bound, kind in WAITING:
        value = _value(record["figures"], name)
        waiting.append(f"| {what} | {value:.3f} | {bound:g} {kind} | {_verdict(value <= bound)} |")
    beside = ["| program | units | times our photo |", "|---|---|---|"]
    for name, figures in record["others"].items():
        times = _value(figures, f"{name}_over_photo")
        beside.append(f"| `{name}` | {_value(figures, name):.2f} | {times:.1f} |")
    return {table: waiting, **({"beside": beside} if record["others"] else {})}


def _value(figures: Values, name: str) -> float:
    figure = figures[name]
    return float(figure["units"] if "units" in figure else figure["value"])


def exports_beside(figures_file: Path) -> dict[str, list[Values]]:
    """The records of `benchmarks/export.py`, by the name of their folder."""
    folders = sorted(each for each in figures_file.parent.glob("export*") if each.is_dir())
    return {each.name: [json.loads(file.read_text()) for file in sorted(each.glob("*.json"))] for each in folders}


def write_tables(
    path: Path, parts: Values, exports: dict[str, list[Values]], waiting: dict[str, list[str]] | None = None
) -> None:
    """Writes the tables between their markers in a document.

    `exports` comes from `exports_beside`, `waiting` from `waiting_beside`.

    Raises ValueError where the document lacks a marker.
    """
    bars = ["| what | measured | at most | |", "|---|---|---|---|"]
    for what, part, name, bound, kind in BARS:
        figure = parts.get(part, {}).get("figures", {}).get(name, {})
        value = figure.get("units", figure.get("value"))
        shown, verdict = ("not measured", "") if value is None else (f"{value:.2f}", _verdict(value <= bound))
        bars.append(f"| {what} | {shown} | {bound:g} {kind} | {verdict} |")
    stages = ["| step or stage | median | quartiles | units |", "|---|---|---|---|"]
    for part in ("query", "training"):
        for name, figure in parts.get(part, {}).get("figures", {}).items():
            if "median" in figure:
                low, middle, high = (f"{1000 * figure[key]:.1f}" for key in ("q1", "median", "q3"))
                stages.append(f"| `{name}` | {middle} ms | {low} to {high} ms | {figure['units']:.3f} |")
    text = path.read_text(encoding="utf-8")
    tables = {"bars": bars, **{name: exports_table(records) for name, records in exports.items()}, "stages": stages}
    tables |= waiting or {}
    for name, rows in tables.items():
        first, last = (marker.format(name) for marker in MARKERS)
        before, found, rest = text.partition(first)
        _, closed, after = rest.partition(last)
        if not (found and closed):
            raise ValueError(
                f"Expected {first} and {last} in {path}, but they are missing. Put them where the table belongs."
            )
        text = before + first + "\n" + "\n".join(rows) + "\n" + last + after
    write_text(path, text)


if __name__ == "__main__":
    main()
