"""The plugin in napari's real window, on a display without a screen, by the mouse: two slices painted, the rest found.

The variable `RIFENET_NAPARI_PICTURE` says where to save what the window then shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from docs_blocks import ROOT
from numpy.typing import NDArray

from rifenet.segmenting.segmenter import Segmenter

pytestmark = pytest.mark.partner("napari")
WITHOUT = "`make partner-napari` runs the tests with napari in an environment of their own."
pytest.importorskip("napari", reason=WITHOUT)

PICTURE = os.environ.get("RIFENET_NAPARI_PICTURE")
SIDE, RADIUS = 192, 14


@pytest.fixture(scope="session")
def display() -> Iterator[None]:
    """A display of its own, so that no window opens on somebody's screen."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Expected Xvfb: run scripts/get_display.sh, or on Debian: apt-get install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x960x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    number = os.read(reading, 16).decode().strip()
    before = {key: os.environ.get(key) for key in ("DISPLAY", "QT_QPA_PLATFORM")}
    os.environ |= {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb", "NAPARI_CONFIG": ""}
    yield
    server.terminate()
    server.wait()
    for key, value in before.items():
        os.environ.pop(key, None) if value is None else os.environ.update({key: value})


@pytest.fixture
def viewer(display: None) -> Iterator[Any]:
    import napari

    made = napari.Viewer(show=True)
    made.window.resize(1180, 800)
    yield made
    made.close()


def nuclei(slices: int, seed: int = 0) -> tuple[NDArray[np.uint16], list[list[tuple[int, int]]]]:
    """A stack of fluorescent discs as a microscope gives it: 12 bits, dim ground, blur, noise; and where they are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    cells = [(y, x) for y in range(32, SIDE - 16, 46) for x in range(32, SIDE - 16, 46)]
    stack, places = np.empty((slices, SIDE, SIDE), np.uint16), []
    for number in range(slices):
        chosen = [cells[place] for place in rng.permutation(len(cells))[:7]]
        centres = [(y + int(rng.integers(-6, 7)), x + int(rng.integers(-6, 7))) for y, x in chosen]
        light = np.full((SIDE, SIDE), 300.0) + 60 * np.sin(columns / 40 + number) + rng.normal(0, 40, (SIDE, SIDE))
        for y, x in centres:
            distance = np.hypot(rows - y, columns - x)
            texture = 1 + 0.15 * np.sin(rows / 3.0) * np.cos(columns / 3.0)
            light += rng.uniform(1500, 2400) * texture / (1 + np.exp((distance - RADIUS) / 0.8))
        stack[number] = light.clip(0, 4095)
        places.append(centres)
    return stack, places


def discs(centres: list[tuple[int, int]]) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    return np.any([np.hypot(rows - y, columns - x) <= RADIUS for y, x in centres], axis=0)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def wait(until: Callable[[], bool], seconds: float = 600) -> None:
    from qtpy.QtTest import QTest

    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it takes too long"
        QTest.qWait(20)


def click(widget: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def paint(viewer: Any, centres: list[tuple[int, int]]) -> None:
    """A click of the brush, which is as large as a nucleus, on each."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    canvas, camera = viewer.window._qt_viewer.canvas.native, viewer.scene.camera
    _, middle_y, middle_x = camera.center
    for y, x in centres:
        across = canvas.width() / 2 + (x - middle_x) * camera.zoom
        down = canvas.height() / 2 + (y - middle_y) * camera.zoom
        QTest.mouseMove(canvas, QPoint(round(across), round(down)))
        QTest.mouseClick(
            canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(round(across), round(down))
        )
        QTest.qWait(30)


def opened(viewer: Any) -> Any:
    """The plugin's widget, as napari opens it from its menu."""
    _, widget = viewer.window.add_plugin_dock_widget("rifenet", "Segment by examples")
    return widget.dock


def idle(dock: Any) -> bool:
    return bool(dock.button["Segment only"].isEnabled())


def test_two_slices_are_painted_and_the_rest_is_segmented(viewer: Any) -> None:
    from qtpy.QtTest import QTest

    stack, places = nuclei(6)
    image = viewer.add_image(stack, name="nuclei", contrast_limits=(200, 2600))
    labels = viewer.add_labels(np.zeros(stack.shape, np.int32), name="cells")
    dock = opened(viewer)
    assert dock._checked() == ["nuclei"]
    viewer.layers.selection.active = labels
    click(viewer.window._qt_viewer.controls.widgets[labels].paint_button)
    assert str(labels.mode) == "paint"
    labels.brush_size = 2 * RADIUS + 1
    viewer.reset_view()
    for number in (0, 3):
        viewer.dims.set_current_step(0, number)
        QTest.qWait(100)
        paint(viewer, places[number])
        assert iou(labels.data[number] > 0, discs(places[number])) > 0.85
    painted = labels.data.copy()
    click(dock.button["Learn and segment"])
    assert not idle(dock)
    assert dock.button["Cancel"].isEnabled()
    wait(lambda: idle(dock))
    assert dock.told.text().startswith("Done.")
    assert dock.bar.value() == dock.bar.maximum()
    np.testing.assert_array_equal(labels.data[[0, 3]], painted[[0, 3]])
    for number in (1, 2, 4, 5):
        assert set(np.unique(labels.data[number])) == {0, 1}
        assert iou(labels.data[number] > 0, discs(places[number])) > 0.7, number
    assert image.data is stack
    if PICTURE:
        viewer.dims.set_current_step(0, 4)
        viewer.layers.selection.active = labels
        viewer.window.resize(1040, 640)
        QTest.qWait(500)
        viewer.reset_view()
        QTest.qWait(1000)
        viewer.window.screenshot(PICTURE, canvas_only=False)


# What follows needs no model: classes are colours.


def colours(viewer: Any, **options: Any) -> Any:
    from rifenet.integrations.napari.dock import Dock

    dock = Dock(viewer, lambda: Segmenter(ColourEngine(64, **options)))
    viewer.window.add_dock_widget(dock.widget, name="colours")
    return dock


BOXES = [(8, 8, 24, 24), (36, 8, 56, 24), (8, 36, 24, 56)]


def boxes(values: list[int], height: int = 64) -> NDArray[np.uint16]:
    """A slice with a box of each value, on 1000."""
    pixels = np.full((height, 64), 1000, np.uint16)
    for value, (left, top, right, bottom) in zip(values, BOXES, strict=False):
        pixels[top:bottom, left:right] = value
    return pixels


def test_classes_keep_their_numbers_and_corrections_teach(viewer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from qtpy.QtWidgets import QFileDialog

    stack = np.stack([boxes([60000, 30000]), boxes([30000, 60000, 30000]), boxes([0, 60000])])
    viewer.add_image(stack, name="a", contrast_limits=(0, 65535))
    labels = viewer.add_labels(np.zeros(stack.shape, np.uint8), name="drawn")
    dock = colours(viewer)
    click(dock.button["Learn and segment"])
    wait(lambda: idle(dock))
    assert dock.told.text().startswith("Expected a painted slice to learn from")
    labels.data[0][stack[0] == 60000], labels.data[0][stack[0] == 30000] = 7, 3
    click(dock.button["Learn and segment"])
    wait(lambda: idle(dock))
    expected = np.select([stack == 60000, stack == 30000], [7, 3])
    np.testing.assert_array_equal(labels.data, expected)
    assert dock.segmenter.shots == {"label 3": 1, "label 7": 1}

    labels.data[1][stack[1] == 30000] = 0  # corrected by hand: it is a shot from now on
    click(dock.button["Learn and segment"])
    wait(lambda: idle(dock))
    assert dock.segmenter.shots == {"label 3": 1, "label 7": 2}
    assert not labels.data[1][stack[1] == 30000].any()

    path = tmp_path / "classes.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *rest: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *rest: (str(path), ""))
    click(dock.button["Save classes"])
    assert path.is_file()
    other = viewer.add_labels(np.zeros(stack.shape, np.uint8), name="others")
    again = colours(viewer)
    click(again.button["Load classes"])
    wait(lambda: idle(again))
    again.labels.setCurrentText("others")
    click(again.button["Segment only"])
    wait(lambda: idle(again))
    np.testing.assert_array_equal(other.data, expected)


def test_objects_get_numbers_of_their_own(viewer: Any) -> None:
    stack = np.stack([boxes([60000, 60000]), boxes([60000, 60000, 60000]), boxes([60000])])
    viewer.add_image(stack, contrast_limits=(0, 65535))
    drawn = np.zeros(stack.shape, np.int32)
    drawn[0, 8:24, 8:24], drawn[0, 8:24, 36:56] = 4, 9
    labels = viewer.add_labels(drawn)
    dock = colours(viewer)
    dock.numbers.setCurrentText("objects of one class")
    assert dock.apart.isChecked()
    click(dock.button["Learn and segment"])
    wait(lambda: idle(dock))
    assert set(np.unique(labels.data[0])) == {0, 4, 9}
    for (left, top, right, bottom), number in ((box, labels.data[1][box[1] + 2, box[0] + 2]) for box in BOXES):
        assert number in (10, 11, 12)
        assert (labels.data[1][top:bottom, left:right] == number).all()
    assert set(np.unique(labels.data[2])) == {0, 13}


def test_channels_are_seen_in_their_colours_and_limits(viewer: Any) -> None:
    """Two objects that each channel alone shows alike differ in the colours of both, and by the contrast limits."""
    first, second = np.stack([boxes([400, 400])] * 2), np.stack([boxes([400, 1000])] * 2)
    for data, colour in ((first, "red"), (second, "green")):
        viewer.add_image(data, name=colour, colormap=colour, contrast_limits=(400, 1000), blending="additive")
    labels = viewer.add_labels(np.zeros(first.shape, np.uint8))
    labels.data[0][8:24, 8:24] = 1  # black in both channels: only the first box
    dock = colours(viewer)
    from qtpy.QtCore import Qt

    for row in range(2):
        dock.images.item(row).setCheckState(Qt.CheckState.Checked)
    stack = dock._stack()
    picture = stack.picture((0,))
    assert picture[10, 10].tolist() == [0, 0, 0]
    assert picture[10, 40].tolist() == [0, 255, 0]
    assert picture[0, 0].tolist() == [255, 255, 0]
    click(dock.button["Learn and segment"])
    wait(lambda: idle(dock))
    expected = np.zeros((64, 64), np.uint8)
    expected[8:24, 8:24] = 1
    np.testing.assert_array_equal(labels.data[1], expected)


def test_cancel_stops_and_keeps_what_is_done(viewer: Any) -> None:
    stack = np.stack([boxes([60000])] * 200)
    viewer.add_image(stack, contrast_limits=(0, 65535))
    labels = viewer.add_labels(np.zeros(stack.shape, np.uint8))
    labels.data[0][8:24, 8:24] = 1
    dock = colours(viewer)
    click(dock.button["Learn and segment"])
    wait(lambda: dock.bar.maximum() == 199 and dock.bar.value() >= 3)
    click(dock.button["Cancel"])
    wait(lambda: idle(dock))
    assert dock.told.text().startswith("Cancelled.")
    done = int(labels.data.any(axis=(1, 2)).sum())
    assert 3 < done < 200


def test_layers_that_do_not_fit_get_a_sentence(viewer: Any) -> None:
    dock = colours(viewer)
    for expected in (
        "Expected a labels layer",
        "Expected an image layer",
        "Expected image layers as large as the labels",
    ):
        click(dock.button["Segment only"])
        assert dock.told.text().startswith(expected), dock.told.text()
        if not len(viewer.layers):
            viewer.add_labels(np.zeros((2, 64, 64), np.uint8), name="labels")
        else:
            viewer.add_image(np.zeros((64, 64)), name="image")
    viewer.layers["image"].name = "renamed"
    assert dock._checked() == ["renamed"] or dock.images.item(0).text() == "renamed"


def test_the_page_names_what_the_widget_shows(viewer: Any) -> None:
    page = (ROOT / "docs" / "napari.md").read_text(encoding="utf-8")
    dock = colours(viewer)
    shown = {*dock.button, dock.apart.text(), dock.absent.text(), "Images", "Labels", "Painted numbers are"}
    named = set(re.findall(r"\*([A-Z][^*]+)\*", page))
    assert shown <= named
    assert named - shown <= {"Plugins", "Segment by examples"}
