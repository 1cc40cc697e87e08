"""Measures which pixel a backbone's features look at, as JSON: why `hsnet` at 400 px scores other than at 401 px.

    python -m benchmarks.feature_centres --voc VOC2012 --list-file voc_mini.txt --out feature_centres.json

Of a feature in the middle of the grid, a random mixture of channels is differentiated by the picture. The centre of the
squared gradient is where the feature looks. It is compared with the pixel at which the feature is read: the grid's
corners are the picture's. Three photos, two features, both axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Values, parser, write_record
from benchmarks.rules import prototype
from rifenet.data.episodes import load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.data.transforms import squash
from rifenet.models.files.checkpoint import backbone_hash

SIDES = (401, 400)
PHOTOS = (5, 905, 1805)  # places in the list
NEAR_THE_MIDDLE = (-3, 2)  # grid places


def main(argv: Sequence[str] | None = None) -> None:
    """Measures one backbone, and writes."""
    words = parser(__doc__)
    words.add_argument("--voc", required=True, help="voc-mini, or another VOC folder")
    words.add_argument("--list-file", required=True, help="its photos")
    words.add_argument("--backbone", default="efficientnet_lite0")
    words.add_argument("--stride", type=int, default=8)
    words.add_argument("--half-width", type=Path, help="file of a half-width ResNet-50, with --backbone resnet50")
    options = words.parse_args(argv)
    torch.set_num_threads(options.threads)
    index = open_dataset("pascal", options.voc, list_file=options.list_file, part="val", progress=False)
    backbone = prototype(options).eval().backbone
    rows = [row for side in SIDES for row in centres(backbone, index, side)]
    facts = {"backbone": options.backbone, "stride": options.stride, "hash": backbone_hash(prototype(options))}
    write_record(options.out, {**facts, "half_width": options.half_width is not None, "rows": rows})


def centres(backbone: Any, index: ImageIndex, side: int) -> list[Values]:
    """Of each stage: how far down and right of where it is read a feature looks, pixels, and the standard error."""
    rng = torch.Generator().manual_seed(0)
    found: dict[int, list[list[float]]] = {}
    for image in PHOTOS:
        photo = torch.from_numpy(squash(load_pair(index, image)[0], side)[0])[None]
        pixels = ((photo.flip(1) if backbone._bgr else photo) - backbone.mean) / backbone.deviation
        pixels.requires_grad_(True)
        stages = [
            features for number, features in enumerate(backbone._run(pixels), 1) if number in backbone.used_stages
        ]
        for stage, features in zip(backbone.used_stages, stages, strict=True):
            length = features.shape[-1]
            for place in (length // 2 + offset for offset in NEAR_THE_MIDDLE):
                mixture = torch.randn(features.shape[1], generator=rng)
                seen = torch.autograd.grad((features[0, :, place, place] * mixture).sum(), pixels, retain_graph=True)[0]
                energy = seen[0].square().sum(0)
                axis = torch.arange(side)
                middle = [float((energy.sum(1 - way) * axis).sum() / energy.sum()) for way in (0, 1)]
                read = place * (side - 1) / (length - 1)
                found.setdefault(stage, []).append([one - read for one in middle])
    rows = []
    for stage, distances in found.items():
        means = np.mean(distances, axis=1)
        error = float(means.std(ddof=1) / len(means) ** 0.5)
        rows.append({"side": side, "stage": stage, "offset": round(float(means.mean()), 1)})
        rows[-1]["standard_error"] = round(error, 1)
    return rows


if __name__ == "__main__":
    main()
