"""Writes docs/lab/worlds_tables.md from records of `benchmarks.worlds` and the judgement of `benchmarks.quality`.

quality=src/rifenet/segmenting/quality.json
python -m benchmarks.worlds_tables docs/results/worlds/*.json --quality $quality --out docs/lab/worlds_tables.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Values
from benchmarks.worlds import SETS, figures
from rifenet.files import write_text

WAYS = {"prototype": "training-free", "plain": "the network's masks", "tiles": "tiles and edges", "fitted": "fitted"}
GROUPS = {
    "domains": "Other worlds",
    "everyday": "Everyday photos of classes never seen",
    "development": "For development",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("records", type=Path, nargs="+")
    words.add_argument("--quality", type=Path, required=True)
    words.add_argument("--out", type=Path, required=True)
    options = words.parse_args(argv)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.records)]
    judged = json.loads(options.quality.read_text(encoding="utf-8"))["judged"]
    write_text(options.out, page(records, judged))


def page(records: Sequence[Values], judged: Values) -> str:
    """The whole page."""
    lines = [
        "# Fitting a class: tables",
        "",
        "IoU in percent of classes learned from one or five annotated photos, by the product's own path, and its 95%"
        " interval over draws. A class that is judged absent counts as an empty mask. Differences are paired, with"
        " their interval. `python -m benchmarks.worlds` measures, and `python -m benchmarks.worlds_tables` writes this"
        " page. [What the sets are and what was tried](fitting.md).",
    ]
    rows = [row for record in records for row in record["rows"]]
    for group, title in GROUPS.items():
        names = [world.name for world in SETS if world.group == group]
        if found := [row for row in rows if row["set"] in names]:
            lines += ["", f"## {title}", "", *table(found, names)]
    lines += ["", "## Expected IoU of a mask", "", *quality_table(judged)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Values], names: Sequence[str]) -> list[str]:
    """A row for each set, number of shots and way, and the means over the sets."""
    lines = [
        "| set | shots | way | draws | IoU | against the network's masks | learning a shot | a query |",
        "|---|---|---|---|---|---|---|---|",
    ]
    means: dict[tuple[int, str], list[float]] = {}
    for name in names:
        own = [row for row in rows if row["set"] == name]
        for shots in sorted({row["shots"] for row in own}):
            for way in (way for way in WAYS if any(row["way"] == way and row["shots"] == shots for row in own)):
                found = figures(own, shots, way)
                low, high = found["judged_interval"]
                gain = found.get("judged_difference")
                lines.append(
                    f"| {name} | {shots} | {WAYS[way]} | {found['draws']} | {found['judged']:.1f} ({low} to {high}) |"
                    f" {'' if gain is None else f'{gain[0]:+} ({gain[1]} to {gain[2]})'} |"
                    f" {found['learning_s']:.1f} s | {found['query_s']:.1f} s |"
                )
                means.setdefault((shots, way), []).append(found["judged"])
    for (shots, way), values in sorted(means.items(), key=lambda item: item[0][0]):
        lines.append(
            f"| mean of {len(values)} sets | {shots} | {WAYS[way]} | | {sum(values) / len(values):.1f} | | | |"
        )
    return lines


def quality_table(judged: Values) -> list[str]:
    """A row for each model and judgement of `benchmarks.quality`."""
    lines = [
        "| model | judged on | photos | rank correlation | calibration error |",
        "|---|---|---|---|---|",
    ]
    names = {"maps": "signs of the maps", "fitted": "signs of the maps and of the fit"}
    for model, found in judged.items():
        for kind, words in (("left_out_in_turn", "each development set by the others"), ("others", "sets kept aside")):
            if kind in found:
                one = found[kind]
                where = f"{words} ({', '.join(one.get('sets', found['fitted_to']))})"
                lines.append(
                    f"| {names[model]} | {where} | {one['photos']} | {one['rank_correlation']:.2f} |"
                    f" {one['calibration_error']:.2f} |"
                )
    return lines


if __name__ == "__main__":
    main()
