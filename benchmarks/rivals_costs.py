"""Writes what the heads of other papers cost into docs/ablations.md, over the backbone of configs/ablate_voc_mini.yaml.

python -m benchmarks.rivals_costs --page docs/ablations.md --config configs/ablate_voc_mini.yaml
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rifenet.config import RIVALS, load_config
from rifenet.evaluation.costs import costs
from rifenet.files import write_text

MARKERS = "<!-- costs of the rivals -->", "<!-- end of costs -->"
KINDS = (*RIVALS, "rifenet")


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--page", type=Path, required=True)
    words.add_argument("--config", type=Path, required=True)
    options = words.parse_args(argv)
    text = options.page.read_text(encoding="utf-8")
    write_text(options.page, with_table(text, options.config))


def with_table(text: str, config: Path) -> str:
    """The page with the table between the markers."""
    start, end = (text.index(marker) for marker in MARKERS)
    return f"{text[:start]}{MARKERS[0]}\n{table(config)}\n{text[end:]}"


def table(config: Path) -> str:
    """A row for each head: what it has and does beside the frozen backbone."""
    read = load_config(config)
    rows = ["| `model.kind` | parameters | a support photo | a query |", "|---|---|---|---|"]
    for kind in KINDS:
        found = costs(dataclasses.replace(read.model, kind=kind), read.data.image_size)
        whole, frozen = found["all"], found["backbone"]
        photo, query = ((getattr(whole, part) - getattr(frozen, part)) / 1e6 for part in ("learn", "query"))
        rows.append(f"| `{kind}` | {whole.parameters - frozen.parameters:,} | {photo:,.1f} | {query:,.1f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
