"""A stack slice by slice, without napari: what the model sees, what teaches, and what is written."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray

from rifenet.integrations.napari.slices import Channel, LayerStack, digest, learn, segment
from rifenet.segmenting.segmenter import Segmenter


def shades(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red, as a colormap of napari gives it."""
    return np.stack([shares, np.zeros_like(shares), np.zeros_like(shares), np.ones_like(shares)], axis=-1)


def stack_of(data: Any, limits: tuple[float, float] = (0, 100), dtype: Any = np.int32) -> LayerStack:
    return LayerStack([Channel(data, limits, shades)], np.zeros(data.shape, dtype))


def series(slices: int = 4) -> NDArray[np.uint16]:
    """Dark slices, each with a bright and a middling box."""
    data = np.zeros((slices, 32, 32), np.uint16)
    for number in range(slices):
        data[number, 4:14, 4:14] = 1000
        data[number, 18:30, 18 - number : 30 - number] = 500
    return data


def test_one_channel_is_grey_between_its_limits() -> None:
    data = np.array([[[0.0, 10, 60, 110, 500, np.nan]] * 2] * 2)
    picture = stack_of(data, (10, 110)).picture((1,))
    assert picture.shape == (2, 6, 3)
    assert picture[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]  # 255 / 2 is 127.5, and rint goes to the even number
    assert (picture == picture[..., :1]).all()


def test_a_flat_limit_divides_by_no_zero() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stack_of(np.array([[5.0, 6.0]]), (5, 5)).picture(())[0, :, 0].tolist() == [0, 255]


def test_channels_add_up_and_colours_stay() -> None:
    data = np.array([[0.0, 50, 100]])
    rgb = np.array([[[0, 10, 20], [200, 30, 40], [255, 255, 255]]], np.uint8)
    both = LayerStack(
        [Channel(data, (0, 100), shades), Channel(rgb, (0, 255), shades, True)], np.zeros((1, 3), np.uint8)
    )
    assert both.picture(()).tolist() == [[[0, 10, 20], [255, 30, 40], [255, 255, 255]]]
    only = LayerStack([Channel(rgb, (0, 255), shades, True)], np.zeros((1, 3), np.uint8))
    assert only.picture(()).tolist() == rgb.tolist()
    alpha = np.concatenate([rgb, np.zeros((1, 3, 1), np.uint8)], axis=-1) / 255
    assert (
        LayerStack([Channel(alpha, (0, 1), shades, True)], np.zeros((1, 3), np.uint8)).picture(()).tolist()
        == rgb.tolist()
    )


@pytest.mark.parametrize(
    ("channels", "labels", "sentence"),
    [
        ([], (2, 4, 4), "Expected an image layer, but none is chosen"),
        ([(4, 4)], (2, 4, 4), r"Expected image layers as large as the labels, \(2, 4, 4\), but got \(4, 4\)"),
        ([(4,)], (4,), "Expected labels of at least two axes, but they have 1"),
    ],
)
def test_layers_that_do_not_fit(channels: list[tuple[int, ...]], labels: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LayerStack([Channel(np.zeros(shape), (0, 1), shades) for shape in channels], np.zeros(labels, np.uint8))


def test_slices_of_stacks_of_stacks() -> None:
    stack = stack_of(np.zeros((2, 3, 4, 5)))
    assert stack.indices() == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    stack.labels[1, 2, 0, 0] = 1
    stack.labels[0, 1, 0, 0] = 1
    assert stack.painted() == [(0, 1), (1, 2)]
    stack.written[1, 2] = digest(stack.labels[1, 2])
    assert stack.painted() == [(0, 1)]
    stack.labels[1, 2, 1, 1] = 5  # corrected
    assert stack.painted() == [(0, 1), (1, 2)]


def run(steps: Any, stack: LayerStack) -> list[str]:
    """Writes each slice as the panel does; what was told."""
    told = []
    for step in steps:
        told.append(step.text)
        if step.index is not None:
            stack.labels[step.index] = step.labels
            stack.written[step.index] = digest(stack.labels[step.index])
    return told


def test_learning_and_segmenting_reads_one_slice_at_a_time() -> None:
    data, read = series(), []

    class Lazy:
        shape = data.shape

        def __getitem__(self, index: Any) -> NDArray[np.uint16]:
            read.append(index)
            return data[index]

    stack = LayerStack([Channel(Lazy(), (0, 1000), shades)], np.zeros(data.shape, np.uint8))
    stack.labels[1][data[1] == 1000], stack.labels[1][data[1] == 500] = 4, 2
    segmenter = Segmenter(ColourEngine(32))
    assert run(learn(segmenter, stack, False), stack) == [
        "Learning label 2 from 1 of 1 painted slices",
        "Learning label 4 from 1 of 1 painted slices",
    ]
    assert segmenter.classes == ["label 2", "label 4"]
    told = run(segment(segmenter, stack, objects=False, keep_absent=True), stack)
    assert told == [f"Segmenting slice {number} of 3" for number in (1, 2, 3)]
    np.testing.assert_array_equal(stack.labels, np.select([data == 1000, data == 500], [4, 2]))
    assert read == [(1,), (1,), (0,), (2,), (3,)]


def test_numbers_as_objects_of_one_class() -> None:
    data = series()
    stack = LayerStack([Channel(data, (0, 500), shades)], np.zeros(data.shape, np.uint8))  # both boxes are white
    stack.labels[0][data[0] == 1000], stack.labels[0][data[0] == 500] = 30, 7
    segmenter = Segmenter(ColourEngine(32))
    run(learn(segmenter, stack, True), stack)
    assert segmenter.shots == {"objects": 1}
    run(segment(segmenter, stack, objects=True, keep_absent=True), stack)
    found = [sorted(set(np.unique(stack.labels[number]).tolist()) - {0}) for number in range(4)]
    assert found == [[7, 30], [31, 32], [33, 34], [35, 36]]
    np.testing.assert_array_equal(stack.labels > 0, data > 0)


def test_more_objects_than_the_labels_can_count() -> None:
    data = series()
    stack = LayerStack([Channel(data, (0, 500), shades)], np.zeros(data.shape, np.uint8))
    stack.labels[0][data[0] > 0] = 255
    segmenter = Segmenter(ColourEngine(32))
    run(learn(segmenter, stack, True), stack)
    with pytest.raises(
        ValueError, match=r"numbers up to 255, as the labels hold \(uint8\).*Convert the labels to int32"
    ):
        run(segment(segmenter, stack, objects=True, keep_absent=True), stack)


def test_at_most_20_slices_teach_evenly_taken_and_old_classes_go() -> None:
    data = series(30)
    stack = LayerStack([Channel(data, (0, 1000), shades)], np.zeros(data.shape, np.uint8))
    stack.labels[:25][data[:25] == 1000] = 1
    segmenter = Segmenter(ColourEngine(32))
    segmenter.learn("label 9", [stack.picture((0,))], [(data[0] == 500).astype(np.uint8)])
    assert run(learn(segmenter, stack, False), stack) == ["Learning label 1 from 20 of 25 painted slices"]
    assert segmenter.shots == {"label 1": 20}
    stack.labels[:] = 0
    with pytest.raises(ValueError, match="Expected a painted slice to learn from, but there is none"):
        run(learn(segmenter, stack, False), stack)
