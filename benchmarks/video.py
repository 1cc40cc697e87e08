"""Masks of videos with one annotated frame, by themselves and steadied by their neighbours, and the time of a frame.

    python -m benchmarks.video j --root coseg --sequences 12 --out docs/results/video.json
    python -m benchmarks.video time --out docs/results/video_time.json

`j`: sequences made of real photos with masks (the custom layout). In one half a camera moves over a photo; in the other
the cut-out of an object moves over another photo, and the camera, too. Frames have the noise, the flicker of light and
the compression of a camera. A class is learned from the first frame; J is the IoU of the others, a sequence's mean,
then the mean of sequences with a 95 % interval. `--choose` scores settings on sequences of their own.

`time`: processor time of a frame of 1,280 x 720, read from an MP4, segmented and steadied to a mask, against the
network alone; and what the files take beside it: mask, overlay, and the overlays as a video.
"""

from __future__ import annotations

import io
import itertools
import time
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.common import Values, difference, model_record, parser, write_record
from rifenet.bench.measure import machine
from rifenet.data.transforms import resize_and_pad
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.pictures import load_image, load_mask
from rifenet.formats.video import write_video
from rifenet.metrics import mean_interval
from rifenet.segmenting.segmenter import Segmenter
from rifenet.segmenting.steadying import FADING, LIKENESS, REACH, steadied

FRAMES, WIDTH, HEIGHT = 16, 400, 288
LEAST, MOST = 0.04, 0.5  # share of a photo that its object covers
NOISE, FLICKER, QUALITY = 5.0, 0.06, 80
REACHES, FADINGS, LIKENESSES = (1, 2, 3), (0.5, 0.7, 0.9), (6.0, 12.0, 24.0)
CHOOSING = 1000  # seeds from here on are for choosing settings


class Cut(NamedTuple):
    """A photo [H,W,3] and the mask [H,W] of one object's class in it."""

    photo: Image.Image
    mask: Image.Image


class Clip(NamedTuple):
    """Frames [H,W,3] and where the object is in each, [H,W]."""

    frames: list[NDArray[np.uint8]]
    truth: list[NDArray[np.bool_]]


def cuts(root: Path, rng: Random) -> list[Cut]:
    """Two photos of different classes, whose objects are neither small nor all of the photo."""
    names = sorted(file.stem for file in (root / "images").iterdir())
    found: dict[int, Cut] = {}
    while len(found) < 2:
        name = rng.choice(names)
        photo = load_image(next((root / "images").glob(f"{name}.*")))
        mask = load_mask(root / "masks" / f"{name}.png")
        classes = [value for value in np.unique(mask).tolist() if value not in (0, 255)]
        if len(classes) == 1 and classes[0] not in found and LEAST < (mask == classes[0]).mean() < MOST:
            marks = Image.fromarray((mask == classes[0]).astype(np.uint8) * 255)
            found[classes[0]] = Cut(Image.fromarray(photo), marks)
    return list(found.values())


def sequence(root: Path, seed: int) -> Clip:
    """A camera that moves (even seeds), or an object that does."""
    rng = Random(seed)
    noise = np.random.default_rng(seed)
    own, other = cuts(root, rng)
    phase, speed, turn = rng.uniform(0, 6.28), rng.uniform(0.25, 0.5), rng.uniform(-6, 6)
    frames, truth = [], []
    for number in range(FRAMES):
        swing = np.sin(phase + speed * number)
        camera = _moved(own, 0.06 * swing, 0.04 * np.cos(phase + speed * number), 1.2 + 0.08 * swing, turn * swing)
        if seed % 2:
            behind = _moved(other, -0.05 * swing, 0.02 * swing, 1.25, 0)
            lone = _moved(own, 0.25 * swing, 0.08 * np.cos(phase + speed * number), 0.8 + 0.1 * swing, turn * swing)
            soft = lone.mask.filter(ImageFilter.GaussianBlur(0.7))
            camera = Cut(Image.composite(lone.photo, behind.photo, soft), lone.mask)
        light = 1 + FLICKER * np.sin(1.7 * number + phase)
        pixels = np.asarray(camera.photo, np.float64) * light + noise.normal(0, NOISE, (HEIGHT, WIDTH, 3))
        packed = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(packed, "JPEG", quality=QUALITY)
        frames.append(np.asarray(Image.open(packed).convert("RGB")))
        truth.append(np.asarray(camera.mask) > 127)
    return Clip(frames, truth)


def _moved(cut: Cut, right: float, down: float, scale: float, degrees: float) -> Cut:
    """A photo and its mask as a camera of `WIDTH` x `HEIGHT` sees them; distances in shares of the photo."""
    width, height = cut.photo.size
    zoom = scale * max(WIDTH / width, HEIGHT / height)
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    x, y = width * (0.5 - right), height * (0.5 - down)
    matrix = (cos, sin, x - cos * WIDTH / 2 - sin * HEIGHT / 2, -sin, cos, y + sin * WIDTH / 2 - cos * HEIGHT / 2)
    size, affine = (WIDTH, HEIGHT), Image.Transform.AFFINE
    photo = cut.photo.transform(size, affine, matrix, Image.Resampling.BICUBIC)
    return Cut(photo, cut.mask.transform(size, affine, matrix, Image.Resampling.NEAREST))


def score(results: Sequence[Any], truth: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    """Mean J in percent of all frames but the annotated first, and the mean change from one frame to the next."""
    values = []
    for result, there in zip(results[1:], truth[1:], strict=True):
        found = result.mask == 1
        either = (found | there).sum()
        values.append(100.0 * (found & there).sum() / either if either else 100.0)
    return float(np.mean(values)), float(np.abs(np.diff(values)).mean())


def plain_results(segmenter: Segmenter, made: Clip, fit: bool) -> list[Any]:
    """The frames of a sequence, each segmented by itself; the first teaches."""
    segmenter.learn("object", [made.frames[0]], [made.truth[0]], replace=True, fit=fit)
    return list(segmenter.segment_many(made.frames, batch_size=1))


def measure_j(options: Any) -> Values:
    """J of each sequence with and without steadying; with `--choose`, of each setting."""
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    first = CHOOSING if options.choose else 0
    settings = [(REACH, FADING, LIKENESS)]
    if options.choose or options.grid:
        settings = list(itertools.product(REACHES, FADINGS, LIKENESSES))
    rows: list[Values] = []
    for seed in range(first + options.first, first + options.first + options.sequences):
        made = sequence(options.root, seed)
        plain = plain_results(segmenter, made, not options.no_fit)
        j, change = score(plain, made.truth)
        row: Values = {"seed": seed, "moves": "object" if seed % 2 else "camera", "plain": j, "plain_change": change}
        for setting in settings:
            steady, change = score(list(steadied(plain, *setting)), made.truth)
            row["/".join(map(str, setting))] = {"j": steady, "change": change}
        rows.append(row)
        print(row, flush=True)
        write_record(options.out, {**_record(segmenter), "fit": not options.no_fit, **summary(rows)})
    return {**_record(segmenter), "fit": not options.no_fit, **summary(rows)}


def summary(rows: list[Values]) -> Values:
    """The means of all sequences, and the paired difference that each setting makes."""
    plain = [row["plain"] for row in rows]
    found: Values = {
        "frames": FRAMES,
        "sequences": len(rows),
        "plain": [plain and float(np.mean(plain)), *mean_interval(np.array(plain))],
    }
    found["plain_change"] = float(np.mean([row["plain_change"] for row in rows]))
    found["steadied"] = {
        name: {
            "j": float(np.mean([row[name]["j"] for row in rows])),
            "gain": difference([row[name]["j"] for row in rows], plain),
            "change": float(np.mean([row[name]["change"] for row in rows])),
        }
        for name in rows[0]
        if "/" in name
    }
    return {**found, "rows": rows}


def _record(segmenter: Segmenter) -> Values:
    return {"model": model_record(segmenter.engine), "commit": git_commit()}


def measure_time(options: Any) -> Values:
    """Processor seconds of a frame: through `segment`, of the network alone, and of the files."""
    segmenter = Segmenter.from_pretrained(options.model, "cpu", options.threads)
    rng = np.random.default_rng(0)
    ground = Image.fromarray(rng.integers(60, 200, (9, 16, 3), np.uint8)).resize((1280, 720), Image.Resampling.BICUBIC)
    where = np.zeros((720, 1280), bool)
    where[200:500, 300:700] = True
    frame = np.asarray(ground).copy()
    frame[where] = frame[where] // 2 + np.array((110, 20, 20), np.uint8)
    segmenter.learn("object", [frame], [where], fit=False)
    network, video, files = Stopwatch(), Stopwatch(), Stopwatch()
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_video(clip, (np.roll(frame, 4 * number, 1) for number in range(options.frames)), Fraction(25))
        results = iter(segmenter.segment(clip))
        context = segmenter.learned[0].context
        for number in range(options.frames):
            with network:
                pixels, valid, _ = resize_and_pad(frame, segmenter.engine.size)
                segmenter.engine.decode(segmenter.engine.encode_query(pixels[None], valid[None]), context)
            with video:
                result = next(results)
                assert result.mask.shape == (720, 1280)
            with files:
                result.save(folder, f"{number}")
        with files:
            overlays = (load_image(Path(folder) / f"{number}_overlay.jpg") for number in range(options.frames))
            write_video(Path(folder) / "overlay.mp4", overlays, Fraction(25))
    seconds = {"video": video.seconds, "network": network.seconds, "files": files.seconds}
    return {
        **_record(segmenter),
        "machine": machine(torch.device("cpu")),
        "threads": options.threads,
        "frames": options.frames,
        **{name: each / options.frames for name, each in seconds.items()},
        "ratio": video.seconds / network.seconds,
    }


class Stopwatch:
    """Adds up the processor time that is spent inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time() - self._since


def main() -> None:
    """Measures and writes."""
    made = parser(__doc__)
    made.add_argument("what", choices=("j", "time"))
    made.add_argument("--root", type=Path, help="photos with masks, in the custom layout")
    made.add_argument("--sequences", type=int, default=12)
    made.add_argument("--first", type=int, default=0, help="number of the first sequence")
    made.add_argument("--frames", type=int, default=300, help="of `time`")
    made.add_argument("--choose", action="store_true", help="score settings, on other sequences")
    made.add_argument("--grid", action="store_true", help="score all settings on the sequences that count, too")
    made.add_argument("--no-fit", action="store_true", help="learn without a fit")
    made.add_argument("--model", default="default")
    options = made.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        record = measure_j(options) if options.what == "j" else measure_time(options)
    write_record(options.out, record)


if __name__ == "__main__":
    main()
