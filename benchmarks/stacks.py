"""A stack of 16 bits made of photos of nuclei, against the same photos in 8 bits, and the memory that it takes.

    python -m benchmarks.stacks --root nuclei --out docs/results/stacks.json

The photos (of DSB 2018, in the custom layout) are dark-field pictures, as of one microscope, enlarged to 1,024 x 1,024
and stacked: numbers of 16 bits from 300 to 3,900 with the noise of a sensor, and a stack of masks that marks two pages.
The same two pages and masks as 8-bit photos, without noise, teach the same model. The score is the IoU of all nuclei of
the other 18 pages. Memory is the peak of the process after 3 pages, and after all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Values, model_record, parser, write_record
from rifenet.bench.memory import peak_resident
from rifenet.evaluation.provenance import git_commit
from rifenet.formats.pictures import load_image
from rifenet.segmenting.segmenter import Segmenter

PAGES, SIDE, ANNOTATED = 20, 1024, (3, 12)
LOW, HIGH, NOISE = 300, 3900, 12.0
DARK = 70  # mean level of a picture; those of dark-field microscopy are below


class Slice(NamedTuple):
    """A photo [H,W,3] and where its nuclei are, [H,W]."""

    photo: NDArray[np.uint8]
    nuclei: NDArray[np.uint8]


def slices(root: Path, seed: int) -> list[Slice]:
    """Enlarged dark photos, in an order that `seed` draws."""
    found = []
    for file in sorted((root / "images").iterdir()):
        photo = load_image(file)
        if photo.mean() < DARK:
            grey = Image.fromarray(photo).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            mask = Image.open(root / "masks" / f"{file.stem}.png").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            found.append(Slice(np.dstack([np.asarray(grey)] * 3), (np.asarray(mask) == 1).astype(np.uint8)))
    if len(found) < PAGES:
        raise ValueError(f"Expected at least {PAGES} dark photos in {root}, but it holds {len(found)}.")
    Random(seed).shuffle(found)
    return found[:PAGES]


def deep(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint16]:
    """A page of 16 bits, as a camera of 12 bits gives it."""
    levels = LOW + (HIGH - LOW) * (photo[..., 0] / 255) + rng.normal(0, NOISE, photo.shape[:2])
    return np.rint(levels.clip(0, 65535)).astype(np.uint16)


def scored(results: Iterable[Any], truth: list[Slice]) -> float:
    """IoU of the nuclei over all pages that are not annotated."""
    both = either = 0
    for number, (result, page) in enumerate(zip(results, truth, strict=True)):
        if number not in ANNOTATED:
            found, there = result.mask == 1, page.nuclei == 1
            both, either = both + int((found & there).sum()), either + int((found | there).sum())
    return both / either


def measured(segmenter: Segmenter, pages: list[Slice], seed: int) -> Values:
    """IoU from the stack and from the photos, and the memory of the stack."""
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        scan, labels = Path(folder) / "scan.tif", Path(folder) / "labels.tif"
        tifffile.imwrite(scan, np.stack([deep(page.photo, rng) for page in pages]), photometric="minisblack")
        marks = [page.nuclei * (number in ANNOTATED) for number, page in enumerate(pages)]
        tifffile.imwrite(labels, np.stack(marks), photometric="minisblack")
        segmenter.learn("nucleus", images=[scan], masks=[labels], replace=True)
        peaks: list[int] = []
        stack = scored(_watched(segmenter.segment(scan), peaks), pages)
    shots = [pages[number] for number in ANNOTATED]
    segmenter.learn("nucleus", [shot.photo for shot in shots], [shot.nuclei for shot in shots], replace=True)
    photos = scored(segmenter.segment_many([page.photo for page in pages], batch_size=1), pages)
    return {"seed": seed, "stack": stack, "photos": photos, "peak_after_3": peaks[2], "peak_after_all": peaks[-1]}


def _watched(results: Iterable[Any], peaks: list[int]) -> Iterator[Any]:
    for result in results:
        yield result
        peaks.append(peak_resident() or 0)


def main() -> None:
    """Measures and writes."""
    made = parser(__doc__, threads=2)
    made.add_argument("--root", type=Path, required=True, help="the nuclei, in the custom layout")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draws of photos")
    made.add_argument("--model", default="default")
    arguments = made.parse_args()
    segmenter = Segmenter.from_pretrained(arguments.model, "cpu", arguments.threads)
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that 2 of 20 pages are annotated
        for seed in arguments.seeds:
            runs.append(measured(segmenter, slices(arguments.root, seed), seed))
            print(runs[-1], flush=True)
    record: Values = {"model": model_record(segmenter.engine), "commit": git_commit(), "pages": PAGES, "side": SIDE}
    write_record(arguments.out, {**record, "annotated": len(ANNOTATED), "runs": runs})


if __name__ == "__main__":
    main()
