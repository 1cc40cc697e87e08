"""Writes the figures of docs/many_machines.md from the file of `benchmarks.many_machines`, and what follows from them.

python -m benchmarks.many_machines_tables --page docs/many_machines.md --figures docs/results/many_machines.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Values
from rifenet.files import write_text

MARKERS = "<!-- figures of many_machines.json -->", "<!-- end of figures -->"
PHOTOS = 10_000_000
CORES = (64, 256, 1024)
BLOCK = 32
DOLLARS_A_CORE_HOUR = 0.015
DOLLARS_A_READ, DOLLARS_A_WRITE = 0.4e-6, 5e-6
WRITES_A_SECOND = 3500
"""Prices, and what a store takes for one prefix, as large clouds ask in their lists: assumptions, not measurements."""
PHOTO_BYTES = 300_000


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page", type=Path, required=True)
    words.add_argument("--figures", type=Path, required=True)
    options = words.parse_args(argv)
    text = options.page.read_text(encoding="utf-8")
    write_text(options.page, with_figures(text, json.loads(options.figures.read_text(encoding="utf-8"))))


def with_figures(text: str, record: Values) -> str:
    """The page with the figures between the markers."""
    start, end = (text.index(marker) for marker in MARKERS)
    return f"{text[:start]}{MARKERS[0]}\n\n{figures(record)}\n\n{text[end:]}"


def figures(record: Values) -> str:
    """What was measured, and the arithmetic where there is what it needs."""
    parts = [_kills(record["kills"])] if "kills" in record else []
    if "speed" in record:
        parts.append(_speed(record["speed"], record.get("bare")))
    elif parts or "work" in record:
        parts.append("The throughput of two nodes over that of one is not measured yet: it needs an idle machine.")
    if "plan" in record and "speed" in record:
        parts += [_hours(record["speed"]["two"] / 2, "measured with two nodes"), _driver(record["plan"])]
    elif "plan" in record and "work" in record:
        found = record["work"]
        blocks = found["photos"] // found["block"] - 1
        how = f"computed by a worker for small rendered photos, in the median of {blocks} blocks ({found['machine']})"
        parts += [_hours(1 / found["seconds"], how), _driver(record["plan"])]
    return "\n\n".join(parts) or "Not measured yet."


def _kills(found: Values) -> str:
    return (
        f"{found['photos']:,} rendered photos in a store on loopback, blocks of {found['block']}, two Ray nodes and"
        f" a head on one machine, with processes of their own; {found['nodes killed']} times a node was killed with all"
        f" its processes, and replaced. The table had {found['rows']:,} rows; {found['lost']} photos were lost and"
        f" {found['twice']} done twice. Of {found['masks compared']} masks,"
        f" {found['masks equal to the bit']} were to the bit those of one machine without Ray."
    )


def _speed(found: Values, bare: Values | None) -> str:
    runs = f"{found['photos']} small photos a run, median of {len(found['rates']['1'])} runs in turns"
    return "\n".join(
        [
            f"Bundled model, {runs} ({found['machine']}):",
            "",
            "| nodes of one core | photos a second | times one node |",
            "|---|---|---|",
            f"| 1 | {found['one']:.2f} | 1.00 |",
            f"| 2 | {found['two']:.2f} | {found['ratio']:.2f} |",
            *([] if bare is None else ["", _bare(bare)]),
        ]
    )


def _bare(found: Values) -> str:
    return (
        f"Two bare processes on the same two cores, without Ray and without a store, do {found['ratio']:.2f} times the"
        " photos of one, which may be due to the memory that they share. In the table, the store and the driver take"
        " some of the two cores, too, which on a cluster have machines of their own."
    )


def _hours(pace: float, how: str) -> str:
    """Ten million photos, at so many photos a second and core."""
    core_hours = PHOTOS / pace / 3600
    reads, writes = PHOTOS, PHOTOS * (1 + 2 / BLOCK)  # a mask a photo; a part of the table and of COCO a block
    requests = reads * DOLLARS_A_READ + writes * DOLLARS_A_WRITE
    rows = [
        f"| {cores:,} | {core_hours / cores:,.1f} | {core_hours * DOLLARS_A_CORE_HOUR + requests:,.0f} |"
        f" {pace * cores * (1 + 2 / BLOCK):,.0f} | {pace * cores * PHOTO_BYTES * 8 / 1e9:.2f} |"
        f" {pace * cores / BLOCK:.1f} |"
        for cores in CORES
    ]
    full = WRITES_A_SECOND / (pace * (1 + 2 / BLOCK))
    return "\n".join(
        [
            f"Ten million photos by arithmetic, at {pace:.2f} photos a second and core, {how}. Assumed, and not"
            f" measured: {DOLLARS_A_CORE_HOUR} dollars for an hour of a core that may be taken away,"
            f" {DOLLARS_A_READ * 1e6:g} and {DOLLARS_A_WRITE * 1e6:g} dollars for a million reads and writes, photos of"
            f" {PHOTO_BYTES // 1000} kB,"
            f" blocks of {BLOCK}, and cores that do not slow each other down.",
            "",
            "| cores | hours | dollars | writes a second | Gbit/s read | blocks a second |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"The network's computing is the bottleneck up to about {full:,.0f} cores; from there on a store that takes"
            f" {WRITES_A_SECOND:,} writes a second for one prefix is.",
        ]
    )


def _driver(found: Values) -> str:
    per = {name: found[name]["bytes"] / found["photos"] for name in ("first", "again")}
    seconds = {name: found[name]["seconds"] / found["photos"] * PHOTOS / 60 for name in ("first", "again")}
    return (
        f"The driver's plan, measured with {found['photos']:,} photos, takes {per['first']:,.0f} bytes a photo at first"
        f" and {per['again']:,.0f} where it resumes: {max(per.values()) * PHOTOS / 1e9:.0f} GB for ten million, and"
        f" {seconds['first']:.0f} to {seconds['again']:.0f} minutes, after their listing."
    )


if __name__ == "__main__":
    main()
