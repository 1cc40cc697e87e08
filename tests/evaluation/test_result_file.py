from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rifenet.evaluation.protocol import PFENET_WORDS
from rifenet.evaluation.report import report
from rifenet.evaluation.result_file import (
    FORMAT,
    PREDICTION_WORDS,
    EpisodeCounts,
    compare_results,
    figures,
    pack_counts,
    read_result,
    unpack_counts,
    write_result,
)

CLASSES = {6: "bus", 7: "car", 8: "cat"}


def counted(seed: int = 0, runs: int = 3, episodes: int = 24, better: int = 0) -> EpisodeCounts:
    """Counts of a fold; `better` pixels are added to every foreground intersection."""
    rng = np.random.default_rng(seed)
    union = rng.integers(5000, 90_000, size=(runs, episodes))
    counts = np.zeros((runs, episodes, 2, 2), np.int32)
    counts[..., 1, 1], counts[..., 1, 0] = union, (union * rng.uniform(0.2, 0.8, union.shape)).astype(int) + better
    counts[..., 0, 1], counts[..., 0, 0] = 180_000, 150_000
    class_ids = np.tile(np.arange(episodes) % 3 + 6, (runs, 1)).astype(np.int32)
    return EpisodeCounts(class_ids, np.tile(np.arange(episodes) // 2, (runs, 1)).astype(np.int32), counts)


def result(counts: EpisodeCounts, **changes: Any) -> dict[str, Any]:
    runs, episodes = counts.class_ids.shape
    return {
        "format": FORMAT,
        "protocol": {
            **{"name": "pfenet", "min_area": 2048, "min_area_of": "the class", "absent_as_zero": False},
            **{"k_shot": "one pass", "query_order": "in list order", "supports": "drawn"},
            **{"resize": "squashed", "scored_at": "network size"},
        },
        "dataset": {
            **{"name": "custom", "hash": "c" * 64, "list": "all images", "names_hash": "n" * 64},
            **{"images": 12, "bad_files": 0, "median_sides": [300.0, 400.0]},
        },
        "model": {
            **{"name": "small", "kind": "rifenet", "backbone": "resnet50", "checkpoint_hash": "0123456789abcdef"},
            **{"image_size": 473, "metadata": {}},
        },
        "config": {"data": {"root": "photos"}},
        "environment": {
            **{"torch": "2.13.0", "device": "cpu", "device_name": "x86_64", "git_commit": "c0ffee"},
            **{"threads": 2, "ranks": 1},
        },
        "episodes_per_second": 12.34,
        "peak_memory_mib": {"process": 1234.5, "device": None},
        "fold": 1,
        "shots": 1,
        "seeds": list(range(runs)),
        "episodes": episodes,
        "episodes_hash": "e",
        **figures(counts, CLASSES, range(runs), False),
        "episode_counts": pack_counts(counts),
        **changes,
    }


def test_figures_from_plain_sums() -> None:
    counts = counted()
    found = figures(counts, CLASSES, (5, 6, 7), absent_as_zero=False)
    ious = np.array(
        [
            [
                counts.counts[run][counts.class_ids[run] == class_id][:, 1, 0].sum()
                / counts.counts[run][counts.class_ids[run] == class_id][:, 1, 1].sum()
                for class_id in CLASSES
            ]
            for run in range(3)
        ]
    )
    assert [row["per_seed"] for row in found["per_class"]] == [pytest.approx(column) for column in ious.T]
    assert [row["iou"] for row in found["per_class"]] == pytest.approx(ious.mean(0))
    assert [row["std"] for row in found["per_class"]] == pytest.approx(ious.std(0, ddof=1))
    assert [row["name"] for row in found["per_class"]] == ["bus", "car", "cat"]
    assert [row["episodes"] for row in found["per_class"]] == [[8, 8, 8]] * 3
    # Classes 0, 1, 2, 0, ... meet queries 0, 0, 1, 1, 2, 2, ...: a class's episodes 3 apart, so never one query twice.
    assert [row["queries"] for row in found["per_class"]] == [8, 8, 8]
    assert [run["seed"] for run in found["per_seed"]] == [5, 6, 7]
    assert [run["miou"] for run in found["per_seed"]] == pytest.approx(ious.mean(1))
    score = found["scores"]["miou"]
    assert score["mean"] == pytest.approx(ious.mean())
    assert score["std"] == pytest.approx(ious.mean(1).std(ddof=1))
    assert score["interval_seeds"][0] < score["mean"] < score["interval_seeds"][1]
    assert score["interval_bootstrap"][0] < score["mean"] < score["interval_bootstrap"][1]


def test_one_seed_has_neither_deviation_nor_seed_interval() -> None:
    score = figures(counted(runs=1), CLASSES, (0,), absent_as_zero=False)["scores"]["miou"]
    assert (score["std"], score["interval_seeds"]) == (None, None)
    assert len(score["interval_bootstrap"]) == 2


def test_packed_counts_come_back_and_stay_small(tmp_path: Path) -> None:
    counts = counted(runs=5, episodes=1000)
    stored = result(counts)
    write_result(stored, tmp_path / "deep" / "result.json")
    again = read_result(tmp_path / "deep" / "result.json")
    for before, after in zip(counts, unpack_counts(again), strict=True):
        assert (before == after).all()
    assert (tmp_path / "deep" / "result.json").stat().st_size < 100_000
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]


def test_an_older_file_says_the_rule_of_masks_and_compares_with_a_new_one(tmp_path: Path) -> None:
    """Older files named the two logits, whatever the model's threshold was."""
    read = []
    for words in ("foreground logit above background logit", PREDICTION_WORDS):
        content = result(counted())
        content["protocol"]["prediction"] = words
        write_result(content, tmp_path / "result.json")
        read.append(read_result(tmp_path / "result.json"))
    assert "mask_threshold" in read[0]["protocol"]["prediction"]
    assert PFENET_WORDS["prediction"] == read[0]["protocol"]["prediction"], "what an evaluation writes today"
    assert read[0]["protocol"] == read[1]["protocol"]
    assert compare_results(*read).miou == 0


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result({"format": FORMAT}, file)
    before = file.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_result({"format": FORMAT, "miou": float("nan")}, file)
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "[1, 2]", "{}", '{"format": 99, "episode_counts": ""}'])
def test_foreign_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json to be a result file"):
        read_result(file)


def test_damaged_counts_are_refused() -> None:
    stored = result(counted())
    for damaged in (stored["episode_counts"][:-8], "!!!!"):
        with pytest.raises(ValueError, match="3 x 24 episodes"):
            unpack_counts({**stored, "episode_counts": damaged})
    with pytest.raises(ValueError, match="3 x 25 episodes"):
        unpack_counts({**stored, "episodes": 25})


def test_comparison_is_paired() -> None:
    model, other = result(counted(better=500)), result(counted())
    difference = compare_results(model, other)
    assert difference.miou == pytest.approx(model["scores"]["miou"]["mean"] - other["scores"]["miou"]["mean"])
    assert 0 < difference.interval[0] < difference.miou < difference.interval[1]
    # The two differ by the same few pixels everywhere: surely better, though their own intervals overlap widely.
    assert difference.interval[1] - difference.interval[0] < 0.02
    assert other["scores"]["miou"]["interval_bootstrap"][1] > model["scores"]["miou"]["interval_bootstrap"][0]
    assert compare_results(model, model) == (0, (0, 0))


@pytest.mark.parametrize(
    "change", [{"episodes_hash": "f"}, {"fold": 2}, {"shots": 5}, {"protocol": {"absent_as_zero": True}}]
)
def test_other_episodes_or_rules_cannot_be_compared(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"same episodes, but {next(iter(change))} differs"):
        compare_results(result(counted()), result(counted(), **change))


RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").rglob("result*.json"))


def test_the_results_that_the_pages_show_are_read() -> None:
    read = [read_result(path) for path in RESULTS if b'"episode_counts"' in path.read_bytes()]
    assert len(read) > 50


def entries(value: Any) -> list[tuple[Any, Any]]:
    """Every dict and list within a JSON with each of its keys."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, each in below for pair in ((value, key), *entries(each))]


MISSING = object()


@pytest.mark.parametrize(
    "wrong", [MISSING, None, [], {}, [{}], "text", True, 10**400, -1.5], ids=lambda value: repr(value)[:9]
)
def test_a_value_of_another_kind_anywhere_is_refused_or_does_no_harm(tmp_path: Path, wrong: Any) -> None:
    """Each value in turn: a report of the file is made, or refused with a sentence."""
    good = result(counted(runs=1), novel_classes_seen=["bus"], skipped=[{"seed": 0, "episode": 3, "class": "bus"}])
    path = tmp_path / "result.json"
    text = json.dumps(good)
    refusals = []
    for number in range(len(entries(good))):
        changed = json.loads(text)
        holder, key = entries(changed)[number]
        if wrong is MISSING:
            del holder[key]
        else:
            holder[key] = wrong
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            report([path], tmp_path)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(sentence.startswith("Expected") for sentence in refusals)
