"""The page on many machines: its figures are those of the measured file, and the arithmetic is what it says."""

from __future__ import annotations

import json

import pytest
from docs_blocks import ROOT

from benchmarks import many_machines_tables as tables

PAGE, FIGURES = ROOT / "docs" / "many_machines.md", ROOT / "docs" / "results" / "many_machines.json"
SPEED = {"photos": 64, "machine": "x", "rates": {"1": [1.0], "2": [1.9]}, "one": 1.0, "two": 1.9, "ratio": 1.9}
PLAN = {"photos": 1000, "first": {"seconds": 0.06, "bytes": 400_000}, "again": {"seconds": 0.12, "bytes": 800_000}}


def test_the_page_has_the_measured_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")
    record = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
    assert tables.with_figures(text, record) == text


def test_hours_and_dollars_by_hand() -> None:
    """0.95 photos a second and core: 256 cores take 1e7 / (0.95 * 256) s, and 1e7 / 0.95 / 3600 core hours cost."""
    said = tables.figures({"speed": SPEED, "plan": PLAN})
    (row,) = (line for line in said.splitlines() if line.startswith("| 256 "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "11.4"
    dollars = 1e7 / 0.95 / 3600 * 0.015 + 1e7 * 0.4 / 1e6 + 1e7 * 1.0625 * 5 / 1e6
    assert cells[2] == f"{dollars:,.0f}"
    assert cells[3] == f"{0.95 * 256 * 1.0625:,.0f}"
    assert "8 GB for ten million" in said
    assert "10 to 20 minutes" in said


def test_what_bare_processes_reach_is_said_beside() -> None:
    said = tables.figures({"speed": SPEED, "bare": {"ratio": 1.88}})
    assert "| 2 | 1.90 | 1.90 |" in said
    assert said.endswith("have machines of their own.")
    assert "without a store, do 1.88 times the photos of one" in said
    assert "bare" not in tables.figures({"speed": SPEED})


def test_hours_of_computing_where_no_throughput_was_measured() -> None:
    """0.25 s of computing a photo: 64 cores take 1e7 / (4 * 64) s."""
    work = {"photos": 24, "block": 8, "seconds": 0.25, "machine": "x"}
    said = tables.figures({"work": work, "plan": PLAN})
    (row,) = (line for line in said.splitlines() if line.startswith("| 64 "))
    assert row.split("|")[2].strip() == f"{1e7 / (4 * 64) / 3600:,.1f}"
    assert "at 4.00 photos a second and core, computed by a worker for small rendered photos" in said
    assert "in the median of 2 blocks (x)" in said
    assert said.startswith("The throughput of two nodes over that of one is not measured yet")


def test_a_missing_throughput_is_said() -> None:
    kills = {"photos": 9, "block": 3, "nodes killed": 2, "rows": 9, "lost": 0, "twice": 0}
    said = tables.figures({"kills": {**kills, "masks compared": 5, "masks equal to the bit": 5}})
    assert "0 photos were lost and 0 done twice. Of 5 masks, 5 were to the bit" in said
    assert said.endswith("is not measured yet: it needs an idle machine.")


@pytest.mark.parametrize("parts", [{}, {"plan": PLAN}])
def test_what_was_not_measured_is_not_claimed(parts: dict[str, object]) -> None:
    assert tables.figures(parts) == "Not measured yet."


def test_the_steady_rate_counts_no_start_and_no_end() -> None:
    many_machines = pytest.importorskip("benchmarks.many_machines")
    events = [(float(second), 8) for second in (10, 11, 12, 13, 14, 15)]
    assert many_machines.steady(events, 1) == pytest.approx(8)
    assert many_machines.steady([*events[:1], (10.1, 8), *events[1:]], 2) == pytest.approx(8 * 4 / 3.9)
