"""Writes the tables of deviations in docs/protocols.md from the files of `benchmarks.rules`.

python -m benchmarks.rules_tables --page docs/protocols.md --figures docs/results/rules
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Values
from benchmarks.rules import SIDES
from rifenet.evaluation.deviations import DEVIATIONS
from rifenet.files import write_text

MARKERS = "<!-- {} of results/rules -->", "<!-- end of {} -->"
NAMES = {
    "prototype_lite0": "`prototype`, Lite0, stride 8",
    "prototype_lite2": "`prototype`, Lite2, stride 16",
    "prototype_resnet50_half": "`prototype`, ResNet-50 of half width, stride 16",
    "bundled": "bundled model",
}
MEASURED = {
    "query order": "order",
    "resize": "floor8",
    "area of the class": "area",
    "shots": "hsnet 5, vote",
    "supports": "hsnet 5, repeat",
    "masks": "hsnet 1, floor",
}
"""Figure of each deviation: published minus here, in points of mIoU."""
TOLD = {
    "test pairs": "not measured: score a published list with `--list-file`",
    "absent class": "the mean times the share of classes with episodes",
}
DASH = "–"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page", type=Path, required=True, help="document whose tables are written")
    words.add_argument("--figures", type=Path, required=True, help="folder of the files of benchmarks.rules")
    options = words.parse_args(argv)
    write_text(options.page, with_tables(options.page.read_text(encoding="utf-8"), records_in(options.figures)))


def records_in(folder: Path) -> dict[str, Values]:
    """The records of the models that were measured, in the order of `NAMES`."""
    paths = {name: folder / f"{name}.json" for name in NAMES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def with_tables(text: str, records: dict[str, Values]) -> str:
    """The page with both tables between their markers."""
    for name, rows in (("deviations", deviations_table(records)), ("sizes", sizes_table(records))):
        start, end = (marker.format(name) for marker in MARKERS)
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = "\n".join([before + start, *rows, end]) + after
    return text


def deviations_table(records: dict[str, Values]) -> list[str]:
    """Each deviation, with what it changes for each model: here minus published, and its 95% interval."""
    rows = [row("protocol", "rule", "here", "published", *(NAMES[name] for name in records))]
    rows.append("|---" * (4 + len(records)) + "|")
    for one in DEVIATIONS:
        told = TOLD.get(one.name)
        effects = [effect(record["figures"].get(MEASURED.get(one.name, ""))) for record in records.values()]
        if told is not None:
            effects = [told, *[""] * (len(records) - 1)]
        where = f" ({one.only_with})" if one.only_with else ""
        rows.append(row(f"`{one.protocol}`", one.name + where, one.here, one.published, *effects))
    return rows


def sizes_table(records: dict[str, Values]) -> list[str]:
    """mIoU under `hsnet` at each size of the input, and by how much 400 px is ahead."""
    sides = [str(side) for side in SIDES]
    rows = [row("model", "shots", *(f"{side} px" for side in sides), *(f"400 - {side}" for side in sides[1:]))]
    rows.append("|---" * (2 + 2 * len(sides) - 1) + "|")
    for name, record in records.items():
        found = record["figures"]
        for shots in (1, 5):
            if f"hsnet {shots}" in found:
                scores = [f"{found[f'hsnet {shots}'][side]:.1f}" for side in sides]
                gains = [signed(found[f"hsnet {shots}, 400 - {side}"]) for side in sides[1:]]
                rows.append(row(NAMES[name], str(shots), *scores, *gains))
    return rows


def effect(published_minus_here: list[float] | None) -> str:
    """Here minus published, with its interval."""
    if published_minus_here is None:
        return DASH
    value, low, high = published_minus_here
    return signed([-value, -high, -low])


def signed(figure: Sequence[float]) -> str:
    """A difference in points and its interval; no sign where it rounds to 0."""
    value, low, high = (0.0 if round(one, 1) == 0 else one for one in figure)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})".replace("+0.0", "0.0")


def row(*cells: str) -> str:
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
