"""The page's table of what the heads cost is the one that the program writes."""

from __future__ import annotations

from docs_blocks import ROOT

from benchmarks import rivals_costs


def test_the_page_has_the_costs_of_the_heads() -> None:
    text = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert rivals_costs.with_table(text, ROOT / "configs" / "ablate_voc_mini.yaml") == text
