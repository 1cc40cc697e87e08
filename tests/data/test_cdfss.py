"""CD-FSS's sets: masks as rendered, what the folders lack named, and nothing to train on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.scenes import ColourModel
from PIL import Image
from rendered import make_target, render
from torch import Tensor

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.cdfss import CLASSES
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import evaluation_episodes
from rifenet.data.sources import open_dataset
from rifenet.evaluation.protocol import evaluate
from rifenet.training.split import base_split


@pytest.fixture(params=sorted(CLASSES))
def dataset(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def opened(dataset: str, root: Path, part: str = "val", **options: Any) -> ImageIndex:
    return open_dataset(dataset, root, part=part, progress=False, **options)


def test_masks_are_bright_on_dark(dataset: str, tmp_path: Path) -> None:
    """The rendered edge is grey 100, under the half."""
    index = opened(dataset, make_target(tmp_path, dataset))
    assert not index.bad_files
    assert len(index) == 3 * len(CLASSES[dataset])
    for place, record in enumerate(index.records):
        class_id, number = place // 3 + 1, place % 3
        rendered = render((class_id,), number, width=96, height=96)[1] == class_id
        np.testing.assert_array_equal(record.mask(), rendered)
        assert record.areas == {class_id: rendered.sum()}
    assert index.folds == (tuple(range(1, len(CLASSES[dataset]) + 1)),)
    assert opened(dataset, tmp_path, "train").records == index.records, "both parts are the same"


def test_there_is_nothing_to_train_on(dataset: str, tmp_path: Path) -> None:
    index = opened(dataset, make_target(tmp_path, dataset), "train")
    config = Config(data=DataConfig(dataset=dataset, root=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"Expected base classes .* but fold 0 of {dataset} tests every class"):
        base_split(config, index)


def test_hsnet_takes_the_classes_in_turn(dataset: str, tmp_path: Path) -> None:
    index = opened(dataset, make_target(tmp_path, dataset))
    count = len(CLASSES[dataset])
    episodes = evaluation_episodes(index, index.novel_classes(0), shots=1, seed=0, episodes=60, protocol="hsnet")
    assert [episode.class_id for episode in episodes] == [i % count + 1 for i in range(60)]
    queries = Counter(episode.query for episode in episodes)
    assert len(queries) == len(index), "each photo of a class is drawn sooner or later"
    assert max(queries.values()) > min(queries.values()), "and not in list order"


class Everything(ColourModel):
    """Says foreground everywhere, so that IoU is a class's share of its photos."""

    def decode(self, features: Tensor, context: Any) -> Tensor:
        import torch

        ones = torch.ones_like(features[:, :1])
        return torch.cat([-ones, ones], 1)


def test_scores_are_pixels_summed_over_a_classs_episodes(dataset: str, tmp_path: Path) -> None:
    """The published rule: intersections and unions are summed for each class, divided, and the classes averaged."""
    index = opened(dataset, make_target(tmp_path, dataset))
    rules = EvalConfig(protocol="hsnet", image_size=96, some_classes=True)
    result = evaluate(Everything(), index, Config(data=DataConfig(dataset=dataset, root=str(tmp_path)), eval=rules))
    assert result["episodes"] == 600
    assert "in turn" in result["protocol"]["query_order"]
    episodes = evaluation_episodes(index, index.novel_classes(0), shots=1, seed=0, episodes=600, protocol="hsnet")
    shares = []
    for class_id in index.novel_classes(0):
        areas = [index.records[each.query].areas[class_id] for each in episodes if each.class_id == class_id]
        shares.append(sum(areas) / (len(areas) * 96 * 96))
    assert result["scores"]["miou"]["mean"] == pytest.approx(np.mean(shares), abs=1e-9)


def test_a_list_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Expected no list for {dataset}"):
        opened(dataset, make_target(tmp_path, dataset), list_file="names.txt")


def test_odd_tiles_are_named(tmp_path: Path) -> None:
    """A tile of several classes lies in several folders, with another mask in each."""
    root = make_target(tmp_path, "deepglobe")
    for folder, suffix in (("origin", "jpg"), ("groundtruth", "png")):
        (root / "2" / "test" / folder / f"100_sat_00.{suffix}").write_bytes(
            (root / "1" / "test" / folder / f"100_sat_00.{suffix}").read_bytes()
        )
    Image.new("L", (96, 96)).save(root / "1" / "test" / "groundtruth" / "101_sat_01.png")
    Image.new("L", (50, 40), 255).save(root / "3" / "test" / "groundtruth" / "300_sat_00.png")
    (root / "4" / "test" / "groundtruth" / "400_sat_00.png").unlink()
    (root / "4" / "test" / "origin" / "401_sat_01.jpg").unlink()
    for tile in (root / "5" / "test" / "origin").iterdir():
        tile.unlink()
    index = opened("deepglobe", root)
    names = [record.name for record in index.records]
    assert {"1/100_sat_00", "2/100_sat_00"} <= set(names)
    reasons = dict(index.bad_files)
    assert "dark everywhere" in reasons["1/101_sat_01"]
    assert "the mask 50 x 40" in reasons["3/300_sat_00"]
    assert "no such file" in reasons["4/400_sat_00"]
    assert "Expected the tile of" in reasons["4/401_sat_01"]
    assert "Expected tiles of water in" in reasons["5"]


def test_isic_by_folders_or_by_its_table(tmp_path: Path) -> None:
    root = make_target(tmp_path, "isic")
    by_folder = {record.name: record.areas for record in opened("isic", root).records}
    photos = root / "ISIC2018_Task1-2_Training_Input"
    rows = ["ID,Class"]
    for class_id, name in enumerate(("seborrheic_keratosis", "nevus", "melanoma"), start=1):
        for photo in sorted((photos / str(class_id)).iterdir()):
            rows.append(f"{photo.stem},{name}")
            photo.rename(photos / photo.name)
        (photos / str(class_id)).rmdir()
    with pytest.raises(FileNotFoundError, match=r"in folders 1, 2 and 3, or their classes in .*class_id\.csv"):
        opened("isic", root)
    (root / "class_id.csv").write_text("\n".join([*rows[:-1], "ISIC_9,nevus"]))
    index = opened("isic", root)
    by_folder.pop("ISIC_302")
    assert {record.name: record.areas for record in index.records} == by_folder
    reasons = dict(index.bad_files)
    assert "Expected the class of the photo" in reasons["ISIC_302.jpg"]
    assert "Expected the photo ISIC_9.jpg" in reasons["ISIC_9"]
    (root / "class_id.csv").write_text("ID,Class\nISIC_100,mole\n")
    with pytest.raises(ValueError, match=r"Expected rows of ID and Class \(seborrheic_keratosis, .* but got"):
        opened("isic", root)
    (root / "ISIC2018_Task1_Training_GroundTruth").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"Expected the folder .*GroundTruth"):
        opened("isic", root)


def test_x_ray_photos_without_a_mask_are_named(tmp_path: Path) -> None:
    """The set has 800 photos and 704 masks, and some masks are called as their photos."""
    root = make_target(tmp_path, "chest_xray")
    (root / "masks" / "CXR_100_mask.png").rename(root / "masks" / "CXR_100.png")
    (root / "masks" / "CXR_101_mask.png").unlink()
    (root / "CXR_png" / "CXR_102.png").unlink()
    index = opened("chest_xray", root)
    assert [record.name for record in index.records] == ["CXR_100"]
    assert dict(index.bad_files) == {
        "CXR_101.png": "Expected a mask of the photo in masks/, but there is none.",
        "CXR_102_mask.png": f"Expected the photo CXR_102.png in {root / 'CXR_png'}, but there is none.",
    }
