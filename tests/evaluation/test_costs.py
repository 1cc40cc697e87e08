"""Parameters and multiply-adds by part, against arithmetic by hand."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from docs_blocks import ROOT
from tiny_model import write_smallest_model

from rifenet.cli.main import main
from rifenet.config import RIVALS, ModelConfig, load_config
from rifenet.evaluation.costs import MATCHING, costs
from rifenet.models import build_model

SIDE = 65
C, D = 16, 8
SMALL = ModelConfig(
    backbone="resnet18",
    width=0.125,
    stride=8,
    embed_dim=C,
    heads=2,
    points=3,
    layers=1,
    ffn_ratio=2,
    local_dim=D,
    local_grid=2,
    tokens_per_label=5,
    max_prior_keys=7,
    pretrained=False,
)


def convolution(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return inputs * outputs * kernel * kernel * side * side


def resnet18() -> int:
    """A ResNet-18 whose stages have an eighth of the width, at stride 8: 65 px become 33, 17, then 9 and stay there."""
    total = convolution(3, 64, 7, 33)
    inputs = 64
    for outputs, side in ((8, 17), (16, 9), (32, 9), (64, 9)):
        for block in range(2):
            first = inputs if block == 0 else outputs
            total += convolution(first, outputs, 3, side) + convolution(outputs, outputs, 3, side)
            total += convolution(first, outputs, 1, side) if first != outputs else 0
        inputs = outputs
    return total


def test_each_part_by_hand() -> None:
    found = costs(SMALL, SIDE)
    n = 81  # positions of the 9 x 9 grid
    assert found["backbone"].learn == found["backbone"].query == resnet18()
    assert found["projections"].learn == found["projections"].query == 48 * C * n  # stages 2 and 3
    reduce, refine, attention = 16 * D * n, D * D * 4, 2 * D * (D // 4)
    pooled = (D + 1) * (9 * 9 * 2 + 2 * 9 * 2)  # the channels and the valid positions, first along rows
    assert found["local prototype"].query == reduce + refine + attention + pooled
    local = D * 4
    assert found["interaction"].learn == 2 * C * C * n - C * C * n + C * C  # the average goes through once
    assert found["interaction"].query == C * C * n + (C + local) * C  # the prior scales a column, which is no product
    assert found["convolutions after it, and head"].query == C * C * n + 3 * 9 * C * C * n + 2 * C * n
    assert found["feature activation"].learn == 0
    assert found["auxiliary head (training)"].query == 0
    assert found["all"].query == sum(cost.query for part, cost in found.items() if part != "all")


def test_matching_is_what_no_module_does() -> None:
    """The prior: each position meets each key. The averages: each channel meets each weight."""
    found = costs(SMALL, SIDE)
    n, keys = 81, 7
    assert found[MATCHING].learn == C * n + area_of_the_mask()
    assert found[MATCHING].query == n * keys * 64


def area_of_the_mask() -> int:
    """`soft_masks` also shrinks the mask by area, in two products: 65 x 65 by 65 x 9, and 9 x 65 by 65 x 9."""
    return SIDE * SIDE * 9 + 9 * SIDE * 9


def test_parameters_are_those_of_the_network() -> None:
    found, model = costs(SMALL, SIDE), build_model(SMALL)
    assert found["all"].parameters == sum(value.numel() for value in model.parameters())
    assert found["backbone"].parameters == sum(value.numel() for value in model.backbone.parameters())


def test_a_training_episode_runs_the_backbone_for_each_of_its_photos() -> None:
    for unlabeled in (0, 1, 2):
        found = costs(SMALL, SIDE, unlabeled)
        assert found["backbone"].step == (2 + 2 * unlabeled) * resnet18()
        activation = found["feature activation"]
        assert activation.step == (1 + 2 * unlabeled) * activation.query
        assert found["auxiliary head (training)"].step > 0


def test_the_baseline_is_the_backbone_and_cosines() -> None:
    prototype = costs(ModelConfig(kind="prototype", backbone="resnet18", width=0.125, stride=8, pretrained=False), SIDE)
    assert set(prototype) == {"backbone", MATCHING, "all"}
    assert prototype["backbone"].query == resnet18()
    assert prototype[MATCHING].query == 2 * (32 + 64) * 81
    assert prototype["all"].step == 0


def test_views_cost_what_they_show() -> None:
    one = costs(SMALL, SIDE)
    for views, closer in ((4, False), (2, True)):
        viewed = costs(dataclasses.replace(SMALL, support_views=views, support_closer=closer), SIDE)
        assert viewed["backbone"].learn == views * one["backbone"].learn
        assert viewed["backbone"].query == one["backbone"].query


def test_the_heads_of_other_papers_are_counted_beside_a_model_with_views(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_smallest_model(tmp_path / "m.safetensors", support_views=2, support_closer=True)
    assert main(["info", "--flops", "--rivals", "--model", str(model), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["methods"]) == {"rifenet", *RIVALS, "prototype"}


def test_the_command_counts_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "configs" / "pascal_resnet50_paper.yaml"
    assert main(["info", "--flops", "--config", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["backbone"], found["image_size"], found["unlabeled"]) == ("resnet50", 473, 2)
    assert found["methods"]["rifenet"]["backbone"]["parameters"] == 23_631_808
    assert found["methods"]["rifenet"]["backbone"]["query"] == found["methods"]["prototype"]["backbone"]["query"]
    assert main(["info", "--config", str(file)]) == 2


def test_the_table_of_the_page_is_counted() -> None:
    """docs/reproduce.md: parameters in millions, multiply-adds in thousand millions."""
    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    section = text[text.index("### What it computes") : text.index("### How long it takes")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    shown = {row[0]: row[1:] for row in rows[2:]}
    for column, depth in enumerate((50, 101)):
        config = load_config(ROOT / "configs" / f"pascal_resnet{depth}_paper.yaml")
        found = costs(config.model, config.data.image_size, config.train.unlabeled)
        baseline = costs(ModelConfig(**{**vars(config.model), "kind": "prototype"}), config.data.image_size)
        assert set(found) | {"prototype, all"} == set(shown)
        for part, cells in shown.items():
            cost = baseline["all"] if part == "prototype, all" else found[part]
            figures = [cost.parameters / 1e6, cost.learn / 1e9, cost.query / 1e9, cost.step / 1e9]
            expected = [f"{value:,.2f}" for value in figures]
            if not cost.step:
                expected[-1] = "–" if part == "prototype, all" else expected[-1]
            assert re.split(r" / ", cells[column]) == expected, part


def test_the_hours_of_the_page_follow_from_the_measured_step() -> None:
    """A unit is one forward pass of ResNet-50; a deeper backbone costs more on each of the six photos of an episode."""
    bars = json.loads((ROOT / "docs" / "results" / "performance.json").read_text(encoding="utf-8"))["parts"]["training"]
    step, memory = bars["figures"]["training_step"]["units"], bars["figures"]["memory_mib"]["value"]
    forward = {
        depth: costs(load_config(ROOT / "configs" / f"pascal_resnet{depth}_paper.yaml").model, 473)["backbone"].query
        for depth in (50, 101)
    }
    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    section = text[text.index("### How long it takes") : text.index("### How far a run repeats")]
    rate = float(re.search(r"sustains (\d+) x 10\^12", section)[1]) * 1e12  # type: ignore[index]
    assert f"a unit is {1000 * forward[50] / rate:.1f} ms" in section
    assert f"costs {forward[101] / forward[50]:.2f} times" in section
    rows = re.findall(r"\| `(\w+)\.yaml` \| (\d+) x ([\d,]+) \| ([\d.]+) \| (\d+)", section)
    assert len(rows) == 4
    for name, epochs, images, units, hours in rows:
        config, depth = load_config(ROOT / "configs" / f"{name}.yaml"), int(re.search(r"net(\d+)", name)[1])  # type: ignore[index]
        expected = step + 6 * (forward[depth] / forward[50] - 1)
        seconds = int(epochs) * int(images.replace(",", "")) * expected * forward[50] / rate
        assert int(epochs) == config.train.epochs
        assert (units, hours) == (f"{expected:.2f}", f"{seconds / 3600:.0f}")
    assert f"peaks at {memory:,.0f} MiB" in section
    assert f"at most four times as much, {4 * memory / 1024:.1f} GiB" in section
    assert "**Computed, not measured**" in section
