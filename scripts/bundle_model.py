"""Makes the model file that ships with the program from a training run.

    python scripts/bundle_model.py RUN OUT --name NAME --root union --pairs 400 --image-size 449 \
        --set support_views=2 support_closer=true max_evidence_keys=1024 max_support_tokens=256 mask_threshold=0.33

The file holds the frozen backbone, with weights in float16, but not the auxiliary head, which only training uses. RUN
may also be a file made this way; give the config of its run by `--config`.

Presence is calibrated on photos of the run's novel classes, which the model never saw. Each of `--pairs` episodes,
classes in turn, is scored with its own query, with a photo without the class, and with a hard negative. The reported
figures are cross-fitted: the calibration judged on one class is fitted on the others. The shipped calibration is fitted
on all classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rifenet.config import load_config, with_test_options
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.evaluation.presence import (
    HARD,
    against_hard,
    fit_calibration,
    hard_statistics,
    presence_pairs,
    separation,
)
from rifenet.metrics import calibrated
from rifenet.models.files.checkpoint import save_model
from rifenet.models.files.hub import load_model

SEED = 11


def main() -> None:
    """Writes the file, and prints its size and how well it tells present from absent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--image-size", type=int, help="side of the network's input (default: that of training)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="as in rifenet evaluate")
    parser.add_argument("--config", type=Path, help="default: RUN/config.yaml")
    options = parser.parse_args()
    model, data = load_model(options.run), load_config(options.config or options.run / "config.yaml").data
    model.config = with_test_options(model.config, options.set)
    size = options.image_size or data.image_size
    index = open_dataset(data.dataset, options.root)
    photos = index.with_records(record for record in index.records if "~" not in record.name)
    pool = EpisodePool(photos, index.novel_classes(data.fold), shots=1, min_area=data.min_area, sampling="class")
    episodes = [pool.episode(SEED, number) for number in range(options.pairs)]
    statistics, present = presence_pairs(model, photos, episodes, size, SEED)
    ids = np.repeat([episode.class_id for episode in episodes], 2)
    hard = against_hard(statistics, present, hard_statistics(model, photos, episodes, size, SEED))
    sure, sure_hard = np.zeros(len(ids)), np.zeros(len(ids))
    for class_id in set(ids.tolist()):
        own = ids == class_id
        fitted = fit_calibration(statistics[~own], present[~own])
        sure[own], sure_hard[own] = calibrated(statistics[own], fitted), calibrated(hard[own], fitted)
    facts = {
        **model.metadata,
        "name": options.name,
        "image_size": size,
        "image_size_of_training": data.image_size,
        "classes_never_seen": [index.class_name(class_id) for class_id in index.novel_classes(data.fold)],
        "calibration": fit_calibration(statistics, present),
        "presence_on_classes_never_seen": {
            "pairs": options.pairs,
            "cross_fitted": "over classes",
            "negatives": "class-uniform",
            **separation(statistics, present, sure),
            "hard": {"negatives": HARD, **separation(hard, present, sure_hard)},
        },
    }
    save_model(model, options.out, facts, with_backbone=True)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, of step {facts['step']} of {options.run}")
    print(facts["presence_on_classes_never_seen"])


if __name__ == "__main__":
    main()
