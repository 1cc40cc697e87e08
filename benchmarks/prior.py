"""Measures how well the prior mask finds a class, here and as PFENet's code makes it, as JSON.

    python -m benchmarks.prior --voc VOC2012 --list-file voc_mini.txt --half-width resnet50_half.pth --out prior.json

Of each novel class of the folds it takes `--images` photos, evenly spaced in the list; each is a query, and the next
one its support. The figure of a query is the area under the ROC curve of the prior: how often a position that shows the
class has a higher value than one that does not. Differences are paired over the queries.

- masked: the support's mask multiplies the features of stage 3 before stage 4 runs (PFENet's code)
- uncapped: all foreground positions of the support are compared, and not at most `model.max_prior_keys` (PFENet's code)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Values, difference, parser, write_record
from benchmarks.rules import MIN_AREA, prototype
from rifenet.config import ModelConfig
from rifenet.data.episodes import load_support
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.evaluation.provenance import git_commit
from rifenet.metrics import auroc
from rifenet.models.files.checkpoint import backbone_hash
from rifenet.models.masks import SoftMasks, soft_masks, valid_on_grid
from rifenet.models.prior import choose_keys, prior_mask

SIZE = 473
VARIANTS = ("here", "masked", "uncapped")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures fold after fold, and writes."""
    words = parser(__doc__)
    words.add_argument("--voc", required=True, help="voc-mini, or another VOC folder")
    words.add_argument("--list-file", required=True, help="its photos")
    words.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3])
    words.add_argument("--images", type=int, default=4, help="photos of a class")
    words.add_argument("--backbone", default="resnet50")
    words.add_argument("--stride", type=int, default=8)
    words.add_argument("--half-width", type=Path, help="file of a half-width ResNet-50")
    options = words.parse_args(argv)
    torch.set_num_threads(options.threads)
    index = open_dataset("pascal", options.voc, list_file=options.list_file, part="val", progress=False)
    backbone = prototype(options).eval().backbone
    facts = {
        "backbone": options.backbone,
        "half_width": options.half_width is not None,
        "stride": options.stride,
        "hash": backbone_hash(prototype(options)),
        "dataset": index.hash,
        "git_commit": git_commit(),
        "max_prior_keys": ModelConfig().max_prior_keys,
    }
    queries: list[Values] = []
    for number, fold in enumerate(options.folds, 1):
        for class_id in index.novel_classes(fold):
            queries += measured(backbone, index, class_id, options.images)
        record = {**facts, "folds": options.folds[:number], "queries": queries}
        write_record(options.out, {**record, "figures": figures(queries)})


def measured(backbone: Any, index: ImageIndex, class_id: int, count: int) -> list[Values]:
    """The figures of the class's queries under each variant; none of a class of one photo."""
    images = index.images_of(class_id, MIN_AREA)
    if len(images) < 2:
        return []
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    photos = [encoded(backbone, load_support(index, class_id, images[place], SIZE)) for place in places]
    rows = []
    for number, (query, support) in enumerate(zip(photos, photos[1:] + photos[:1], strict=True)):
        present = query["soft"].foreground[0, 0] > 0.5
        known = query["valid"][0] & (query["soft"].void[0, 0] <= 0.5)
        if present.any() and (known & ~present).any():
            found = {variant: area(query, support, variant, present[known], known) for variant in VARIANTS}
            rows.append({"class": class_id, "image": images[places[number]], **found})
    print(index.class_name(class_id), len(rows), "queries", flush=True)
    return rows


@torch.inference_mode()
def encoded(backbone: Any, arrays: Values) -> Values:
    """Of a photo: its high features, those of stage 4 over the masked stage 3, its mask, and what is no padding."""
    photo, mask, valid = (torch.from_numpy(arrays[f"support_{part}"]) for part in ("images", "masks", "valid"))
    pixels = ((photo.flip(1) if backbone._bgr else photo) - backbone.mean) / backbone.deviation
    *_, third, fourth = backbone._run(pixels)
    grid = fourth.shape[-2:]
    soft = soft_masks(mask[None], valid[None], (grid[0], grid[1]))
    return {
        "high": fourth,
        "masked": backbone.layer4(third * soft.foreground[0][:, None]),
        "soft": soft,
        "valid": valid_on_grid(valid, (grid[0], grid[1])),
    }


@torch.inference_mode()
def area(query: Values, support: Values, variant: str, present: Tensor, known: Tensor) -> float:
    """Area under the ROC curve of the prior at the `known` positions [h,w]; `present` says which show the class."""
    soft: SoftMasks = support["soft"]
    high = support["masked" if variant == "masked" else "high"]
    cap = known.numel() if variant == "uncapped" else ModelConfig().max_prior_keys
    keys = choose_keys(high[None], soft.foreground > 0, cap)
    found = prior_mask(F.normalize(query["high"], dim=1), query["valid"], *keys)
    return round(auroc(found[0, 0][known].numpy(), present.numpy()), 4)


def figures(queries: Sequence[Values]) -> Values:
    """In percent: the mean of each variant, and its paired difference to the first, published - here."""
    values = {variant: [100 * row[variant] for row in queries] for variant in VARIANTS}
    found: Values = {variant: round(float(np.mean(each)), 1) for variant, each in values.items()}
    return found | {f"{variant} - here": difference(values[variant], values["here"]) for variant in VARIANTS[1:]}


if __name__ == "__main__":
    main()
