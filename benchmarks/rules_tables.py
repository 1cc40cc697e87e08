"""Writes the tables of docs/protocols.md 7 from the files of `benchmarks.rules` and `benchmarks.feature_centres`.

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
    "padding": "black",
    "area of the class": "area",
    "shots": "hsnet 5, vote",
    "supports": "hsnet 5, repeat",
    "masks": "hsnet 1, floor",
}
"""Figure of each deviation: published minus here, in points of mIoU."""
TOLD = {
    "test pairs": "not measured: score a published list with `--list-file`",
    "overlaps": "not measured: nobody says the published order",
    "folds": "not measured: nobody says the published order",
    "absent class": "the mean times the share of classes with episodes",
}
DASH = "–"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page", type=Path, required=True, help="document whose tables are written")
    words.add_argument("--figures", type=Path, required=True, help="folder of the files of benchmarks.rules")
    options = words.parse_args(argv)
    text = options.page.read_text(encoding="utf-8")
    write_text(options.page, with_tables(text, records_in(options.figures), centres_in(options.figures)))


def records_in(folder: Path) -> dict[str, Values]:
    """The records of the models that were measured, in the order of `NAMES`."""
    paths = {name: folder / f"{name}.json" for name in NAMES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def centres_in(folder: Path) -> list[Values]:
    """The records of `benchmarks.feature_centres`."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "centres").glob("*.json"))]


def with_tables(text: str, records: dict[str, Values], centres: Sequence[Values]) -> str:
    """The page with its tables between their markers."""
    tables = {
        "deviations": deviations_table(records),
        "sizes": sizes_table(records),
        "centres": centres_table(centres),
    }
    for name, rows in tables.items():
        start, end = (marker.format(name) for marker in MARKERS)
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = "\n".join([before + start, *rows, end]) + after
    return text


def deviations_table(records: dict[str, Values]) -> list[str]:
    """Each deviation, with what it changes for each model: here minus published, and its 95% interval."""
    rows = [row("protocol", "rule", "here", "published", *(titled(name, record) for name, record in records.items()))]
    rows.append("|---" * (4 + len(records)) + "|")
    for one in DEVIATIONS:
        told = TOLD.get(one.name)
        effects = [effect(record["figures"].get(MEASURED.get(one.name, ""))) for record in records.values()]
        if one.only_with == "class_area":
            small = [record["figures"].get("small queries") for record in records.values()]
            effects = [
                f"{text}; drops {some[0]} of {some[1]:,} queries" if some else text
                for text, some in zip(effects, small, strict=True)
            ]
        if told is not None:
            effects = [told, *[""] * (len(records) - 1)]
        where = f" ({one.only_with})" if one.only_with not in ("", one.name) else ""
        rows.append(row(f"`{one.protocol}`", one.name + where, one.here, one.published, *effects))
    return rows


def sizes_table(records: dict[str, Values]) -> list[str]:
    """mIoU under `hsnet` at each size of the input, and by how much 400 px is ahead."""
    sides = [str(side) for side in SIDES]
    gains = [*(f"400 - {side}" for side in sides[1:]), "401 read up and left - 401"]
    rows = [row("model", "shots", *(f"{side} px" for side in sides), *gains)]
    rows.append("|---" * (2 + len(sides) + len(gains)) + "|")
    for name, record in records.items():
        found = record["figures"]
        for shots in (1, 5):
            if f"hsnet {shots}" in found:
                scores = [f"{found[f'hsnet {shots}'][side]:.1f}" for side in sides]
                gains = [signed(found[f"hsnet {shots}, 400 - {side}"]) for side in sides[1:]]
                shifted = found.get(f"hsnet {shots}, 401 shifted - 401")
                gains.append(signed(shifted) if shifted else DASH)
                rows.append(row(titled(name, record), str(shots), *scores, *gains))
    return rows


def titled(name: str, record: Values) -> str:
    """The model and the folds that it was scored on."""
    folds = ", ".join(map(str, record["folds"]))
    return f"{NAMES[name]}; fold{'s' if len(record['folds']) > 1 else ''} {folds}"


def centres_table(centres: Sequence[Values]) -> list[str]:
    """How far down and right of where they are read features look, in pixels, with the standard error."""
    rows = [row("backbone", "stride", "stage", "at 401 px", "at 400 px"), "|---|---|---|---|---|"]
    for record in centres:
        half = " of half width" if record["half_width"] else ""
        at = {
            (one["stage"], one["side"]): f"{one['offset']:+.1f} ± {one['standard_error']:.1f}" for one in record["rows"]
        }
        for stage in sorted({stage for stage, _ in at}):
            name = f"`{record['backbone']}`{half}"
            rows.append(row(name, str(record["stride"]), str(stage), at[stage, 401], at[stage, 400]))
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
