"""CVAT's own SDK and command against a small CVAT (`cvat_server`): a task is annotated from its annotated frames."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from docs_blocks import ROOT, blocks
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rifenet.formats.label_files import load_labels
from rifenet.integrations import cvat
from rifenet.segmenting.segmenter import Segmenter

if TYPE_CHECKING:
    from cvat_sdk.core.client import Client
    from cvat_server import Task

pytestmark = pytest.mark.partner("cvat")
WITHOUT = "`make partner-cvat` runs the tests with cvat in an environment of their own."
cvat_sdk = pytest.importorskip("cvat_sdk", reason=WITHOUT)
pytest.importorskip("cvat_sdk.auto_annotation")
cvat_cli = pytest.importorskip("cvat_cli.__main__").main
COMMANDS = pytest.importorskip("cvat_cli._internal.commands_all").COMMANDS
cvat_server = pytest.importorskip("cvat_server")
annotate_task, BadFunctionError = cvat_sdk.auto_annotation.annotate_task, cvat_sdk.auto_annotation.BadFunctionError
make_client, TOKEN, serving = cvat_sdk.make_client, cvat_server.TOKEN, cvat_server.serving

RED, BLUE, GREY = (200, 40, 40), (40, 40, 200), (110, 110, 110)
PAGE = (ROOT / "docs" / "cvat.md").read_text(encoding="utf-8")
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
EXAMPLES = Path(cvat.__file__).parents[1] / "examples"


def scene(*boxes: tuple[int, int, int, int, tuple[int, int, int]]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A grey picture, 128 x 96, with boxes of flat colours, and where they are: 1 red, 2 blue."""
    image, truth = Image.new("RGB", (128, 96), GREY), Image.new("L", (128, 96))
    for left, top, right, bottom, colour in boxes:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), colour)
        ImageDraw.Draw(truth).rectangle((left, top, right - 1, bottom - 1), 1 if colour == RED else 2)
    return image, np.asarray(truth)


SCENES = {
    "day/a.png": scene((16, 16, 56, 64, RED), (80, 32, 120, 80, BLUE)),
    "day/b.png": scene((8, 24, 48, 72, RED), (64, 24, 104, 72, BLUE)),
    "day/c.png": scene((32, 8, 96, 40, RED)),
    "day/d.png": scene(),
    "night/a.png": scene((24, 40, 56, 88, RED), (72, 40, 104, 88, RED), (8, 4, 120, 32, BLUE)),
}
TRUTH = [truth for _, truth in SCENES.values()]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps photos between runs, in the user's folder of caches."""
    monkeypatch.setattr("cvat_sdk.core.client._DEFAULT_CACHE_DIR", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)


@pytest.fixture
def task(cache: None) -> Task:
    made = cvat_server.Task(
        {name: image for name, (image, _) in SCENES.items()}, {"red": "mask", "blue": "any", "box": "rectangle"}
    )
    made.draw(0, "red", TRUTH[0] == 1)
    made.outline(0, "blue", [80, 32, 120, 32, 120, 80, 80, 80])
    return made


@pytest.fixture
def client(task: Task, tmp_path: Path) -> Iterator[Client]:
    with serving(task) as address, make_client(address, access_token=TOKEN) as client:
        client.config.cache_dir = tmp_path / "cache"
        yield client


def function(client: Client, **options: Any) -> cvat.TaskFunction:
    engine = ColourEngine(128, calibration={"a": 100.0, "b": -50.0})
    return cvat.TaskFunction(client, 7, Segmenter(engine), **{"seconds": 0.0, **options})


def drawn(task: Task, frame: int, label: str) -> NDArray[np.bool_]:
    """Where automatic masks of a label are on a frame."""
    mask = np.zeros((96, 128), bool)
    for shape in task.shapes:
        if (shape["frame"], shape["label_id"], shape["source"]) == (frame, task.label(label), "auto"):
            mask |= task.mask_of(shape)
    return mask


def test_a_task_is_annotated_and_a_second_run_changes_nothing(task: Task, client: Client) -> None:
    by_hand = json.dumps(task.shapes)
    annotate_task(client, 7, function(client))
    assert json.dumps(task.shapes[:2]) == by_hand
    new = task.shapes[2:]
    assert {shape["frame"] for shape in new} == {1, 2, 4}  # 0 is annotated, 3 shows nothing
    assert {shape["type"] for shape in new} == {"mask"}
    assert all(0.4 < shape["score"] <= 1 for shape in new)
    for frame in (1, 2, 4):
        for value, label in ((1, "red"), (2, "blue")):
            np.testing.assert_array_equal(drawn(task, frame, label), TRUTH[frame] == value)
    assert sum(shape["frame"] == 4 and shape["label_id"] == task.label("red") for shape in new) == 2  # two objects

    before = json.dumps(task.shapes)
    annotate_task(client, 7, function(client))
    assert json.dumps(task.shapes) == before


def test_without_objects_a_class_is_one_mask(task: Task, client: Client) -> None:
    annotate_task(client, 7, function(client, objects=False))
    assert [shape["frame"] for shape in task.shapes[2:]] == [1, 1, 2, 4, 4]
    np.testing.assert_array_equal(drawn(task, 4, "red"), TRUTH[4] == 1)


def test_polygons_where_the_label_or_the_command_asks(task: Task, client: Client) -> None:
    task.labels[task.label("red")] = ("red", "any")
    annotate_task(client, 7, function(client), conv_mask_to_poly=True)
    new = task.shapes[2:]
    assert {shape["type"] for shape in new} == {"polygon"}
    corners = {tuple(map(tuple, np.reshape(shape["points"], (-1, 2)).tolist())) for shape in new if shape["frame"] == 2}
    assert corners == {((96, 8), (96, 40), (32, 40), (32, 8))}

    task.shapes = [shape for shape in task.shapes if shape["source"] != "auto" and shape["type"] == "polygon"]
    task.labels = {task.label("blue"): ("blue", "polygon")}
    annotate_task(client, 7, function(client))
    assert {shape["type"] for shape in task.shapes} == {"polygon"}
    assert {shape["frame"] for shape in task.shapes} == {0, 1, 4}


def test_the_threshold_is_honoured(task: Task, client: Client) -> None:
    learned = function(client, objects=False)
    learned.segmenter.engine.calibration = {"a": 30.0, "b": -15.0}  # more than half, and more where more is to be seen
    annotate_task(client, 7, learned)
    every = sorted(shape["score"] for shape in task.shapes[2:])
    assert every[0] < every[2] < every[-1]
    least = every[2]
    task.remove([shape["id"] for shape in task.shapes if shape["source"] == "auto"])
    annotate_task(client, 7, learned, conf_threshold=least)
    kept = sorted(shape["score"] for shape in task.shapes[2:])
    assert kept == [score for score in every if score >= least]
    task.remove([shape["id"] for shape in task.shapes if shape["source"] == "auto"])
    annotate_task(client, 7, learned, conf_threshold=1.0)
    assert [shape for shape in task.shapes if shape["source"] == "auto"] == []


def test_a_low_threshold_lets_in_what_would_count_as_absent(task: Task, client: Client) -> None:
    learned = function(client)
    learned.segmenter.engine.calibration = {"a": 0.0, "b": -1.0}  # 0.27 for every photo
    annotate_task(client, 7, learned)
    assert len(task.shapes) == 2
    annotate_task(client, 7, learned, conf_threshold=0.2)
    assert {shape["frame"] for shape in task.shapes[2:]} == {1, 2, 4}
    task.remove([shape["id"] for shape in task.shapes if shape["source"] == "auto"])
    annotate_task(client, 7, learned, conf_threshold=0.3)
    assert len(task.shapes) == 2


def test_what_changes_on_the_server_is_learned_again(task: Task, client: Client) -> None:
    learned = function(client)
    learned.refresh()
    assert learned.segmenter.shots == {"red": 1, "blue": 1}
    photos = task.asked.count("get data")
    learned.refresh()
    assert task.asked.count("get annotations") == 1  # nothing has changed
    task.draw(1, "red", TRUTH[1] == 1)
    learned.refresh()
    assert learned.segmenter.shots == {"red": 2, "blue": 1}
    assert task.asked.count("get data") == photos + 2  # the two frames of red; blue is as it was
    task.remove([shape["id"] for shape in task.shapes if shape["label_id"] == task.label("red")])
    learned.refresh()
    assert learned.segmenter.shots == {"blue": 1}
    task.draw(2, "red", TRUTH[2] == 1, source="semi-auto")  # an automatic mask that a person has corrected
    learned.refresh()
    assert learned.segmenter.shots == {"blue": 1, "red": 1}
    task.draw(4, "red", TRUTH[4] == 1, source="auto")
    learned.refresh()
    assert learned.segmenter.shots == {"blue": 1, "red": 1}


def test_the_server_is_not_asked_at_every_frame(task: Task, client: Client) -> None:
    learned = function(client, seconds=3600.0)
    annotate_task(client, 7, learned)
    assert task.asked.count("get annotations") == 1


def test_automatic_shapes_are_replaced_where_they_differ(task: Task, client: Client) -> None:
    annotate_task(client, 7, function(client))
    right = json.dumps(task.shapes)
    annotate_task(client, 7, function(client, replace=True))
    assert json.dumps(task.shapes) == right
    wrong = [shape for shape in task.shapes if shape["frame"] == 2]
    task.remove([shape["id"] for shape in wrong])
    task.draw(2, "red", TRUTH[0] == 2, source="auto")
    annotate_task(client, 7, function(client))
    np.testing.assert_array_equal(drawn(task, 2, "red"), TRUTH[0] == 2)  # as it was
    annotate_task(client, 7, function(client, replace=True))
    np.testing.assert_array_equal(drawn(task, 2, "red"), TRUTH[2] == 1)
    assert [shape["source"] for shape in task.shapes if shape["frame"] == 0] == ["manual", "manual"]


def test_frames_of_another_task_with_the_same_names_are_segmented(task: Task, cache: None, tmp_path: Path) -> None:
    names = [*SCENES]
    turned = {name: SCENES[other][0] for name, other in zip(names, names[1:] + names[:1], strict=True)}
    other = cvat_server.Task(turned, {"red": "mask", "blue": "any", "box": "rectangle"}, id=8)
    with serving(task, other) as address, make_client(address, access_token=TOKEN) as client:
        client.config.cache_dir = tmp_path / "cache"
        annotate_task(client, 8, function(client), allow_unmatched_labels=True)
    assert {shape["frame"] for shape in other.shapes} == {0, 1, 3, 4}


def test_tracks_of_people_are_shots_and_stay(task: Task, client: Client) -> None:
    task.shapes = [shape for shape in task.shapes if shape["label_id"] == task.label("blue")]
    task.labels[task.label("red")] = ("red", "any")
    shape = {"type": "polygon", "occluded": False, "rotation": 0.0, "z_order": 0, "attributes": []}
    keys = [
        {**shape, "id": 1, "frame": 1, "outside": False, "points": [8.0, 24, 48, 24, 48, 72, 8, 72]},
        {**shape, "id": 2, "frame": 3, "outside": True, "points": [8.0, 24, 48, 24, 48, 72, 8, 72]},
    ]
    track = {"id": 1, "label_id": task.label("red"), "frame": 1, "group": 0, "source": "manual", "attributes": []}
    task.tracks = [{**track, "shapes": keys, "elements": []}]
    learned = function(client)
    annotate_task(client, 7, learned)
    assert learned.segmenter.shots == {"red": 1, "blue": 1}
    assert {shape["frame"] for shape in task.shapes if shape["source"] == "auto"} == {4}


def test_a_broken_shape_is_left_out_and_named(task: Task, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    task.shapes[0]["points"] = [*task.shapes[0]["points"][:-5], 5.0, *task.shapes[0]["points"][-4:]]
    learned = function(client)
    with caplog.at_level(logging.WARNING, "rifenet"):
        learned.refresh()
    assert learned.segmenter.classes == ["blue"]
    assert "Task 7, frame 0: a shape was left out: " in caplog.text


def test_a_task_without_annotations_gets_a_sentence(task: Task, client: Client) -> None:
    task.shapes = []
    with pytest.raises(ValueError, match="Expected task 7 to have frames with masks or polygons to learn from"):
        annotate_task(client, 7, function(client))


def test_a_video_and_a_task_without_masks_get_a_sentence(task: Task, client: Client) -> None:
    task.labels = {31: ("box", "rectangle")}
    with pytest.raises(ValueError, match="labels of masks, polygons or any shape"):
        function(client)
    task.meta = lambda: {**cvat_server.Task.meta(task), "frames": cvat_server.Task.meta(task)["frames"][:1]}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="Expected a task of images, but task 7 is a video"):
        function(client)


def test_labels_that_another_task_lacks_are_refused_by_the_sdk(task: Task, tmp_path: Path) -> None:
    other = cvat_server.Task({"x.png": SCENES["day/b.png"][0]}, {"red": "mask"}, id=8)
    with serving(task, other) as address, make_client(address, access_token=TOKEN) as client:
        client.config.cache_dir = tmp_path / "cache"
        with pytest.raises(BadFunctionError, match="blue"):
            annotate_task(client, 8, function(client))
        annotate_task(client, 8, function(client), allow_unmatched_labels=True)
    np.testing.assert_array_equal(drawn(other, 0, "red"), TRUTH[1] == 1)


@pytest.fixture
def real(tmp_path: Path) -> tuple[Any, list[NDArray[np.bool_]]]:
    """A task of two photos of bears, the first of them annotated, and one of a pizza; and where the bears are."""
    table = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    number = table["classes"].index("bear") + 1
    bears = sorted((row for row in table["photos"] if "bear" in row["classes"]), key=lambda row: not row["support"])
    rows = [bears[0], next(row for row in bears if not row["support"])]
    rows += [row for row in table["photos"] if row["classes"] == ["pizza"]][:1]
    images = {Path(row["image"]).name: Image.open(EXAMPLES / row["image"]).convert("RGB") for row in rows}
    truth = [np.asarray(Image.open(EXAMPLES / row["mask"])) == number for row in rows]
    task = cvat_server.Task(images, {"bear": "any"})
    task.draw(0, "bear", truth[0])
    return task, truth


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_the_page_step_by_step(
    cache: None, real: tuple[Any, list[NDArray[np.bool_]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/cvat.md, on real photos with the bundled model; what registers agents is parsed only."""
    task, truth = real
    shells, (python,) = ([each.text for each in blocks(PAGE) if each.language == kind] for kind in ("sh", "python"))
    install, annotate, again, agent, files, packed = shells
    assert install == "pip install '.[cvat]'\n"
    monkeypatch.chdir(tmp_path)
    with serving(task) as address:

        def run(block: str) -> None:
            text = block.replace("https://app.cvat.ai", address).replace("the-token", TOKEN)
            done = subprocess.run(
                ["bash", "-euc", text], env=os.environ | {"PATH": PATH}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr

        run(annotate)
        first = json.dumps(task.shapes)
        found = [shape for shape in task.shapes if shape["source"] == "auto"]
        assert {(shape["frame"], shape["type"]) for shape in found} == {(1, "mask")}  # no bear on the pizza
        assert iou(np.any([task.mask_of(shape) for shape in found], axis=0), truth[1]) > 0.6
        run(annotate)
        assert json.dumps(task.shapes) == first
        run(again)
        assert {shape["type"] for shape in task.shapes if shape["source"] == "auto"} == {"polygon"}
        parser = argparse.ArgumentParser()
        COMMANDS.configure_parser(parser)
        for command in agent.replace("\\\n", "").splitlines():
            parser.parse_args(shlex.split(command)[3:])
        task.remove([shape["id"] for shape in task.shapes if shape["source"] == "auto"])
        exec(compile(python.replace("https://app.cvat.ai", address), "docs/cvat.md", "exec"), {})
        (whole,) = [shape for shape in task.shapes if shape["source"] == "auto"]
        assert iou(task.mask_of(whole), truth[1]) > 0.6
    (tmp_path / "exported" / "images").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for number, (name, image) in enumerate(task.images.items()):
        image.save(tmp_path / ("photos" if number else "exported/images") / name, quality=95)
    (tmp_path / "exported" / "annotations.xml").write_text(export_of(task), encoding="utf-8")
    run(files)
    run(packed)
    with zipfile.ZipFile(tmp_path / "for_cvat" / "masks.zip") as archive:
        stems = [Path(name).stem for name in task.images][1:]
        assert {f"SegmentationClass/{stem}.png" for stem in stems} <= {*archive.namelist()}
    read = load_labels(tmp_path / "for_cvat" / "annotations.xml", "bear", photo=[*task.images][1])
    assert iou(read == 1, truth[1]) > 0.6


def export_of(task: Task) -> str:
    """The task's annotations as CVAT exports them."""
    rows = []
    for number, (name, image) in enumerate(task.images.items()):
        rows.append(f'<image id="{number}" name="{name}" width="{image.width}" height="{image.height}">')
        for shape in task.shapes:
            if (shape["frame"], shape["source"]) == (number, "manual"):
                *runs, left, top, right, bottom = (int(each) for each in shape["points"])
                box = f'left="{left}" top="{top}" width="{right - left + 1}" height="{bottom - top + 1}"'
                rows.append(f'<mask label="bear" rle="{", ".join(map(str, runs))}" {box} z_order="0"></mask>')
        rows.append("</image>")
    return "\n".join(["<annotations><version>1.1</version>", *rows, "</annotations>"])
