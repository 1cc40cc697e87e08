"""`rifenet demo`: the whole way with a small untrained network, and its scores against a plain count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colour_engine import ColourEngine
from tiny_model import write_tiny_model

from rifenet.cli import demo
from rifenet.cli.main import main
from rifenet.segmenting.segmenter import Segmenter


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors", size=32)
    out = tmp_path / "report"
    assert main(["demo", "--model", str(model), "--out", str(out), "--device", "cpu", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome == json.loads((out / "result.json").read_text())
    assert {path.name for path in out.iterdir()} == {"report.html", "result.json"}
    classes, examples = demo.load_examples()
    assert [entry["name"] for entry in outcome["classes"]] == classes
    columns = [f"{label}_{kind}" for label in ("model", "prototype") for kind in ("alone", "together")]
    for entry in (*outcome["classes"], outcome["mean"]):
        assert all(0 <= entry[column] <= 1 for column in columns)
    assert outcome["mean"]["prototype_alone"] == pytest.approx(
        np.mean([entry["prototype_alone"] for entry in outcome["classes"]])
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    supports = sum(example.support for example in examples)
    assert page.count("<img ") == supports + 3 * (len(examples) - supports)
    assert "tiny" in page
    assert "Its training included dog." in page
    assert demo.BUNDLED_MODEL not in page  # that is said of the bundled model alone


def test_the_bundled_model_is_called_what_it_is() -> None:
    model = {"name": "x", "hash": "y", "bundled": True, "classes_trained_on": ["cat"]}
    assert demo.model_notes({"model": model, "classes": [{"name": "dog"}]}) == [
        demo.BUNDLED_MODEL,
        "Its training included none of these classes.",
    ]
    assert "bundled" in demo.BUNDLED_MODEL


def test_scores_are_plain_counts() -> None:
    segmenter = Segmenter(ColourEngine())
    red, blue = np.full((40, 40, 3), (220, 30, 30), np.uint8), np.full((40, 40, 3), (30, 30, 220), np.uint8)
    ones = np.ones((40, 40), np.uint8)
    segmenter.learn("red", [red], [ones])
    segmenter.learn("blue", [blue], [ones])
    halves = np.concatenate([red[:20], blue[20:]])
    truth = np.repeat([1, 2], 20)[:, None].repeat(40, 1).astype(np.uint8)
    truth[:10, :5] = 255
    truth[15:20] = 0  # 200 pixels that red claims wrongly
    results = [segmenter.segment(halves), segmenter.segment(red)]
    scores = demo.score(results, [truth, np.full((40, 40), 2, np.uint8)], ["red", "blue"])
    red_hits = 15 * 40 - 50
    assert scores["alone"]["red"] == pytest.approx(red_hits / (red_hits + 200))  # the other photo shows no red
    assert scores["together"]["red"] == pytest.approx(red_hits / (red_hits + 200 + 1600))
    assert scores["together"]["blue"] == pytest.approx(800 / (800 + 1600))
    assert scores["alone"]["blue"] == scores["together"]["blue"]


def test_two_runs_give_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes, examples = demo.load_examples()
    first, second = (
        demo.segment_examples(Segmenter(ColourEngine(size=32)), classes, examples, "colour") for _ in range(2)
    )
    assert len(first) == sum(not example.support for example in examples)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
