"""Segmenter and Result over a real, small engine (colour_engine.py), on rendered pictures."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from tiny_disk import tiny_disk

from rifenet.metrics import presence_statistic, sigmoid
from rifenet.segmenting.segmenter import Segmenter

RED, BLUE, GREEN, GREY = (220, 30, 30), (30, 30, 220), (30, 200, 30), (128, 128, 128)


def picture(height: int = 60, width: int = 80, **boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A grey picture with boxes (top, left, bottom, right) of the named colours."""
    image = np.full((height, width, 3), GREY, np.uint8)
    for colour, (top, left, bottom, right) in boxes.items():
        image[top:bottom, left:right] = {"red": RED, "blue": BLUE, "green": GREEN}[colour]
    return image


def mask_of(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return (image == colour).all(-1).astype(np.uint8)


@pytest.fixture
def segmenter() -> Segmenter:
    """Knows red (class 1) and blue (class 2)."""
    segmenter = Segmenter(ColourEngine())
    for name, colour in (("red", RED), ("blue", BLUE)):
        image = picture(**{name: (10, 10, 50, 60)})
        segmenter.learn(name, [image], [mask_of(image, colour)])
    return segmenter


def iou(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    return float((prediction & truth).sum() / (prediction | truth).sum())


def test_segments_all_classes_at_the_photos_own_size(segmenter: Segmenter) -> None:
    query = picture(90, 200, red=(10, 10, 80, 70), blue=(20, 120, 70, 180))
    result = segmenter.segment(query)
    assert result.mask.shape == (90, 200)
    assert result.mask.dtype == np.uint8
    assert iou(result.mask == 1, mask_of(query, RED) == 1) > 0.85
    assert iou(result.mask == 2, mask_of(query, BLUE) == 1) > 0.85
    assert set(result.scores) == {"red", "blue"}
    assert result.scores["red"].shape == (90, 200)
    assert result.scores["red"].dtype == np.float32
    assert 0 <= result.scores["red"].min() < 0.5 < result.scores["red"].max() <= 1
    assert result.present == {"red": True, "blue": True}


def test_fusion_is_the_argmax_with_background_one_minus_the_largest_score(segmenter: Segmenter) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)).resize((47, 61), Image.Resampling.BICUBIC)
    result = segmenter.segment(np.asarray(noise), keep_absent=True)
    stacked = np.stack([result.scores["red"], result.scores["blue"]])
    oracle = np.concatenate([1 - stacked.max(0, keepdims=True), stacked]).argmax(0)
    assert 0 < np.count_nonzero(oracle) < oracle.size
    np.testing.assert_array_equal(result.mask, oracle)


def test_progress_counts_results_and_stays_lazy(segmenter: Segmenter, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    images = [picture(), tmp_path / "nowhere.png", picture()]
    skipped: list[Any] = []
    options: dict[str, Any] = {"batch_size": 1, "on_progress": lambda *state: seen.append(state)}
    results = segmenter.segment_many(images, **options, on_error=lambda query, error: skipped.append(query))
    assert seen == []
    next(results)
    assert seen == [(1, 3)]
    assert len(list(results)) == 1
    assert seen == [(1, 3), (2, 3)]
    assert skipped == images[1:2]
    seen.clear()
    list(segmenter.segment_many(iter(images[:1]), **options))
    assert seen == [(1, None)]


def test_large_photos_are_taken_fewer_at_a_time(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    monkeypatch.setattr("rifenet.segmenting.queries.BATCH_BYTES", image.nbytes)
    list(segmenter.segment_many([image] * 5, batch_size=8))
    assert segmenter.engine.encoded_queries == [2, 2, 1]  # type: ignore[attr-defined]


def test_of_classes_that_overlap_the_one_wins_that_is_likelier_in_the_photo() -> None:
    segmenter = Segmenter(ColourEngine(calibration={"a": 9.0, "b": -4.0}))
    near, far = (200, 30, 30), (220, 80, 30)  # both fit a red pixel, the first better
    for name, colour in (("near", near), ("far", far)):
        segmenter.learn(name, [np.full((64, 64, 3), colour, np.uint8)], [np.ones((64, 64), np.uint8)])
    image = np.full((64, 64, 3), far, np.uint8)
    image[:4, :4] = RED
    result = segmenter.segment(image, keep_absent=True)
    names = list(result.classes)
    scores = np.stack([result.scores[name] for name in names]).astype(np.float64)
    odds = np.array([result.confidence[name] / (1 - result.confidence[name]) for name in names])
    joint = scores / (1 - scores) * odds[:, None, None]
    oracle = np.where((scores > 0.5).any(0), np.where(scores > 0.5, joint, 0).argmax(0) + 1, 0)
    np.testing.assert_array_equal(result.mask, oracle)
    assert scores[0, 1, 1] > scores[1, 1, 1] > 0.5  # by itself the corner is near's
    assert result.mask[1, 1] == 2


def test_score_is_the_softmax_of_the_classs_own_two_logits() -> None:
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("red", [np.full((64, 64, 3), RED, np.uint8)], [np.ones((64, 64), np.uint8)])
    query = picture(64, 64, red=(0, 0, 30, 64))  # the network's own size: no resize in between
    logits = segmenter.engine.decode(
        query.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255), {"colour": np.float32([RED]) / 255}
    )[0]
    exponent = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(segmenter.segment(query).scores["red"], exponent[1] / exponent.sum(0), atol=1e-6)


def test_absent_class_is_left_out_unless_kept() -> None:
    # A calibration under which nothing is ever judged present.
    segmenter = Segmenter(ColourEngine(calibration={"a": 1.0, "b": -9.0}))
    image = picture(red=(10, 10, 50, 60))
    segmenter.learn("red", [image], [mask_of(image, RED)])
    left_out, kept = segmenter.segment(image), segmenter.segment(image, keep_absent=True)
    assert left_out.present == {"red": False}
    assert left_out.calibrated
    assert not left_out.mask.any()
    assert (kept.mask == 1).any()
    np.testing.assert_array_equal(left_out.scores["red"], kept.scores["red"])


def test_confidence_is_the_calibrated_statistic(segmenter: Segmenter) -> None:
    result = segmenter.segment(picture(green=(0, 0, 60, 80)))
    assert max(result.confidence.values()) < 0.2
    assert result.present == {"red": False, "blue": False}
    assert not result.calibrated
    image = picture(64, 64, red=(0, 0, 64, 64))
    raw = segmenter.segment(image).confidence["red"]
    assert raw == pytest.approx(presence_statistic(segmenter.segment(image).scores["red"]), abs=1e-6)
    segmenter.engine.calibration = {"a": 3.0, "b": -1.0}  # type: ignore[misc]
    assert segmenter.segment(image).confidence["red"] == pytest.approx(1 / (1 + np.exp(-(3 * raw - 1))))


def test_padding_has_no_say_in_confidence() -> None:
    # 0.485, 0.456, 0.406 is the padding's colour; a wide photo is half padding.
    padding = np.full((64, 64, 3), (124, 116, 104), np.uint8)
    segmenter = Segmenter(ColourEngine())
    segmenter.learn("padding", [padding], [np.ones((64, 64), np.uint8)])
    assert segmenter.segment(padding).present["padding"]
    assert not segmenter.segment(picture(20, 80, blue=(0, 0, 20, 80))).present["padding"]


def test_sigmoid_is_exact_and_never_overflows() -> None:
    with np.errstate(over="raise"):
        values = sigmoid(np.float32([-500, -2, 0, 2, 500]))
    np.testing.assert_allclose(values, [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-2)), 1], atol=1e-7)


def test_learning_a_known_name_adds_shots() -> None:
    first, second = picture(red=(0, 0, 60, 80)), picture(blue=(0, 0, 60, 80))
    ones = np.ones((60, 80), np.uint8)
    stepwise, at_once = Segmenter(ColourEngine()), Segmenter(ColourEngine())
    stepwise.learn("thing", [first], [ones])
    stepwise.learn("thing", [second], [ones])
    at_once.learn("thing", [first, second], [ones, ones])
    assert stepwise.classes == ["thing"]
    query = picture(red=(0, 0, 30, 80))
    np.testing.assert_array_equal(stepwise.segment(query).scores["thing"], at_once.segment(query).scores["thing"])


def test_replaced_shots_leave_nothing_of_the_old_and_keep_the_number(segmenter: Segmenter, tmp_path: Path) -> None:
    green = picture(green=(10, 10, 50, 60))
    segmenter.save_classes(tmp_path / "both.safetensors")
    loaded = Segmenter(ColourEngine())
    loaded.load_classes(tmp_path / "both.safetensors")  # without photos, so that no shot can be added
    for each in (segmenter, loaded):
        each.learn("red", [green, green], [mask_of(green, GREEN)] * 2, replace=True)
        assert each.classes == ["red", "blue"]
        assert each.shots == {"red": 2, "blue": 1}
        assert iou(each.segment(green).mask == 1, mask_of(green, GREEN) == 1) > 0.85
        assert not each.segment(picture(red=(10, 10, 50, 60)), keep_absent=True).mask.any()
    with pytest.raises(ValueError, match="marks none"):
        segmenter.learn("red", [green], [mask_of(green, RED)], replace=True)
    assert segmenter.shots == {"red": 2, "blue": 1}
    segmenter.learn("new", [green], [mask_of(green, GREEN)], replace=True)
    assert segmenter.classes == ["red", "blue", "new"]


def test_a_single_shot_is_exchanged_and_removed() -> None:
    segmenter = Segmenter(ColourEngine())
    images = [picture(**{colour: (10, 10, 50, 60)}) for colour in ("red", "blue", "green")]
    masks = [mask_of(image, colour) for image, colour in zip(images, (RED, BLUE, GREEN), strict=True)]

    def colour() -> list[int]:
        return [round(255 * value) for value in segmenter._classes["it"].context["colour"][0].tolist()]

    segmenter.learn("it", images[:2], masks[:2])
    assert colour() == pytest.approx([125, 30, 125], abs=3)
    segmenter.replace_shot("it", 1, images[2], masks[2])
    assert colour() == pytest.approx([125, 115, 30], abs=3)
    segmenter.forget_shot("it", 0)
    assert colour() == pytest.approx(GREEN, abs=3)
    assert segmenter.shots == {"it": 1}
    with pytest.raises(ValueError, match="this is its only one"):
        segmenter.forget_shot("it", 0)
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match=f"a shot of 'it', 0 to 0, but got {wrong}"):
            segmenter.replace_shot("it", wrong, images[0], masks[0])
    with pytest.raises(ValueError, match=r"Expected a learned class \(it\), but got 'cow'"):
        segmenter.forget_shot("cow", 0)
    with pytest.raises(ValueError, match="marks none"):
        segmenter.replace_shot("it", 0, images[0], np.zeros_like(masks[0]))
    assert colour() == pytest.approx(GREEN, abs=3)  # a refused shot changes nothing


def test_labels_are_chosen_by_name_number_and_colour(tmp_path: Path) -> None:
    image = picture(red=(10, 10, 50, 30), blue=(10, 40, 50, 60))
    Image.fromarray(image).save(tmp_path / "a.png")
    index = mask_of(image, RED) + 2 * mask_of(image, BLUE)
    colours = np.where(index[..., None] > 0, image, 0).astype(np.uint8)
    shapes = [
        {"label": name, "shape_type": "rectangle", "points": [[left, 10], [right, 50]]}
        for name, left, right in (("red", 10, 30), ("Blue", 40, 60))
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 60, "imageWidth": 80}))
    segmenter = Segmenter(ColourEngine())
    for mask, label in ((index, 2), (colours, "#1e1edc"), (str(tmp_path / "a.json"), None)):
        segmenter.learn("blue", [tmp_path / "a.png"], [mask], label=label, replace=True)
        np.testing.assert_array_equal(segmenter.segment(image).mask > 0, mask_of(image, BLUE) > 0)
    with pytest.raises(ValueError, match=r"the label 'cow' \(the class's name\) in the photo, but it has red, Blue"):
        segmenter.learn("cow", [image], [tmp_path / "a.json"])
    (tmp_path / "b.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 80, "imageWidth": 60}))
    with pytest.raises(ValueError, match="as large as its photo, 80 x 60"):
        segmenter.learn("red", [image], [tmp_path / "b.json"])


def test_memory_counts_photos_masks_and_what_was_learned(segmenter: Segmenter) -> None:
    shot, colour = 64 * 64 * (3 * 4 + 1 + 1), 3 * 4
    assert segmenter.memory() == 2 * (shot + colour)
    segmenter.forget("blue")
    assert segmenter.memory() == shot + colour


def test_more_than_twenty_shots_are_refused_and_nothing_is_lost(segmenter: Segmenter) -> None:
    image = picture(red=(10, 10, 50, 60))
    before = segmenter.segment(image).mask
    with pytest.raises(ValueError, match="at most 20 shots of a class, but 'red' would have 21"):
        segmenter.learn("red", [image] * 20, [mask_of(image, RED)] * 20)
    np.testing.assert_array_equal(segmenter.segment(image).mask, before)
    segmenter.learn("red", [image] * 19, [mask_of(image, RED)] * 19)


def test_forget_moves_later_classes_down(segmenter: Segmenter) -> None:
    query = picture(blue=(10, 10, 50, 60))
    assert set(np.unique(segmenter.segment(query).mask)) == {0, 2}
    segmenter.forget("red")
    assert segmenter.classes == ["blue"]
    assert set(np.unique(segmenter.segment(query).mask)) == {0, 1}
    with pytest.raises(ValueError, match=r"Expected a learned class \(blue\), but got 'cow'"):
        segmenter.forget("cow")
    segmenter.forget("blue")
    with pytest.raises(ValueError, match="none yet"):
        segmenter.forget("blue")
    with pytest.raises(ValueError, match="at least one learned class"):
        segmenter.segment(query)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((60, 80), np.uint8), "mark at least one pixel, but it marks none.$"),
        (np.full((60, 80), 255, np.uint8), "marks none. Its 255 means ignore.*white_is_object"),
        (np.ones((30, 40), np.uint8), r"as large as its photo, 80 x 60 .* 40 x 30 \(width x height\)"),
    ],
)
def test_bad_masks_are_refused_and_the_class_stays(
    segmenter: Segmenter, mask: NDArray[np.uint8], sentence: str
) -> None:
    image = picture(red=(10, 10, 50, 60))
    with pytest.raises(ValueError, match=sentence):
        segmenter.learn("red", [image, image], [mask_of(image, RED), mask])
    with pytest.raises(ValueError, match=sentence):
        segmenter.learn("new", [image], [mask])
    assert segmenter.classes == ["red", "blue"]
    assert (segmenter.segment(image).mask == 1).any()


def test_black_and_white_masks_work() -> None:
    segmenter = Segmenter(ColourEngine())
    image = picture(red=(10, 10, 50, 60))
    segmenter.learn("red", [image], [255 * mask_of(image, RED)])
    assert iou(segmenter.segment(image).mask == 1, mask_of(image, RED) == 1) > 0.85
    three = np.where(image == GREY, 0, 255)[..., 0].astype(np.uint8)
    three[0] = 7
    segmenter.learn("red", [image], [three], white_is_object=True, replace=True)
    assert iou(segmenter.segment(image).mask == 1, mask_of(image, RED) == 1) > 0.85


def test_ignored_pixels_teach_nothing() -> None:
    segmenter = Segmenter(ColourEngine())
    image = picture(red=(0, 0, 60, 40), blue=(0, 40, 60, 80))
    mask = np.where(mask_of(image, RED) == 1, 1, 255).astype(np.uint8)
    segmenter.learn("red", [image], [mask])
    assert (segmenter.segment(picture(blue=(0, 0, 60, 80))).mask == 0).all()


@pytest.mark.parametrize(
    ("images", "masks", "sentence"),
    [
        ([], [], "a mask for each of 1 to 20 images, but got 0 and 0"),
        ([picture()], [], "but got 1 and 0"),
        ("a.jpg", ["a.png"], "Expected lists"),
        (["nowhere.jpg"], ["nowhere.png"], "nowhere.jpg"),
    ],
)
def test_wrong_arguments_get_a_sentence(images: Any, masks: Any, sentence: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Segmenter(ColourEngine()).learn("dog", images, masks)


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_class_needs_a_name(name: Any) -> None:
    with pytest.raises(ValueError, match="a name for the class"):
        Segmenter(ColourEngine()).learn(name, [picture()], [np.ones((60, 80), np.uint8)])


def test_a_one_pixel_object_in_a_large_photo_teaches_its_colour() -> None:
    segmenter = Segmenter(ColourEngine())
    image = np.full((4000, 6000, 3), GREY, np.uint8)
    image[1000:1200, 3000:3200] = RED
    mask = np.zeros((4000, 6000), np.uint8)
    mask[1100, 3100] = 1
    segmenter.learn("red", [image], [mask])
    result = segmenter.segment(image)
    assert result.mask.shape == (4000, 6000)
    assert result.mask[1100, 3100] == 1
    assert result.mask[3000, 1000] == 0


def test_a_one_by_one_photo_is_segmented(segmenter: Segmenter) -> None:
    assert segmenter.segment(np.full((1, 1, 3), RED, np.uint8)).mask.tolist() == [[1]]
    segmenter.learn("green", [np.full((1, 1, 3), GREEN, np.uint8)], [np.ones((1, 1), np.uint8)])
    assert (segmenter.segment(picture(green=(0, 0, 60, 80))).mask == 3).all()


def save_grey(path: Path) -> None:
    Image.fromarray(np.full((40, 50), 200, np.uint8)).save(path)


def save_rgba(path: Path) -> None:
    Image.new("RGBA", (50, 40), (*RED, 255)).save(path)


def save_16_bit(path: Path) -> None:
    Image.fromarray(np.full((40, 50), 40_000, np.uint16)).save(path)


def save_palette(path: Path) -> None:
    Image.new("RGB", (50, 40), RED).quantize(4).save(path)


@pytest.mark.parametrize("save", [save_grey, save_rgba, save_16_bit, save_palette])
def test_photos_of_any_mode_are_segmented(segmenter: Segmenter, tmp_path: Path, save: Callable[[Path], None]) -> None:
    save(tmp_path / "photo.png")
    result = segmenter.segment(tmp_path / "photo.png")
    assert result.mask.shape == (40, 50)
    assert (result.mask == 1).all() == (save in (save_rgba, save_palette))
    assert len(result.save(tmp_path / "out")) == 3


def test_cmyk_and_rotated_jpegs_are_segmented_upright(segmenter: Segmenter, tmp_path: Path) -> None:
    upright = Image.fromarray(picture(60, 80, red=(0, 0, 60, 30)))
    upright.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert segmenter.segment(tmp_path / "cmyk.jpg").mask[30, 10] == 1
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be shown turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    result = segmenter.segment(tmp_path / "turned.jpg")
    assert result.mask.shape == (60, 80)
    assert result.mask[30, 10] == 1
    assert result.mask[30, 60] == 0


def test_the_same_pixels_give_the_same_mask_from_path_pil_and_array(segmenter: Segmenter, tmp_path: Path) -> None:
    query = picture(red=(10, 10, 50, 60))
    Image.fromarray(query).save(tmp_path / "query.png")
    masks = [segmenter.segment(source).mask for source in (query, Image.fromarray(query), tmp_path / "query.png")]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_segment_many_is_lazy_in_batches_and_in_order(segmenter: Segmenter) -> None:
    taken = []

    def queries() -> Iterator[NDArray[np.uint8]]:
        for height in range(20, 27):
            taken.append(height)
            yield picture(height, 30, red=(0, 0, height, 10))

    results = segmenter.segment_many(queries(), batch_size=3)
    assert taken == []
    assert next(results).mask.shape == (20, 30)
    assert taken == [20, 21, 22]
    segmenter.forget("blue")  # what was asked for before is not changed by it
    rest = list(results)
    assert [result.mask.shape[0] for result in rest] == [21, 22, 23, 24, 25, 26]
    assert rest[-1].classes == ("red", "blue")
    assert segmenter.engine.encoded_queries == [3, 3, 1]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="batch_size"):
        segmenter.segment_many([], batch_size=0)
    assert list(segmenter.segment_many([])) == []


def test_batch_size_changes_nothing(segmenter: Segmenter) -> None:
    queries = [picture(20 + 7 * i, 50, red=(0, 0, 10, 20 + i), blue=(12, 5, 20, 45)) for i in range(5)]
    for one, many in zip(
        segmenter.segment_many(queries, batch_size=1), segmenter.segment_many(queries, batch_size=4), strict=True
    ):
        np.testing.assert_array_equal(one.mask, many.mask)


def test_a_bad_photo_costs_no_other_result(segmenter: Segmenter, tmp_path: Path) -> None:
    good = picture(red=(10, 10, 50, 60))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    queries = [good, good, tmp_path / "bad.jpg", tmp_path / "missing.jpg", good]
    results = segmenter.segment_many(queries, batch_size=8)
    assert (next(results).mask == 1).any()
    assert (next(results).mask == 1).any()
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        next(results)
    errors: list[tuple[Any, str]] = []
    kept = list(segmenter.segment_many(queries, on_error=lambda query, error: errors.append((query, str(error)))))
    assert len(kept) == 3
    assert [query for query, _ in errors] == queries[2:4]
    assert "missing.jpg" in errors[1][1]


def test_save_writes_mask_overlay_and_facts(segmenter: Segmenter, tmp_path: Path) -> None:
    query = picture(red=(10, 10, 50, 60))
    Image.fromarray(query).save(tmp_path / "my photo.png")
    result = segmenter.segment(tmp_path / "my photo.png")
    paths = result.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["my photo_mask.png", "my photo_overlay.jpg", "my photo.json"]
    )
    with Image.open(paths["mask"]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), result.mask)
    with Image.open(paths["overlay"]) as overlay:
        assert overlay.size == (80, 60)
    facts = json.loads(paths["json"].read_text())
    assert facts["classes"][0] == {
        "id": 1,
        "name": "red",
        "present": True,
        "confidence": round(result.confidence["red"], 4),
        "quality": round(result.quality["red"], 4),
        "pixels": int((result.mask == 1).sum()),
    }
    assert facts["calibrated"] is False
    assert facts["model"] == {"name": "colour", "hash": "c0104e", "weights_hash": "c0104e"}
    assert (facts["height"], facts["width"]) == (60, 80)
    segmenter.segment(query).save(tmp_path / "out")
    assert (tmp_path / "out" / "query.json").is_file()


def test_classes_survive_a_file(segmenter: Segmenter, tmp_path: Path) -> None:
    query = picture(red=(5, 5, 30, 30), blue=(35, 35, 60, 80))
    segmenter.learn("Zebra / ✓", [query], [np.ones((60, 80), np.uint8)])
    segmenter.save_classes(tmp_path / "classes.safetensors")
    fresh = Segmenter(ColourEngine())
    fresh.load_classes(tmp_path / "classes.safetensors")
    assert fresh.classes == ["red", "blue", "Zebra / ✓"]
    np.testing.assert_array_equal(fresh.segment(query).mask, segmenter.segment(query).mask)


def test_a_loaded_class_takes_no_shots_but_can_be_learned_anew(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_classes(tmp_path / "classes.safetensors")
    fresh = Segmenter(ColourEngine())
    fresh.load_classes(tmp_path / "classes.safetensors")
    image = picture(red=(10, 10, 50, 60))
    with pytest.raises(ValueError, match=r"the photos of 'red', but it was loaded from a file.*Forget it"):
        fresh.learn("red", [image], [mask_of(image, RED)])
    fresh.forget("red")
    fresh.learn("red", [image], [mask_of(image, RED)])
    assert fresh.classes == ["blue", "red"]


def test_loading_a_known_class_is_refused_whole(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_classes(tmp_path / "classes.safetensors")
    segmenter.forget("blue")
    with pytest.raises(ValueError, match=r"red is learned\. Forget it first"):
        segmenter.load_classes(tmp_path / "classes.safetensors")
    assert segmenter.classes == ["red"]


@pytest.mark.parametrize("engine", [ColourEngine(hash="another"), ColourEngine(size=32)])
def test_classes_of_another_model_are_refused(segmenter: Segmenter, tmp_path: Path, engine: ColourEngine) -> None:
    segmenter.save_classes(tmp_path / "classes.safetensors")
    with pytest.raises(ValueError, match=r"made with colour \(c0104e, 64 px\)"):
        Segmenter(engine).load_classes(tmp_path / "classes.safetensors")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Changes the header and tensors of a learned-classes file in place."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["rifenet-classes"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {"rifenet-classes": json.dumps(header)})


def wrong_version(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    header["version"] = 99


def changed_bytes(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["0.colour"] = tensors["0.colour"] + 1


def endless_shape(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    header["shapes"][0] = [[10**400, 1]]


def one_number(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    header["shapes"][0] = [[0.5]]


def other_count(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    header["shots"] = header["shots"][1:]


def listed_name(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    header["classes"][0] = ["red"]


def lacking_key(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    del header["checksum"]


def wrong_dims(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    from rifenet.segmenting import storage

    tensors["0.colour"] = np.zeros((1, 5), np.float32)
    header["checksum"] = storage._checksum(tensors, [0.0])


def wrong_names(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    from rifenet.segmenting import storage

    tensors["0.smell"] = tensors.pop("0.colour")
    header["checksum"] = storage._checksum(tensors, [0.0])


def not_numbers(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    from rifenet.segmenting import storage

    tensors["0.colour"] = np.full((1, 3), np.nan, np.float32)
    header["checksum"] = storage._checksum(tensors, [0.0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (wrong_version, "has format 99. Update rifenet"),
        (changed_bytes, "its content has changed"),
        (lacking_key, "the header to have checksum"),
        (endless_shape, r"the header.shapes\[0\]\[0\]\[0\] to be a number"),
        (one_number, "to have 2 entries, but got 1"),
        (other_count, "as many of each, but got"),
        (listed_name, r"the header.classes\[0\] to be a text"),
        (wrong_dims, "that colour can use"),
        (wrong_names, "that colour can use"),
        (not_numbers, "Expected numbers for 'red'"),
    ],
)
def test_a_class_file_that_does_not_fit_is_refused(
    segmenter: Segmenter, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], sentence: str
) -> None:
    path = tmp_path / "classes.safetensors"
    segmenter.save_classes(path)
    rewritten(path, change)
    fresh = Segmenter(ColourEngine())
    with pytest.raises(ValueError, match=sentence):
        fresh.load_classes(path)
    assert fresh.classes == []


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_truncated_class_file_is_refused(segmenter: Segmenter, tmp_path: Path, share: float) -> None:
    path = tmp_path / "classes.safetensors"
    segmenter.save_classes(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"classes\.safetensors is damaged or something else"):
        Segmenter(ColourEngine()).load_classes(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds something else"):
        Segmenter(ColourEngine()).load_classes(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"learned classes at .*missing"):
        Segmenter(ColourEngine()).load_classes(tmp_path / "missing.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(segmenter: Segmenter, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk.folder / "classes.safetensors"
        segmenter.save_classes(path)
        before = path.read_bytes()
        segmenter.forget("red")
        disk.fill()
        with pytest.raises(OSError, match=r"No space left|File too large"):
            segmenter.save_classes(path)
        with pytest.raises(OSError, match=r"No space left|File too large"):
            segmenter.segment(picture(blue=(10, 10, 50, 60))).save(disk.folder)
        disk.release()
        assert path.read_bytes() == before
        assert [file.name for file in disk.folder.iterdir()] == ["classes.safetensors"]


def test_no_more_classes_than_a_mask_has_numbers(segmenter: Segmenter) -> None:
    image, ones = picture(green=(0, 0, 60, 80)), np.ones((60, 80), np.uint8)
    for index in range(252):
        segmenter.learn(f"green {index}", [image], [ones])
    with pytest.raises(ValueError, match="at most 254 classes"):
        segmenter.learn("one more", [image], [ones])
    assert segmenter.segment(picture(green=(0, 0, 60, 80))).mask.max() <= 254


def test_the_maps_of_many_classes_are_kept_once() -> None:
    """A batch takes what its results hold, and a result takes its part along when it goes."""
    segmenter = Segmenter(ColourEngine(size=64))
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(8)]
    mask = np.zeros((64, 64), np.uint8)
    mask[:20] = 1
    for number in range(60):
        segmenter.learn(f"class {number}", [photos[0]], [mask])
    held = 8 * 60 * 64 * 64 * 4
    tracemalloc.start()
    results = segmenter.segment_many(photos, batch_size=8)
    next(results)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * held
    for _ in range(6):
        next(results)
    assert tracemalloc.get_traced_memory()[0] < 0.5 * held
    tracemalloc.stop()


def test_saving_over_another_photos_results_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    segmenter = Segmenter(ColourEngine())
    photo = np.full((60, 80, 3), RED, np.uint8)
    photo[:, :40] = 128
    mask = (photo == RED).all(2)
    segmenter.learn("red", [photo], [mask])
    for name in ("a.png", "a_coco.png", "other/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / name)
    results = {name: segmenter.segment(tmp_path / name) for name in ("a.png", "a_coco.png", "other/a.png")}
    out = tmp_path / "out"
    results["a.png"].save(out, formats=["coco"])
    results["a.png"].save(out, formats=["coco"])  # the same again
    results["other/a.png"].save(out, "another name", formats=["coco"])
    assert list(recwarn) == []
    with pytest.warns(UserWarning, match=r"a\.json: It belonged to the results of \S+a\.png and was replaced"):
        results["other/a.png"].save(out, formats=["index"])
    with pytest.warns(UserWarning, match=r"a_coco\.json: It belonged to another photo's results"):
        results["a_coco.png"].save(out, formats=["index"])
    with pytest.warns(UserWarning, match=r"a_coco\.json: It belonged to the results of \S+a_coco\.png"):
        results["other/a.png"].save(out, formats=["coco"])
