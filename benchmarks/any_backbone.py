"""Measures the head that fits any backbone against training-free matching, on classes that it never saw, as JSON.

    python -m benchmarks.any_backbone --root union --out docs/results/any_backbone/never_seen.json --episodes 40 \
        --over efficientnet_lite0 --half-resnet resnet50_half_width_opennsfw.pth

ROOT is the union of `scripts/make_union.py`. Its novel classes take turns; each episode has one shot. Both methods get
the same frozen features, episodes and size. `mean` is the mean over classes of the IoU over all of a class's pixels, in
percent; `gain` compares the IoU of single episodes, with a paired 95% bootstrap interval over episodes.
`--half-resnet` names the file of a ResNet-50 at half width (caffe's input, stride on conv1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Values, difference, parser, write_record
from rifenet.config import ModelConfig
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.evaluation.provenance import git_commit
from rifenet.evaluation.scoring import score_episodes
from rifenet.models.build import baseline_of
from rifenet.models.files.over_backbone import STRIDE, head_config, with_head


def main(argv: Sequence[str] | None = None) -> None:
    """Scores, and writes the record after each backbone."""
    words = parser(__doc__)
    words.add_argument("--root", type=Path, required=True)
    words.add_argument("--episodes", type=int, default=40)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--over", nargs="*", default=[], help="names of backbones")
    words.add_argument("--half-resnet", default="")
    options = words.parse_args(argv)
    torch.set_num_threads(options.threads)
    index = open_dataset("custom", options.root, progress=False)
    photos = index.with_records(record for record in index.records if "~" not in record.name)
    pool = EpisodePool(photos, index.novel_classes(0), shots=1, sampling="class")
    episodes = [pool.episode(options.seed, number) for number in range(options.episodes)]
    classes = np.array([episode.class_id for episode in episodes])
    record: Values = {"git_commit": git_commit(), "seed": options.seed, "episodes": options.episodes, "over": {}}
    for name, config in configs(options.over, options.half_resnet):
        model = with_head(config)
        size = int(model.metadata["image_size"])
        found = {
            kind: score_episodes(each, photos, episodes, size)  # type: ignore[arg-type]
            for kind, each in (("any_backbone", model), ("prototype", baseline_of(model).eval()))
        }
        record["over"][name] = {"model": model.hash, "image_size": size, **figures(found, classes, index.class_names)}
        write_record(options.out, record)
        print(name, record["over"][name], flush=True)


def configs(names: Sequence[str], half_resnet: str) -> Iterator[tuple[str, ModelConfig]]:
    """Name and configuration of each network."""
    for name in names:
        yield name, replace(head_config(), backbone=name, weights="", stride=STRIDE)
    if half_resnet:
        resnet = replace(head_config(), backbone="resnet50", weights=half_resnet, stride=STRIDE, stem="caffe")
        yield "resnet50 at half width", replace(resnet, stride_on="conv1", width=0.5, normalization="caffe")


def figures(counts: dict[str, NDArray[np.int64]], classes: NDArray[np.int64], names: Sequence[str]) -> Values:
    """Figures of two methods from their pixel counts [N,2,2]."""
    made: Values = {}
    single = {}
    for kind, each in counts.items():
        own = each[:, 1]  # intersection and union of the foreground
        single[kind] = 100 * own[:, 0] / np.maximum(own[:, 1], 1)
        by_class = {int(one): own[classes == one].sum(0) for one in np.unique(classes)}
        ious = {names[one - 1]: round(100 * float(pair[0]) / max(int(pair[1]), 1), 1) for one, pair in by_class.items()}
        made[kind] = {"mean": round(float(np.mean(list(ious.values()))), 1), "classes": ious}
    made["gain"] = difference(single["any_backbone"], single["prototype"])
    return made


if __name__ == "__main__":
    main()
