"""Real photos: RIFENET_VOC_MINI names a folder in VOC layout with cats, dogs, horses, sheep and cows."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from rifenet.config import DataConfig
from rifenet.data.episodes import EpisodePool, EvaluationEpisodes, TrainingEpisodes, evaluation_episodes
from rifenet.data.sources import open_dataset

pytestmark = pytest.mark.data


def test_the_whole_way_on_real_photos(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path))
    root = os.environ["RIFENET_VOC_MINI"]
    start = time.process_time()
    index = open_dataset("pascal", root, list_file="train.txt", progress=False)
    assert time.process_time() - start < 90 * len(index) / 12_000
    assert not index.bad_files
    assert open_dataset("pascal", root, list_file="train.txt", progress=False) == index
    novel = index.novel_classes(1)
    episodes = evaluation_episodes(index, (8, 10), shots=5, seed=0, episodes=1000)
    assert {index.class_name(episode.class_id) for episode in episodes} == {"cat", "cow"}
    item = EvaluationEpisodes(index, episodes, 473)[999]
    assert (item["query_masks"] == 1).any()
    assert (item["support_masks"] == 1).any(axis=(1, 2)).all()

    base = index.without_classes(novel)
    pool = EpisodePool(base, index.base_classes(1), shots=1, unlabeled=2)
    training = TrainingEpisodes(pool, DataConfig(), seed=0, episodes=20)
    for i in range(20):
        item = training[i]
        assert (item["query_masks"] == 1).any()
        assert np.isfinite(item["unlabeled_strong"]).all()
