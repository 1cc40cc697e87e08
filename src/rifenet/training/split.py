"""Splits a dataset for training: base classes, a held-out slice for selection, and each rank's share of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import lightning_fabric
from torch.utils.data import DataLoader, Dataset

from rifenet.config import Config
from rifenet.data.episodes import TrainingEpisodes
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, EpisodePool, split_holdout
from rifenet.models import RiFeNet
from rifenet.training.features import CachedEpisodes, FeatureCache


@dataclasses.dataclass
class Split:
    """The base images of a fold: those to train on, and the held-out slice that selects the checkpoint."""

    pool: EpisodePool
    heldout: ImageIndex
    heldout_episodes: list[Episode]
    heldout_classes: tuple[int, ...]
    notes: list[str]
    """Lines on the data for the user: classes trained on or left out, classes that borrow unlabeled images."""


def base_split(config: Config, index: ImageIndex) -> Split:
    """Splits a dataset for training on the base classes of `config.data.fold` (method.md 12, rows 9 and 11)."""
    data = config.data
    held_back, skipped = index.held_back(data.fold), {index.class_id(name) for name in data.skip_classes}
    base = [class_id for class_id in index.base_classes(data.fold) if class_id not in skipped]
    if not base:
        raise ValueError(
            f"Expected base classes to train on, but fold {data.fold} of {data.dataset} tests every class. Train on"
            " another dataset, and score the model on this one."
        )
    images = index.without_classes(held_back) if data.exclude_novel else index
    training, heldout = split_holdout(images, data.holdout, _data_seed(config))
    pool = EpisodePool(
        training,
        base,
        shots=data.shots,
        least_shots=1 if config.train.mixed_shots else None,
        unlabeled=config.train.unlabeled,
        min_area=data.min_area,
        unlabeled_source=data.unlabeled_source,
        sampling=data.sampling,
    )
    episodes: list[Episode] = []
    heldout_classes: tuple[int, ...] = ()
    if data.holdout:
        # Draw classes by the square root of their image count: in list order, a frequent class fills most episodes.
        shots = 1 if config.train.mixed_shots else data.shots
        drawn = EpisodePool(heldout, base, shots=shots, min_area=data.min_area, sampling="root")
        heldout_classes = drawn.classes
        episodes = [drawn.episode(config.train.seed, number) for number in range(config.train.validate_episodes)]
    other_names = held_back[len(index.novel_classes(data.fold)) :]
    return Split(pool, heldout, episodes, heldout_classes, _notes(pool, len(heldout), heldout_classes, other_names))


def _notes(
    pool: EpisodePool, heldout: int, heldout_classes: tuple[int, ...], other_names: tuple[int, ...]
) -> list[str]:
    def names(classes: Sequence[int]) -> str:
        return ", ".join(pool.index.class_name(class_id) for class_id in classes)

    notes = [f"training on {len(pool.index)} images of the base classes {names(pool.classes)}"]
    if heldout:
        notes.append(f"selecting the checkpoint on {heldout} more images, of {names(heldout_classes)}")
    if other_names:
        notes.append(f"not trained on, because their things may be of a novel class: {names(other_names)}")
    if pool.left_out:
        notes.append("left out: " + "; ".join(f"{name} ({reason})" for name, reason in pool.left_out))
    if pool.unlabeled and pool.borrowing:
        notes.append(f"unlabeled images from the whole base set for: {', '.join(pool.borrowing)}")
    return notes


def training_episodes(
    config: Config, split: Split, model: RiFeNet, fabric: lightning_fabric.Fabric
) -> Dataset[dict[str, Any]]:
    """All training episodes of the run, from images or, with `data.cache_dir`, from cached frozen features."""
    total = config.train.steps * episodes_a_step(config)
    if not config.data.cache_dir:
        return TrainingEpisodes(split.pool, config.data, seed=config.train.seed, episodes=total)
    strong = config.train.unlabeled > 0 or config.data.cache_strong
    if strong and config.data.worlds:
        raise ValueError(
            f"Expected data.worlds to be 0 with the unlabeled branch, but got {config.data.worlds}: masks decide how "
            "views in other worlds are cropped. Set train.unlabeled to 0 and data.cache_strong to false, or data.worlds"
            " to 0."
        )
    with fabric.rank_zero_first(), fabric.autocast():  # in the precision that the backbone has without a cache
        cache = FeatureCache.build(
            model, split.pool.index, config.data, strong=strong, seed=_data_seed(config), device=fabric.device
        )
    return CachedEpisodes(split.pool, cache, config.train.seed, total, config.data)


def episodes_a_step(config: Config) -> int:
    """The batch size of an effective config, over all ranks together."""
    size = config.train.batch_size
    assert not isinstance(size, tuple), "`config.effective` takes the value of the fold"
    return size


def with_steps(config: Config, images: int) -> Config:
    """An effective config whose `train.steps` is set: for a config with epochs over that many `EpisodePool.queried`."""
    if config.train.steps:
        return config
    steps = config.train.epochs * max(images // episodes_a_step(config), 1)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def _data_seed(config: Config) -> int:
    return config.train.seed if config.data.seed is None else config.data.seed


def step_batches(
    dataset: Dataset[dict[str, Any]], config: Config, fabric: lightning_fabric.Fabric, start: int, stop: int
) -> DataLoader[dict[str, Any]]:
    """Batches of this rank for steps start..stop-1; item j is episode step * batch_size + rank * share + j."""
    total = episodes_a_step(config)
    share = total // fabric.world_size
    first = fabric.global_rank * share
    batches = [list(range(step * total + first, step * total + first + share)) for step in range(start, stop)]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=config.data.workers,
        pin_memory=fabric.device.type == "cuda",
        persistent_workers=False,
    )
