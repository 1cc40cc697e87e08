"""The protocol that counts strokes: where a stroke lies, when an object ends, what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rendered import make_coco, make_custom
from tiny_model import write_smallest_model

from benchmarks import strokes

Mask = NDArray[np.bool_]


def disc(size: tuple[int, int], middle: tuple[int, int], radius: int) -> Mask:
    rows, columns = np.indices(size)
    found: Mask = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= radius**2
    return found


def test_a_stroke_runs_through_the_middle_from_end_to_end() -> None:
    region = np.zeros((120, 200), bool)
    region[40:80, 20:180] = True
    found = strokes.stroke(region)
    rows, columns = np.nonzero(found)
    assert (found & ~region).sum() == 0
    assert columns.min() < 45
    assert columns.max() > 155
    assert abs(rows - 60).max() <= (1 - strokes.CORE) * 20 + 2
    assert found.sum() < 0.1 * region.sum()


def test_a_stroke_follows_a_bent_region_and_keeps_to_its_largest_part() -> None:
    bent = disc((160, 160), (80, 80), 70) & ~disc((160, 160), (80, 80), 40)
    bent[:80] = False
    small = disc((160, 160), (20, 20), 10)
    found = strokes.stroke(bent | small)
    assert (found & ~bent).sum() == 0
    turns = np.unwrap(np.arctan2(*(np.argwhere(found) - 80).T))
    assert np.ptp(turns) > 0.6 * np.pi


@pytest.mark.parametrize("region", [(5, 6, 7, 8), (10, 11, 10, 60), (30, 90, 44, 45)])
def test_the_smallest_regions_get_a_mark(region: tuple[int, int, int, int]) -> None:
    mask = np.zeros((100, 100), bool)
    mask[region[0] : region[1], region[2] : region[3]] = True
    found = strokes.stroke(mask)
    assert found.sum() > 0
    assert (found & ~mask).sum() == 0


def test_a_stroke_is_the_same_each_time_and_on_small_and_large_photos() -> None:
    region = disc((90, 120), (45, 60), 30)
    np.testing.assert_array_equal(strokes.stroke(region), strokes.stroke(region.copy()))
    large = strokes.stroke(np.kron(region, np.ones((8, 8), bool)))
    assert (large & ~np.kron(region, np.ones((8, 8), bool))).sum() == 0
    assert large.any()


class Annotator:
    """Completes strokes to what it is told, and keeps what it was given."""

    def __init__(self, masks: list[Mask]) -> None:
        self.masks, self.calls, self.starts = masks, list[tuple[Mask | None, Mask | None]](), list[Mask | None]()

    def complete(
        self, image: Any, object: Mask | None = None, background: Mask | None = None, *, start: Mask | None = None
    ) -> NDArray[np.uint8]:
        self.calls.append((object, background))
        self.starts.append(start)
        return self.masks[min(len(self.calls), len(self.masks)) - 1].astype(np.uint8)


def example(truth: Mask, ignored: Mask | None = None) -> strokes.Example:
    image = np.zeros((*truth.shape, 3), np.uint8)
    return strokes.Example("a.png", image, truth, np.zeros_like(truth) if ignored is None else ignored)


def test_each_stroke_marks_the_largest_wrong_region_and_an_object_ends_at_the_last_goal() -> None:
    truth = disc((100, 100), (50, 40), 25)
    lacking, spilling = truth.copy(), truth.copy()
    lacking[:, :30] = False
    spilling[45:70, 64:95] = True
    annotator = Annotator([lacking, spilling, truth, truth])
    found = strokes.measured(annotator, example(truth), 20)  # type: ignore[arg-type]
    (first, none), (second, still), (third, beside), (no_object, boxed) = annotator.calls
    assert none is None
    assert still is None
    for start, mask in zip(annotator.starts, (None, lacking, spilling, None), strict=True):
        np.testing.assert_array_equal(start, mask)  # a stroke corrects the mask before it; the box stands alone
    assert (first & ~truth).sum() == 0  # type: ignore[operator]
    added = second & ~first  # type: ignore[operator]
    assert added.any()
    assert (added & ~(truth & ~lacking)).sum() == 0
    assert (third == second).all()  # type: ignore[union-attr]
    assert beside.any()  # type: ignore[union-attr]
    assert (beside & ~(spilling & ~truth)).sum() == 0  # type: ignore[operator]
    assert no_object is None
    assert not (boxed & truth).any()  # type: ignore[operator]
    expected = [lacking.sum() / truth.sum(), truth.sum() / spilling.sum(), 1]
    assert found["iou"] == pytest.approx(expected, abs=1e-4)
    assert (found["box"], found["pixels"], len(found["seconds"])) == (1, truth.sum(), 3)


def test_an_object_that_stays_wrong_ends_after_the_most_strokes() -> None:
    truth = disc((60, 60), (30, 30), 20)
    wrong = disc((60, 60), (30, 20), 20)
    assert len(strokes.measured(Annotator([wrong]), example(truth), 4)["iou"]) == 4  # type: ignore[arg-type]


def test_ignored_pixels_are_neither_scored_nor_marked() -> None:
    truth = disc((60, 60), (30, 30), 20)
    ignored = np.zeros_like(truth)
    ignored[:, :20] = True
    mask = truth & ~ignored
    found = strokes.measured(Annotator([mask]), example(truth, ignored), 3)  # type: ignore[arg-type]
    assert found["iou"] == [1.0]


def test_a_loose_box_is_larger_by_a_fifth_on_each_side() -> None:
    mask = np.zeros((100, 200), bool)
    mask[40:60, 5:105] = True
    inside = np.argwhere(~strokes.outside(mask))
    assert (inside.min(0).tolist(), inside.max(0).tolist()) == ([36, 0], [63, 124])


def test_figures_count_strokes_to_each_goal() -> None:
    def one(*ious: float, box: float = 0.5) -> dict[str, Any]:
        return {"set": "coco", "iou": list(ious), "box": box, "seconds": [0.4] + [0.2] * (len(ious) - 1)}

    objects = [one(0.5, 0.86, 0.91), one(0.95), one(0.2, 0.3, 0.4), one(0.85, 0.84, 0.89)]
    found = strokes.figures(objects, 3)
    assert found["to 0.85"] == {"median": 1.5, "low": 1, "high": 4, "mean": 2.0, "failed": 0.25}
    assert (found["to 0.90"]["median"], found["to 0.90"]["failed"]) == (3.5, 0.5)
    assert found["iou 2"] == pytest.approx((0.86 + 0.95 + 0.3 + 0.84) / 4, abs=1e-3)
    assert (found["seconds"]["first"], found["seconds"]["later"]) == (0.4, 0.2)
    assert set(strokes.summarised(objects, 3)) == {"coco", "everyday", "all"}


def test_the_protocol_runs_end_to_end(tmp_path: Path) -> None:
    model = write_smallest_model(tmp_path / "smallest.safetensors")
    coco = make_coco(tmp_path / "coco", class_ids=(1, 2), per_class=3, mixed=2)
    custom = make_custom(tmp_path / "custom", per_class=3, mixed=2)
    data = [f"coco={coco}", f"nuclei={custom}"]
    out = tmp_path / "out.json"
    words = ["--data", *data, "--out", str(out), "--model", str(model), "--objects", "2", "--most", "2"]
    strokes.main(words)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [each["set"] for each in record["objects"]] == ["coco", "nuclei", "coco", "nuclei"]
    assert all(0 < len(each["iou"]) <= 2 for each in record["objects"])
    assert all(0 <= value <= 1 for each in record["objects"] for value in (*each["iou"], each["box"]))
    assert len(strokes.table(record)) == 2 + len(record["summary"])
    places = {path.name: number for number, path in enumerate(sorted((custom / "masks").glob("*.png")))}
    assert all(places[each["photo"]] % 2 == 1 for each in record["objects"] if each["set"] == "nuclei")
    with Image.open(custom / "masks" / record["objects"][1]["photo"]) as mask:
        assert mask.size
