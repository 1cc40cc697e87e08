"""Writes docs/lab/worlds_tables.md from records of `benchmarks.worlds` and the judgement of `benchmarks.quality`.

    quality=src/rifenet/segmenting/quality.json
    python -m benchmarks.worlds_tables docs/results/worlds/*.json --quality $quality --out docs/lab/worlds_tables.md

Each record is a section, under the name of its file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import Values
from benchmarks.worlds import SETS, figures
from rifenet.files import write_text

WAYS = {"prototype": "training-free", "plain": "the network's masks", "tiles": "tiles and edges", "fitted": "fitted"}
GROUPS = {"domains": "other worlds", "everyday": "everyday photos of classes never seen"}


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("records", type=Path, nargs="+")
    words.add_argument("--quality", type=Path, required=True)
    words.add_argument("--out", type=Path, required=True)
    options = words.parse_args(argv)
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.records)}
    judged = json.loads(options.quality.read_text(encoding="utf-8"))["judged"]
    write_text(options.out, page(records, judged))


def page(records: Mapping[str, Values], judged: Values) -> str:
    """The whole page; `records` by the names of their files."""
    lines = [
        "# Fitting a class: tables",
        "",
        "IoU in percent of classes learned from one or five annotated photos, by the product's own path, and its 95%"
        " interval over draws. A class that is judged absent counts as an empty mask. Differences are paired, with"
        " their interval. `python -m benchmarks.worlds` measures, and `python -m"
        " benchmarks.worlds_tables` writes this page. [What the sets are and what was tried](fitting.md).",
        "",
        "## Means of sets",
        "",
        *means(records),
    ]
    for name, record in records.items():
        model = record["model"]
        made = f"{record['queries']} queries a draw at most, model {model['name']} ({model['hash']}),"
        lines += ["", f"## {name}", "", f"{made} commit `{record['git_commit']}`.", "", *table(record["rows"])]
    lines += ["", "## Expected IoU of a mask", "", *quality_table(judged)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Values]) -> list[str]:
    """A row for each set, number of shots and way."""
    lines = [
        "| set | shots | way | draws | IoU | against the network's masks |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        for shots in sorted({row["shots"] for row in own}):
            for way in (way for way in WAYS if any(row["way"] == way and row["shots"] == shots for row in own)):
                found = figures(own, shots, way)
                low, high = found["judged_interval"]
                gain = found.get("judged_difference")
                lines.append(
                    f"| {name} | {shots} | {WAYS[way]} | {found['draws']} | {found['judged']:.1f} ({low} to {high}) |"
                    f" {'' if gain is None else f'{gain[0]:+} ({gain[1]} to {gain[2]})'} |"
                )
    return lines


def means(records: Mapping[str, Values]) -> list[str]:
    """Mean of each group's sets with and without a fit, by number of shots.

    Of the records with both ways, a set's figures are from the one with most draws.
    """
    lines = ["| sets | shots | the network's masks | fitted | |", "|---|---|---|---|---|"]
    for group, words in GROUPS.items():
        for shots in (1, 5):
            found: dict[str, tuple[Values, Values]] = {}
            for name in (world.name for world in SETS if world.group == group):
                for record in records.values():
                    own = [row for row in record["rows"] if row["set"] == name and row["shots"] == shots]
                    if any(row["way"] == "fitted" for row in own):
                        pair = figures(own, shots, "plain"), figures(own, shots, "fitted")
                        found[name] = max(found.get(name, pair), pair, key=lambda each: int(each[1]["draws"]))
            if found:
                plain, fitted = (np.mean([pair[way]["judged"] for pair in found.values()]) for way in (0, 1))
                names = f"{words}: {', '.join(found)}"
                lines.append(f"| {names} | {shots} | {plain:.1f} | {fitted:.1f} | {fitted - plain:+.1f} |")
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
