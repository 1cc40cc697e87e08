"""COCO's layout and json: every mask as rendered, every bad row named, and nothing drawn or parsed twice."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rendered import coco_categories, make_coco, make_custom, run_lengths

from rifenet.config import DataConfig
from rifenet.data import coco
from rifenet.data import drawn as drawn_once
from rifenet.data.episodes import EpisodePool, EvaluationEpisodes, TrainingEpisodes, evaluation_episodes, load_pair
from rifenet.data.index import ImageIndex, ImageRecord
from rifenet.data.sources import open_dataset

CLASSES = (1, 2, 6, 41, 80)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For reading only."""
    return make_coco(tmp_path_factory.mktemp("coco") / "coco", class_ids=CLASSES)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of disc, block and roof each, and an empty cache; a test may spoil both."""
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    return make_coco(tmp_path / "coco", class_ids=(1, 2, 6), per_class=2, mixed=1)


def opened(root: Path, **options: Any) -> ImageIndex:
    return open_dataset("coco", root, progress=False, **options)


def global_mask(record: ImageRecord) -> np.ndarray:
    """The record's mask with class ids in it."""
    table = np.arange(256)
    table[1 : len(record.palette) + 1] = record.palette
    return table[record.mask()]


def change(root: Path, edit: Callable[[dict[str, Any]], Any], part: str = "train") -> None:
    path = root / "annotations" / f"instances_{part}2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["train", "val"])
def test_masks_are_those_that_were_rendered(shared_root: Path, part: str) -> None:
    index = opened(shared_root, part=part)
    assert len(index) == 3 * len(CLASSES) + 2
    assert not index.bad_files
    for number, record in enumerate(index.records):
        rendered = np.load(shared_root / "masks" / f"{record.name}.npy")
        np.testing.assert_array_equal(global_mask(record), rendered)
        labels, counts = np.unique(rendered[(rendered > 0) & (rendered < 255)], return_counts=True)
        assert record.areas == dict(zip(labels.tolist(), counts.tolist(), strict=True))
        assert record.image_path.parent == shared_root / f"{part}2017"
        photo, mask = load_pair(index, number)
        assert photo.shape[:2] == mask.shape == rendered.shape


def test_whole_numbers_may_be_written_as_floats(root: Path) -> None:
    before = opened(root)

    def edit(content: dict[str, Any]) -> None:
        for row in (*content["images"], *content["annotations"], *content["categories"]):
            for key in ("id", "image_id", "category_id", "height", "width"):
                if key in row:
                    row[key] = float(row[key])

    change(root, edit)
    index = opened(root)
    assert index.bad_files == ()
    assert [(each.name, each.areas) for each in index.records] == [(each.name, each.areas) for each in before.records]


def test_classes_are_the_categories_in_the_order_of_their_ids(shared_root: Path) -> None:
    index = opened(shared_root)
    assert index.class_names == tuple(f"thing {class_id}" for class_id in range(1, 81))
    assert index.folds == tuple(tuple(range(fold + 1, 81, 4)) for fold in range(4))
    assert index.novel_classes(1)[:3] == (2, 6, 10)
    assert opened(shared_root, folds="contiguous").novel_classes(1) == tuple(range(21, 41))
    with pytest.raises(ValueError, match="interleaved or contiguous, but got 'other'"):
        opened(shared_root, folds="other")


def test_episodes(shared_root: Path) -> None:
    """The class of the episode is what is 1 in its masks, whatever number the drawn mask has for it."""
    index = opened(shared_root)
    episodes = evaluation_episodes(index, CLASSES, shots=1, seed=0, episodes=40, min_area=500)
    loaded = EvaluationEpisodes(index, episodes, 64)
    for number, episode in enumerate(episodes):
        item, name = loaded[number], index.records[episode.query].name
        rendered = np.load(shared_root / "masks" / f"{name}.npy")
        expected = np.where(rendered == 255, 255, rendered == episode.class_id)
        np.testing.assert_array_equal(item["query_mask_original"], expected)
        assert (item["support_masks"][0] == 1).any()
    pool = EpisodePool(index, CLASSES, shots=1, unlabeled=1, min_area=500)
    training = TrainingEpisodes(pool, DataConfig(image_size=64), seed=0, episodes=20)
    assert all((training[i]["query_masks"] == 1).any() for i in range(20))


def test_a_class_that_another_image_shows_is_nowhere_in_this_one(shared_root: Path) -> None:
    index = opened(shared_root)
    record = index.records[0]
    assert record.palette == (1,)
    assert record.values(1) == (1,)
    assert record.values(80) == ()
    assert not (record.binary(record.mask(), 80) == 1).any()


def test_crowded_and_covered_classes_are_there_without_pixels(root: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        image = content["images"][0]
        small = np.zeros((image["height"], image["width"]), bool)
        small[:9, :9] = True
        common = {"image_id": image["id"], "segmentation": run_lengths(small)}
        content["annotations"] += [
            {"id": 901, "category_id": 80 + 80 // 8, "iscrowd": 1, **common},
            {"id": 902, "category_id": 20 + 20 // 8, "iscrowd": 0, **common},
            {"id": 903, "category_id": 30 + 30 // 8, "iscrowd": 0, **common},
        ]

    change(root, edit)
    index = opened(root)
    record = index.records[0]
    assert record.palette == (1, 20, 30, 80)
    assert record.areas[20] == record.areas[80] == 0
    assert record.areas[30] == 81
    assert 0 not in index.images_of(20)
    assert 0 not in index.images_of(80)
    for class_id in (20, 80):
        assert record not in index.without_classes((class_id,)).records


def test_pictures_without_annotations_are_images_without_class(root: Path) -> None:
    change(root, lambda content: content["annotations"].clear())
    index = opened(root)
    assert len(index) == 7
    assert not index.bad_files
    assert all(record.areas == {} and not record.mask().any() for record in index.records)


def test_layouts(root: Path) -> None:
    """Images in images/, images/train2017/ or where file_name says; 2014's names; several files of a part."""
    before = opened(root)
    shutil.copytree(root / "train2017", root / "images" / "train2017")
    shutil.rmtree(root / "train2017")
    assert opened(root).records[0].image_path.parent == root / "images" / "train2017"
    shutil.move(root / "images" / "train2017", root / "all")
    shutil.rmtree(root / "images")
    shutil.move(root / "all", root / "images")
    assert opened(root).hash == before.hash
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.unlink()
    for number, name in enumerate(("instances_train2014.json", "instances_train_more.json")):
        images = content["images"][number::2]
        for image in images:
            image["file_name"] = f"images/{Path(image['file_name']).name}"
        ids = {image["id"] for image in images}
        rows = [row for row in content["annotations"] if row["image_id"] in ids]
        (root / "annotations" / name).write_text(json.dumps({**content, "images": images, "annotations": rows}))
    both = opened(root)
    assert {record.name: record.areas for record in both.records} == {
        record.name: record.areas for record in before.records
    }
    assert both.list_name == "instances_train2014.json, instances_train_more.json"
    one = opened(root, list_file="annotations/instances_train2014.json")
    assert [record.name for record in one.records] == [record.name for record in before.records[::2]]
    shutil.copy(root / "annotations" / "instances_train2014.json", root / "annotations" / "instances_train2017.json")
    with pytest.raises(
        ValueError, match=r"instances_train2014\.json and instances_train2017\.json both have image 1000"
    ):
        opened(root)


def test_lists_choose_images(root: Path) -> None:
    names = [record.name for record in opened(root).records]
    (root / "mine.txt").write_text(f"train2014/{names[3]}.jpg annotations/{names[3]}.png\n{names[1]}\nunknown\n")
    index = opened(root, list_file="mine.txt")
    assert [record.name for record in index.records] == [names[3], names[1]]
    assert index.bad_files == (("unknown", "Expected an annotated image of this name, but there is none."),)
    change(root, lambda content: content["annotations"][0].update(segmentation=[]))
    (root / "mine.txt").write_text(f"{names[0]}\n{names[1]}\n")
    index = opened(root, list_file="mine.txt")
    assert [record.name for record in index.records] == [names[1]]
    ((name, reason),) = index.bad_files
    assert name == names[0]
    assert reason.startswith("Annotation 1: ")


def test_every_bad_row_is_named_and_the_rest_goes_on(root: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        images = content["images"]
        for i, (name, fields) in enumerate(
            {
                "gone": {},
                "small": {"width": 99},
                "no_size": {"width": None},
                "huge": {"width": 10**6, "height": 10**6},
                "flat": {"height": 0},
                "empty_segmentation": {},
                "unknown_category": {},
                "text": {},
            }.items()
        ):
            image = {"id": i, "file_name": f"{name}.jpg", "width": 160, "height": 128, **fields}
            if name != "gone":
                picture = root / "train2017" / f"{name}.jpg"
                picture.write_bytes(b"text") if name == "text" else Image.new("RGB", (160, 128)).save(picture)
            images.append(image)
        images += [{"id": 50}, {**images[0], "id": 51}, {**images[0], "file_name": "other.jpg"}]
        for number, (image_id, fields) in enumerate(
            {5: {"segmentation": []}, 6: {"category_id": 9999}, 777: {}, None: {}}.items()
        ):
            row = {"id": 300 + number, "image_id": image_id, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
            content["annotations"].append({**row, **fields})

    first = opened(root).records[0].name
    change(root, edit)
    index = opened(root)
    assert len(index) == 7
    found = dict(index.bad_files)
    for name, sentence in {
        "gone": "no such file",
        "small": "image is 160 x 128 and the mask 99 x 128",
        "no_size.jpg": "whole numbers",
        "huge.jpg": "Expected at most",
        "flat.jpg": "whole numbers",
        "empty_segmentation.jpg": "Annotation 300: Expected a segmentation",
        "unknown_category.jpg": "Annotation 301: Expected one of the file's categories, but got category_id 9999",
        "text": "cannot read",
        "instances_train2017.json": "2 have another image_id",
        "image 50": "file_name",
        f"{first}.jpg": "once",
        "other.jpg": "once",
    }.items():
        assert sentence in found.pop(name)
    assert not found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\x00\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "lists images, annotations and categories .* images is no list"),
        ('{"images": []}', "annotations is no list"),
        ('{"images": [], "annotations": [1], "categories": []}', "annotations is no list"),
        ('{"images": [], "annotations": [], "categories": {}}', "categories is no list"),
        ('{"images": [], "annotations": [], "categories": []}', "its own number .id. and name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "its own number .id. and name"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": [1], "name": "cup"}]}',
            "its own number .id. and name",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": [1]}]}', "its own number .id. and name"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": "a", "name": "cup"}]}',
            "its own number .id. and name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cup"}]}',
            "its own number .id. and name",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}', "80 categories .* got 1: cup"),
    ],
)
def test_files_that_are_no_annotations_are_named(text: str, complaint: str, root: Path) -> None:
    (root / "annotations" / "instances_train2017.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"(?s)instances_train2017\.json|{complaint}") as raised:
        opened(root)
    assert "instances_train2017.json" in str(raised.value)
    assert raised.match(complaint)


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"annotations/nothing\.json"):
        opened(root, list_file="annotations/nothing.json")
    shutil.rmtree(root / "annotations")
    with pytest.raises(FileNotFoundError, match=r"annotations/instances_val\*\.json"):
        opened(root, part="val")


def test_without_pycocotools(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(root, part="val")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"pip install 'rifenet\[coco\]'"):
        opened(root)
    assert len(opened(root, part="val")) == 7  # drawn before


def masks(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.png"))


def test_drawn_and_parsed_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(root)
    assert len(masks(tmp_path)) == 7

    def never(*_: Any) -> None:
        raise AssertionError

    for module, name in ((coco, "read_json"), (drawn_once, "draw_mask")):
        monkeypatch.setattr(module, name, never)
    assert opened(root) == first
    assert opened(root, folds="contiguous").records == first.records
    assert opened(root, folds="contiguous").hash != first.hash


def test_a_lost_mask_is_drawn_again_as_the_same_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(root)
    lost = masks(tmp_path)[2]
    before = lost.read_bytes(), lost.stat().st_mtime_ns
    lost.unlink()
    drawn = []
    real = drawn_once.draw_mask
    monkeypatch.setattr(drawn_once, "draw_mask", lambda *job: drawn.append(1) or real(*job))
    assert opened(root) == first
    assert (lost.read_bytes(), lost.stat().st_mtime_ns) == before
    assert len(drawn) == 1


def test_another_json_is_drawn_anew(root: Path) -> None:
    before = opened(root)
    change(root, lambda content: content["annotations"].pop())
    after = opened(root)
    assert after.hash != before.hash
    assert after.records[0].mask_path != before.records[0].mask_path


@pytest.mark.parametrize(
    "text", ["", "[]", '{"pictures": 3}', '{"pictures": [[1]], "bad_files": [], "class_names": []}']
)
def test_a_spoilt_manifest_is_made_again(text: str, root: Path, tmp_path: Path) -> None:
    first = opened(root)
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    manifest.write_text(text)
    assert opened(root) == first


def test_a_cache_that_cannot_be_written_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"instances_train2017\.json .*Set RIFENET_CACHE"):
        opened(root)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A custom folder: the rendered masks of the custom layout as annotations.json."""
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    root = make_custom(tmp_path / "custom", class_names=("disc", "block", "roof"), per_class=2, mixed=1)
    images, annotations = [], []
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        mask = np.asarray(Image.open(path))
        images.append({"id": number, "file_name": f"{path.stem}.png", "height": mask.shape[0], "width": mask.shape[1]})
        for label in (1, 2, 3, 255):
            row = {"id": len(annotations), "image_id": number, "category_id": 10 * (label % 255), "iscrowd": label > 3}
            if (mask == label).any():
                annotations.append({**row, "segmentation": run_lengths(mask == label)})
                annotations[-1]["category_id"] = annotations[-1]["category_id"] or 10
    categories = [{"id": 30, "name": "roof"}, {"id": 10, "name": "disc"}, {"id": 20, "name": "block"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_a_json_beside_the_images_of_a_custom_folder(beside: Path) -> None:
    with pytest.raises(ValueError, match=r"masks/ or annotations\.json .*both"):
        open_dataset("custom", beside, progress=False)
    shutil.move(beside / "annotations.json", beside.parent)
    files = open_dataset("custom", beside, progress=False)
    shutil.move(beside.parent / "annotations.json", beside)
    expected = {record.name: np.asarray(Image.open(record.mask_path)) for record in files.records}
    shutil.rmtree(beside / "masks")
    (beside / "classes.txt").unlink()
    index = open_dataset("custom", beside, progress=False)
    assert index.class_names == files.class_names == ("disc", "block", "roof")
    assert index.folds == files.folds
    assert not index.bad_files
    assert [record.name for record in index.records] == sorted(expected)
    for record in index.records:
        np.testing.assert_array_equal(global_mask(record), expected[record.name])

    (beside / "folds.yaml").write_text("0: [roof]\n")
    Image.new("RGB", (9, 9)).save(beside / "images" / "not annotated.jpg")
    index = open_dataset("custom", beside, progress=False)
    assert index.folds == ((3,),)
    assert index.bad_files == (("not annotated.jpg", "Expected the picture in annotations.json, but it is not there."),)
    shutil.rmtree(beside / "images")
    with pytest.raises(FileNotFoundError, match=r"images beside annotations\.json"):
        open_dataset("custom", beside, progress=False)


def test_more_categories_than_a_byte_holds(beside: Path) -> None:
    shutil.rmtree(beside / "masks")
    path = beside / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": f"thing {number}"} for number in range(1000)]
    for row in content["annotations"]:
        row["category_id"] += 900
    path.write_text(json.dumps(content))
    index = open_dataset("custom", beside, progress=False)
    shown = {class_id for record in index.records for class_id in record.areas}
    assert shown == {911, 921, 931}
    episodes = evaluation_episodes(index, (911, 921), shots=1, seed=0, episodes=4, min_area=100)
    loaded = EvaluationEpisodes(index, episodes, 64)
    for number, episode in enumerate(episodes):
        area = index.records[episode.query].areas[episode.class_id]
        assert (loaded[number]["query_mask_original"] == 1).sum() == area


def test_the_categories_of_the_rendered_json_are_out_of_order() -> None:
    ids = [row["id"] for row in coco_categories()]
    assert ids != sorted(ids)
    assert len(set(ids)) == 80 < max(ids)
