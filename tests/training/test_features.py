"""The cache of frozen features: what comes out is what the backbone gives, and it goes on where a build was stopped."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rendered import make_coco, make_voc
from tiny_disk import tiny_disk
from torch.utils.data import DataLoader

from rifenet.config import DataConfig
from rifenet.data.episodes import load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import resize_and_pad
from rifenet.data.worlds import WORLDS
from rifenet.formats.pictures import binary_mask
from rifenet.models import RiFeNet, build_model
from rifenet.training.features import PADDING, CachedEpisodes, FeatureCache, PackedFeatures, unpack
from rifenet.training.loop import _fewer_shots

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    return open_dataset("pascal", make_voc(tmp_path_factory.mktemp("voc"), class_ids=(6, 7, 8), per_class=4, mixed=0))


@pytest.fixture(scope="module")
def model() -> RiFeNet:
    built = build_model(backbone="efficientnet_lite0", stride=16, embed_dim=32, mid=(3, 5), high=(5, 7)).eval()
    assert isinstance(built, RiFeNet)
    return built


def _data(folder: Path, **fields: Any) -> DataConfig:
    return DataConfig(cache_dir=str(folder), image_size=65, cache_views=3, **fields)


def _build(model: RiFeNet, index: ImageIndex, data: DataConfig, strong: bool = True) -> FeatureCache:
    return FeatureCache.build(model, index, data, strong=strong, seed=0, device=CPU)


def test_the_plain_view_is_what_the_backbone_gives(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    cache = _build(model, index, _data(tmp_path))
    assert cache.features.shape[:3] == (len(index), 3, 2)
    for image in (0, 5):
        photo, _ = load_pair(index, image)
        pixels, valid, _ = resize_and_pad(photo, 65)
        direct = model.backbone(torch.from_numpy(np.round(pixels * 255) / 255).float()[None])
        cached = unpack(model, PackedFeatures(torch.from_numpy(np.array(cache.features[image, 0, :1]))), 65)
        for ours, theirs in zip(cached, direct, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=5e-3)  # float16 on disk
        mirrored = cache.labels[image, 1][:, ::-1]
        np.testing.assert_array_equal(mirrored, cache.labels[image, 0])
        np.testing.assert_array_equal(cache.labels[image, 0] != PADDING, valid)


def test_strong_partners_share_the_geometry_and_differ_in_colour(
    model: RiFeNet, index: ImageIndex, tmp_path: Path
) -> None:
    cache = _build(model, index, _data(tmp_path))
    weak, strong = (cache.features[:, :, kind].astype(np.float32) for kind in (0, 1))
    assert np.isfinite(strong).all()
    assert all(np.abs(weak[i, v] - strong[i, v]).max() > 0.01 for i in range(len(index)) for v in range(3))
    assert _build(model, index, _data(tmp_path / "weak"), strong=False).features.shape[2] == 1


def test_episodes_out_of_the_cache(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    pool = EpisodePool(index, (6, 7, 8), shots=2, unlabeled=1, min_area=500)
    episodes = CachedEpisodes(pool, _build(model, index, _data(tmp_path)), 3, 20, _data(tmp_path))
    for number in (0, 7, 19):
        item, again = episodes[number], episodes[number]
        for name, value in item.items():
            np.testing.assert_array_equal(value, again[name])
        drawn = pool.episode(3, number)
        assert item["class_id"] == drawn.class_id
        assert (item["query_masks"] == 1).any()
        assert all((mask == 1).any() for mask in item["support_masks"])
        assert (item["query_masks"][~item["query_valid"]] == 255).all()
        shown = [episodes.cache.labels[drawn.query, view] for view in range(3)]
        masks = [
            binary_mask(np.where(labels == PADDING, 255, labels).astype(np.uint8), drawn.class_id) for labels in shown
        ]
        assert any(np.array_equal(mask, item["query_masks"]) for mask in masks)
    with pytest.raises(IndexError):
        episodes[20]


def test_the_crossed_mask_is_of_the_class_of_the_episode_that_follows(
    model: RiFeNet, index: ImageIndex, tmp_path: Path
) -> None:
    cache = _build(model, index, _data(tmp_path))
    pool = EpisodePool(index, index.base_classes(0), shots=2, unlabeled=0, min_area=1)
    episodes = CachedEpisodes(pool, cache, 7, 12, _data(tmp_path))
    told_apart = 0
    for number in range(12):
        item, following = episodes[number], pool.episode(7, number + 1)
        own = pool.episode(7, number)
        value = index.records[own.query].values(following.class_id)
        (view,) = [
            view
            for view in range(cache.labels.shape[1])
            if np.array_equal(cache.features[own.query, view][0], item["query_images"].values)
        ]
        labels = cache.labels[own.query, view]
        expected = np.where(labels >= PADDING, 255, np.isin(labels, value))
        np.testing.assert_array_equal(item["crossed_masks"], expected)
        told_apart += following.class_id != own.class_id and bool((item["query_masks"] == 1).any())
    assert told_apart >= 3


def test_own_views_fill_the_supports_photo_by_photo(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    pool = EpisodePool(index, (6, 7, 8), shots=4, least_shots=1, min_area=500)
    cache = _build(model, index, _data(tmp_path))
    plain, own, half = (
        CachedEpisodes(pool, cache, 3, 40, _data(tmp_path, shots=4, own_views=share)) for share in (0.0, 1.0, 0.5)
    )
    changed = 0
    for number in range(40):
        drawn, item, before = pool.episode(3, number), own[number], plain[number]
        assert list(item) == list(before)
        for name in set(item) - {"support_images", "support_masks", "support_valid"}:
            np.testing.assert_array_equal(item[name], before[name])
        first, second = ([cache.features[photo, view, 0] for view in range(3)] for photo in drawn.supports[:2])
        places = [_place(found, first) for found in item["support_images"].values[:3]]
        assert sorted(places) == [0, 1, 2]
        for place, mask in zip(places, item["support_masks"], strict=False):
            labels = cache.labels[drawn.supports[0], place]
            expected = binary_mask(np.where(labels == PADDING, 255, labels).astype(np.uint8), drawn.class_id)
            np.testing.assert_array_equal(mask, expected)
        _place(item["support_images"].values[3], second)
        mixed = half[number]["support_images"]
        changed += np.array_equal(mixed, item["support_images"])
        assert any(np.array_equal(mixed, each["support_images"]) for each in (item, before))
    assert 10 <= changed <= 30


@pytest.mark.parametrize("wrong", [{"cache_dir": ""}, {"cache_views": 1}, {"shots": 1}, {"own_views": 1.5}], ids=str)
def test_own_views_without_what_they_need_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    options = {"cache_dir": str(tmp_path), "cache_views": 3, "shots": 4, "own_views": 0.5}
    assert DataConfig(**options).own_views == 0.5
    with pytest.raises(ValueError, match=r"data\.own_views"):
        DataConfig(**options | wrong)


def test_an_episode_stays_in_one_world(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    pool = EpisodePool(index, (6, 7, 8), shots=2, min_area=500)
    always, half = (_data(tmp_path, worlds=share) for share in (1.0, 0.5))
    cache = _build(model, index, always, strong=False)
    assert cache.features.shape[1] == 3 + len(WORLDS)
    assert cache.folder != _build(model, index, _data(tmp_path), strong=False).folder
    drawn = []
    for data in (always, half):
        worlds, episodes = [], CachedEpisodes(pool, cache, 3, 40, data)
        for number in range(40):
            images, item = pool.episode(3, number), episodes[number]
            shown = [item["query_images"].values, *item["support_images"].values]
            photos = (images.query, *images.supports)
            places = [
                _place(found, list(cache.features[photo, :, 0])) for photo, found in zip(photos, shown, strict=True)
            ]
            everyday = [place for place in places if place < 3]
            assert len(everyday) in (0, 3)
            assert everyday or len(set(places)) == 1
            worlds.append(-1 if everyday else places[0])
            labels = cache.labels[images.query, places[0]]
            expected = np.where(labels >= PADDING, 255, labels == images.class_id)
            np.testing.assert_array_equal(item["query_masks"], expected)
        drawn.append(worlds)
    assert set(drawn[0]) == {3, 4, 5}
    assert 10 <= drawn[1].count(-1) <= 30


def test_no_mask_decides_how_an_unlabeled_view_is_cropped(model: RiFeNet, tmp_path: Path) -> None:
    """The same photos with other masks: views without the unlabeled branch follow the masks, with it they do not."""
    data = _data(tmp_path / "cache", scale_min=1.5, scale_max=2.0)
    features: dict[bool, list[NDArray[Any]]] = {True: [], False: []}
    for corner in (np.s_[:12, :12], np.s_[-12:, -12:]):
        root = make_voc(tmp_path / f"voc{len(features[True])}", class_ids=(6,), per_class=4, mixed=0)
        for path in (root / "SegmentationClassAug").iterdir():
            mask = np.zeros_like(np.asarray(Image.open(path)))
            mask[corner] = 6
            Image.fromarray(mask).save(path)
        index = open_dataset("pascal", root, progress=False)
        for strong in (True, False):
            features[strong].append(np.array(_build(model, index, data, strong).features))
    for strong, (first, second) in features.items():
        same = [np.array_equal(first[image, 2], second[image, 2]) for image in range(len(first))]
        assert same == [strong] * 4
        np.testing.assert_array_equal(first[:, :2, 0], second[:, :2, 0])


def test_queries_and_supports_show_their_class_where_no_mask_decided_on_the_crop(
    model: RiFeNet, tmp_path: Path
) -> None:
    root = make_voc(tmp_path / "voc", class_ids=(6,), per_class=6, mixed=0)
    for path in (root / "SegmentationClassAug").iterdir():
        mask = np.zeros_like(np.asarray(Image.open(path)))
        mask[-40:, -40:] = 6  # a corner, which half of the close-ups lose
        Image.fromarray(mask).save(path)
    index = open_dataset("pascal", root, progress=False)
    pool = EpisodePool(index, (6,), shots=2, unlabeled=2, min_area=1)
    for share in (0.0, 1.0):
        data = _data(tmp_path / "cache", scale_min=2.0, scale_max=2.0, shots=2, own_views=share)
        cache = _build(model, index, data)
        areas = (cache.labels == 6).sum((2, 3))
        assert (areas[:, 2] * 2 < areas[:, 0]).any()
        episodes, unlabeled = CachedEpisodes(pool, cache, 0, 30, data), set()
        for number in range(30):
            images, item = pool.episode(0, number), episodes[number]
            for mask in (item["query_masks"], *item["support_masks"]):
                assert 2 * (mask == 1).sum() >= areas[:, 0].min()
            for photo, found in zip(images.unlabeled, item["unlabeled_weak"].values, strict=True):
                unlabeled.add((photo, _place(found, list(cache.features[photo, :, 0]))))
        cropped = {(int(photo), 2) for photo in np.flatnonzero(areas[:, 2] * 2 < areas[:, 0])}
        assert cropped & unlabeled  # what no mask has seen to may show anything


@pytest.mark.parametrize("wrong", [{"worlds": 1.5}, {"cache_dir": ""}], ids=str)
def test_worlds_without_what_they_need_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    options = {"cache_dir": str(tmp_path), "worlds": 0.5}
    assert DataConfig(**options).worlds == 0.5
    with pytest.raises(ValueError, match=r"data\.worlds"):
        DataConfig(**options | wrong)


def _place(found: NDArray[Any], among: list[NDArray[Any]]) -> int:
    (place,) = (number for number, each in enumerate(among) if np.array_equal(found, each))
    return place


def test_drawn_masks_have_their_own_numbers(model: RiFeNet, tmp_path: Path) -> None:
    """COCO's masks hold places in each picture's palette: an episode out of the cache still shows its class."""
    root = make_coco(tmp_path / "coco", class_ids=(1, 2, 6, 21, 80), per_class=2, mixed=5)
    index = open_dataset("coco", root, progress=False)
    pool = EpisodePool(index, (1, 2, 6, 21, 80), shots=1, unlabeled=1, min_area=300)
    data = _data(tmp_path / "cache")
    episodes = CachedEpisodes(pool, _build(model, index, data), 0, 30, data)
    seen = set()
    for number in range(30):
        drawn, item = pool.episode(0, number), episodes[number]
        record = index.records[drawn.query]
        rendered = np.load(root / "masks" / f"{record.name}.npy")
        share = (item["query_masks"] == 1).sum() / item["query_valid"].sum()
        assert share == pytest.approx((rendered == drawn.class_id).mean(), rel=0.25)
        assert (item["support_masks"] == 1).any()
        seen.update(record.values(drawn.class_id))
    assert seen == {1, 2}


def test_a_stopped_build_goes_on_and_a_finished_one_is_not_repeated(
    model: RiFeNet, index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _build(model, index, _data(tmp_path / "whole"))
    runs = []
    real = model.backbone.stages

    def counted(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        runs.append(len(images))
        if len(runs) == 5:
            raise KeyboardInterrupt
        return real(images)

    monkeypatch.setattr(model.backbone, "stages", counted)
    with pytest.raises(KeyboardInterrupt):
        _build(model, index, _data(tmp_path / "parts"))
    resumed = _build(model, index, _data(tmp_path / "parts"))
    np.testing.assert_array_equal(resumed.features, whole.features)
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    before = len(runs)
    _build(model, index, _data(tmp_path / "parts"))
    assert len(runs) == before


def test_a_cache_whose_arrays_do_not_fit_is_refused(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    folder = _build(model, index, _data(tmp_path)).folder
    with (folder / "features.f16").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=r"features\.f16 .*Remove the folder"):
        _build(model, index, _data(tmp_path))


def test_a_full_disk_is_an_error_before_anything_is_computed(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=200) as disk, pytest.raises(OSError, match=r"No space|too large"):
        _build(model, index, _data(disk.folder))


def test_loader_processes_open_the_files_themselves(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    cache = _build(model, index, _data(tmp_path))
    data = pickle.dumps(cache)
    assert len(data) < 2000 < cache.features.nbytes
    np.testing.assert_array_equal(pickle.loads(data).features, cache.features)


def test_another_setting_is_another_cache(model: RiFeNet, index: ImageIndex, tmp_path: Path) -> None:
    folders = {_build(model, index, _data(tmp_path)).folder for _ in range(2)}
    assert len(folders) == 1
    folders.add(_build(model, index, _data(tmp_path, rotate=20)).folder)
    folders.add(_build(model, index.with_records(index.records[:6]), _data(tmp_path)).folder)
    folders.add(FeatureCache.build(model, index, _data(tmp_path), strong=True, seed=1, device=CPU).folder)
    resized = build_model(
        backbone="efficientnet_lite0", stride=16, embed_dim=32, mid=(3, 5), high=(5, 7), deep_stages="resize"
    )
    assert isinstance(resized, RiFeNet)
    folders.add(_build(resized, index, _data(tmp_path)).folder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = _build(model, index, _data(tmp_path))
    folders.add(coarse.folder)
    exact = _build(model, index, _data(tmp_path)).features.astype(np.float32)
    assert 0 < np.abs(coarse.features - exact).mean() < 0.05 * np.abs(exact).mean()
    photo = index.records[0].image_path
    os.utime(photo, ns=(photo.stat().st_atime_ns, photo.stat().st_mtime_ns + 10**9))
    folders.add(_build(model, index, _data(tmp_path)).folder)
    assert len(folders) == 7
    assert all(json.loads((folder / "done.json").read_text())["done"] > 0 for folder in folders)


@pytest.mark.parametrize(("value", "refused"), [(PADDING - 1, False), (PADDING, True)])
def test_a_class_with_the_value_of_padding_is_refused(
    model: RiFeNet, tmp_path: Path, value: int, refused: bool
) -> None:
    root = tmp_path / "custom"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = value
    Image.fromarray(mask).save(root / "masks" / "a.png")
    Image.new("RGB", (64, 64)).save(root / "images" / "a.png")
    (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(1, 255)))
    index = open_dataset("custom", root, progress=False)
    if refused:
        with pytest.raises(ValueError, match="Expected at most 253 classes, but a shows 'class 254'"):
            _build(model, index, _data(tmp_path / "cache"))
        assert not (tmp_path / "cache").exists()
    else:
        cache = _build(model, index, _data(tmp_path / "cache"))
        assert (cache.labels[0, 0] == value).any()


def test_batches_of_cached_episodes_keep_the_type_and_lose_shots_with_their_masks(
    model: RiFeNet, index: ImageIndex, tmp_path: Path
) -> None:
    pool = EpisodePool(index, (6, 7, 8), shots=3, min_area=500)
    episodes = CachedEpisodes(pool, _build(model, index, _data(tmp_path)), 3, 4, _data(tmp_path))
    (batch,) = DataLoader(episodes, batch_size=4)
    packed = batch["support_images"]
    assert isinstance(packed, PackedFeatures)
    assert packed.values.dtype == torch.float16
    fewer = _fewer_shots(batch, 2)
    assert torch.equal(fewer["support_images"].values, packed.values[:, :2])
    assert torch.equal(fewer["support_masks"], batch["support_masks"][:, :2])
    assert fewer["query_images"] is batch["query_images"]
