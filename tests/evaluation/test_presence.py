"""Calibrated presence: the fit against an independent optimiser, and pairs on rendered photos."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rendered import make_voc
from scipy.optimize import minimize

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.episodes import load_episode
from rifenet.data.sampling import absent_query, evaluation_episodes
from rifenet.data.sources import open_dataset
from rifenet.evaluation import presence
from rifenet.evaluation.presence import (
    HARD_OF,
    against_hard,
    fit_calibration,
    hard_statistics,
    judged_presence,
    presence_pairs,
    reliability_bins,
)
from rifenet.metrics import auroc, calibrated, expected_calibration_error, presence_statistic
from rifenet.models import build_model

PARTS = ("images", "masks", "valid")


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    rng = np.random.default_rng(0)
    statistics = rng.uniform(0, 1, 300)
    present = rng.uniform(size=300) < 1 / (1 + np.exp(-(6 * statistics - 4)))

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] * statistics + weights[1]
        return float(np.logaddexp(0, logits).sum() - logits[present].sum() + (weights**2).sum() / 200)

    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    fitted = fit_calibration(statistics, present)
    np.testing.assert_allclose([fitted["a"], fitted["b"]], best, atol=1e-3)
    assert expected_calibration_error(calibrated(statistics, fitted), present) < 0.08


def test_groups_that_do_not_overlap_stay_finite_and_one_group_is_refused() -> None:
    statistics, present = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    fitted = fit_calibration(statistics, present)
    assert np.isfinite(list(fitted.values())).all()
    assert (calibrated(statistics, fitted) > 0.5).tolist() == present.tolist()
    with pytest.raises(ValueError, match="only one kind"):
        fit_calibration(statistics, np.ones(4, dtype=bool))


def numbered(words: str) -> int:
    """The number that a draw's words stand for, the same on all machines."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")


def test_pairs_on_rendered_photos(tmp_path: Path) -> None:
    index = open_dataset("pascal", make_voc(tmp_path, class_ids=(6, 7, 8), per_class=4, mixed=0))
    episodes = evaluation_episodes(index, (6, 7, 8), shots=1, seed=0, episodes=9, min_area=500)
    for position, episode in enumerate(episodes):
        other = absent_query(index, episode.class_id, 0, position)
        assert episode.class_id not in index.records[other].areas
        assert other == absent_query(index, episode.class_id, 0, position)
        shown = {class_id for record in index.records for class_id in record.areas} - {episode.class_id}
        drawn = sorted(shown)[numbered(f"absent:0:{position}:class") % len(shown)]
        images = [
            number
            for number, record in enumerate(index.records)
            if drawn in record.areas and episode.class_id not in record.areas
        ]
        assert other == images[numbered(f"absent:0:{position}:image") % len(images)]
    model = build_model(kind="prototype", backbone="efficientnet_lite0", stride=16).eval()
    statistics, present = presence_pairs(model, index, episodes, 97, seed=0)
    assert present.sum() == len(present) / 2 == 9
    assert ((statistics >= 0) & (statistics <= 1)).all()
    assert auroc(statistics, present) > 0.5  # objects of one class share colour and shape here


def test_a_hard_negative_is_the_photo_that_the_prototype_takes_most_for_the_class(tmp_path: Path) -> None:
    index = open_dataset("pascal", make_voc(tmp_path, class_ids=(6, 7, 8), per_class=4, mixed=0))
    episodes = evaluation_episodes(index, (6, 7, 8), shots=2, seed=0, episodes=4, min_area=500)
    model = build_model(kind="prototype", backbone="efficientnet_lite0", stride=16).eval()
    hard = hard_statistics(model, index, episodes, 97, seed=5)
    for position, episode in enumerate(episodes):
        found = []
        for number in range(HARD_OF):
            query = absent_query(index, episode.class_id, 5, position * HARD_OF + number)
            arrays = load_episode(index, replace(episode, query=query), 97)
            with torch.inference_mode():
                context = model.encode_support(*(torch.from_numpy(arrays[f"support_{part}"])[None] for part in PARTS))
                logits = model.decode(model.encode_query(torch.from_numpy(arrays["query_images"])[None]), context)
            difference = torch.nn.functional.interpolate(logits, (97, 97), mode="bilinear", align_corners=True).numpy()
            difference = (difference[0, 1] - difference[0, 0])[arrays["query_valid"]]
            # The maximum of a bilinear map is that of its grid, which no photo here is too flat for.
            found.append((difference.max(), presence_statistic(1 / (1 + np.exp(-difference)))))
        assert hard[position] == pytest.approx(max(found)[1], abs=1e-5)
    # Photos that are taken for the class are harder to tell from it than any photo.
    statistics, present = presence_pairs(model, index, episodes, 97, seed=5)
    mixed = against_hard(statistics, present, hard)
    assert (mixed[present] == statistics[present]).all()
    assert (mixed[~present] == hard).all()


def test_models_over_one_backbone_meet_the_same_hard_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_dataset("pascal", make_voc(tmp_path, class_ids=(6, 7, 8), per_class=4, mixed=0))
    episodes = evaluation_episodes(index, (6, 7, 8), shots=1, seed=0, episodes=3, min_area=500)
    asked: list[int] = []
    monkeypatch.setattr(presence, "_statistics", lambda _m, _i, _e, queries, _s: asked.extend(queries) or [0.0])
    for head in (0, 1):
        torch.manual_seed(head)
        model = build_model(backbone="efficientnet_lite0", stride=16, low=[3], mid=[3, 5], high=[6]).eval()
        hard_statistics(model, index, episodes, 97, seed=5)
    assert asked[:3] == asked[3:]


def test_bins_by_hand_and_their_distance_is_the_calibration_error() -> None:
    sure = np.array([0.05, 0.1, 0.15, 0.95, 1.0])
    present = np.array([False, True, False, True, True])
    bins = reliability_bins(sure, present)
    assert [each["examples"] for each in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[1]["confidence"], bins[1]["share"]) == pytest.approx((0.125, 0.5))
    assert (bins[9]["confidence"], bins[9]["share"]) == pytest.approx((0.975, 1.0))
    assert (bins[0]["low"], bins[9]["high"]) == (0.0, 1.0)
    gap = sum(each["examples"] * abs(each["confidence"] - each["share"]) for each in bins) / 5
    assert gap == pytest.approx(expected_calibration_error(sure, present))


def test_presence_of_a_calibrated_model_and_of_one_without(tmp_path: Path) -> None:
    index = open_dataset("pascal", make_voc(tmp_path, class_ids=(6, 7, 8), per_class=4, mixed=0))
    model = build_model(kind="prototype", backbone="efficientnet_lite0", stride=16).eval()
    config = Config(data=DataConfig(fold=1, image_size=97, min_area=500), eval=EvalConfig(seeds=(3,), episodes=4))
    assert judged_presence(model, index, config, 4) == {"pairs": 0}
    model.metadata = {"calibration": {"a": 4.0, "b": -2.0}}
    told = judged_presence(model, index, config, 4)
    assert (told["pairs"], sum(each["examples"] for each in told["bins"])) == (4, 8)
    assert sum(each["examples"] * each["share"] for each in told["bins"]) == pytest.approx(4)
    assert 0 <= told["hard"]["auroc"] <= 1
    assert told["hard"]["negatives"].startswith(f"of {HARD_OF} ")
