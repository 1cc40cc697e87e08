"""Episodes as arrays: right pixels, right labels, and the same ones for any loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rifenet.config import DataConfig
from rifenet.data.episodes import (
    Episode,
    EpisodePool,
    EvaluationEpisodes,
    TrainingEpisodes,
    Views,
    as_batches,
    evaluation_episodes,
    load_episode,
    load_support,
)
from rifenet.data.index import ImageIndex, read_mask
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import resize_and_pad, resize_mask
from rifenet.formats.pictures import binary_mask, load_image

SIZE = 64


@pytest.fixture(scope="module")
def index(voc_root: Path) -> ImageIndex:
    return open_dataset("pascal", voc_root, progress=False)


def training(index: ImageIndex, *, shots: int = 2, unlabeled: int = 2, episodes: int = 12, start: int = 0, **config):
    pool = EpisodePool(index, (1, 2, 6, 7, 8), shots=shots, unlabeled=unlabeled, min_area=500)
    return TrainingEpisodes(pool, DataConfig(image_size=SIZE, **config), seed=4, episodes=episodes, start=start)


def test_a_training_item(index: ImageIndex) -> None:
    item = training(index)[5]
    shapes = {name: (value.shape, value.dtype) for name, value in item.items() if isinstance(value, np.ndarray)}
    assert shapes == {
        "query_images": ((3, SIZE, SIZE), np.float32),
        "query_masks": ((SIZE, SIZE), np.uint8),
        "query_valid": ((SIZE, SIZE), bool),
        "support_images": ((2, 3, SIZE, SIZE), np.float32),
        "support_masks": ((2, SIZE, SIZE), np.uint8),
        "support_valid": ((2, SIZE, SIZE), bool),
        "unlabeled_weak": ((2, 3, SIZE, SIZE), np.float32),
        "unlabeled_strong": ((2, 3, SIZE, SIZE), np.float32),
        "unlabeled_valid": ((2, SIZE, SIZE), bool),
        "crossed_masks": ((SIZE, SIZE), np.uint8),
    }
    assert item.keys() - shapes.keys() == {"class_id", "episode"}
    assert item["episode"] == 5
    for name in ("query_images", "support_images", "unlabeled_weak", "unlabeled_strong"):
        assert np.isfinite(item[name]).all()
        assert 0 <= item[name].min() < item[name].max() <= 1


def test_targets_are_binary_and_show_the_class(index: ImageIndex) -> None:
    for item in (training(index)[i] for i in range(12)):
        for masks, valid in (
            (item["query_masks"], item["query_valid"]),
            *zip(item["support_masks"], item["support_valid"], strict=True),
        ):
            assert set(np.unique(masks)) <= {0, 1, 255}
            assert (masks == 1).any()
            assert (masks[~valid] == 255).all()


def test_the_crossed_mask_is_of_the_class_of_the_episode_that_follows(index: ImageIndex) -> None:
    dataset = training(index)
    kinds = set()
    for i in range(12):
        item, following = dataset[i], dataset.pool.episode(dataset.seed, i + 1).class_id
        same = load_episode(
            index,
            dataset.pool.episode(dataset.seed, i),
            SIZE,
            views=Views(dataset.config, (dataset.seed, i)),
            other_class=following,
        )
        np.testing.assert_array_equal(item["crossed_masks"], same["crossed_masks"])
        np.testing.assert_array_equal(item["crossed_masks"] == 255, item["query_masks"] == 255)
        if following == item["class_id"]:
            np.testing.assert_array_equal(item["crossed_masks"], item["query_masks"])
        else:
            assert not ((item["crossed_masks"] == 1) & (item["query_masks"] == 1)).any()
        kinds.add(following == item["class_id"])
    assert kinds == {True, False}


def test_binary_mask() -> None:
    mask = np.array([[0, 3, 4, 255]], np.uint8)
    assert binary_mask(mask, 3).tolist() == [[0, 1, 0, 255]]
    assert binary_mask(mask, 9).tolist() == [[0, 0, 0, 255]]
    assert mask.tolist() == [[0, 3, 4, 255]]


def test_weak_and_strong_views_have_one_geometry(index: ImageIndex) -> None:
    """Padding agrees exactly, and brightness edges are where they were: the views differ in colour only."""
    for item in (training(index, blur=0.0)[i] for i in range(6)):
        for weak, strong, valid in zip(
            item["unlabeled_weak"], item["unlabeled_strong"], item["unlabeled_valid"], strict=True
        ):
            np.testing.assert_array_equal(weak[:, ~valid], strong[:, ~valid])
            assert not np.array_equal(weak, strong)
            edges = [np.abs(np.diff(view.mean(0), axis=1))[:, :-1][valid[:, 2:]] for view in (weak, strong)]
            assert np.corrcoef(edges)[0, 1] > 0.3


def test_without_unlabeled_images_there_are_no_such_keys(index: ImageIndex) -> None:
    assert not [name for name in training(index, unlabeled=0)[0] if name.startswith("unlabeled")]


def assert_equal(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(two[name]), err_msg=name)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 5), (2, 3), (4, 1)])
def test_workers_and_batches_change_nothing(index: ImageIndex, workers: int, batch_size: int) -> None:
    dataset = training(index, episodes=10)
    torch.manual_seed(workers)
    np.random.seed(batch_size)
    seen = []
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
        seen += [{name: values[i] for name, values in batch.items()} for i in range(len(batch["episode"]))]
    assert len(seen) == len(dataset)
    for i, item in enumerate(seen):
        assert_equal(item, dataset[i])


def test_a_run_resumes_anywhere(index: ImageIndex) -> None:
    assert_equal(training(index, start=7)[2], training(index)[9])


def test_other_seeds_are_other_views_of_the_same_images(index: ImageIndex) -> None:
    episode = Episode(1, *index.images_of(1)[:1], tuple(index.images_of(1)[1:2]))
    config = DataConfig(image_size=SIZE)
    first, again, other = (
        load_episode(index, episode, SIZE, views=Views(config, key)) for key in ((0, 1), (0, 1), (0, 2))
    )
    assert_equal(first, again)
    assert not np.array_equal(first["query_images"], other["query_images"])


def test_items_end(index: ImageIndex) -> None:
    assert len(list(training(index, episodes=3))) == 3


def test_an_evaluation_item_is_the_plain_picture(index: ImageIndex) -> None:
    episodes = evaluation_episodes(index, (6, 7, 8), shots=2, seed=0, episodes=4, min_area=500)
    dataset = EvaluationEpisodes(index, episodes, SIZE)
    assert len(dataset) == 4
    for i, episode in enumerate(episodes):
        item = dataset[i]
        for image, pixels, mask, valid in (
            (episode.query, item["query_images"], item["query_masks"], item["query_valid"]),
            *zip(episode.supports, item["support_images"], item["support_masks"], item["support_valid"], strict=True),
        ):
            record = index.records[image]
            expected, real, placement = resize_and_pad(load_image(record.image_path), SIZE)
            np.testing.assert_array_equal(pixels, expected)
            np.testing.assert_array_equal(valid, real)
            labels = resize_mask(read_mask(record.mask_path), placement)
            np.testing.assert_array_equal(mask, binary_mask(labels, episode.class_id))
        query = index.records[episode.query]
        assert item["placement"] == resize_and_pad(load_image(query.image_path), SIZE)[2]
        original = read_mask(query.mask_path)
        np.testing.assert_array_equal(item["query_mask_original"], binary_mask(original, episode.class_id))
        assert item["episode"] == i
        assert item["class_id"] == episode.class_id


def test_evaluation_batches_keep_original_sizes(index: ImageIndex) -> None:
    episodes = evaluation_episodes(index, (1, 2, 6), shots=1, seed=0, episodes=6, min_area=500)
    dataset = EvaluationEpisodes(index, episodes, SIZE)
    (batches,) = DataLoader(dataset, batch_size=6, collate_fn=as_batches)
    assert [batch["query_images"].shape for batch in batches] == [(1, 3, SIZE, SIZE)] * 6
    assert [batch["support_masks"].shape for batch in batches] == [(1, 1, SIZE, SIZE)] * 6
    assert [batch["class_id"] for batch in batches] == [episode.class_id for episode in episodes]
    shapes = [batch["query_mask_original"].shape for batch in batches]
    assert shapes == [(index.records[e.query].height, index.records[e.query].width) for e in episodes]
    assert len(set(shapes)) > 1
    assert [batch["placement"].height for batch in batches] == [height for height, _ in shapes]


def test_supports_load_one_by_one_as_with_their_episode(index: ImageIndex) -> None:
    (episode,) = evaluation_episodes(index, (6, 7, 8), shots=2, seed=0, episodes=1, min_area=500)
    for squashed in (False, True):
        whole = EvaluationEpisodes(index, [episode], SIZE, squashed)[0]
        alone = EvaluationEpisodes(index, [episode], SIZE, squashed, supports=False)[0]
        assert whole.keys() - alone.keys() == {"support_images", "support_masks", "support_valid"}
        np.testing.assert_array_equal(alone["query_images"], whole["query_images"])
        for k, image in enumerate(episode.supports):
            one = load_support(index, episode.class_id, image, SIZE, squashed=squashed)
            for name, values in one.items():
                np.testing.assert_array_equal(values, whole[name][k : k + 1])


def test_no_novel_pixel_reaches_a_training_target(index: ImageIndex) -> None:
    """With `exclude_novel` no training image shows one; without, novel pixels count as background, as published."""
    novel, base = (6, 7, 8), (1, 2, 11, 12)
    excluded = EpisodePool(index.without_classes(novel), base, shots=1, unlabeled=1, min_area=500)
    images = set()
    for i in range(300):
        episode = excluded.episode(0, i)
        images |= {episode.query, *episode.supports, *episode.unlabeled}
    for image in images:
        assert not np.isin(read_mask(excluded.index.records[image].mask_path), novel).any()

    kept = EpisodePool(index, base, shots=1, min_area=500)
    mixed = [e for e in (kept.episode(0, i) for i in range(300)) if index.records[e.query].areas.keys() & set(novel)]
    assert mixed
    for episode in mixed[:10]:
        item = load_episode(index, episode, SIZE)
        labels = read_mask(index.records[episode.query].mask_path)
        assert (item["query_mask_original"][np.isin(labels, novel)] == 0).all()
        assert (item["query_mask_original"][labels == episode.class_id] == 1).all()


def test_a_file_that_breaks_after_indexing_is_named(custom_root: Path) -> None:
    index = open_dataset("custom", custom_root, progress=False)
    pool = EpisodePool(index, (1,), shots=1, min_area=1)
    query = index.records[pool.episode(0, 0).query]
    dataset = TrainingEpisodes(pool, DataConfig(image_size=SIZE), seed=0, episodes=1)
    whole = query.image_path.read_bytes()
    query.image_path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=query.image_path.name):
        dataset[0]
    query.image_path.unlink()
    with pytest.raises(FileNotFoundError, match=query.image_path.name):
        dataset[0]
    query.image_path.write_bytes(whole)
    query.mask_path.write_bytes(index.records[2].mask_path.read_bytes())
    with pytest.raises(ValueError, match=f"{query.image_path.name}.*size changed"):
        dataset[0]
