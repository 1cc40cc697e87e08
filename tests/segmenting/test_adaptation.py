"""`Segmenter.adapt` over a small engine (colour_engine.py), on rendered pictures; the last test takes real photos."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from rifenet.examples.samples import load_examples
from rifenet.formats.pictures import load_mask
from rifenet.metrics import presence_statistic, sigmoid
from rifenet.segmenting.adaptation import shift_to, taken_by_others
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.shots import Shots

RED, REDDISH, BROWN, BLUE, BLACK = (220, 30, 30), (200, 70, 30), (120, 125, 30), (30, 30, 220), (0, 0, 0)
GREY, VIOLET = (128, 128, 128), (130, 30, 130)  # grey is not sure to be no red, black is; violet is as near red as blue


class Watched(ColourEngine):
    """Keeps what it was taught."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.taught: list[Shots] = []

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        self.taught.append(Shots(images, masks, valid))
        return super().encode_support(images, masks, valid)


def picture(colour: tuple[int, int, int], size: int = 30, ground: tuple[int, int, int] = BLACK) -> NDArray[np.uint8]:
    """A square of `size` pixels on the ground, 60 x 80."""
    image = np.full((60, 80, 3), ground, np.uint8)
    image[10 : 10 + size, 20 : 20 + size] = colour
    return image


def learned(engine: ColourEngine, *colours: tuple[int, int, int]) -> Segmenter:
    segmenter = Segmenter(engine)
    for number, colour in enumerate(colours, 1):
        image = picture(colour)
        segmenter.learn(f"class {number}", [image], [(image == colour).all(-1).astype(np.uint8)])
    return segmenter


def found(segmenter: Segmenter, image: NDArray[np.uint8]) -> int:
    return int((segmenter.segment(image).mask == 1).sum())


def test_a_class_is_found_where_its_photos_show_that_it_may_be_so() -> None:
    segmenter = learned(ColourEngine(), RED)
    assert found(segmenter, picture(BROWN)) == 0
    adopted = segmenter.adapt([picture(REDDISH, size) for size in (20, 25, 30)])
    assert [shot.number for shot in adopted["class 1"]] == [3, 2, 1]  # the more of it, the surer
    assert found(segmenter, picture(BROWN)) == pytest.approx(900, rel=0.1)
    assert found(segmenter, picture(BLUE)) == 0
    assert segmenter.shots == {"class 1": 1}  # what was annotated
    assert segmenter.learned[0].adopted == adopted["class 1"]


def test_pseudo_masks_are_the_sure_pixels_that_no_other_class_takes() -> None:
    engine = Watched()
    segmenter = learned(engine, RED, BLUE)
    image = picture(RED, 24, GREY)
    image[40:55, 50:75], image[:8, :] = VIOLET, BLACK
    image[40:50, 10:30], image[10:30, 60:75] = REDDISH, BLUE
    first = segmenter.segment(image, tiles=False)
    before = list(segmenter.learned)
    engine.taught.clear()
    segmenter.adapt([image])
    assert len(engine.taught) == 2
    for index, taught in enumerate(engine.taught):
        assert len(taught.images) == 2
        oracle = np.full((64, 64), 255, np.uint8)
        for row, column in np.ndindex(64, 64):
            if not taught.valid[1][row, column]:
                continue
            scores = [1 / (1 + np.exp(-float(maps[row, column]))) for maps in first.margins]
            if scores[1 - index] > 0.5 and scores[1 - index] > scores[index]:
                continue  # the other class takes it
            if scores[index] >= 0.7:
                oracle[row, column] = 1
            elif scores[index] <= 0.3:
                oracle[row, column] = 0
        np.testing.assert_array_equal(taught.masks[1], oracle)
        assert {0, 1, 255} == set(np.unique(oracle))
        np.testing.assert_array_equal(taught.masks[0], before[index].annotated().masks[0])


def test_the_surest_are_adopted_whatever_their_order() -> None:
    shades = [tuple(np.add(RED, [-step, step, 0]).tolist()) for step in (25, 5, 45, 15, 35)]  # the smaller, the surer
    photos = [picture(shade) for shade in shades]
    segmenter = learned(ColourEngine(), RED)
    numbers = [shot.number for shot in segmenter.adapt(photos, count=3)["class 1"]]
    assert numbers == [2, 4, 1]
    expected = segmenter.learned[0].context["colour"]
    for seed in range(5):
        order = random.Random(seed).sample(range(5), 5)
        shots = segmenter.adapt([photos[place] for place in order], count=3)["class 1"]
        assert [order[shot.number - 1] + 1 for shot in shots] == numbers
        assert [shot.confidence for shot in shots] == sorted((shot.confidence for shot in shots), reverse=True)
        np.testing.assert_array_equal(segmenter.learned[0].context["colour"], expected)


def test_annotated_photos_and_repeated_ones_are_passed_over(tmp_path: Path) -> None:
    segmenter = learned(ColourEngine(), RED)
    Image.fromarray(picture(REDDISH)).save(tmp_path / "again.png")
    photos = [picture(RED), picture(REDDISH), tmp_path / "again.png"]
    assert [(shot.number, shot.source) for shot in segmenter.adapt(photos)["class 1"]] == [(2, "")]


def test_photos_in_which_a_class_is_judged_absent_do_not_teach_it() -> None:
    photos = [picture(REDDISH), picture(REDDISH, 8)]
    ranked = learned(ColourEngine(), RED).adapt(photos)["class 1"]
    judged = learned(ColourEngine(calibration={"a": 20.0, "b": -9.0}), RED).adapt(photos)["class 1"]
    assert [shot.number for shot in ranked] == [1, 2]  # without a calibration there is no judgement, only an order
    assert [shot.number for shot in judged] == [1]
    assert judged[0].confidence >= 0.5
    strict = learned(ColourEngine(calibration={"a": 20.0, "b": -20.0}), RED)
    before = strict.learned[0].context["colour"]
    assert strict.adapt(photos) == {"class 1": ()}
    np.testing.assert_array_equal(strict.learned[0].context["colour"], before)


def test_a_class_judged_absent_does_not_adopt_for_the_pixels_that_others_leave_it() -> None:
    """A spot of it on a large object of another class: sure there, but judged absent from the photo as a whole."""
    segmenter = learned(ColourEngine(calibration={"a": 20.0, "b": -11.0}), RED, VIOLET)
    image = picture(RED, 10, VIOLET)
    result = segmenter.segment(image)
    assert (result.present["class 1"], result.present["class 2"]) == (False, True)
    own, elsewhere = result.margins[0][:48], taken_by_others(result)[0][:48]  # 60 x 80 in 64 x 64: 48 rows
    assert segmenter.confidence(own[~elsewhere]) > 0.5  # so what is left would speak for it
    assert segmenter.adapt([image])["class 1"] == ()


def test_a_look_alike_does_not_speak_for_a_class() -> None:
    photo = picture(REDDISH)
    assert len(learned(ColourEngine(), RED).adapt([photo])["class 1"]) == 1
    adopted = learned(ColourEngine(), RED, REDDISH).adapt([photo, picture(REDDISH, 20)])
    assert adopted["class 1"] == ()
    assert [shot.number for shot in adopted["class 2"]] == [2]  # the first is its annotated photo


def test_each_call_begins_from_the_annotated_photos() -> None:
    segmenter = learned(ColourEngine(), RED)
    plain = segmenter.learned[0].context["colour"]
    first = segmenter.adapt([picture(REDDISH)])
    once = segmenter.learned[0].context["colour"]
    assert segmenter.adapt([picture(REDDISH)]) == first
    np.testing.assert_array_equal(segmenter.learned[0].context["colour"], once)
    assert segmenter.adapt([picture(BLUE)]) == {"class 1": ()}
    np.testing.assert_array_equal(segmenter.learned[0].context["colour"], plain)
    segmenter.adapt([picture(REDDISH)])
    segmenter.learn("class 1", [picture(RED)], [(picture(RED) == RED).all(-1).astype(np.uint8)])
    assert segmenter.learned[0].adopted == ()
    np.testing.assert_allclose(segmenter.learned[0].context["colour"], plain, atol=1e-6)


def test_no_class_has_more_than_twenty_shots() -> None:
    segmenter = Segmenter(ColourEngine())
    images = [picture(RED, size) for size in range(10, 28)]
    segmenter.learn("red", images, [(image == RED).all(-1).astype(np.uint8) for image in images])
    assert len(segmenter.adapt([picture(REDDISH, size) for size in range(10, 20)], count=5)["red"]) == 2
    segmenter.learn("red", images[:2], [(image == RED).all(-1).astype(np.uint8) for image in images[:2]])
    assert segmenter.adapt([picture(REDDISH)]) == {"red": ()}


def test_bad_photos_are_named_and_counted(tmp_path: Path) -> None:
    segmenter = learned(ColourEngine(), RED)
    photos = [tmp_path / "nowhere.png", picture(REDDISH)]
    skipped: list[Any] = []
    told: list[tuple[int, int | None]] = []
    adopted = segmenter.adapt(
        photos,
        on_error=lambda photo, error: skipped.append((photo, type(error))),
        on_progress=lambda *state: told.append(state),
    )
    assert skipped == [(photos[0], FileNotFoundError)]
    assert [shot.number for shot in adopted["class 1"]] == [2]
    assert told == [(1, 2)]


def test_an_error_leaves_the_classes_as_they_were(tmp_path: Path) -> None:
    segmenter = learned(ColourEngine(), RED)
    segmenter.adapt([picture(REDDISH)])
    before = segmenter.learned
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        segmenter.adapt([picture(REDDISH, 20), tmp_path / "nowhere.png"])
    assert segmenter.learned == before


def test_what_cannot_be_adapted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least one learned class.*Call learn\(\) first"):
        Segmenter(ColourEngine()).adapt([picture(RED)])
    segmenter = learned(ColourEngine(), RED)
    with pytest.raises(ValueError, match="count to be at least 1, but got 0"):
        segmenter.adapt([picture(RED)], count=0)
    for one in ("photo.jpg", picture(RED), tmp_path):
        with pytest.raises(ValueError, match=r"Expected a list of photos, but got one\. Write adapt"):
            segmenter.adapt(one)  # type: ignore[arg-type]
    segmenter.adapt([picture(REDDISH)])
    segmenter.save_classes(tmp_path / "red.safetensors")
    later = Segmenter(ColourEngine())
    later.load_classes(tmp_path / "red.safetensors")
    assert found(later, picture(BROWN)) == found(segmenter, picture(BROWN)) > 0  # what was adopted is in the file
    with pytest.raises(ValueError, match="loaded from a file, which holds none"):
        later.adapt([picture(REDDISH)])


def test_confidence_keeps_its_mean_over_the_photos() -> None:
    engine = ColourEngine(calibration={"a": 20.0, "b": -9.0})
    segmenter = learned(engine, RED)
    photos = [picture(REDDISH, 30), picture(BROWN, 30), picture(BLUE, 20), picture(VIOLET, 25), picture(BLACK)]
    before = [segmenter.segment(photo).confidence["class 1"] for photo in photos]
    plain = segmenter.learned[0]
    segmenter.adapt(photos)
    known = segmenter.learned[0]
    assert (plain.shift, len(known.adopted)) == (0.0, 1)
    after = [segmenter.segment(photo).confidence["class 1"] for photo in photos]
    assert np.mean(after) == pytest.approx(np.mean(before), abs=1e-5)
    statistics = [
        presence_statistic(sigmoid(segmenter.segment(photo).margins[0][:48])) for photo in photos
    ]  # 60 x 80 in 64 x 64: 48 rows
    oracle = [1 / (1 + np.exp(-(20 * statistic - 9 + known.shift))) for statistic in statistics]
    np.testing.assert_allclose(after, oracle, atol=1e-5)
    assert known.shift < -0.1  # it finds more now
    segmenter.adapt([picture(BLUE)])
    assert segmenter.learned[0].shift == 0


def test_the_sample_is_the_same_in_any_order() -> None:
    photos = [picture(tuple(np.add(RED, [-step, step, 0]).tolist())) for step in range(40)]
    shifts = set()
    for seed in range(3):
        segmenter = learned(ColourEngine(calibration={"a": 20.0, "b": -9.0}), RED)
        segmenter.adapt(random.Random(seed).sample(photos, len(photos)))
        shifts.add(segmenter.learned[0].shift)
    assert len(shifts) == 1


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5, 0.97])
def test_the_shift_is_the_one_that_gives_the_mean(mean: float) -> None:
    log_odds = np.random.default_rng(0).normal(0, 4, 16)
    candidates = np.linspace(-20, 20, 400_001)
    means = np.stack([1 / (1 + np.exp(-(value + candidates))) for value in log_odds]).mean(0)
    assert shift_to(log_odds, mean) == pytest.approx(candidates[np.abs(means - mean).argmin()], abs=1e-3)


def test_the_shift_is_kept_in_a_file_of_classes(tmp_path: Path) -> None:
    engine = ColourEngine(calibration={"a": 20.0, "b": -9.0})
    segmenter = learned(engine, RED)
    photos = [picture(REDDISH), picture(BROWN), picture(BLUE)]
    segmenter.adapt(photos)
    segmenter.save_classes(tmp_path / "red.safetensors")
    later = Segmenter(engine)
    later.load_classes(tmp_path / "red.safetensors")
    assert later.learned[0].shift == segmenter.learned[0].shift != 0
    assert later.segment(photos[1]).confidence == segmenter.segment(photos[1]).confidence

    def rewritten(change: Callable[[dict[str, Any]], object]) -> Path:
        with safe_open(tmp_path / "red.safetensors", framework="numpy") as file:
            header = json.loads(file.metadata()["rifenet-classes"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        change(header)
        save_file(tensors, tmp_path / "other.safetensors", {"rifenet-classes": json.dumps(header)})
        return tmp_path / "other.safetensors"

    with pytest.raises(ValueError, match="its content has changed"):
        Segmenter(engine).load_classes(rewritten(lambda header: header.update(shifts=[-9.5])))
    for wrong in ([None], ["much"], [float("nan")], [True], [], [0.0, 0.0], None, -0.5):
        with pytest.raises(
            ValueError, match=r"Expected the header that save_classes writes, .* (the header.shifts|as many of each)"
        ):
            Segmenter(engine).load_classes(rewritten(lambda header, wrong=wrong: header.update(shifts=wrong)))  # type: ignore[misc]


def test_files_without_shifts_are_as_they_were(tmp_path: Path) -> None:
    engine = ColourEngine()
    learned(engine, RED).save_classes(tmp_path / "red.safetensors")
    with safe_open(tmp_path / "red.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["rifenet-classes"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert (header["version"], header.pop("shifts"), header.pop("weights_hash")) == (3, [0.0], engine.weights_hash)
    header["version"] = 1
    save_file(tensors, tmp_path / "older.safetensors", {"rifenet-classes": json.dumps(header)})
    older = Segmenter(engine)
    with pytest.warns(UserWarning, match="did not record the model's threshold and calibration"):
        older.load_classes(tmp_path / "older.safetensors")
    assert older.learned[0].shift == 0


def test_real_photos_teach_what_they_show() -> None:
    classes, examples = load_examples()
    wanted = classes.index("bear") + 1
    shot = next(example for example in examples if example.support and "bear" in example.classes)
    segmenter = Segmenter.from_pretrained()
    segmenter.learn("bear", [shot.image], [(load_mask(shot.mask) == wanted).astype(np.uint8)])
    pool = [example for example in examples if not example.support][:8]
    adopted = segmenter.adapt([example.image for example in pool], count=1)["bear"]
    assert "bear" in pool[adopted[0].number - 1].classes
    assert adopted[0].source == str(pool[adopted[0].number - 1].image)
    assert segmenter.segment(pool[adopted[0].number - 1].image).present["bear"]
