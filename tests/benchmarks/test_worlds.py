"""The benchmark over several sets, the fit of the expected IoU, and the page of their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered import make_custom
from tiny_model import write_smallest_model

from benchmarks import quality, worlds, worlds_tables
from rifenet.segmenting.quality import FITTED, MAPS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("worlds")
    make_custom(folder / "data" / "parts", per_class=4, mixed=4)
    model = write_smallest_model(folder / "model.safetensors", mask_threshold=0.4)
    words = ["--model", str(model), "--data", str(folder / "data"), "--sets", "parts", "--queries", "2"]
    words += ["--shots", "1", "2", "--ways", "plain", "prototype", "fitted"]
    patch = pytest.MonkeyPatch()
    patch.setattr(worlds, "RESERVED", 2)
    for name in ("first", "again"):  # the second run reads the features that the first one kept
        worlds.main([*words, "--cache", str(folder / "cache"), "--out", str(folder / f"{name}.json")])
    patch.undo()
    first, again = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("first", "again"))
    for row, other in zip(first["rows"], again["rows"], strict=True):
        assert row["shown"] == pytest.approx(other["shown"], abs=2)  # half precision on disk
    return dict(first)


def test_every_way_meets_the_same_photos(record: dict[str, Any]) -> None:
    rows = record["rows"]
    names = {row["class"] for row in rows}
    assert {"disc", "gem"} < names
    assert {(row["class"], row["shots"], row["way"]) for row in rows} == {
        (name, shots, way) for name in names for shots in (1, 2) for way in ("plain", "prototype", "fitted")
    }
    for row in rows:
        assert len(row["support"]) == row["shots"]
        assert len(row["photos"]) == 2
        assert ("fit" in row) == (row["way"] == "fitted")
        assert set(row["photos"][0]["signs"]) == set(FITTED if row["way"] == "fitted" else MAPS)
        longer = next(each for each in rows if (each["class"], each["shots"]) == (row["class"], 2))
        assert row["support"] == longer["support"][: row["shots"]]


def test_a_sets_figure_is_the_mean_of_its_draws(record: dict[str, Any]) -> None:
    for shots in (1, 2):
        own = [row for row in record["rows"] if row["shots"] == shots and row["way"] == "fitted"]
        plain = [row for row in record["rows"] if row["shots"] == shots and row["way"] == "plain"]
        found = record["summary"]["parts"][f"{shots}-shot fitted"]
        assert found["draws"] == len({row["class"] for row in own})
        assert found["judged"] == pytest.approx(np.mean([row["judged"] for row in own]), abs=0.01)
        gain = np.mean([a["judged"] - b["judged"] for a, b in zip(own, plain, strict=True)])
        assert found["judged_difference"][0] == pytest.approx(gain, abs=0.06)
        assert record["summary"]["mean of domains"][f"{shots}-shot fitted"]["judged"] == found["judged"]


def test_expected_iou_is_fitted_to_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RIDGE", 1e-6)
    rng = np.random.default_rng(0)
    photos = []
    for number in range(400):
        signs = {name: float(value) for name, value in zip(MAPS, rng.normal(size=len(MAPS)), strict=True)}
        iou = 1 / (1 + np.exp(-(1.5 * signs["certain"] - 0.7 * signs["area"] + 0.4)))
        photos.append({"set": "ab"[number % 2], "iou": float(iou), "signs": signs})
    model = quality.fitted(photos, MAPS)
    assert model["weights"]["certain"] == pytest.approx(1.5, abs=1e-3)
    assert model["weights"]["area"] == pytest.approx(-0.7, abs=1e-3)
    assert model["bias"] == pytest.approx(0.4, abs=1e-3)
    found = quality.judgement(*quality.crossed(photos, MAPS))
    assert found["rank_correlation"] > 0.99
    assert found["calibration_error"] < 0.03


def test_judgement_by_hand() -> None:
    found = quality.judgement(np.array([0.05, 0.55, 0.58, 0.95]), np.array([0.1, 0.8, 0.4, 0.8]))
    # Ranks 1 2 3 4 and 1 3.5 2 3.5; bins: 0.05 - 0.1, (0.55 - 0.8) + (0.58 - 0.4), 0.95 - 0.8.
    assert found["rank_correlation"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 3.5, 2, 3.5])[0, 1], abs=1e-3)
    assert found["calibration_error"] == pytest.approx((0.05 + 0.07 + 0.15) / 4, abs=1e-3)


def test_records_give_coefficients_and_a_page(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "worlds.json").write_text(json.dumps(record), encoding="utf-8")
    out = tmp_path / "quality.json"
    quality.main(["--fit", str(tmp_path / "worlds.json"), "--judge", str(tmp_path / "worlds.json"), "--out", str(out)])
    made = json.loads(out.read_text(encoding="utf-8"))
    assert {name: tuple(model["weights"]) for name, model in made["models"].items()} == {"maps": MAPS, "fitted": FITTED}
    count = sum(len(row["photos"]) for row in record["rows"] if row["way"] == "fitted")
    assert made["judged"]["fitted"]["others"]["sets"] == {"parts": count}
    page = tmp_path / "page.md"
    worlds_tables.main([str(tmp_path / "worlds.json"), "--quality", str(out), "--out", str(page)])
    text = page.read_text(encoding="utf-8")
    fitted = record["summary"]["parts"]["1-shot fitted"]
    assert f"| parts | 1 | fitted | {fitted['draws']} | {fitted['judged']:.1f} (" in text
    plain, better = (record["summary"]["parts"][f"2-shot {way}"]["judged"] for way in ("plain", "fitted"))
    assert "## worlds" in text
    assert f"| parts | 2 | the network's masks | {fitted['draws']} | {plain:.1f} (" in text
    five = {**record, "rows": [{**row, "shots": 5} for row in record["rows"] if row["shots"] == 2]}
    fewer = {**five, "rows": five["rows"][:3]}
    (row,) = worlds_tables.means({"a": fewer, "b": five, "c": fewer})[2:]
    assert row == f"| other worlds: parts | 5 | {plain:.1f} | {better:.1f} | {better - plain:+.1f} |"
    assert f"| signs of the maps and of the fit | sets kept aside (parts) | {count} |" in text


def test_the_committed_page_is_that_of_the_committed_records(tmp_path: Path) -> None:
    results = ROOT / "docs" / "results" / "worlds"
    coefficients = ROOT / "src" / "rifenet" / "segmenting" / "quality.json"
    page = tmp_path / "page.md"
    worlds_tables.main([*map(str, sorted(results.glob("*.json"))), "--quality", str(coefficients), "--out", str(page)])
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "lab" / "worlds_tables.md").read_text(encoding="utf-8")
