"""The table of docs/backbones.md is that of its record, whose computed figures follow from its counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from docs_blocks import ROOT

from benchmarks import backbones, patch_places
from rifenet.config import load_config
from rifenet.evaluation.costs import costs

RECORD = json.loads((ROOT / "docs" / "results" / "backbones.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_record() -> None:
    assert backbones.with_table(PAGE, RECORD) == PAGE
    assert RECORD["configs"].keys() == backbones.ARCHITECTURES.keys()


def test_the_table_of_places_is_that_of_its_record() -> None:
    page = (ROOT / "docs" / "lab" / "backbones.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs" / "results" / "patch_places.json").read_text(encoding="utf-8"))
    assert patch_places.with_table(page, record) == page
    for row in record["rows"]:
        assert row["between - corners"][1] > 0, "as the page says, ignoring the places is worst"
        assert row["shown"] > row["between"]
        assert abs(row["shown"] - row["centres"]) < 1


def test_a_row_of_places_is_measured_again() -> None:
    """Geometry alone: another machine gives the same scores, to the digit that is written."""
    record = json.loads((ROOT / "docs" / "results" / "patch_places.json").read_text(encoding="utf-8"))
    again = patch_places.compared(16, 448)
    for row, kept in zip(again, record["rows"][-2:], strict=True):
        assert row["count"] == kept["count"]
        assert [row[way] for way in patch_places.WAYS] == pytest.approx(
            [kept[way] for way in patch_places.WAYS], abs=0.11
        )


def test_the_gpu_figures_are_arithmetic_and_say_so() -> None:
    header, _, *rows = backbones.table(RECORD).splitlines()
    assert header.split("|")[-2].strip() == "a training episode without a cache on an A100, *computed*"
    for row, (name, figures) in zip(rows, RECORD["configs"].items(), strict=False):
        forward = 2 * figures["backbone_multiply_adds"]
        trained = 3 * figures["trained_step_multiply_adds"]
        assert row.startswith(f"| `{name}` |")
        assert float(row.split("|")[-2].split()[0]) == pytest.approx(
            1000 * 2 * (forward + trained) / (312e12 / 3), abs=0.5
        )
        assert min(figures[kind] for kind in ("backbone_seconds", "query_seconds", "trained_step_seconds")) > 0


def test_the_counts_are_those_of_the_published_sizes(tmp_path: Path) -> None:
    """DINOv2 ViT-S/14 has 22 million parameters; a position of width d costs 12 d^2 + 2 N d multiply-adds a layer."""
    config = backbones.over_random_weights("dinov2_small", tmp_path)
    assert config.data.image_size == load_config(ROOT / "configs" / "dinov2_small.yaml").data.image_size == 449
    found = costs(config.model, 449)["backbone"]
    row = RECORD["configs"]["dinov2_small"]
    assert (found.parameters, found.query) == (row["backbone_parameters"], row["backbone_multiply_adds"])
    assert found.parameters == pytest.approx(22.0e6, rel=0.01)
    positions, width = 33 * 33 + 1, 384
    layers = 12 * positions * (12 * width**2 + 2 * positions * width)
    patches = 33 * 33 * 3 * 14 * 14 * width
    assert found.query == pytest.approx(layers + patches, rel=0.02)
