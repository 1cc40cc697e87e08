"""The prior of PFENet's code beside ours: its features and its figures, and the page's table."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from docs_blocks import ROOT

from benchmarks import prior
from rifenet.metrics import mean_interval
from rifenet.models.backbones import build_backbone

FILE = ROOT / "docs" / "results" / "prior.json"


def photo(size: int = 65, seed: int = 0) -> dict[str, np.ndarray]:
    """A support of noise; its left half is the object."""
    pixels = np.random.default_rng(seed).random((1, 3, size, size), np.float32)
    mask = np.zeros((1, size, size), np.uint8)
    mask[:, :, : size // 2] = 1
    return {"support_images": pixels, "support_masks": mask, "support_valid": np.ones((1, size, size), bool)}


def test_stage_4_of_the_masked_variant_sees_nothing_around_the_object() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", stride=16, width=0.25)
    arrays, other = photo(), photo()
    other["support_images"][..., 48:] = 0.5  # far off the object, so that stage 3 is the same upon it
    whole = {**photo(), "support_masks": np.ones((1, 65, 65), np.uint8)}
    first, second, all_of_it = (prior.encoded(backbone, each) for each in (arrays, other, whole))
    assert not torch.equal(first["high"], first["masked"])
    torch.testing.assert_close(all_of_it["high"], all_of_it["masked"])
    *_, third, _ = backbone._run((torch.from_numpy(arrays["support_images"]) - backbone.mean) / backbone.deviation)
    inside = third * first["soft"].foreground[0][:, None]
    assert inside[..., 4:].abs().sum() == 0
    torch.testing.assert_close(first["masked"], backbone.layer4(inside))
    assert not torch.equal(first["high"], second["high"])


def test_a_prior_that_tells_the_class_apart_has_area_1() -> None:
    """Of a 4 x 4 grid the left half has one feature, the right half another; the support shows the left one."""
    high = torch.zeros(1, 2, 4, 4)
    high[:, 0, :, :2], high[:, 1, :, 2:] = 1, 1
    masks = torch.zeros(1, 1, 25, 25, dtype=torch.uint8)
    masks[..., :9] = 1
    soft = prior.soft_masks(masks, None, (4, 4))
    here = {"high": high, "masked": high.flip(3), "soft": soft, "valid": torch.ones(1, 4, 4, dtype=torch.bool)}
    present = (torch.arange(4) < 2).expand(4, 4)
    known = torch.ones(4, 4, dtype=torch.bool)
    assert prior.area(here, here, "here", present[known], known) == 1
    assert prior.area(here, here, "uncapped", present[known], known) == 1
    assert prior.area(here, here, "masked", present[known], known) == 0, "its features are those of the other half"


def test_figures_are_means_and_paired_differences() -> None:
    queries = [{"here": 0.5, "masked": 0.7, "uncapped": 0.5}, {"here": 0.8, "masked": 0.6, "uncapped": 0.9}]
    found = prior.figures(queries)
    assert (found["here"], found["masked"], found["uncapped"]) == (65.0, 65.0, 70.0)
    low, high = mean_interval([0.0, 10.0])
    assert found["uncapped - here"] == [5.0, pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05)]
    assert found["masked - here"][0] == 0.0


def test_the_page_has_the_figures_of_the_file() -> None:
    record = json.loads(FILE.read_text(encoding="utf-8"))
    assert record["figures"] == prior.figures(record["queries"])
    page = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    found = record["figures"]
    for variant, matter in (("masked", "supports of the prior mask"), ("uncapped", "number of its positions")):
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {matter} |"))
        value, low, high = (-one for one in found[f"{variant} - here"])  # here minus published
        assert f"{value:+.1f} ({high:+.1f} to {low:+.1f})".replace("-0.0", "0.0").replace("+0.0", "0.0") in line
    assert f"{len(record['queries'])} queries" in page
