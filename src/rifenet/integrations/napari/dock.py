"""The dock widget in napari: chooses layers, and learns and segments in a thread beside the window.

The window's own thread reads what the layers are and writes the labels; the worker reads pixels and computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rifenet.config import needs
from rifenet.formats.remarks import heard
from rifenet.integrations.napari.slices import Channel, LayerStack, Told, digest, learn, segment
from rifenet.segmenting.segmenter import Segmenter

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

EXTRA = "rifenet[napari]"
_KEY = "rifenet"  # of the labels layer's metadata: which slices were written
_CLASSES, _OBJECTS = "classes", "objects of one class"
_AHEAD, _PATIENCE = 2, 60.0  # slices that may wait for the window, and seconds that they may take
_FILTER = "Learned classes (*.safetensors)"


def make_widget(viewer: Any = None, make_segmenter: Callable[[], Segmenter] = Segmenter.from_pretrained) -> QWidget:
    """The dock widget, for a viewer (None: napari's current one).

    `make_segmenter` is called in the worker, when the first classes are learned or loaded. Raises
    `rifenet.config.MissingExtra`, a ValueError, where napari is not installed.
    """
    with needs(EXTRA):
        import napari

    return Dock(viewer or napari.current_viewer(), make_segmenter).widget


class Dock:
    """The widget, and what it remembers between two clicks."""

    def __init__(self, viewer: Any, make_segmenter: Callable[[], Segmenter]) -> None:
        self.viewer, self._make_segmenter = viewer, make_segmenter
        self.segmenter: Segmenter | None = None
        self._worker: Any = None
        self._build()
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.renamed):
            event.connect(self._list_layers)
        self._list_layers()

    def _build(self) -> None:
        from qtpy import QtWidgets
        from qtpy.QtCore import Qt

        self.widget = QtWidgets.QWidget()
        self.widget.dock = self  # it lives as long as the widget
        form = QtWidgets.QFormLayout(self.widget)
        self.images, self.labels = QtWidgets.QListWidget(), QtWidgets.QComboBox()
        self.images.setToolTip("Image layers of the same shape: one in grey, or several channels in their colours")
        self.images.setMaximumHeight(90)
        for field in (self.images, self.labels):  # long names of layers do not make the panel wide
            field.setMinimumWidth(100)
            field.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, field.sizePolicy().verticalPolicy())
        self.numbers = QtWidgets.QComboBox()
        self.numbers.addItems([_CLASSES, _OBJECTS])
        self.apart = QtWidgets.QCheckBox("A number for each object found")
        self.absent = QtWidgets.QCheckBox("Also where a class seems absent")
        for text, field in (("Images", self.images), ("Labels", self.labels), ("Painted numbers are", self.numbers)):
            form.addRow(text, field)
        form.addRow(self.apart)
        form.addRow(self.absent)
        self.buttons = {
            "Learn and segment": self._learn_and_segment,
            "Segment only": self._segment_only,
            "Save classes": self._save,
            "Load classes": self._load,
            "Cancel": self._cancel,
        }
        made = {text: QtWidgets.QPushButton(text) for text in self.buttons}
        for text, button in made.items():
            button.clicked.connect(self.buttons[text])
        grid = QtWidgets.QGridLayout()
        for place, button in enumerate(made.values()):
            grid.addWidget(button, place // 2, place % 2)
        form.addRow(grid)
        self.button = made
        self.bar, self.told = QtWidgets.QProgressBar(), QtWidgets.QLabel("Paint all objects of one or two slices.")
        self.told.setWordWrap(True)
        self.told.setAlignment(Qt.AlignmentFlag.AlignTop)
        form.addRow(self.bar)
        form.addRow(self.told)
        self.numbers.currentTextChanged.connect(lambda text: self.apart.setChecked(text == _OBJECTS))
        self._working(False)

    def _list_layers(self, event: Any = None) -> None:
        """Shows the layers that the viewer has now, and keeps the choice."""
        from napari.layers import Image, Labels
        from qtpy.QtCore import Qt
        from qtpy.QtWidgets import QListWidgetItem

        chosen, first = self._checked(), not self.images.count()
        self.images.clear()
        for layer in self.viewer.layers:
            if isinstance(layer, Image):
                item = QListWidgetItem(layer.name)
                checked = layer.name in chosen or (first and not self.images.count())
                item.setCheckState(Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked)
                self.images.addItem(item)
        before = self.labels.currentText()
        names = [layer.name for layer in self.viewer.layers if isinstance(layer, Labels)]
        self.labels.clear()
        self.labels.addItems(names)
        if before in names:
            self.labels.setCurrentText(before)

    def _checked(self) -> list[str]:
        from qtpy.QtCore import Qt

        items = [self.images.item(row) for row in range(self.images.count())]
        return [item.text() for item in items if item.checkState() == Qt.CheckState.Checked]

    def _stack(self) -> LayerStack:
        """The chosen layers. Raises ValueError for those that do not fit."""
        if not self.labels.currentText():
            raise ValueError("Expected a labels layer, but there is none. Add one, and paint a slice.")
        layer = self.viewer.layers[self.labels.currentText()]
        channels = [_channel(self.viewer.layers[name]) for name in self._checked()]
        data = layer.data[0] if layer.multiscale else layer.data
        return LayerStack(channels, data, layer.metadata.setdefault(_KEY, {}))

    def _learn_and_segment(self) -> None:
        numbers = self.numbers.currentText() == _OBJECTS

        def work(segmenter: Segmenter, stack: LayerStack) -> Iterator[Told]:
            yield from learn(segmenter, stack, numbers)
            yield from segment(segmenter, stack, objects=apart, keep_absent=absent)

        apart, absent = self.apart.isChecked(), self.absent.isChecked()
        self._start(work)

    def _segment_only(self) -> None:
        apart, absent = self.apart.isChecked(), self.absent.isChecked()
        self._start(lambda segmenter, stack: segment(segmenter, stack, objects=apart, keep_absent=absent))

    def _start(self, work: Callable[[Segmenter, LayerStack], Iterator[Told]]) -> None:
        """Runs `work` on the chosen layers in a thread."""
        try:
            stack, layer = self._stack(), self.viewer.layers[self.labels.currentText()]
        except ValueError as error:
            self.say(str(error))
            return

        def steps() -> Iterator[Told]:
            yield Told("Loading the model")
            self.segmenter = self.segmenter or self._make_segmenter()
            yield from work(self.segmenter, stack)

        self._run(steps, lambda told: self._take(told, layer, stack))

    def _run(self, steps: Callable[[], Iterator[Told]], take: Callable[[Told], None]) -> None:
        from napari.qt.threading import create_worker

        remarks: list[str] = []
        faults: list[str] = []
        ahead = threading.Semaphore(_AHEAD)  # else slices would pile up while the window is busy

        def listened() -> Iterator[Told]:
            told = steps()
            while True:
                with heard(lambda about, sentence: remarks.append(sentence)):
                    try:
                        step = next(told)
                    except StopIteration:
                        return
                    except (ValueError, OSError) as error:  # a user's; napari shows where any other came from
                        faults.append(str(error))
                        return
                ahead.acquire(timeout=_PATIENCE)
                yield step

        def taken(told: Told) -> None:
            ahead.release()
            take(told)

        def ended() -> None:
            self._working(False)
            if faults or remarks:
                self.say(" ".join(faults or [self.told.text(), *dict.fromkeys(remarks)]))

        self._worker = create_worker(listened)
        self._worker.yielded.connect(taken)
        self._worker.returned.connect(lambda _: self.say("Done.", 1, 1))
        self._worker.aborted.connect(lambda: self.say("Cancelled. What is written stays."))
        self._worker.finished.connect(ended)
        self._working(True)
        self._worker.start()

    def _take(self, told: Told, layer: Any, stack: LayerStack) -> None:
        self.say(told.text, told.done, told.total)
        if told.index is not None and told.labels is not None:
            now = np.asarray(stack.labels[told.index])
            if now.any() and stack.written.get(told.index) != digest(now):
                return  # painted meanwhile
            stack.labels[told.index] = told.labels.astype(stack.labels.dtype)
            stack.written[told.index] = digest(np.asarray(stack.labels[told.index]))
            layer.refresh()

    def _cancel(self) -> None:
        if self._worker is not None:
            self.say("Stopping after the step at hand.")
            self._worker.quit()

    def _save(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        if self.segmenter is None or not self.segmenter.classes:
            self.say("Expected learned classes to save, but there are none. Learn some first.")
        elif path := QFileDialog.getSaveFileName(self.widget, "Save classes", "classes.safetensors", _FILTER)[0]:
            self.segmenter.save_classes(path)
            self.say(f"Saved {', '.join(self.segmenter.classes)}.")

    def _load(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        if not (path := QFileDialog.getOpenFileName(self.widget, "Load classes", "", _FILTER)[0]):
            return

        def steps() -> Iterator[Told]:
            yield Told("Loading the model")
            fresh = Segmenter(self.segmenter.engine) if self.segmenter else self._make_segmenter()
            fresh.load_classes(path)
            self.segmenter = fresh
            yield Told(f"Loaded {', '.join(fresh.classes)}")

        self._run(steps, lambda told: self.say(told.text))

    def say(self, text: str, done: int = 0, total: int = 0) -> None:
        """Shows a sentence, and how far the work is."""
        self.told.setText(text)
        self.bar.setMaximum(total or 1)
        self.bar.setValue(done)

    def _working(self, working: bool) -> None:
        for text, button in self.button.items():
            button.setEnabled(working == (text == "Cancel"))
        if not working:
            self._worker = None


def _channel(layer: Any) -> Channel:
    """An image layer as it is shown now."""
    data = layer.data[0] if layer.multiscale else layer.data
    low, high = layer.contrast_limits
    colormap = layer.colormap
    return Channel(data, (float(low), float(high)), lambda shares: _mapped(colormap, shares), bool(layer.rgb))


def _mapped(colormap: Any, shares: np.ndarray) -> np.ndarray:
    return np.asarray(colormap.map(shares.ravel())).reshape(*shares.shape, -1)
