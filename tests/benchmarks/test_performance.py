"""docs/performance.md: its tables are those of the committed figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import write_smallest_model

from benchmarks import performance, performance_tables
from benchmarks.common import each_picture_once
from rifenet.data.episodes import as_batches, load_episode
from rifenet.data.sampling import Episode
from rifenet.data.sources import open_dataset
from rifenet.evaluation.prediction import predicted_mask
from rifenet.metrics import intersection_union
from rifenet.models import Backbone, Features
from rifenet.models.files.hub import load_model

ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs" / "performance.md", ROOT / "docs" / "results" / "performance.json"


def test_the_tables_are_those_of_the_committed_figures(tmp_path: Path) -> None:
    parts = json.loads(FIGURES.read_text(encoding="utf-8"))["parts"] if FIGURES.is_file() else {}
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    waiting = performance_tables.waiting_beside(FIGURES)
    assert waiting.keys() == {"waiting", "waiting_one_thread", "beside"}
    performance_tables.write_tables(page, parts, performance_tables.exports_beside(FIGURES), waiting)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), "write the tables again: see the page"


def test_a_bar_is_held_missed_or_not_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    markers = [marker.format(name) for name in ("bars", "export", "stages") for marker in performance_tables.MARKERS]
    page.write_text("before\n{}\nstale row\n{}\nbetween\n{}\n{}\n{}\n{}\nafter\n".format(*markers), encoding="utf-8")
    figure = {"median": 2.0, "q1": 1.5, "q3": 2.5, "units": 1.4, "runs": 20}
    parts = {
        "query": {"figures": {"query": figure, "learn": figure}},
        "index": {"figures": {"first_seconds": {"value": 30}}},
    }
    export = {
        "model": "small",
        "size": 97,
        "agreement_with_torch": {"onnx_float32": {"mask_iou": 0.9991}},
        "seconds": {
            "onnx_float32_over_torch": 1.3,
            "int8_speedup_over_onnx_float32": 1.81,
            "int8_speedup_over_torch": 1.39,
        },
        "scores": {"engines": {"onnx_int8": {"minus_torch": -0.8}}},
    }
    performance_tables.write_tables(page, parts, {"export": [export]})
    text = page.read_text(encoding="utf-8")
    assert "| a query, class learned from 1 photo | 1.40 | 1.45 units | yes |" in text
    assert "| learning a class from one photo | 1.40 | 1.2 units | no |" in text
    assert "| index of 12,031 masks, first | 30.00 | 90 s | yes |" in text
    assert "| rifenet --help | not measured | 0.5 s |  |" in text
    assert "| `query` | 2000.0 ms | 1500.0 to 2500.0 ms | 1.400 |" in text
    verdicts = [row.split(" | ")[-1] for row in text.splitlines() if row.startswith("| small, 97 px")]
    assert verdicts == ["yes |", "no |", "yes |", "no |", "no |"]
    assert "| small, 97 px | 8 bits, mIoU minus torch's, points | -0.800 | at least -0.7 | no |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale row" not in text
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="Put them where the table belongs"):
        performance_tables.write_tables(page, parts, {})


def test_what_users_wait_for_is_held_or_missed() -> None:
    units = {name: {"units": 0.3, "median": 1.0} for _, name, *_ in performance_tables.WAITING if "over" not in name}
    ratios = {name: {"value": 1.5} for _, name, *_ in performance_tables.WAITING if "over" in name}
    other = {"sam": {"units": 4.0, "median": 9.0}, "sam_over_photo": {"value": 40.0}}
    tables = performance_tables.waiting_tables({"figures": units | ratios, "others": {"sam": other}})
    assert "| a photo | 0.300 | 0.1 units | no |" in tables["waiting"]
    assert "| five classes at once | 1.500 | 1.6 photos | yes |" in tables["waiting"]
    assert tables["beside"][-1] == "| `sam` | 4.00 | 40.0 |"
    alone = performance_tables.waiting_tables({"figures": units | ratios, "others": {}}, "alone")
    assert alone == {"alone": tables["waiting"]}


ROUNDED_PIXELS = 3  # of 3,250 in a photo


def test_caps_are_judged_by_the_masks_that_the_model_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (50, 65, 3), dtype=np.uint8)
        mask = np.zeros((50, 65), np.uint8)
        mask[10 + number : 30, 20 : 40 + number] = 1
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{number}.png")
    (tmp_path / "data" / "classes.txt").write_text("box\n", encoding="utf-8")
    photos = open_dataset("custom", tmp_path / "data", progress=False)
    model = load_model(write_smallest_model(tmp_path / "model.safetensors"))
    model.config = dataclasses.replace(model.config, support_views=4, max_evidence_keys=30)
    configs = performance.cap_configs(model)
    episodes = [Episode(1, 0, (1, 2)), Episode(1, 3, (2, 0))]
    model.backbone.accelerate()
    passes: list[int] = []
    plain = type(model.backbone).forward

    def counting(backbone: Backbone, pictures: torch.Tensor) -> Features:
        passes.append(len(pictures))
        return plain(backbone, pictures)

    monkeypatch.setattr(type(model.backbone), "forward", counting)
    with each_picture_once(model.backbone):
        counted = performance.scores_by_config(model, configs, photos, episodes, 65)
    assert sum(passes) == 4 * 3 + 1, "four views of three supports, one of them a query too, and another query"
    for number, episode in enumerate(episodes):
        (one,) = as_batches([load_episode(photos, episode, 65)])
        expected = []
        for config in configs.values():
            model.config = config
            shots = (one[f"support_{part}"] for part in ("images", "masks", "valid"))
            with torch.inference_mode():
                context = model.encode_support(*shots)
                logits = model.decode(model.encode_query(one["query_images"], one["query_valid"]), context)
            mask = predicted_mask(logits, one["placement"])
            expected.append(intersection_union(mask, one["query_mask_original"]))
        # Two ways to one mask: sums over another batch differ in the last bits, so a pixel at the threshold may too.
        assert np.abs(counted[:, number] - np.array(expected)).max() <= ROUNDED_PIXELS
        changed = np.abs(expected[0] - expected[1]).max()
        assert changed > 5 * ROUNDED_PIXELS, "the caps change nothing here, so nothing was tested"
