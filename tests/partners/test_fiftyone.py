"""FiftyOne with its own database: a model learned from the samples with masks, and its labels back on the others."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from docs_blocks import ROOT, blocks
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rifenet.segmenting.segmenter import Segmenter

pytestmark = pytest.mark.partner("fiftyone")

RED, BLUE, GREY = (200, 40, 40), (40, 40, 200), (110, 110, 110)
TARGETS = {10: "red", 20: "blue"}
BOXES = [
    [(16, 16, 56, 64, RED), (80, 32, 120, 80, BLUE)],
    [(8, 24, 48, 72, RED), (64, 24, 104, 72, BLUE)],
    [(32, 8, 96, 40, RED), (8, 60, 60, 90, RED)],
    [],
]


@pytest.fixture(scope="session")
def fo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """FiftyOne, with a database in a folder of its own, that tells nobody that it is used."""
    home = tmp_path_factory.mktemp("fiftyone")
    os.environ |= {
        "FIFTYONE_DATABASE_DIR": str(home / "db"),
        "FIFTYONE_CONFIG_PATH": str(home / "config.json"),
        "FIFTYONE_DATASET_ZOO_DIR": str(home / "zoo"),
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }
    fiftyone = pytest.importorskip("fiftyone", reason="`make partner-fiftyone` runs the tests with FiftyOne.")
    yield fiftyone
    for name in fiftyone.list_datasets():
        fiftyone.delete_dataset(name)


def scene(boxes: list[tuple[int, int, int, int, tuple[int, int, int]]]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A grey picture, 128 x 96, with boxes of flat colours, and where they are: 10 red, 20 blue."""
    image, truth = Image.new("RGB", (128, 96), GREY), Image.new("L", (128, 96))
    for left, top, right, bottom, colour in boxes:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), colour)
        ImageDraw.Draw(truth).rectangle((left, top, right - 1, bottom - 1), 10 if colour == RED else 20)
    return image, np.asarray(truth)


TRUTH = [scene(boxes)[1] for boxes in BOXES]


@pytest.fixture
def dataset(fo: Any, tmp_path: Path) -> Any:
    """Four images, of which the first has a field `truth`, a segmentation with named numbers."""
    made = fo.Dataset()
    for number, boxes in enumerate(BOXES):
        scene(boxes)[0].save(tmp_path / f"{number}.png")
        made.add_sample(fo.Sample(filepath=str(tmp_path / f"{number}.png")))
    made.mask_targets = {"truth": TARGETS}
    first = made.first()
    first["truth"] = fo.Segmentation(mask=TRUTH[0])
    first.save()
    return made


def learned(samples: Any, field: str = "truth", **options: Any) -> Any:
    from rifenet.integrations.fiftyone import learn_from

    segmenter = Segmenter(ColourEngine(128, calibration={"a": 100.0, "b": -50.0}))
    return learn_from(samples, field, segmenter=segmenter, **options)


def test_masks_are_back_on_the_samples(dataset: Any) -> None:
    model = learned(dataset)
    assert model.segmenter.shots == {"red": 1, "blue": 1}
    assert model.mask_targets == TARGETS
    rest = dataset.exists("truth", False)
    assert len(rest) == 3
    rest.apply_model(model, label_field="found", skip_failures=False)
    dataset.mask_targets["found"] = model.mask_targets
    dataset.save()
    dataset.reload()
    found = dataset.values("found.mask")
    assert found[0] is None
    for number in (1, 2, 3):
        np.testing.assert_array_equal(found[number], TRUTH[number])
    assert not model.has_embeddings


def test_instances_and_batches(dataset: Any, fo: Any) -> None:
    model = learned(dataset, kinds=("masks", "instances"))
    dataset.apply_model(model, label_field="found", batch_size=2, skip_failures=False)
    third = list(dataset)[2]
    np.testing.assert_array_equal(third["found_masks"].mask, TRUTH[2])
    objects = third["found_instances"].detections
    assert [each.label for each in objects] == ["red", "red"]
    assert all(0.5 < each.confidence <= 1 for each in objects)
    mask = fo.Detections(detections=objects).to_segmentation(frame_size=(128, 96)).mask
    np.testing.assert_array_equal(mask > 0, TRUTH[2] > 0)
    assert sorted(each.bounding_box for each in objects) == [
        [8 / 128, 60 / 96, 52 / 128, 30 / 96],
        [0.25, 8 / 96, 0.5, 32 / 96],
    ]


@pytest.mark.parametrize("kind", ["detections", "polylines", "unnamed numbers", "another size"])
def test_other_fields_of_masks(dataset: Any, fo: Any, kind: str) -> None:
    first, colours = dataset.first(), [("red", BOXES[0][0]), ("blue", BOXES[0][1])]
    if kind == "detections":
        first["other"] = fo.Detections(
            detections=[
                fo.Detection(
                    label=name,
                    bounding_box=[left / 128, top / 96, (right - left) / 128, (bottom - top) / 96],
                    mask=np.ones((bottom - top, right - left), bool),
                )
                for name, (left, top, right, bottom, _) in colours
            ]
        )
    elif kind == "polylines":
        corners = [(name, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) for name, (x0, y0, x1, y1, _) in colours]
        first["other"] = fo.Polylines(
            polylines=[
                fo.Polyline(label=name, points=[[(x / 128, y / 96) for x, y in ring]], closed=True)
                for name, ring in corners
            ]
        )
    elif kind == "unnamed numbers":
        first["other"] = fo.Segmentation(mask=TRUTH[0])
    else:
        first["other"] = fo.Segmentation(mask=np.repeat(np.repeat(TRUTH[0], 2, axis=0), 2, axis=1))
    first.save()
    if kind == "another size":
        with pytest.warns(UserWarning, match="256 x 192, and its image 128 x 96: it was scaled"):
            model = learned(dataset, "other")
    else:
        model = learned(dataset, "other")
    names = ["10", "20"] if kind in ("unnamed numbers", "another size") else ["red", "blue"]
    assert sorted(model.segmenter.classes) == sorted(names)
    dataset.apply_model(model, label_field="found", skip_failures=False)
    numbers = {name: number for number, name in model.mask_targets.items()}
    expected = np.select([TRUTH[1] == 10, TRUTH[1] == 20], [numbers[name] for name in names])
    found = list(dataset)[1]["found"].mask
    if kind == "polylines":  # OpenCV, with which FiftyOne draws them, fills the outline, too
        assert ((found > 0) != (expected > 0)).mean() < 0.01
    else:
        np.testing.assert_array_equal(found, expected)


def test_threshold_and_classes_of_apply_model(dataset: Any) -> None:
    model = learned(dataset)
    model.segmenter.engine.calibration = {"a": 0.0, "b": -1.0}  # 0.27 for every photo
    dataset.apply_model(model, label_field="absent", skip_failures=False)
    assert not any(mask.any() for mask in dataset.values("absent.mask"))
    dataset.apply_model(model, label_field="low", confidence_thresh=0.2, skip_failures=False)
    np.testing.assert_array_equal(list(dataset)[1]["low"].mask, TRUTH[1])
    dataset.apply_model(model, label_field="high", confidence_thresh=0.3, skip_failures=False)
    assert not any(mask.any() for mask in dataset.values("high.mask"))
    dataset.apply_model(model, label_field="only", confidence_thresh=0.2, classes=["blue"], skip_failures=False)
    np.testing.assert_array_equal(list(dataset)[1]["only"].mask, TRUTH[1] * (TRUTH[1] == 20))


def test_what_cannot_be_learned_gets_a_sentence(dataset: Any, fo: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a field of the samples \(.*truth.*\), but got 'label'"):
        learned(dataset, "label")
    with pytest.raises(ValueError, match="Expected kinds among masks, instances, but got boxes"):
        learned(dataset, kinds=("boxes",))
    with pytest.raises(ValueError, match="Expected samples with masks in 'truth' of green, but there are none"):
        learned(dataset, classes=["green"])
    first = dataset.first()
    first["name"] = fo.Classification(label="x")
    first.save()
    with pytest.raises(ValueError, match="closed polylines in 'name', but got a Classification"):
        learned(dataset, "name")
    dataset.mask_targets = {"truth": {"#ff0000": "red"}}
    with pytest.raises(ValueError, match="Expected numbers as mask targets of 'truth', but it has colours"):
        learned(dataset)


def test_a_class_that_the_segmenter_knew_before_gets_another_number(dataset: Any) -> None:
    from rifenet.integrations.fiftyone import learn_from

    segmenter = Segmenter(ColourEngine(128))
    segmenter.learn("grey", [scene(BOXES[0])[0]], [TRUTH[0] == 0])
    dataset.mask_targets = {"truth": {1: "red", 2: "blue"}}
    first = dataset.first()
    first["truth"].mask = TRUTH[0] // 10
    first.save()
    assert learn_from(dataset, "truth", segmenter=segmenter).mask_targets == {1: "red", 2: "blue", 3: "grey"}


def test_at_most_20_samples_teach_a_class(fo: Any, tmp_path: Path) -> None:
    dataset = fo.Dataset()
    scene(BOXES[0])[0].save(tmp_path / "a.png")
    for _ in range(23):
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / "a.png"), truth=fo.Segmentation(mask=TRUTH[0])))
    with pytest.warns(UserWarning, match="23 samples show '10'; 20 of them, evenly taken, teach it"):
        assert learned(dataset, classes=["10"]).segmenter.shots == {"10": 20}


def test_the_page_step_by_step(fo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/fiftyone.md, on real photos with the bundled model."""
    examples = ROOT / "src" / "rifenet" / "examples"
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    table = json.loads((examples / "examples.json").read_text(encoding="utf-8"))
    number = table["classes"].index("bear") + 1
    bears = sorted((row for row in table["photos"] if "bear" in row["classes"]), key=lambda row: not row["support"])
    rows = [bears[0], next(row for row in bears if not row["support"])]
    for name, row in zip(("a", "b"), rows, strict=True):
        Image.open(examples / row["image"]).convert("RGB").save(tmp_path / "photos" / f"{name}.jpg", quality=95)
    truth = [np.asarray(Image.open(examples / row["mask"])) == number for row in rows]
    Image.fromarray(truth[0].astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    monkeypatch.chdir(tmp_path)
    logging.getLogger("fiftyone").setLevel(logging.WARNING)
    page = (ROOT / "docs" / "fiftyone.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, "docs/fiftyone.md", "exec"), names)
        else:
            assert block.text == "pip install '.[fiftyone]'\n"
    found = next(sample for sample in names["dataset"] if sample.filepath.endswith("b.jpg"))
    mask = found["found_masks"].mask == 1
    assert (mask & truth[1]).sum() / (mask | truth[1]).sum() > 0.6
    assert {each.label for each in found["found_instances"].detections} == {"bear"}
