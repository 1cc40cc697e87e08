"""Makes the file that ships with the program out of a run.

    python scripts/bundle_model.py RUN OUT --name NAME --root union --pairs 240

The frozen backbone goes in, weights in float16; the auxiliary head, which only training uses, stays out. Presence is
calibrated on the photos of the run's novel classes, which it never saw: each of `--pairs` episodes, classes in turn, is
scored with its own query and with a photo without the class. What is said of it is cross-fitted: the map that is judged
on one half of the classes was fitted on the other half. The map that ships is fitted on all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rifenet.checkpoint import save_model
from rifenet.config import load_config
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.evaluation.presence import confidence, fit_calibration, presence_pairs
from rifenet.hub import load_model
from rifenet.metrics import auroc, expected_calibration_error

SEED = 11


def main() -> None:
    """Writes the file and says how large it is and how well it tells present from absent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=240)
    options = parser.parse_args()
    model, data = load_model(options.run), load_config(options.run / "config.yaml").data
    index = open_dataset(data.dataset, options.root)
    photos = index.with_records(record for record in index.records if "~" not in record.name)
    pool = EpisodePool(photos, index.novel_classes(data.fold), shots=1, min_area=data.min_area, sampling="class")
    episodes = [pool.episode(SEED, number) for number in range(options.pairs)]
    statistics, present = presence_pairs(model, photos, episodes, data.image_size, SEED)
    classes = sorted({episode.class_id for episode in episodes})
    first = np.repeat([episode.class_id in classes[::2] for episode in episodes], 2)
    judged = np.zeros(len(statistics))
    for half in (first, ~first):
        judged[half] = confidence(statistics[half], fit_calibration(statistics[~half], present[~half]))
    facts = {
        **model.metadata,
        "name": options.name,
        "classes_never_seen": [index.class_name(class_id) for class_id in index.novel_classes(data.fold)],
        "calibration": fit_calibration(statistics, present),
        "presence_on_classes_never_seen": {
            "pairs": options.pairs,
            "negatives": "class-uniform",
            "auroc": auroc(statistics, present),
            "expected_calibration_error_cross_fitted": expected_calibration_error(judged, present),
        },
    }
    save_model(model, options.out, facts, with_backbone=True)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, of step {facts['step']} of {options.run}")
    print(facts["presence_on_classes_never_seen"])


if __name__ == "__main__":
    main()
