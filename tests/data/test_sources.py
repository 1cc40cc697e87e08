"""Layouts and lists: what is found, and which sentence names what is missing."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from rendered import CUSTOM_NAMES, VOC_IDS, make_custom, make_voc

from rifenet.data.folds import PASCAL_FOLDS, VOC_CLASSES
from rifenet.data.sampling import absent_query, sometimes_absent
from rifenet.data.sources import open_dataset


def names(index) -> list[str]:
    return [record.name for record in index.records]


def open_voc(root: Path, **options):
    return open_dataset("pascal", root, progress=False, **options)


@pytest.fixture
def small_voc(tmp_path: Path) -> Path:
    """Six rendered photos that a test may move about."""
    return make_voc(tmp_path / "VOC2012", class_ids=(1, 2, 6), per_class=2, mixed=0)


@pytest.mark.parametrize(("part", "count"), [("train", 5953), ("val", 1449)])
def test_the_shipped_lists_are_the_fields(part: str, count: int) -> None:
    lists = files("rifenet.data") / "lists"
    ids = (lists / f"pascal_{part}.txt").read_text().split()
    assert len(ids) == len(set(ids)) == count
    other = (lists / f"pascal_{'val' if part == 'train' else 'train'}.txt").read_text().split()
    assert not set(ids) & set(other)


def test_pascal(voc_root: Path) -> None:
    index = open_voc(voc_root)
    assert index.class_names == VOC_CLASSES
    assert index.folds == PASCAL_FOLDS
    assert index.list_name == "ImageSets/Segmentation/train.txt"
    assert names(index) == (voc_root / "ImageSets/Segmentation/train.txt").read_text().split()
    assert {class_id for record in index.records for class_id in record.areas} == set(VOC_IDS)
    assert index.novel_classes(1) == (6, 7, 8, 9, 10)
    assert set(index.base_classes(1)) == set(range(1, 21)) - {6, 7, 8, 9, 10}


def test_pascal_lists(small_voc: Path) -> None:
    folder = small_voc / "ImageSets/Segmentation"
    (folder / "val.txt").write_text("2007_000003\n")
    assert names(open_voc(small_voc, part="val")) == ["2007_000003"]
    (folder / "train_aug.txt").write_text("2007_000004\n2007_000001\n")
    assert names(open_voc(small_voc)) == ["2007_000004", "2007_000001"]
    # A list by name, by path, with byte order mark, in the published two-column form, with an id given twice.
    (folder / "mine.txt").write_text("﻿2007_000005\n\n2007_000005\n", encoding="utf-8")
    (small_voc / "pairs.txt").write_text("JPEGImages/2007_000002.jpg SegmentationClassAug/2007_000002.png\n")
    for name in ("mine", "mine.txt", "ImageSets/Segmentation/mine.txt", str(folder / "mine.txt")):
        assert names(open_voc(small_voc, list_file=name)) == ["2007_000005"]
    assert names(open_voc(small_voc, list_file="pairs.txt")) == ["2007_000002"]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        open_voc(small_voc, list_file="nowhere.txt")
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.txt.*empty"):
        open_voc(small_voc, list_file="empty.txt")


def test_lists_of_pairs(small_voc: Path) -> None:
    """As the lists of the hsnet family are published: an image and one class a line, and no other pair counts."""
    before = open_voc(small_voc)
    shown = {record.name: next(iter(record.areas)) for record in before.records}
    lines = [f"{name}__{shown[name]:02d}" for name in ("2007_000004", "2007_000000")] + ["2007_000001__19"]
    (small_voc / "pairs.txt").write_text("\n".join(lines) + "\n")
    index = open_voc(small_voc, list_file="pairs.txt")
    assert names(index) == ["2007_000004", "2007_000000", "2007_000001"]
    assert index.pairs(range(1, 21)) == [(0, shown["2007_000004"]), (1, shown["2007_000000"])]
    assert index.bad_files == (("2007_000001__19", "Expected the class in the image's mask, but it is not there."),)
    (small_voc / "images.txt").write_text("\n".join(names(index)))
    assert index.hash != open_voc(small_voc, list_file="images.txt").hash
    without = index.without_classes([shown["2007_000001"]])  # what an image shows counts there, listed or not
    assert "2007_000001" not in names(without)
    (small_voc / "pairs.txt").write_text("2007_000004__01\n2007_000000\n")
    with pytest.raises(ValueError, match=r"images or pairs .* both"):
        open_voc(small_voc, list_file="pairs.txt")


def test_the_fields_list_stands_in_where_the_root_has_none(small_voc: Path) -> None:
    field = (files("rifenet.data") / "lists" / "pascal_train.txt").read_text().split()
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClassAug", ".png")):
        shutil.move(small_voc / folder / f"2007_000000{suffix}", small_voc / folder / f"{field[0]}{suffix}")
    shutil.rmtree(small_voc / "ImageSets")
    index = open_voc(small_voc)
    assert names(index) == [field[0]]
    assert [name for name, _ in index.bad_files] == field[1:]
    assert index.list_name == "rifenet's own pascal_train.txt"


def test_the_fields_list_wins_over_vocs_own_train_list_where_its_masks_are_there(small_voc: Path) -> None:
    """VOC ships 1,464 training ids; with SBD's masks added, the field trains on 5,953."""
    field = (files("rifenet.data") / "lists" / "pascal_train.txt").read_text().split()
    folder = small_voc / "SegmentationClassAug"
    for name in field[: int(0.96 * len(field))]:
        (folder / f"{name}.png").hardlink_to(folder / "2007_000000.png")
    shutil.move(small_voc / "JPEGImages/2007_000000.jpg", small_voc / f"JPEGImages/{field[0]}.jpg")
    assert open_voc(small_voc).list_name == "rifenet's own pascal_train.txt"
    assert open_voc(small_voc, part="val").list_name == "ImageSets/Segmentation/val.txt"


def test_masks_are_looked_up_in_three_folders(small_voc: Path) -> None:
    """VOC's own masks, augmented ones, and SBD's .mat files may each hold a part."""
    scipy_io = pytest.importorskip("scipy.io")
    before = open_voc(small_voc)
    augmented, own, sbd = (small_voc / name for name in ("SegmentationClassAug", "SegmentationClass", "cls"))
    own.mkdir()
    sbd.mkdir()
    shutil.move(augmented / "2007_000001.png", own / "2007_000001.png")
    from rifenet.formats.pictures import load_mask

    for name in ("2007_000002", "2007_000003"):
        mask = load_mask(augmented / f"{name}.png")
        scipy_io.savemat(sbd / f"{name}.mat", {"GTcls": {"Segmentation": mask}})
        (augmented / f"{name}.png").unlink()
    # An augmented mask goes before any other.
    scipy_io.savemat(sbd / "2007_000004.mat", {"GTcls": {"Segmentation": np.zeros((9, 9), np.uint8)}})
    after = open_voc(small_voc)
    assert not after.bad_files
    assert after.hash == before.hash
    assert {record.mask_path.parent.name for record in after.records} == {
        "SegmentationClassAug",
        "SegmentationClass",
        "cls",
    }


def test_sbds_own_layout(small_voc: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    from rifenet.formats.pictures import load_mask

    before = open_voc(small_voc)
    shutil.move(small_voc / "JPEGImages", small_voc / "img")
    (small_voc / "cls").mkdir()
    for path in (small_voc / "SegmentationClassAug").iterdir():
        scipy_io.savemat(small_voc / "cls" / f"{path.stem}.mat", {"GTcls": {"Segmentation": load_mask(path)}})
    shutil.move(small_voc / "ImageSets/Segmentation/train.txt", small_voc / "train.txt")
    shutil.rmtree(small_voc / "SegmentationClassAug")
    assert open_voc(small_voc).hash == before.hash


def test_a_missing_image_is_named(small_voc: Path) -> None:
    (small_voc / "JPEGImages/2007_000002.jpg").unlink()
    (small_voc / "SegmentationClassAug/2007_000003.png").unlink()
    index = open_voc(small_voc)
    assert names(index) == ["2007_000000", "2007_000001", "2007_000004", "2007_000005"]
    found = dict(index.bad_files)
    assert "2007_000002.jpg" in found["2007_000002"]
    assert "SegmentationClassAug" in found["2007_000003"]
    assert "2007_000003.png" in found["2007_000003"]


def test_wrong_roots(small_voc: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*--root"):
        open_voc(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="--root"):
        open_voc("")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*VOC2012"):
        open_voc(tmp_path)
    shutil.rmtree(small_voc / "SegmentationClassAug")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug"):
        open_voc(small_voc)
    with pytest.raises(FileNotFoundError, match=r"images/, masks/ and classes\.txt"):
        open_dataset("custom", small_voc)
    with pytest.raises(ValueError, match=r"pascal, coco, fss1000, custom, .*chest_xray, but got 'ade'"):
        open_dataset("ade", small_voc)
    with pytest.raises(ValueError, match="train or val, but got 'test'"):
        open_voc(small_voc, part="test")


def test_custom(tmp_path: Path) -> None:
    index = open_dataset("custom", make_custom(tmp_path, per_class=1, mixed=2), progress=False)
    assert index.class_names == CUSTOM_NAMES
    assert index.folds == ((1,), (2, 3), (4,), (5, 6))
    assert len(index) == 6 + 2
    assert names(index) == sorted(names(index))
    assert index.dataset == "custom"


def test_accents_written_in_two_ways_are_one_name(tmp_path: Path) -> None:
    """File systems and programs compose é (NFC) or write e and an accent (NFD)."""
    root = make_custom(tmp_path / "masks", per_class=1, mixed=0)
    (root / "images" / "photo 000.png").rename(root / "images" / "Cafe\u0301.png")
    (root / "masks" / "photo 000.png").rename(root / "masks" / "Caf\u00e9.png")
    index = open_dataset("custom", root, progress=False)
    assert index.bad_files == ()
    assert "Caf\u00e9" in [record.name for record in index.records]
    json_root = tmp_path / "json"
    (json_root / "images").mkdir(parents=True)
    (root / "images" / "Cafe\u0301.png").rename(json_root / "images" / "Cafe\u0301.png")
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 50, 0, 50, 50, 0, 50]]}
    content = {
        "images": [{"id": 1, "file_name": "Caf\u00e9.png", "height": 128, "width": 160}],
        "categories": [{"id": number, "name": f"thing {number}"} for number in range(1, 5)],
        "annotations": [shape],
    }
    (json_root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    index = open_dataset("custom", json_root, progress=False)
    assert index.bad_files == ()
    assert [record.image_path.is_file() for record in index.records] == [True]


def test_custom_folds(tmp_path: Path) -> None:
    root = make_custom(tmp_path, per_class=1, mixed=0, folds={0: ["gem", "disc"], 1: ["roof"]})
    index = open_dataset("custom", root, progress=False)
    assert index.folds == ((4, 1), (3,))
    assert index.base_classes(1) == (1, 2, 4, 5, 6)
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        index.novel_classes(2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0: [unicorn]", "unicorn. Known: disc"),
        ("0: [disc]\n1: [disc, gem]", "at most one fold"),
        ("0: []", "no empty fold"),
        ("1: [disc]", "to look like"),
        ("just words", "to look like"),
        ("0: [disc", "to look like"),
        ("", "to look like"),
        ("0: 5", "to look like"),
        (f"0: {'[' * 2000}{']' * 2000}", "to look like"),
    ],
)
def test_bad_folds(text: str, complaint: str, tmp_path: Path) -> None:
    root = make_custom(tmp_path, per_class=1, mixed=0)
    (root / "folds.yaml").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        open_dataset("custom", root, progress=False)


@pytest.mark.parametrize("text", ["", "disc\n\ngem\n", "disc\ndisc\n", "\n".join(map(str, range(255)))])
def test_bad_class_lists(text: str, tmp_path: Path) -> None:
    root = make_custom(tmp_path, per_class=1, mixed=0)
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match="1 to 254 different class names"):
        open_dataset("custom", root, progress=False)
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt"):
        open_dataset("custom", root, progress=False)


def test_classes_that_photos_may_show_unmarked(tmp_path: Path) -> None:
    root = make_custom(tmp_path, class_names=("disc", "block", "roof"), per_class=3, mixed=0)
    complete = open_dataset("custom", root, progress=False)
    (root / "unmarked.yaml").write_text(f"{complete.records[0].name}: [block]\n'': [roof]\n")
    index = open_dataset("custom", root, progress=False)
    assert index.hash != complete.hash
    disc, block, roof = (index.class_id(name) for name in ("disc", "block", "roof"))
    for position, (record, before) in enumerate(zip(index.records, complete.records, strict=True)):
        assert before.unmarked == frozenset()
        (own,) = record.areas
        expected = {disc: own == disc, block: own == block, roof: own == roof}
        assert {class_id: before.shows(class_id) for class_id in expected} == expected
        for class_id in (roof, block) if position == 0 else (roof,):
            expected[class_id] = True if own == class_id else None
        assert {class_id: record.shows(class_id) for class_id in expected} == expected
        labels = record.mask()
        for class_id, shown in expected.items():
            binary = np.array(
                [[255 if v == 255 or shown is None else int(v == class_id) for v in row] for row in labels]
            )
            np.testing.assert_array_equal(record.binary(labels, class_id), binary)
    drawn = {absent_query(index, block, 0, number) for number in range(60)}
    assert drawn == {i for i, record in enumerate(index.records) if i > 0 and block not in record.areas}
    with pytest.raises(ValueError, match="without roof, but every one shows it or may show it unmarked"):
        absent_query(index, roof, 0, 0)
    assert [sometimes_absent(index, class_id) for class_id in (disc, block, roof)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "complaint"), [("[disc]", "to look like"), ("a: disc", "to look like"), ("a: [gnu]", "but got gnu")]
)
def test_bad_lists_of_unmarked_classes(text: str, complaint: str, tmp_path: Path) -> None:
    root = make_custom(tmp_path, per_class=1, mixed=0)
    (root / "unmarked.yaml").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        open_dataset("custom", root, progress=False)
