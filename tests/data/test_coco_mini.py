"""Real photos: RIFENET_COCO_MINI names a folder in COCO's layout. Every figure is computed again by pycocotools."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rifenet.config import DataConfig
from rifenet.data.episodes import EpisodePool, EvaluationEpisodes, TrainingEpisodes, evaluation_episodes
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset

pytestmark = pytest.mark.data("RIFENET_COCO_MINI")

FIRST_OF_FOLD = {
    0: ("person", "airplane", "boat", "parking meter", "dog", "elephant"),
    1: ("bicycle", "bus", "traffic light", "bench", "horse", "bear"),
    2: ("car", "train", "fire hydrant", "bird", "sheep", "zebra"),
    3: ("motorcycle", "truck", "stop sign", "cat", "cow", "giraffe"),
}


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(os.environ["RIFENET_COCO_MINI"])


@pytest.fixture(scope="module", params=["train", "val"])
def index(request: pytest.FixtureRequest, root: Path) -> ImageIndex:
    return open_dataset("coco", root, part=request.param, progress=False)


def test_every_mask_against_pycocotools(index: ImageIndex, root: Path) -> None:
    """What holds for any order of overlaps, and then the order itself, pixel by pixel and picture by picture."""
    from pycocotools.coco import COCO

    truth = COCO(root / "annotations" / index.list_name)
    ids = truth.getImgIds()
    assert len(index) == len(ids)
    assert not index.bad_files
    class_ids = {category: number for number, category in enumerate(sorted(truth.getCatIds()), start=1)}
    assert index.class_names == tuple(truth.loadCats([category])[0]["name"] for category in class_ids)
    overlapped = objects = 0
    for record, image_id in zip(index.records, ids, strict=True):
        image = truth.loadImgs([image_id])[0]
        assert (record.name, record.height, record.width) == (
            image["file_name"].removesuffix(".jpg"),
            image["height"],
            image["width"],
        )
        rows = truth.loadAnns(truth.getAnnIds(imgIds=[image_id]))
        table = np.arange(256)
        table[1 : len(record.palette) + 1] = record.palette
        mask = table[record.mask()]
        covered = {class_ids[row["category_id"]]: np.zeros(mask.shape, bool) for row in rows}
        crowd = np.zeros(mask.shape, bool)
        drawn = []
        for row in rows:
            shape = truth.annToMask(row).astype(bool)
            if row["iscrowd"]:
                crowd |= shape
            else:
                covered[class_ids[row["category_id"]]] |= shape
                drawn.append((int(shape.sum()), class_ids[row["category_id"]], shape))
        several = sum(covered.values(), np.zeros(mask.shape, int))
        np.testing.assert_array_equal(mask == 255, crowd & (several == 0))
        np.testing.assert_array_equal((mask > 0) & (mask < 255), several > 0)
        assert set(np.unique(mask)) <= {0, 255, *covered}
        for class_id in covered:
            assert not ((mask == class_id) & ~covered[class_id]).any()
            assert (mask[covered[class_id] & (several == 1)] == class_id).all()
        # The order: each pixel's class is that of the smallest object there.
        smallest = np.full(mask.shape, np.inf)
        expected = np.where(crowd, 255, 0)
        for area, class_id, shape in drawn:
            on_top = shape & (area <= smallest)
            expected[on_top], smallest[on_top] = class_id, area
        np.testing.assert_array_equal(mask, expected)
        assert record.areas == {class_id: int((expected == class_id).sum()) for class_id in covered}
        overlapped += int((several > 1).sum())
        objects += int((several > 0).sum())
    assert 0 < overlapped / objects < 0.2
    print(f"{overlapped / objects:.4f} of the object pixels of {index.list_name} belong to several classes")


def test_counts(index: ImageIndex, root: Path) -> None:
    """Images a class, against the json alone: a class is shown where it has an object (or a crowd)."""
    content = json.loads((root / "annotations" / index.list_name).read_text())
    order = {
        row["id"]: class_id for class_id, row in enumerate(sorted(content["categories"], key=lambda r: r["id"]), 1)
    }
    any_kind, single = set(), set()
    for row in content["annotations"]:
        pair = row["image_id"], order[row["category_id"]]
        any_kind.add(pair)
        if not row["iscrowd"]:
            single.add(pair)
    ids = {f"{row['id']:012d}": row["id"] for row in content["images"]}
    assert {(ids[record.name], class_id) for record in index.records for class_id in record.areas} == any_kind
    with_pixels = {(ids[index.records[image].name], class_id) for image, class_id in index.pairs(range(1, 81))}
    assert with_pixels <= single
    assert len(single - with_pixels) <= 0.01 * len(single)  # wholly covered
    for fold in range(4):
        novel = index.novel_classes(fold)
        assert tuple(map(index.class_name, novel))[:6] == FIRST_OF_FOLD[fold]
        assert len(index.without_classes(novel)) == len(ids) - len({i for i, class_id in any_kind if class_id in novel})


def test_the_whole_way_on_real_photos(index: ImageIndex) -> None:
    novel = index.novel_classes(0)
    with pytest.warns(UserWarning, match="left out"):
        episodes = evaluation_episodes(index, novel, shots=1, seed=0, episodes=30)
    loaded = EvaluationEpisodes(index, episodes, 161)
    for number, episode in enumerate(episodes):
        item = loaded[number]
        area = index.records[episode.query].areas[episode.class_id]
        assert (item["query_mask_original"] == 1).sum() == area >= 2048
        assert (item["support_masks"] == 1).any()
    pool = EpisodePool(index.without_classes(novel), index.base_classes(0), shots=1, unlabeled=1)
    training = TrainingEpisodes(pool, DataConfig(image_size=161), seed=0, episodes=10)
    assert all((training[i]["query_masks"] == 1).any() for i in range(10))
