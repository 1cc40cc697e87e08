"""PACO-Part and PASCAL-Part: parts inside the box of their object, as rendered, and every odd row named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import make_paco, make_pascal_part

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.episodes import EpisodePool, evaluation_episodes, load_pair, split_holdout
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.evaluation.protocol import settled

MAKERS: dict[str, Callable[[Path], Path]] = {"paco_part": make_paco, "pascal_part": make_pascal_part}


@pytest.fixture(params=sorted(MAKERS))
def dataset(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For reading only."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def opened(dataset: str, root: Path, part: str = "val", **options: Any) -> ImageIndex:
    return open_dataset(dataset, root, part=part, progress=False, **options)


@pytest.mark.parametrize("part", ["train", "val"])
def test_parts_lie_in_the_box_of_their_object(dataset: str, roots: dict[str, Path], part: str) -> None:
    root = roots[dataset]
    index = opened(dataset, root, part)
    assert not index.bad_files
    assert len(index) == {"paco_part": {"train": 8, "val": 10}, "pascal_part": {"train": 14, "val": 28}}[dataset][part]
    overlapping = 0
    for number, record in enumerate(index.records):
        photo, mask = load_pair(index, number)
        with np.load(root / "masks" / f"{record.name}.npz") as stored:
            rendered = {name: stored[name] for name in stored.files if name in index.class_names}
        for name, layer in rendered.items():
            np.testing.assert_array_equal(record.binary(mask, index.class_id(name)) == 1, layer)
        assert record.areas == {index.class_id(name): int(layer.sum()) for name, layer in rendered.items()}
        left, top, right, bottom = record.box or (0, 0, 0, 0)
        whole = np.asarray(Image.open(record.image_path))
        np.testing.assert_array_equal(photo, whole[top:bottom, left:right])
        overlapping += sum(record.areas.values()) > (mask > 0).sum()
    assert overlapping


def test_paco_deals_the_parts_that_training_shows(roots: dict[str, Path]) -> None:
    index = opened("paco_part", roots["paco_part"])
    assert index.class_names == ("cup:rim", "cup:handle", "cup:lid", "cup:logo", "pan:rim")
    assert index.folds == ((1,), (2,), (3,), (4,)), "pan:rim is in no photo"
    assert opened("paco_part", roots["paco_part"], "train").folds == index.folds


def test_pascal_folds_are_the_groups(roots: dict[str, Path]) -> None:
    index = opened("pascal_part", roots["pascal_part"])
    assert [[index.class_name(class_id) for class_id in fold] for fold in index.folds] == [
        ["dog+HEAD", "dog+TAIL"],
        ["bottle+CAP", "bottle+BODY"],
        ["person+HEAD", "person+ARM"],
        ["aeroplane+BODY"],  # as published, without aeroplane+TAIL; EXTRA is in no list
    ]
    assert opened("pascal_part", roots["pascal_part"], "train").folds == index.folds


@pytest.mark.parametrize("protocol", ["hsnet", "pfenet"])
def test_no_episode_has_two_objects_of_a_photo(dataset: str, roots: dict[str, Path], protocol: str) -> None:
    index = opened(dataset, roots[dataset])
    novel = index.novel_classes(0)
    episodes = evaluation_episodes(index, novel, shots=2, seed=0, episodes=60, min_area=1, protocol=protocol)
    for episode in episodes:
        photos = [index.records[image].image_path for image in (episode.query, *episode.supports)]
        assert len(set(photos)) == 3
        assert all(episode.class_id in index.records[image].areas for image in (episode.query, *episode.supports))
    if protocol == "hsnet":
        asked = {index.records[episode.query].name for episode in episodes}
        assert len({name.partition("~")[0] for name in asked}) >= 4
        assert len(asked) > len({name.partition("~")[0] for name in asked}), "either object of a photo is asked about"
    pool = EpisodePool(opened(dataset, roots[dataset], "train"), index.base_classes(0), shots=1, min_area=1)
    for number in range(30):
        drawn = pool.episode(0, number)
        first, second = (pool.index.records[image].image_path for image in (drawn.query, *drawn.supports))
        assert first != second


def test_a_part_needs_photos_and_not_objects(roots: dict[str, Path]) -> None:
    """Four photos with eight heads are too few for four shots."""
    index = opened("pascal_part", roots["pascal_part"])
    with pytest.raises(ValueError, match=r"dog\+HEAD \(4 images of at least 1 px, 5 needed for 4 shot\)"):
        evaluation_episodes(index, index.novel_classes(0), shots=4, seed=0, episodes=4, protocol="hsnet")


def test_the_published_number_of_episodes(roots: dict[str, Path]) -> None:
    """PASCAL-Part: one for each pair of a photo and a part, 2,500 at most; PACO-Part: 2,500."""

    def n(dataset: str, fold: int, protocol: str = "hsnet") -> int | None:
        index = opened(dataset, roots[dataset])
        data = DataConfig(dataset=dataset, root=str(roots[dataset]), fold=fold, min_area=1)
        return settled(Config(data=data, eval=EvalConfig(protocol=protocol)), index).eval.episodes

    assert n("pascal_part", 0) == 8  # 4 photos, 2 parts; heads are 8 objects
    assert n("pascal_part", 0, "pfenet") == 12  # every object and part once
    assert n("paco_part", 0) == 2500


def test_held_out_objects_are_of_other_photos(dataset: str, roots: dict[str, Path]) -> None:
    train, held = split_holdout(opened(dataset, roots[dataset]), 0.5, 0)
    assert train.records
    assert held.records
    assert not {record.image_path for record in train.records} & {record.image_path for record in held.records}


def changed(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_odd_rows_of_paco_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root = make_paco(tmp_path / "paco")

    def edit(content: dict[str, Any]) -> None:
        rows = content["annotations"]
        parts = [row for row in rows if row["id"] != row["obj_ann_id"]]
        wholes = [row for row in rows if row["id"] == row["obj_ann_id"]]
        parts[0]["obj_ann_id"] = 77  # a part without its object
        wholes[1]["bbox"] = [1, 2, "wide", 4]
        wholes[2]["bbox"] = [500.0, 500.0, 20.0, 20.0]  # outside the photo
        wholes[3]["bbox"] = [-4.5, -3.0, 400.0, 300.0]  # over its edges
        content["images"][2]["height"] = 0
        parts[-1]["segmentation"] = {"size": [3, 3], "counts": [9]}

    changed(root / "annotations" / "paco_lvis_v1_val.json", edit)
    index = opened("paco_part", root)
    reasons = dict(index.bad_files)
    assert "Expected the object 77 of part" in "".join(
        reason for file, reason in index.bad_files if file == "val2017/000000000300.jpg"
    )
    assert "[left, top, width, height], but got [1, 2, 'wide', 4]" in "".join(reasons.values())
    assert "a box with pixels of the photo" in reasons["000000000301~3010"]
    assert "whole numbers as id, height and width" in reasons["val2017/000000000302.jpg"]
    assert "run lengths of the picture's size" in reasons["000000000304~3041"]
    records = {record.name: record for record in index.records}
    assert records["000000000301~3011"].box == (0, 0, 120, 80)
    assert index.class_id("cup:rim") not in records["000000000300~3000"].areas
    with pytest.raises(FileNotFoundError, match=r"annotations/none\.json"):
        opened("paco_part", root, list_file="annotations/none.json")
    (root / "annotations" / "paco_lvis_v1_train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"paco_lvis_v1_train\.json"):
        opened("paco_part", root)


def test_odd_files_of_pascal_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root = make_pascal_part(tmp_path / "VOCdevkit" / "VOC2010")
    objects = root / "Annotations_Part_json_merged_part_classes"
    (objects / "2008_000000.json").unlink()
    (objects / "2008_000001.json").write_text("{")
    changed(objects / "2008_000002.json", lambda content: content["object"][0]["parts"].pop())
    changed(objects / "2008_000003.json", lambda content: content["object"][1].pop("bndbox"))
    (root / "JPEGImages" / "2008_000100.jpg").unlink()
    index = opened("pascal_part", tmp_path)
    reasons = dict(index.bad_files)
    assert "it is missing" in reasons["2008_000000"]
    assert "JSONDecodeError" in reasons["2008_000001"]
    assert reasons["2008_000002"] == "Expected dog+TAIL, as its list says, but no object has one."
    assert "KeyError: 'bndbox'" in reasons["2008_000003"]
    assert "no such file" in reasons["2008_000100~0"]
    before = [record.areas for record in index.records if record.name == "2008_000101~0"]
    changed(objects / "2008_000101.json", lambda content: content["object"][0]["parts"].pop())
    again = opened("pascal_part", tmp_path)
    assert [record.areas for record in again.records if record.name == "2008_000101~0"] != before, (
        "a changed file counts"
    )
    (root / "all_obj_part_to_image.json").write_text('{"animals": {}}')
    with pytest.raises(ValueError, match=r"Expected .*all_obj_part_to_image\.json to hold GROUP: object.*KeyError"):
        opened("pascal_part", tmp_path)
    (root / "all_obj_part_to_image.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"VOCdevkit/VOC2010 below it"):
        opened("pascal_part", tmp_path)
