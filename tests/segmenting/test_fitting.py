"""What a class is fitted to: copies, held-out shots and choices, over an engine whose right choice is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rifenet.engines import Context
from rifenet.metrics import log_odds
from rifenet.segmenting.copies import Change, altered
from rifenet.segmenting.fit import Fit
from rifenet.segmenting.fitting import presence_shift
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.shots import prepare_shot
from rifenet.segmenting.trials import photo_of, width_of

RED, GREY = (220, 30, 30), (128, 128, 128)


class BlurredEngine(ColourEngine):
    """Sees means over blocks of 8 x 8 pixels, adds `bias` to its logits, and shows its maps."""

    def __init__(self, bias: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.inner_names = ("high", "fine")
        self.bias, self.learned = bias, 0

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        self.learned += 1
        return super().encode_support(images, masks, valid)

    def inner(self, features: Any) -> list[dict[str, NDArray[Any]]]:
        blocks = [image.reshape(3, 8, 8, 8, 8).mean((2, 4)) for image in features]
        return [
            {"high": each / np.linalg.norm(each, axis=0), "fine": np.repeat(np.repeat(each, 2, 1), 2, 2)}
            for each in blocks
        ]

    def decode(self, features: Any, context: Context) -> NDArray[np.float32]:
        blurred = features.reshape(-1, 3, 8, 8, 8, 8).mean((3, 5))
        logits = super().decode(np.repeat(np.repeat(blurred, 8, 2), 8, 3), context)
        logits[:, 1] += self.bias
        return logits


def scene(*boxes: tuple[int, int, int, int], side: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A grey picture with red boxes (top, left, bottom, right), and its mask."""
    image = np.full((side, side, 3), GREY, np.uint8)
    for top, left, bottom, right in boxes:
        image[top:bottom, left:right] = RED
    return image, (image == RED).all(-1).astype(np.uint8)


SMALL = [scene((5, 7, 12, 14), (30, 40, 36, 47)), scene((10, 20, 17, 27)), scene((40, 9, 47, 15), (18, 44, 25, 50))]


def learned(engine: ColourEngine, scenes: list[Any], **options: Any) -> Segmenter:
    segmenter = Segmenter(engine)
    segmenter.learn("red", [image for image, _ in scenes], [mask for _, mask in scenes], **options)
    return segmenter


def iou(found: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(((found > 0) & (truth > 0)).sum() / ((found > 0) | (truth > 0)).sum())


@pytest.mark.parametrize("shots", [1, 3])
def test_small_things_that_a_blurred_view_loses_are_looked_for_in_tiles(shots: int) -> None:
    segmenter = learned(BlurredEngine(), SMALL[:shots])
    fit = segmenter.fits["red"]
    image, truth = scene((21, 11, 28, 19), (50, 30, 57, 37))
    assert fit.tiles
    assert fit.shots == shots
    assert 0 < fit.quality <= 1
    assert any(note.startswith("tiles") and note.endswith(" taken") for note in fit.notes)
    by_itself = segmenter.segment(image)
    assert by_itself.margins.shape[-1] == 128
    plain = learned(BlurredEngine(), SMALL[:shots], fit=False).segment(image)
    assert plain.margins.shape[-1] == 64
    assert iou(by_itself.mask, truth) > iou(plain.mask, truth) + 0.05


def test_what_fills_the_photo_is_not_tried_in_tiles() -> None:
    engine = BlurredEngine(size=64)
    big = [scene((2, 2, 62, 60)), scene((4, 0, 60, 64))]
    assert not any(note.startswith("tiles") for note in learned(engine, big).fits["red"].notes) or (
        width_of(big[0][1]) <= 60
    )


def test_a_threshold_that_all_held_out_shots_want_is_taken_but_not_from_copies_of_one() -> None:
    several = learned(BlurredEngine(bias=1.0), SMALL).fits["red"]
    assert log_odds(several.threshold) == pytest.approx(1.0, abs=0.6)
    assert log_odds(several.threshold) > 0.4
    assert learned(BlurredEngine(bias=1.0), SMALL[:1]).fits["red"].threshold == 0.5


def test_without_a_fit_masks_are_the_networks_own() -> None:
    engine = BlurredEngine()
    segmenter = learned(engine, SMALL, fit=False)
    image = scene((21, 11, 28, 19))[0]
    assert engine.learned == 1
    assert segmenter.fits == {}
    result = segmenter.segment(image)
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    logits = engine.decode(pixels, segmenter.learned[0].context)
    np.testing.assert_allclose(result.margins[0], logits[0, 1] - logits[0, 0], atol=1e-6)  # means round
    assert not any(result.refine)


def test_a_network_that_shows_nothing_of_itself_is_not_fitted() -> None:
    assert learned(ColourEngine(), SMALL).fits == {}


def test_held_out_shots_are_segmented_by_the_others_alone() -> None:
    engine = BlurredEngine()
    taught: list[int] = []
    plain = engine.encode_support

    def encode(*inputs: Any) -> Context:
        taught.append(len(inputs[0]))
        return plain(*inputs)

    engine.encode_support = encode  # type: ignore[method-assign]
    learned(engine, [*SMALL, *SMALL[:2]])
    assert taught == [5, 4, 4, 4]


def test_adding_and_removing_shots_fits_again_as_the_class_was_learned() -> None:
    for fit in (True, False):
        segmenter = learned(BlurredEngine(), SMALL[:2], fit=fit)
        segmenter.forget_shot("red", 0)
        assert ("red" in segmenter.fits) == fit
        segmenter.replace_shot("red", 0, *SMALL[2])
        assert ("red" in segmenter.fits) == fit
        assert not fit or segmenter.fits["red"].shots == 1


def test_explicit_options_overrule_the_fit() -> None:
    segmenter = learned(BlurredEngine(), SMALL)
    image = SMALL[0][0]
    assert segmenter.fits["red"].tiles
    assert segmenter.segment(image, tiles=False, refine=False).margins.shape[-1] == 64
    assert segmenter.segment(image, refine=True).refine == (True,)
    assert segmenter.segment(image, refine=False).refine == (False,)
    with pytest.raises(ValueError, match="refine to be True, False or 'auto', but got 'always'"):
        segmenter.segment(image, refine="always")


def test_fits_survive_a_file_and_older_programs_read_files_without_them(tmp_path: Path) -> None:
    engine = BlurredEngine()
    fitted, plain = learned(engine, SMALL), learned(engine, SMALL, fit=False)
    fitted.save_classes(tmp_path / "fitted.safetensors")
    plain.save_classes(tmp_path / "plain.safetensors")
    again = Segmenter(engine)
    again.load_classes(tmp_path / "fitted.safetensors")
    assert again.fits == fitted.fits
    image = scene((21, 11, 28, 19))[0]
    before, after = fitted.segment(image), again.segment(image)
    np.testing.assert_array_equal(before.margins, after.margins)
    assert before.quality == after.quality
    assert versions(tmp_path) == {"fitted": 4, "plain": 3}


def versions(folder: Path) -> dict[str, int]:
    from safetensors import safe_open

    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            found[path.stem] = json.loads(file.metadata()["rifenet-classes"])["version"]
    return found


def test_a_changed_fit_in_a_file_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    engine = BlurredEngine()
    path = tmp_path / "classes.safetensors"
    learned(engine, SMALL).save_classes(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["rifenet-classes"])
    header["fits"][0]["threshold"] = 0.9
    save_file(load_file(path), path, {"rifenet-classes": json.dumps(header)})
    with pytest.raises(ValueError, match="content has changed"):
        Segmenter(engine).load_classes(path)


def test_classes_with_and_without_refined_edges_meet_in_one_mask() -> None:
    segmenter = learned(BlurredEngine(), SMALL)
    segmenter.learn("also red", [SMALL[0][0]], [SMALL[0][1]], fit=False)
    image = scene((21, 11, 45, 39))[0]
    result = segmenter.segment(image, tiles=False)
    refined = segmenter.fits["red"].refine
    assert result.refine == (refined, False)
    forced = segmenter.segment(image, tiles=False, refine=True)
    mixed = type(result)(**{**vars_of(result), "refine": (True, False)})
    np.testing.assert_allclose(mixed.scores["red"], forced.scores["red"], atol=1e-6)
    plain = segmenter.segment(image, tiles=False, refine=False)
    np.testing.assert_allclose(mixed.scores["also red"], plain.scores["also red"], atol=1e-6)
    assert mixed.mask.shape == image.shape[:2]


def vars_of(result: Any) -> dict[str, Any]:
    from dataclasses import fields

    return {each.name: getattr(result, each.name) for each in fields(result)}


def test_width_is_that_of_lines_and_squares() -> None:
    line, square = np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint8)
    line[10, 5:45], square[10:30, 10:30] = 1, 1
    assert width_of(line) == pytest.approx(1, abs=0.05)
    assert width_of(square) == pytest.approx(10)
    assert width_of(np.zeros((5, 5), np.uint8)) == 0


def test_a_shot_is_a_photo_again() -> None:
    image, mask = np.zeros((40, 64, 3), np.uint8), np.zeros((40, 64), np.uint8)
    image[..., 0], mask[3:9, 5:30] = 77, 1
    photo = photo_of(prepare_shot("it", image, mask, 64), 0)
    np.testing.assert_array_equal(photo.image, image)
    np.testing.assert_array_equal(photo.mask, mask)


PLACES = np.stack([*np.mgrid[0:40, 0:40].astype(np.uint8), np.full((40, 40), 9, np.uint8)], -1)
CORNER = (np.add(*np.mgrid[0:40, 0:40]) < 25).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Change(0, 1, 1, False), lambda picture: picture),
        (Change(0, 1, 1, True), lambda picture: picture[:, ::-1]),
        (Change(90, 1, 1, False), lambda picture: np.rot90(picture, 1)),
        (Change(180, 1, 1, False), lambda picture: np.rot90(picture, 2)),
    ],
)
def test_copies_are_turned_and_mirrored_pixel_by_pixel(change: Change, expected: Any) -> None:
    pixels, labels = altered(PLACES, CORNER, change)
    np.testing.assert_allclose(pixels, expected(PLACES), atol=1)  # positions between two values round down
    np.testing.assert_array_equal(labels, expected(CORNER))


def test_photo_and_mask_of_a_copy_move_together() -> None:
    image = np.full((50, 70, 3), GREY, np.uint8)
    image[15:35, 20:44] = RED
    mask = (image == RED).all(-1).astype(np.uint8)
    for change in (Change(20, 0.75, 1, False), Change(-15, 1.3, 1, True)):
        pixels, labels = altered(image, mask, change)
        assert iou(pixels[..., 0] > 174, labels) > 0.93
        assert labels.sum() == pytest.approx(mask.sum() * change.scale**2, rel=0.06)
        assert set(np.unique(labels)) == {0, 1}  # what lies beyond the border is the mirrored photo


def test_fits_are_told_in_words() -> None:
    fit = Fit(True, False, 0.4, 0.25, 0.713)
    assert str(fit) == "tiles, edges as they are, threshold 0.40, pixel classifier 0.25, IoU 71% on its own shots"


class NegativeEngine(BlurredEngine):
    """Told apart by the evidence head: `evidence_background` is the mean colour of all that is not the class."""

    def encode_support(
        self, images: NDArray[np.float32], masks: NDArray[np.uint8], valid: NDArray[np.bool_]
    ) -> Context:
        showing = (masks == 1).any((1, 2))
        own = super().encode_support(images[showing], masks[showing], valid[showing])
        pixels = images.transpose(0, 2, 3, 1)
        return own | {"evidence_background": pixels[masks == 0].mean(0)[None], "shown": np.array([showing.mean()])}


ORANGE = (220, 110, 30)


def orange(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    image = np.full((64, 64, 3), GREY, np.uint8)
    image[box[0] : box[2], box[1] : box[3]] = ORANGE
    return image


BIG = [scene((5, 7, 40, 44)), scene((10, 20, 47, 57))]


def test_photos_without_the_class_teach_the_background_alone() -> None:
    engine = NegativeEngine()
    plain, told = learned(engine, BIG).learned[0], learned(engine, BIG, background=[orange((0, 0, 64, 64))]).learned[0]
    np.testing.assert_array_equal(told.context["colour"], plain.context["colour"])
    assert told.context["shown"] == plain.context["shown"] == 1  # the rest of the network saw shots of the class only
    before, after = (known.context["evidence_background"][0] for known in (plain, told))
    assert after[0] > before[0] + 0.1  # more red in what is not the class
    assert told.shots == plain.shots == 2


def test_look_alikes_given_as_background_count_as_absent_and_are_claimed_less() -> None:
    calibration = {"a": 14.0, "b": -7.0}
    photos = [orange((10, 10, 50, 50)), orange((20, 4, 60, 44))]
    query = orange((5, 12, 45, 52))
    naive = learned(BlurredEngine(calibration=calibration), BIG)
    told = learned(BlurredEngine(calibration=calibration), BIG, background=photos)
    assert naive.segment(query).present["red"]
    assert not told.segment(query).present["red"]
    assert told.segment(BIG[0][0]).present["red"]
    assert told.segment(query).alone("red").mean() < naive.segment(query).alone("red").mean()


def test_background_photos_stay_with_the_class() -> None:
    engine = NegativeEngine()
    photo = orange((0, 0, 64, 64))
    segmenter = learned(engine, BIG, background=[photo])
    expected = segmenter.learned[0].context["evidence_background"]
    segmenter.learn("red", [BIG[0][0]], [BIG[0][1]])
    segmenter.forget_shot("red", 2)
    np.testing.assert_allclose(segmenter.learned[0].context["evidence_background"], expected, atol=1e-6)
    segmenter.learn("red", [BIG[0][0]], [BIG[0][1]], replace=True)
    assert segmenter.learned[0].negatives is None


def test_background_photos_need_a_fit() -> None:
    photo = orange((0, 0, 64, 64))
    with pytest.raises(ValueError, match="but got fit=False"):
        learned(BlurredEngine(), BIG, background=[photo], fit=False)
    with pytest.raises(ValueError, match="the model colour, which is never fitted"):
        learned(ColourEngine(), BIG, background=[photo])
    with pytest.raises(ValueError, match="at most 18 background photos"):
        learned(BlurredEngine(), BIG, background=[photo] * 19)
    with pytest.raises(ValueError, match=r"Expected a list of photos, but got one. Write background=\[...\]"):
        learned(BlurredEngine(), BIG, background=photo)


@pytest.mark.parametrize(
    ("shots", "elsewhere", "expected"),
    [
        ([0.9, 0.8], [], 0.0),
        ([0.9, 0.8], [0.4], 0.0),
        ([0.9, 0.8], [0.6, 0.1], -(log_odds(0.6) + log_odds(0.8)) / 2),
        ([0.9999], [0.9999], -3.0),
        ([0.2], [0.6], 0.0),  # the shots themselves would be lost
    ],
)
def test_the_shift_lies_between_shots_and_photos_without_the_class(
    shots: list[float], elsewhere: list[float], expected: float
) -> None:
    assert presence_shift(shots, elsewhere) == pytest.approx(expected)


def test_an_object_that_no_copy_keeps_is_looked_for_in_its_own_photo() -> None:
    image, mask = scene()
    image[1, 1], mask[1, 1] = RED, 1
    assert learned(BlurredEngine(), [(image, mask)]).fits["red"].shots == 1
