"""Writes the tables of docs/lab/any_backbone.md from the records in docs/results/any_backbone.

    python -m benchmarks.any_backbone_tables docs/results/any_backbone docs/lab/any_backbone.md

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`: one for each group of tries, and `never seen`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import Values

SETS = ("union", "coseg", "clothes", "nuclei", "magnetic-tile")


def tries(record: Values, group: str) -> Iterator[str]:
    """Lines of the table of a group of tries."""
    yield f"| tested over | similarities | head trained over | {' | '.join(SETS)} | mean |"
    yield f"|{'---|' * (len(SETS) + 4)}"
    rows = [row for row in record["rows"] if row["group"] == group]
    for row in sorted(rows, key=lambda row: row["tested_over"] != "ResNet"):
        cells = (f"{row['iou'][name]:.1f}" for name in (*SETS, "mean"))
        yield f"| {row['tested_over']} | {row['what']} | {row['trained_over'] or '–'} | {' | '.join(cells)} |"


def never_seen(records: Sequence[Values]) -> Iterator[str]:
    """Lines of the table of classes never seen."""
    yield "| backbone | any-backbone | prototype | gain, of single photos |"
    yield "|---|---|---|---|"
    for record in records:
        for name, found in record["over"].items():
            mean, low, high = found["gain"]
            ours, base = found["any_backbone"]["mean"], found["prototype"]["mean"]
            yield f"| {name} | {ours:.1f} | {base:.1f} | {mean:+.1f} ({low:+.1f} to {high:+.1f}) |"


def filled(page: str, folder: Path) -> str:
    """The page with the tables of the records in `folder`."""
    record = json.loads((folder / "tries.json").read_text(encoding="utf-8"))
    tables = {group: tries(record, group) for group in dict.fromkeys(row["group"] for row in record["rows"])}
    files = sorted(folder.glob("never_seen*.json"))
    tables["never seen"] = never_seen([json.loads(file.read_text(encoding="utf-8")) for file in files])
    for name, lines in tables.items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        page = "".join([before, f"<!-- {name} -->\n", "\n".join(lines), "\n", end, after])
    return page


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page again."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("page", type=Path)
    options = words.parse_args(argv)
    options.page.write_text(filled(options.page.read_text(encoding="utf-8"), options.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
