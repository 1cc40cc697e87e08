"""Cache of frozen backbone features on disk: the backbone runs once for each view instead of at each step.

Each image has V views: the plain one, its mirror image, then weak views (method.md 11), then with `data.worlds` one
view in each world. With the unlabeled branch on, each view has a strong partner, and no mask decides how a view is
cropped, since any image may serve as an unlabeled one.

The folder's name is a hash of everything that its content depends on, so a cache is never stale. The folder is filled
image by image, so a killed build continues where it stopped.

Arrays: features float16 [images, V, 1 or 2, L] (the outputs of the backbone's `stages`, flattened and joined) and
labels uint8 [images, V, S, S].
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rifenet import IGNORE
from rifenet.config import DataConfig
from rifenet.data.episodes import load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import EpisodePool
from rifenet.data.transforms import resize_and_pad, resize_mask, to_float
from rifenet.data.views import strong_view, view_rng, weak_view
from rifenet.data.worlds import WORLDS, world_view
from rifenet.drawing.progress import TaskProgress
from rifenet.files import write_text
from rifenet.models import Features, RiFeNet
from rifenet.models.files.checkpoint import backbone_hash

FORMAT = 2
BACKBONE_FIELDS = (
    "backbone",
    "stride",
    "deep_stages",
    "stem",
    "stride_on",
    "width",
    "normalization",
    "low",
    "mid",
    "high",
)
PADDING = 254  # marks padding in cached labels; 255 marks pixels of the photo to ignore


class PackedFeatures(NamedTuple):
    """The outputs of the backbone's `stages` for images, flattened and joined; an item has them instead of images.

    A loader collates and moves them as it does images.
    """

    values: Any
    """[...,L] float16: an array in an item, a tensor in a batch."""


class ViewDataset(Dataset[dict[str, NDArray[Any]]]):
    """Item i: all views of image i: `images` float32 [V,1 or 2,3,S,S] and `labels` uint8 [V,S,S]."""

    def __init__(self, index: ImageIndex, data: DataConfig, strong: bool, seed: int) -> None:
        self.index, self.data, self.strong, self.seed = index, data, strong, seed

    def __len__(self) -> int:
        return len(self.index.records)

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:
        image, mask = load_pair(self.index, number)
        views = [self._view(image, mask, number, view) for view in range(cached_views(self.data))]
        return {
            "images": np.stack([images for images, _ in views]),
            "labels": np.stack([labels for _, labels in views]),
        }

    def _view(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], number: int, view: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        record = self.index.records[number]
        shown = [value for class_id in record.areas for value in record.values(class_id)]
        rng = view_rng(self.seed, number, view)
        size = self.data.image_size
        if view < 2:
            plain, valid, placement = resize_and_pad(image, size)
            pixels = (plain * 255).round().astype(np.uint8).transpose(1, 2, 0)
            labels = resize_mask(mask, placement)
            if view == 1:  # the mirror image has its padding on the left
                pixels, labels = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
                valid = np.ascontiguousarray(valid[:, ::-1])
        elif view >= self.data.cache_views:
            world = WORLDS[view - self.data.cache_views]
            pixels, labels, valid = world_view(image, mask, rng, world=world, size=size, keep=shown)
        else:
            pixels, labels, valid = weak_view(
                image,
                mask,
                rng,
                size=size,
                scale=(self.data.scale_min, self.data.scale_max),
                rotate=self.data.rotate,
                blur=self.data.blur,
                flip=self.data.flip,
                keep=() if self.strong else shown,
            )
        partners = [pixels, strong_view(pixels, rng, valid)] if self.strong else [pixels]
        return np.stack([to_float(partner) for partner in partners]), np.where(valid, labels, PADDING).astype(np.uint8)


def cached_views(data: DataConfig) -> int:
    """V: the cached views of an image, everyday views first."""
    return data.cache_views + (len(WORLDS) if data.worlds else 0)


class FeatureCache:
    """The views' features of one image index, as memory-mapped arrays."""

    def __init__(self, folder: Path, features_shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> None:
        self.folder, self.shapes = folder, (features_shape, labels_shape)
        self.features: NDArray[np.float16] = np.memmap(folder / "features.f16", np.float16, "r", shape=features_shape)
        self.labels: NDArray[np.uint8] = np.memmap(folder / "labels.u8", np.uint8, "r", shape=labels_shape)

    def __reduce__(self) -> tuple[Any, ...]:
        # Loader processes open the files themselves: a pickled memory map carries all its content.
        return FeatureCache, (self.folder, *self.shapes)

    @classmethod
    def build(
        cls, model: RiFeNet, index: ImageIndex, data: DataConfig, *, strong: bool, seed: int, device: torch.device
    ) -> FeatureCache:
        """Computes the features that the cache below `data.cache_dir` lacks, with a progress bar, and opens the cache.

        Raises ValueError where a class has the value 254 in masks, which marks padding in cached labels.
        """
        _check_labels(index)
        backbone = model.backbone
        grid = backbone.grid(data.image_size, data.image_size)
        content = {
            "format": FORMAT,
            "backbone": [
                backbone_hash(model),
                *(getattr(model.config, name) for name in BACKBONE_FIELDS),
                *(grid, backbone.levels.fine),
            ],
            "images": [index.hash, _files_digest(index)],
            "views": [data.cache_views, strong, seed, data.image_size],
            "augmentation": [data.scale_min, data.scale_max, data.rotate, data.blur, data.flip],
        }
        if strong:
            content["cropped"] = "without masks"
        if data.worlds:
            content["worlds"] = WORLDS
        if torch.is_autocast_enabled(device.type):
            content["computed_in"] = str(torch.get_autocast_dtype(device.type))
        name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        folder = Path(data.cache_dir) / name
        folder.mkdir(parents=True, exist_ok=True)
        count, views, kinds, size = len(index.records), cached_views(data), 1 + strong, data.image_size
        done_file = folder / "done.json"
        with FileLock(folder / "lock"):  # two runs that start together must not fill one cache at once
            progress = json.loads(done_file.read_text()) if done_file.is_file() else {"done": 0}
            done = progress["done"]
            length = progress.get("length") or _packed_length(model, size, device)
            shapes = (count, views, kinds, length), (count, views, size, size)
            features = _map(folder / "features.f16", np.float16, shapes[0], done)
            labels = _map(folder / "labels.u8", np.uint8, shapes[1], done)
            dataset = ViewDataset(index, data, strong, seed)
            for number, views_of_image in _remaining(dataset, done, data.workers):
                images = views_of_image["images"].to(device)
                stages = [stage.flatten(1) for stage in backbone.stages(images.flatten(0, 1))]
                packed = torch.cat(stages, 1).unflatten(0, (views, kinds))
                features[number] = packed.cpu().numpy().astype(np.float16)
                labels[number] = views_of_image["labels"].numpy()
                if (number + 1) % 50 == 0 or number + 1 == count:
                    features.flush()
                    labels.flush()
                    write_text(done_file, json.dumps({"done": number + 1, "length": length, **content}))
        return cls(folder, *shapes)


class CachedEpisodes(Dataset[dict[str, Any]]):
    """Training episodes from a cache.

    Item i has the keys of `TrainingEpisodes`, with `PackedFeatures` in place of images. (seed, i) draws a view of each
    image; queries and supports only have views that show their class (`_showing`). In a share `data.worlds` of the
    episodes, all images are shown in one world. In a share `data.own_views` of the others, the K supports come from as
    few images as possible: all everyday views of the first support image in random order, then those of the second,
    and so on.
    """

    def __init__(self, pool: EpisodePool, cache: FeatureCache, seed: int, length: int, data: DataConfig) -> None:
        self.pool, self.cache, self.seed, self.length, self.data = pool, cache, seed, length, data

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < self.length:
            raise IndexError(number)
        episode = self.pool.episode(self.seed, number)
        images = (episode.query, *episode.supports, *episode.unlabeled)
        everyday = self.data.cache_views
        drawn = view_rng(self.seed, number, 1).integers(everyday, size=len(images))
        labeled = 1 + len(episode.supports)
        showing = [self._showing(image, episode.class_id) for image in images[:labeled]]
        showing += [range(everyday)] * len(episode.unlabeled)
        views = [
            (image, good[view % len(good)]) for image, view, good in zip(images, drawn.tolist(), showing, strict=True)
        ]
        supports, unlabeled = views[1:labeled], views[labeled:]
        rng = view_rng(self.seed, number, 2)
        if rng.random() < self.data.own_views:
            good = dict(zip(episode.supports, showing[1:labeled], strict=True))
            own = [(image, int(view)) for image in episode.supports for view in rng.permutation(good[image])]
            supports = (own * len(supports))[: len(supports)]
        rng = view_rng(self.seed, number, 3)
        if rng.random() < self.data.worlds:
            world = everyday + int(rng.integers(len(WORLDS)))
            views = [(image, world) for image in images]
            supports = views[1:labeled]
        shown = [views[0], *supports]
        masks, valid = zip(*(self._mask(view, episode.class_id) for view in shown), strict=True)
        item = {
            "query_images": PackedFeatures(np.array(self.cache.features[views[0]][0])),
            "query_masks": masks[0],
            "query_valid": valid[0],
            "crossed_masks": self._mask(views[0], self.pool.episode(self.seed, number + 1).class_id)[0],
            "support_images": self._packed(supports, 0),
            "support_masks": np.stack(masks[1:]),
            "support_valid": np.stack(valid[1:]),
            "class_id": episode.class_id,
            "episode": number,
        }
        if unlabeled:
            item["unlabeled_weak"] = self._packed(unlabeled, 0)
            item["unlabeled_strong"] = self._packed(unlabeled, 1)
            item["unlabeled_valid"] = np.stack([self.cache.labels[view] != PADDING for view in unlabeled])
        return item

    def _showing(self, image: int, class_id: int) -> Sequence[int]:
        """The everyday views of an image that keep at least half of what the first, uncropped one shows of a class.

        All of them, unless masks did not decide how views are cropped; views of `data.scale_min` below 0.7 may then
        count as cropped, since half of the size is a quarter of the area.
        """
        everyday = self.data.cache_views
        if self.cache.features.shape[2] == 1:
            return range(everyday)
        values = self.pool.index.records[image].values(class_id)
        areas = np.count_nonzero(np.isin(self.cache.labels[image, :everyday], values), axis=(1, 2))
        return [int(view) for view in np.flatnonzero(2 * areas >= areas[0])]

    def _packed(self, views: Sequence[tuple[int, int]], kind: int) -> PackedFeatures:
        """Features of the plain (0) or strong (1) partner of each view."""
        return PackedFeatures(np.stack([self.cache.features[view][kind] for view in views]))

    def _mask(self, view: tuple[int, int], class_id: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        labels = np.asarray(self.cache.labels[view])
        valid = labels != PADDING
        labels = np.where(valid, labels, IGNORE).astype(np.uint8)
        return self.pool.index.records[view[0]].binary(labels, class_id), valid


def unpack(model: RiFeNet, packed: PackedFeatures, size: int) -> Features:
    """Converts features of square images of `size` pixels to float32 `Features`; keeps leading dimensions."""
    backbone, values = model.backbone, packed.values
    shapes = [(channels, *backbone.grid(size, size)) for channels in backbone.used_channels]
    if backbone.fine_channels:
        # The rest is the fine feature map, square like the image.
        left = values.shape[-1] - sum(map(math.prod, shapes))
        side = math.isqrt(left // backbone.fine_channels)
        shapes.append((backbone.fine_channels, side, side))
    parts = values.flatten(0, -2).float().split([math.prod(shape) for shape in shapes], dim=1)
    features = backbone.assemble([part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)])
    return Features(*(level.unflatten(0, values.shape[:-1]) for level in features))


def _check_labels(index: ImageIndex) -> None:
    for record in index.records:
        for class_id in record.areas:
            if PADDING in record.values(class_id):
                raise ValueError(
                    f"Expected at most {PADDING - 1} classes, but {record.name} shows {index.class_name(class_id)!r} "
                    f"by the value {PADDING}, which marks padding in the feature cache. Move a class without photos to "
                    "the end of the list, or leave data.cache_dir empty."
                )


def _packed_length(model: RiFeNet, size: int, device: torch.device) -> int:
    return sum(stage.numel() for stage in model.backbone.stages(torch.zeros(1, 3, size, size, device=device)))


def _map(path: Path, kind: type, shape: tuple[int, ...], done: int) -> Any:
    """A writable array of `shape`, new unless `done`. Raises OSError where the disk has no room for all of it."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    if not done:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                # A full disk raises an error here. With a sparse file, it would kill the process later.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    elif not path.is_file() or path.stat().st_size != size:
        raise ValueError(f"Expected {path} with {size} bytes, as its done.json says. Remove the folder {path.parent}.")
    return np.memmap(path, dtype=kind, mode="r+", shape=shape)


def _files_digest(index: ImageIndex) -> str:
    """Hash of size and modification time of each image and mask file."""
    stats = [path.stat() for record in index.records for path in (record.image_path, record.mask_path)]
    return hashlib.sha256(json.dumps([[stat.st_size, stat.st_mtime_ns] for stat in stats]).encode()).hexdigest()


def _remaining(dataset: ViewDataset, done: int, workers: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
    numbers = range(done, len(dataset))
    loader = DataLoader(dataset, batch_size=None, sampler=list(numbers), num_workers=workers)
    if not numbers:
        return iter(())
    return zip(numbers, _shown(loader, len(numbers)), strict=True)


def _shown(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Yields the items, and shows how many are done."""
    with TaskProgress("frozen features of photo", total) as progress:
        for item in items:
            yield item
            progress.advance()
