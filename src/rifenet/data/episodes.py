"""Loads episodes as arrays for the network, in training and in evaluation.

Masks become binary here: the episode's class 1, every other class 0, ignored pixels and padding 255. With
`exclude_novel` off, a novel class in a training image is therefore background, as in published code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from rifenet.config import DataConfig
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import (
    Episode,
    EpisodePool,
    episodes_from_json,
    episodes_to_json,
    evaluation_episodes,
    split_holdout,
)
from rifenet.data.transforms import Placement, resize_and_pad, resize_mask, squash, to_float
from rifenet.data.views import strong_view, view_rng, weak_view
from rifenet.formats.pictures import binary_mask

__all__ = [
    "Episode",
    "EpisodePool",
    "EvaluationEpisodes",
    "TrainingEpisodes",
    "Views",
    "as_batches",
    "episodes_from_json",
    "episodes_to_json",
    "evaluation_episodes",
    "load_episode",
    "load_pair",
    "load_support",
    "split_holdout",
]


def load_pair(index: ImageIndex, image: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photo [H, W, 3] and index mask [H, W] of one record; `ImageRecord.values` gives the mask values of a class.

    Raises ValueError or FileNotFoundError naming the file.
    """
    record = index.records[image]
    photo, mask = record.image(), record.mask()
    if photo.shape[:2] != (record.height, record.width) or mask.shape != (record.height, record.width):
        raise ValueError(
            f"Expected {record.image_path} and its mask as they were indexed, but a size changed. Run the command"
            " again."
        )
    return photo, mask


@dataclass(frozen=True)
class Views:
    """Random views of the images of one training episode; `key` is their seed."""

    config: DataConfig
    key: tuple[int, ...]

    def weak(
        self, photo: NDArray[np.uint8], mask: NDArray[np.uint8] | None, image: int, keep: Collection[int] = ()
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """Weak view of the episode's `image`-th photo; returns and `keep` as for `weak_view`."""
        config = self.config
        return weak_view(
            photo,
            mask,
            view_rng(*self.key, image, 0),
            size=config.image_size,
            scale=(config.scale_min, config.scale_max),
            rotate=config.rotate,
            blur=config.blur,
            flip=config.flip,
            keep=keep,
        )


def load_episode(
    index: ImageIndex,
    episode: Episode,
    size: int,
    *,
    views: Views | None = None,
    squashed: bool = False,
    other_class: int | None = None,
) -> dict[str, Any]:
    """The arrays of one episode for the network (S = size).

    Always: class_id; query_images float32 [3,S,S] in [0,1], query_masks uint8 [S,S] (0, 1, 255) and query_valid bool
    [S,S]; support_images [K,3,S,S], support_masks [K,S,S] and support_valid [K,S,S].

    In evaluation (no `views`), images are resized and padded, or with `squashed` stretched to the square. This adds
    placement and query_mask_original, the binary mask at its original size. An episode with unlabeled images also has
    unlabeled_images [U,3,S,S] and unlabeled_valid [U,S,S]. One without supports has no support arrays.

    In training (with `views`), images are random views. An episode with unlabeled images also has unlabeled_weak and
    unlabeled_strong [U,3,S,S], two views with the same geometry, and unlabeled_valid [U,S,S]. `other_class` adds
    crossed_masks [S,S], the query's mask of that class.
    """
    loaded = []
    arrays: dict[str, Any] = {"class_id": episode.class_id}
    for position, image in enumerate((episode.query, *episode.supports)):
        photo, mask = load_pair(index, image)
        values = index.records[image].values(episode.class_id)
        if views is None:
            pixels, labels, valid, placement = _placed(photo, mask, size, squashed)
            if position == 0:
                arrays |= {"placement": placement, "query_mask_original": binary_mask(mask, *values)}
        else:
            view, labels, valid = views.weak(photo, mask, position, values)
            pixels = to_float(view)
            if position == 0 and other_class is not None:
                arrays["crossed_masks"] = index.records[image].binary(labels, other_class)
        loaded.append((pixels, binary_mask(labels, *values), valid))
    arrays["query_images"], arrays["query_masks"], arrays["query_valid"] = loaded[0]
    if episode.supports:
        for name, parts in zip(("images", "masks", "valid"), zip(*loaded[1:], strict=True), strict=True):
            arrays[f"support_{name}"] = np.stack(parts)
    if episode.unlabeled:
        arrays |= _load_plain(index, episode, size) if views is None else _load_unlabeled(index, episode, views)
    return arrays


def load_support(
    index: ImageIndex, class_id: int, image: int, size: int, *, squashed: bool = False
) -> dict[str, NDArray[Any]]:
    """The support arrays of `load_episode`, in evaluation, for one image: support_images [1,3,S,S] and so on."""
    photo, mask = load_pair(index, image)
    pixels, labels, valid, _ = _placed(photo, mask, size, squashed)
    labels = binary_mask(labels, *index.records[image].values(class_id))
    return {"support_images": pixels[None], "support_masks": labels[None], "support_valid": valid[None]}


def _placed(
    photo: NDArray[np.uint8], mask: NDArray[np.uint8], size: int, squashed: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_], Placement]:
    pixels, valid, placement = (squash if squashed else resize_and_pad)(photo, size)
    return pixels, resize_mask(mask, placement), valid, placement


def _load_plain(index: ImageIndex, episode: Episode, size: int) -> dict[str, NDArray[Any]]:
    """The unlabeled images, resized and padded; their masks are not read."""
    photos = (index.records[image].image() for image in episode.unlabeled)
    pixels, valid, _ = zip(*(resize_and_pad(photo, size) for photo in photos), strict=True)
    return {"unlabeled_images": np.stack(pixels), "unlabeled_valid": np.stack(valid)}


def _load_unlabeled(index: ImageIndex, episode: Episode, views: Views) -> dict[str, NDArray[Any]]:
    weak, strong, valid = [], [], []
    for position, image in enumerate(episode.unlabeled, start=1 + len(episode.supports)):
        view, _, real = views.weak(index.records[image].image(), None, position)
        weak.append(to_float(view))
        strong.append(to_float(strong_view(view, view_rng(*views.key, position, 1), real)))
        valid.append(real)
    return {"unlabeled_weak": np.stack(weak), "unlabeled_strong": np.stack(strong), "unlabeled_valid": np.stack(valid)}


class TrainingEpisodes(Dataset[dict[str, Any]]):
    """Item j is training episode `start + j`. (seed, start + j) seeds its views, whichever worker loads it.

    Its crossed_masks show the class of the next episode.
    """

    def __init__(self, pool: EpisodePool, config: DataConfig, *, seed: int, episodes: int, start: int = 0) -> None:
        self.pool, self.config, self.seed, self.start, self.episodes = pool, config, seed, start, episodes

    def __len__(self) -> int:
        return self.episodes

    def __getitem__(self, j: int) -> dict[str, Any]:
        if not 0 <= j < len(self):
            raise IndexError(j)
        i = self.start + j
        views = Views(self.config, (self.seed, i))
        episode, following = (self.pool.episode(self.seed, number) for number in (i, i + 1))
        size = self.config.image_size
        arrays = load_episode(self.pool.index, episode, size, views=views, other_class=following.class_id)
        return arrays | {"episode": i}


class EvaluationEpisodes(Dataset[dict[str, Any]]):
    """Item i is episode i of a list, resized and padded or squashed; `as_batches` makes tensors of it.

    Without `supports`, items have no support arrays, which `load_support` loads one by one.
    """

    def __init__(
        self, index: ImageIndex, episodes: Sequence[Episode], size: int, squashed: bool = False, supports: bool = True
    ) -> None:
        self.index, self.size, self.squashed = index, size, squashed
        self.episodes = episodes if supports else [replace(episode, supports=()) for episode in episodes]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return load_episode(self.index, self.episodes[i], self.size, squashed=self.squashed) | {"episode": i}


def as_batches(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each episode as a batch of 1: its arrays become tensors with a batch axis.

    Only query_mask_original, whose size is the photo's, stays an array. Of a loader, this makes lists of such batches.
    """
    return [
        {
            key: torch.from_numpy(value)[None]
            if isinstance(value, np.ndarray) and key != "query_mask_original"
            else value
            for key, value in item.items()
        }
        for item in items
    ]
