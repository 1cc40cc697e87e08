"""Measures what it is worth that a patch's feature is taken for the middle of the patch, as JSON.

    python -m benchmarks.patch_places --out docs/results/patch_places.json
    python -m benchmarks.patch_places --out docs/results/patch_places.json --page docs/lab/backbones.md

With `--page` nothing is measured: the table of the page is written from --out.

Pictures of one white disc on black, at random places. The features are the mean brightness of each patch, so that all
loss comes from places. A pixel is in the mask where the brightness, brought to the pixels, is above one half. Compared:

- `corners`: the map of patches is taken as if its outer features stood on the picture's corners;
- `between`: the map is read, bilinearly, at the places of a grid whose corners are the picture's;
- `shown`: the network is shown half a patch more on each side, so that the middles of its patches stand on such a grid:
  what the program does (`StagedBackbone`);
- `centres`: the map is brought to the pixels from the middles of its patches, with no grid between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Values, difference, parser, rewrite_page, write_record
from rifenet.models import Stages, aligned_resize
from rifenet.models.backbones.named import staged_backbone

PICTURES = 200
SIZES = ((14, 448), (14, 449), (14, 473), (16, 448))  # patch and picture, pixels
RADII = (12, 90)
PLACES = ("border", "middle")  # whether the disc's middle is within an eighth of the picture from its border
MARKERS = "<!-- places of results/patch_places.json -->", "<!-- end of places -->"
WAYS = ("corners", "between", "shown", "centres")


class Means(nn.Module):
    """The mean colour of each patch."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B,3,H,W] to one map [B,3,h,w]."""
        return (F.avg_pool2d(images, self.patch),)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes."""
    words = parser(__doc__)
    words.add_argument("--page", type=Path, help="document whose table is written from --out")
    options = words.parse_args(argv)
    if options.page:
        rewrite_page(options.page, options.out, with_table)
        return
    torch.set_num_threads(options.threads)
    rows = [row for patch, side in SIZES for row in compared(patch, side)]
    write_record(options.out, {"pictures": PICTURES, "radii": RADII, "rows": rows})


def with_table(text: str, record: Values) -> str:
    """The page with the table of the record between its markers."""
    lines = [
        "| patch, picture | disc | corners | between | shown | centres | between - corners | shown - corners |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        gains = (row[f"{way} - corners"] for way in ("between", "shown"))
        cells = " | ".join("{:+} ({:+} to {:+})".format(*gain) for gain in gains)
        scores = " | ".join(str(row[way]) for way in WAYS)
        place = {"border": "near the border", "middle": "elsewhere"}[row["place"]]
        lines.append(f"| {row['patch']} px, {row['side']} px | {place}, {row['count']} | {scores} | {cells} |")
    start, end = (text.index(marker) for marker in MARKERS)
    return f"{text[: start + len(MARKERS[0])]}\n{chr(10).join(lines)}\n{text[end:]}"


def compared(patch: int, side: int) -> list[Values]:
    """IoU in percent of each way, and the paired differences from `corners`, near the border and in the middle."""
    stages = Stages(network=Means(patch), channels=(3,), strides=(patch,), mean=(0, 0, 0), deviation=(1, 1, 1))
    backbone = staged_backbone("means", stages, stride=patch)
    rng = np.random.default_rng([patch, side])
    scores: dict[str, dict[str, list[float]]] = {place: {way: [] for way in WAYS} for place in PLACES}
    for _ in range(PICTURES):
        disc = random_disc(rng, side)
        place = PLACES[int(disc.inside)]
        picture = disc.mask.float().expand(1, 3, side, side)
        rest = -side % patch
        plain = F.avg_pool2d(F.pad(picture, (0, rest, 0, rest), mode="replicate"), patch)
        whole = F.interpolate(plain, scale_factor=patch, mode="bilinear", align_corners=False)
        found = {
            "corners": aligned_resize(plain, (side, side)),
            "between": aligned_resize(read_between(plain, patch, side), (side, side)),
            "shown": aligned_resize(backbone(picture).high, (side, side)),
            "centres": whole[..., :side, :side],
        }
        for way, map in found.items():
            scores[place][way].append(100 * iou(map[0, 0] > 0.5, disc.mask))
    rows = []
    for place, by_way in scores.items():
        means = {way: round(float(np.mean(values)), 1) for way, values in by_way.items()}
        gains = {f"{way} - corners": difference(by_way[way], by_way["corners"]) for way in WAYS[1:]}
        rows.append({"patch": patch, "side": side, "place": place, "count": len(by_way["shown"]), **means, **gains})
    return rows


def read_between(maps: Tensor, patch: int, side: int) -> Tensor:
    """Maps of patches [1,C,h,w] read at as many places from the picture's first pixel to its last."""
    count = round(side / patch)
    places = (torch.linspace(0, side - 1, count) + 0.5) / patch - 0.5
    distance = places.clamp(0, maps.shape[-1] - 1)[:, None] - torch.arange(maps.shape[-1])
    weights = (1 - distance.abs()).clamp(min=0)
    return weights @ maps @ weights.T


class Disc:
    """A disc's mask [side,side] bool, and whether its middle is far from the border."""

    def __init__(self, mask: Tensor, inside: bool) -> None:
        self.mask, self.inside = mask, inside


def random_disc(rng: np.random.Generator, side: int) -> Disc:
    """A disc that may reach over the border."""
    radius = rng.uniform(*RADII)
    row, column = rng.uniform(0, side, 2)
    places = torch.arange(side)
    mask = (places[:, None] - row) ** 2 + (places[None] - column) ** 2 <= radius**2
    border = min(row, column, side - row, side - column)
    return Disc(mask, border > side / 8)


def iou(found: Tensor, true: Tensor) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    either = int((found | true).sum())
    return int((found & true).sum()) / either if either else 1.0


if __name__ == "__main__":
    main()
