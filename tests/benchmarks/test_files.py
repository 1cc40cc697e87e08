"""What the benchmarks of stacks, scenes and videos render is what they score."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from docs_blocks import ROOT
from PIL import Image

from benchmarks.scenes import Watched, fields, inside
from benchmarks.stacks import ANNOTATED, HIGH, LOW, PAGES, Slice, deep, scored
from benchmarks.video import FRAMES, Cut, _moved, score, sequence
from rifenet.segmenting.steadying import FADING, LIKENESS, REACH


def test_a_moved_photo_and_its_mask_stay_together() -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[60:140, 100:180] = 255
    cut = Cut(Image.fromarray(photo), Image.fromarray(photo[..., 0]))
    for right, down, scale, degrees in ((0, 0, 1, 0), (0.1, -0.05, 1.3, 12), (-0.2, 0.1, 0.7, -30)):
        moved = _moved(cut, right, down, scale, degrees)
        bright, marked = np.asarray(moved.photo)[..., 0] > 127, np.asarray(moved.mask) > 127
        assert (bright & marked).sum() / (bright | marked).sum() > 0.98
        assert marked.any()


@pytest.mark.parametrize("seed", [0, 1])
def test_sequences_move_and_repeat(seed: int, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2):
        mask = np.zeros((150, 200), np.uint8)
        mask[50:110, 60:140] = number
        colour = (200, 40, 30) if number == 1 else (30, 40, 200)
        photo = np.where(mask[..., None], colour, rng.integers(60, 90, (150, 200, 3))).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    made, again = sequence(tmp_path, seed), sequence(tmp_path, seed)
    assert len(made.frames) == FRAMES
    for frame, there, same in zip(made.frames, made.truth, again.frames, strict=True):
        np.testing.assert_array_equal(frame, same)
        red, blue = ((frame[..., own] > 140) & (frame[..., 2 - own] < 100) for own in (0, 2))
        assert max((found & there).sum() / (found | there).sum() for found in (red, blue)) > 0.9
    assert (made.truth[0] ^ made.truth[4]).sum() > 500


def test_j_leaves_the_annotated_frame_out() -> None:
    there = np.zeros((4, 10), bool)
    there[:, :4] = True
    half = there.copy()
    half[:, 2:4] = False
    results = [SimpleNamespace(mask=mask.astype(np.uint8)) for mask in (~there, there, half)]
    assert score(results, [there] * 3) == (75.0, 50.0)


def test_the_deep_stack_holds_the_photo() -> None:
    photo = np.full((400, 400, 3), 51, np.uint8)  # a fifth of white
    page = deep(photo, np.random.default_rng(0))
    assert page.dtype == np.uint16
    assert page.mean() == pytest.approx(LOW + (HIGH - LOW) / 5, abs=0.5)
    nuclei = np.zeros((4, 4), np.uint8)
    nuclei[:2] = 1
    pages = [Slice(photo, nuclei)] * PAGES
    results = [SimpleNamespace(mask=nuclei if n in ANNOTATED else nuclei.T) for n in range(PAGES)]
    assert scored(results, pages) == pytest.approx(1 / 3)  # 4 of 12 pixels, and no page that was annotated


def test_fields_of_a_scene_are_round() -> None:
    where = np.array([[500, 700, 100]])
    whole = inside(0, 0, (1000, 1000), where)
    assert whole.sum() == pytest.approx(np.pi * 100**2, rel=0.01)
    np.testing.assert_array_equal(inside(450, 600, (100, 300), where), whole[450:550, 600:900])
    assert (fields(20_000)[:, 2] < 220).all()


def listed(values: list[str]) -> str:
    return f"{', '.join(values[:-1])} and {values[-1]}"


def result(name: str) -> Any:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def page() -> str:
    return " ".join((ROOT / "docs" / "lab" / "files.md").read_text(encoding="utf-8").split())


def test_the_notebook_tells_what_stacks_scored(page: str) -> None:
    runs = result("stacks")["runs"]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    stack, photos = (listed([f"{100 * run[key]:.1f}" for run in runs]) for key in ("stack", "photos"))
    assert f"IoU of {stack} from the stack, and {photos} from the same" in page
    early, late = (listed([f"{run[key]:.0f}" for run in runs]) for key in ("peak_after_3", "peak_after_all"))
    assert f"takes {early} MiB at its peak after 3 pages, and {late} after all" in page
    assert all(100 * (run["photos"] - run["stack"]) < 2 for run in runs)
    assert all(run["peak_after_all"] - run["peak_after_3"] < 40 for run in runs)  # 20 pages are 40 MiB of numbers


def test_the_notebook_tells_what_a_scene_took(page: str) -> None:
    scene = result("scenes")
    assert f"COG of {scene['side']:,} x {scene['side']:,} pixels" in page
    assert f"its {scene['windows']} windows of {scene['window']:,} pixels" in page
    assert f"{scene['peak_mib']:.0f} MiB at its peak, {scene['peak_after'][0]:.0f} of them after a tenth" in page
    assert f"{scene['seconds']:.0f} seconds on a core of a busy machine, {scene['processor_seconds']:.0f} of" in page
    assert f"The fields have an IoU of {100 * scene['iou']:.1f}" in page
    assert f"differ from the mask in {scene['polygons_differ']} pixels" in page
    down, right = scene["shift"]
    assert f"centres of {scene['fields_compared']} fields are {-right:.1f} pixels too far left, and {down:.1f}" in page
    assert scene["peak_mib"] < 2048
    assert scene["polygons_differ"] == 0


def test_the_notebook_tells_what_was_measured_of_videos(page: str) -> None:
    video = result("video")
    (steadied,) = video["steadied"].values()
    assert f"| each frame by itself | {video['plain'][0]:.1f} | {video['plain_change']:.2f} |" in page
    assert f"| steadied | {steadied['j']:.1f} | {steadied['change']:.2f} |" in page
    gain, low, high = steadied["gain"]
    assert f"The gain is {gain} (95 % interval over sequences {low} to {high}); no sequence loses" in page
    (setting,) = video["steadied"]
    assert setting == f"{REACH}/{FADING}/{LIKENESS}"
    assert all(row[setting]["j"] >= row["plain"] for row in video["rows"])
    cameras = sum(row["moves"] == "camera" for row in video["rows"])
    assert f"In {cameras} of the {video['sequences']} sequences of {video['frames']} frames a camera" in page
    timed = result("video_time")
    assert f"{timed['video']:.3f} seconds of processor time" in page
    assert f"the network alone {timed['network']:.3f}, a ratio of {timed['ratio']:.2f}" in page
    assert f"{timed['frames']} frames, the two in turns" in page
    assert f"The files take {timed['files']:.3f} more" in page
    assert timed["frames"] == 300
    assert timed["ratio"] < 1.15


def test_progress_and_peaks_of_a_scene_that_goes_on() -> None:
    """The peaks that are told are those after each tenth, whatever rows were there before."""
    watched = Watched()
    for number in [4, 8, *range(9, 21)]:  # two rows of four are known
        watched(number, 20)
    assert watched.windows == 12
    assert len(watched.peaks) == 8
