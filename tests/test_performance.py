"""docs/performance.md: its tables are those of the committed figures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import write_smallest_model

from rifenet.data.episodes import collate_evaluation, load_episode
from rifenet.data.sampling import Episode
from rifenet.data.sources import open_dataset
from rifenet.evaluation.prediction import predicted_mask
from rifenet.metrics import intersection_union
from rifenet.models.files.hub import load_model

ROOT = Path(__file__).parents[1]
PAGE, FIGURES = ROOT / "docs" / "performance.md", ROOT / "docs" / "results" / "performance.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_performance", ROOT / "scripts" / "measure_performance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_committed_figures(script: ModuleType, tmp_path: Path) -> None:
    parts = json.loads(FIGURES.read_text(encoding="utf-8"))["parts"] if FIGURES.is_file() else {}
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    script.write_tables(page, parts, script.exports_beside(FIGURES))
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), "write the tables again: see the page"


def test_a_bar_is_held_missed_or_not_measured(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    markers = [marker.format(name) for name in ("bars", "export", "stages") for marker in script.MARKERS]
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
    script.write_tables(page, parts, {"export": [export]})
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
    with pytest.raises(ValueError, match="Put them where a table goes"):
        script.write_tables(page, parts, {})


def test_caps_are_judged_by_the_masks_that_the_model_gives(script: ModuleType, tmp_path: Path) -> None:
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
    configs, seen = script.cap_configs(model), {}
    for episode in (Episode(1, 0, (1, 2)), Episode(1, 3, (2, 0))):
        counted = script._capped_and_not(model, configs, photos, episode, 65, seen)
        one = collate_evaluation([load_episode(photos, episode, 65)])
        expected = []
        for config in configs.values():
            model.config = config
            shots = (one[f"support_{part}"] for part in ("images", "masks", "valid"))
            with torch.inference_mode():
                context = model.encode_support(*shots)
                logits = model.decode(model.encode_query(one["query_images"], one["query_valid"]), context)
            mask = predicted_mask(logits, one["placement"][0])
            expected.append(intersection_union(mask, one["query_mask_original"][0]))
        assert counted.tolist() == np.array(expected).tolist()
        assert expected[0].tolist() != expected[1].tolist(), "the caps change nothing here, so nothing was tested"
    assert sorted(seen) == [0, 1, 2]
