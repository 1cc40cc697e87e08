"""What a rule changes: the statistics on hand-made counts, and the page's tables against the committed files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from docs_blocks import ROOT

from benchmarks import rules, rules_tables
from rifenet.data.sampling import Episode
from rifenet.evaluation.deviations import DEVIATIONS

PAGE, FIGURES = ROOT / "docs" / "protocols.md", ROOT / "docs" / "results" / "rules"


def made(*rows: tuple[int, int, int, int, int]) -> np.ndarray:
    """Episodes of (class, large, classes shown, intersection, union)."""
    return np.array([[one, i, large, shown, 1000, 0, 0, part, whole] for i, (one, large, shown, part, whole) in
                     enumerate(rows)], np.int64)  # fmt: skip


def test_weighted_miou_by_hand() -> None:
    table = made((1, 1, 1, 30, 100), (1, 0, 1, 0, 10), (2, 1, 2, 50, 50))
    # Class 1: (2 * 30 + 0) / (2 * 100 + 10), class 2: 1.
    assert rules.score(table, np.array([2.0, 1.0, 7.0])) == pytest.approx(100 * (60 / 210 + 1) / 2, abs=0.01)


def test_a_difference_is_that_of_the_scores_and_its_interval_holds_every_resampling() -> None:
    table = made((1, 1, 1, 30, 100), (1, 0, 1, 0, 60), (1, 1, 1, 5, 40), (2, 1, 2, 50, 50), (2, 1, 2, 10, 90))
    ones = np.ones(5)
    value, low, high = rules.compared((table, ones), (table, ones * table[:, 2]))
    assert value == pytest.approx(rules.score(table, ones) - rules.score(table, ones * table[:, 2]), abs=0.011)
    possible = []
    for first in itertools.product(range(3), repeat=3):  # of class 2 both rules have the same
        own = table[list(first)]
        large = own[own[:, 2] == 1]
        if len(large):
            possible.append(100 * (own[:, 7].sum() / own[:, 8].sum() - large[:, 7].sum() / large[:, 8].sum()) / 2)
    assert min(possible) - 0.01 <= low <= value <= high <= max(possible) + 0.01
    assert low < high


def test_packing_keeps_every_number() -> None:
    counts = np.array([[1, 2], [3, 400_000]])
    row = {"rule": "pfenet", "class": 7, "query": 12, "large": True, "classes_shown": 2, "weight": 3.25}
    (found,) = rules.unpack(rules.pack([{**row, "counts": counts}, {**row, "rule": "x", "counts": counts}], "pfenet"))
    assert found.tolist() == [7, 12, 1, 2, 3250, 1, 2, 3, 400_000]


def test_repeated_supports_are_those_of_a_draw_with_replacement() -> None:
    """Of 9 other photos, 5 draws with replacement hold 9 * (1 - (8/9)^5) = 4.006 different ones on average."""
    episode = Episode(1, 0, (1, 2, 3, 4, 5))
    drawn = [rules.repeated(episode, 10, number).supports for number in range(3000)]
    assert all(len(supports) == 5 and set(supports) <= {1, 2, 3, 4, 5} for supports in drawn)
    different = np.mean([len(set(supports)) for supports in drawn])
    assert different == pytest.approx(9 * (1 - (8 / 9) ** 5), abs=0.06)  # standard error 0.013
    assert rules.repeated(episode, 10, 4) == rules.repeated(episode, 10, 4)


def test_what_another_run_measured_of_the_same_photos_is_kept(tmp_path: Path) -> None:
    facts = {"model": {"name": "a", "hash": "b"}, "folds": [1, 2], "images_of_a_class": 6, "seen": {"car": ["cab"]}}
    path = tmp_path / "record.json"
    assert rules.measured_before(path, facts) == {}
    path.write_text(json.dumps({**facts, "git_commit": "c0ffee", "episodes": {"hsnet 1 400": "abc"}, "figures": {}}))
    assert rules.measured_before(path, facts) == {"hsnet 1 400": "abc"}
    for other in ({"folds": [1]}, {"images_of_a_class": 5}, {"model": {"name": "a", "hash": "c"}}, {"seen": {}}):
        assert rules.measured_before(path, {**facts, **other}) == {}


def test_the_pages_tables_are_those_of_the_committed_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    records, centres = rules_tables.records_in(FIGURES), rules_tables.centres_in(FIGURES)
    assert records.keys() == rules_tables.NAMES.keys()
    assert rules_tables.with_tables(text, records, centres) == text
    for one in DEVIATIONS:
        assert f"| `{one.protocol}` | {one.name}" in text
        assert (one.name in rules_tables.MEASURED) != (one.name in rules_tables.TOLD)


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_figures_are_those_of_the_committed_counts(path: Path) -> None:
    record = rules_tables.records_in(path.parent)[path.stem]
    assert rules.figures(record) == record["figures"]


def test_effects_are_here_minus_published() -> None:
    assert rules_tables.effect([-1.24, -2.0, 0.04]) == "+1.2 (0.0 to +2.0)"
    assert rules_tables.effect([0.31, 0.2, 0.44]) == "-0.3 (-0.4 to -0.2)"
    assert rules_tables.effect(None) == "–"
