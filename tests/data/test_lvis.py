"""LVIS-92i from LVIS's own json: classes that overlap, folds of the classes that enough test photos show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.polygons import filled
from rendered import make_lvis

from rifenet.cli.main import main
from rifenet.config import DataConfig
from rifenet.data.episodes import EpisodePool, EvaluationEpisodes, TrainingEpisodes, evaluation_episodes, load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.formats.outlines import draw_layers


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For reading only."""
    return make_lvis(tmp_path_factory.mktemp("lvis"))


def opened(root: Path, **options: Any) -> ImageIndex:
    return open_dataset("lvis", root, progress=False, **options)


def layers_of(root: Path, name: str) -> dict[int, np.ndarray]:
    """The rendered masks of a photo by class id: categories are 3, 5, 7, ..."""
    with np.load(root / "masks" / f"{name}.npz") as stored:
        return {(int(key) - 1) // 2: stored[key] for key in stored.files}


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_class_of_a_pixel_counts(shared_root: Path, part: str) -> None:
    index = opened(shared_root, part=part)
    assert len(index) == {"train": 24, "val": 16}[part]
    assert not index.bad_files
    overlapping = 0
    for number, record in enumerate(index.records):
        rendered = layers_of(shared_root, record.name)
        photo, mask = load_pair(index, number)
        assert photo.shape[:2] == mask.shape == (70, 90)
        assert record.areas == {class_id: int(layer.sum()) for class_id, layer in rendered.items()}
        for class_id in range(1, 25):
            expected = rendered.get(class_id, np.zeros((70, 90), bool))
            np.testing.assert_array_equal(record.binary(mask, class_id) == 1, expected)
        overlapping += sum(record.areas.values()) > (mask > 0).sum()
    assert overlapping > 10


def test_photos_are_where_their_address_says(shared_root: Path) -> None:
    records = opened(shared_root, part="val").records
    assert {record.image_path.parent.name for record in records} == {"train2017", "val2017"}
    assert records[1].image_path == shared_root / "coco" / "train2017" / "000000000101.jpg"


def test_folds_deal_the_classes_of_two_test_photos(shared_root: Path) -> None:
    index = opened(shared_root, part="val")
    content = json.loads((shared_root / "annotations" / "lvis_v1_val.json").read_text())
    photos: dict[int, set[int]] = {}
    for row in content["annotations"]:
        photos.setdefault((row["category_id"] - 1) // 2, set()).add(row["image_id"])
    enough = sorted(class_id for class_id, found in photos.items() if len(found) > 1)
    assert len(photos[3]) == 1
    assert 3 not in enough
    assert 24 not in photos
    assert len(index.folds) == 10
    each = len(enough) // 10
    for fold in range(10):
        assert index.novel_classes(fold) == tuple(enough[fold + 10 * turn] for turn in range(each))
    assert opened(shared_root).folds == index.folds, "a model trained on a fold meets none of its classes"
    assert 3 in index.base_classes(0), "a class of no fold may be trained on"


def test_episodes_of_both_kinds(shared_root: Path) -> None:
    index = opened(shared_root, part="val")
    novel = index.novel_classes(1)
    episodes = evaluation_episodes(index, novel, shots=1, seed=0, episodes=12, protocol="hsnet")
    assert [episode.class_id for episode in episodes] == [novel[i % len(novel)] for i in range(12)], "in turn"
    loaded = EvaluationEpisodes(index, episodes, 64)
    for number, episode in enumerate(episodes):
        rendered = layers_of(shared_root, index.records[episode.query].name)[episode.class_id]
        np.testing.assert_array_equal(loaded[number]["query_mask_original"], rendered)
        assert episode.query not in episode.supports
    train = opened(shared_root)
    pool = EpisodePool(train, train.base_classes(1), shots=1, min_area=20)
    training = TrainingEpisodes(pool, DataConfig(image_size=64), seed=0, episodes=12)
    assert all((training[i]["query_masks"] == 1).any() for i in range(12))


def test_a_class_without_enough_photos_is_named(shared_root: Path) -> None:
    index = opened(shared_root, part="val")
    novel = index.novel_classes(0)
    with pytest.raises(ValueError, match=r"at least 6 images to evaluate, but got none: thing_\d\d \(\d images of"):
        evaluation_episodes(index, novel, shots=5, seed=0, episodes=4, protocol="hsnet")


def test_photos_without_a_mark_are_not_photos_without_the_class(
    shared_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--dataset", "lvis", "--root", str(shared_root), "--presence", "5"]
    assert main(words) == 2
    assert "--presence needs photos without a class, which lvis does not tell" in capsys.readouterr().err


def test_odd_rows_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root = make_lvis(tmp_path / "lvis")
    path = root / "annotations" / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    content["images"][0].pop("coco_url")
    content["annotations"][6 * 2]["segmentation"] = [[1, 1, 5]]
    crowd = np.zeros((70, 90), bool)
    crowd[:, :20] = True
    third = content["images"][3]["id"]
    runs = {"size": [70, 90], "counts": [0, 20 * 70, 70 * 70]}
    content["annotations"].append(
        {"id": 9000, "image_id": third, "category_id": 49, "iscrowd": 1, "segmentation": runs}
    )
    path.write_text(json.dumps(content))
    (root / "coco" / "val2017" / "000000000104.jpg").unlink()
    index = opened(root, part="val")
    reasons = dict(index.bad_files)
    assert "Expected a file_name, but got None" in reasons["image 100"]
    assert "Annotation 13: " in reasons["val2017/000000000102.jpg"]
    assert "no such file" in reasons["000000000104"]
    record = next(record for record in index.records if record.name == "000000000103")
    rendered = layers_of(root, record.name)
    nowhere = ~np.any(list(rendered.values()), axis=0)
    np.testing.assert_array_equal(record.mask() == 255, crowd & nowhere)
    assert record.areas[24] == 0
    assert record.values(24), "a class that is only a crowd is there without pixels"
    (root / "names.txt").write_text("000000000103\n000000000102\n000000000999\n")
    chosen = opened(root, part="val", list_file="names.txt")
    assert [record.name for record in chosen.records] == ["000000000103"]
    assert [name for name, _ in chosen.bad_files] == ["000000000102", "000000000999"]
    other = opened(root, part="val", list_file="annotations/lvis_v1_train.json")
    assert other.records[0].name == "000000005000"
    assert other.folds == index.folds
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected lvis_v1_val\.json in .*annotations or"):
        opened(root)


def test_a_stopped_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of a run that was killed before its manifest are taken as they are, with what their values mean."""
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root = make_lvis(tmp_path / "lvis")
    first = opened(root, part="val")
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    manifest.unlink()
    assert opened(root, part="val") == first


def test_layers_of_polygons_against_pixels_asked_one_by_one() -> None:
    """Corners at quarters of pixels, so that no centre lies on an edge; pycocotools' own raster is half a pixel off."""
    rng = np.random.default_rng(0)
    annotations, shapes = [], {}
    for class_id in (1, 2, 3):
        corners = np.array([[4.25, 6.25], [30.25, 6.25], [30.25, 25.25], [4.25, 25.25]]) + rng.integers(0, 12, 2)
        shapes[class_id] = filled(corners, 48, 60)
        annotations.append({"id": class_id, "category_id": class_id, "segmentation": [corners.ravel().tolist()]})
    mask, layers = draw_layers(annotations, 48, 60, {1: 1, 2: 2, 3: 3})
    for class_id, expected in shapes.items():
        values = [value for value, classes in enumerate(layers, start=1) if class_id in classes]
        np.testing.assert_array_equal(np.isin(mask, values), expected)
    assert sorted(map(len, layers))[-1] == 3, "somewhere all three lie on each other"
    boxed, inside = draw_layers(annotations, 48, 60, {1: 1, 2: 2, 3: 3}, (10, 8, 31, 20))
    assert boxed.shape == (12, 21)
    for class_id, expected in shapes.items():
        values = [value for value, classes in enumerate(inside, start=1) if class_id in classes]
        np.testing.assert_array_equal(np.isin(boxed, values), expected[8:20, 10:31])
