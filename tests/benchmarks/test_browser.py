"""The record of the browser's time: the page's table and words are those of the committed figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.browser import WORDS, ratios, table

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "docs/results/browser.json").read_text(encoding="utf-8"))


def test_ratios_divide_by_the_server_of_the_same_export_and_by_torch() -> None:
    seconds = {way: {"median": number} for way, number in zip(WORDS, (6.0, 2.0, 8.0, 4.0, 5.0), strict=True)}
    assert ratios(seconds) == {
        "browser int8 over server int8": 3.0,
        "browser int8 over server torch": 6 / 5,
        "browser float32 over server float32": 2.0,
        "browser float32 over server torch": 8 / 5,
    }


def test_the_table_is_that_of_the_record() -> None:
    page = (ROOT / "docs/in_browser.md").read_text(encoding="utf-8")
    assert "\n".join(table(RECORD)) in page
    every = [pair for own in RECORD["ratios"].values() for pair in own.items()]
    to_torch = max(ratio for label, ratio in every if label.endswith("torch"))
    to_export = sorted(ratio for label, ratio in every if not label.endswith("torch"))
    assert f"at most {to_torch:.1f} times as long as `rifenet serve` without an export" in page
    assert f"{to_export[0]:.1f} to {to_export[-1]:.1f} times as long as the server over the same export" in page
    assert to_torch <= 3
    assert f"{100 * RECORD['masks']['int8']['differing_pixels']:.2f}% of the pixels differ" in page
    assert RECORD["masks"]["float32"]["differing_pixels"] == 0  # "to the last pixel"


def test_the_record_says_where_it_was_measured_and_that_masks_are_the_same() -> None:
    assert RECORD["machine"]["cpu"]
    assert RECORD["machine"]["git_commit"]
    assert RECORD["browser"]["version"].split(".")[0].isdecimal()
    assert RECORD["browser"]["isolated"]  # else WebAssembly had one thread
    assert RECORD["masks"]["float32"]["least_agreement"] == pytest.approx(1, abs=0.005)
    assert RECORD["masks"]["int8"]["least_agreement"] > 0.99
