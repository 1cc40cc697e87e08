"""Fits how `Result.quality` follows from the signs of a mask, and judges it on sets that had no part in the fit.

    python -m benchmarks.quality --fit development.json --judge reported.json --out src/rifenet/segmenting/quality.json

Both take records of `benchmarks.worlds`. A model turns signs into an expected IoU by a logistic function. It is fitted
to the IoU of each photo of the sets of `--fit` by cross-entropy, with a ridge. One model reads the signs of the maps
alone, the other those of classes with a fit. The record holds the coefficients, and for each model two judgements: on
each set by a model fitted to the other sets, and on the photos of `--judge`. A judgement is Spearman's rank correlation
of expected and true IoU, and the calibration error: the mean distance of both over ten bins of the expected IoU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Values, parser, write_record
from rifenet.metrics import sigmoid
from rifenet.segmenting.quality import FITTED, MAPS

MODELS = {"maps": MAPS, "fitted": FITTED}
RIDGE = 3.0  # photos' worth of pull towards 0, for signs of unit deviation
BINS = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Fits, judges and writes."""
    words = parser(__doc__)
    words.add_argument("--fit", type=Path, nargs="+", required=True)
    words.add_argument("--judge", type=Path, nargs="*", default=[])
    options = words.parse_args(argv)
    own, others = (photos_of(paths) for paths in (options.fit, options.judge))
    record: Values = {"models": {}, "judged": {}}
    for name, signs in MODELS.items():
        photos, kept = ([photo for photo in found if set(signs) <= photo["signs"].keys()] for found in (own, others))
        record["models"][name] = fitted(photos, signs)
        record["judged"][name] = {
            "fitted_to": counts(photos),
            "left_out_in_turn": judgement(*crossed(photos, signs)),
            **(
                {"others": {**judgement(*expected(kept, record["models"][name])), "sets": counts(kept)}} if kept else {}
            ),
        }
    write_record(options.out, record)
    print(json.dumps(record["judged"], indent=1))


def photos_of(paths: Sequence[Path]) -> list[Values]:
    """Set, IoU in [0,1] and signs of each photo in records of `benchmarks.worlds`."""
    rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    return [
        {"set": row["set"], "iou": photo["iou"] / 100, "signs": photo["signs"]}
        for row in rows
        if row["way"] != "prototype"
        for photo in row["photos"]
    ]


def fitted(photos: Sequence[Values], signs: Sequence[str]) -> Values:
    """Weights and bias of the logistic model, by Newton's method."""
    values = np.array([[photo["signs"][sign] for sign in signs] for photo in photos])
    truth = np.array([photo["iou"] for photo in photos])
    mean, spread = values.mean(0), values.std(0) + 1e-9
    inputs = np.column_stack([(values - mean) / spread, np.ones(len(values))])
    pull = np.diag([RIDGE] * len(signs) + [0.0])
    weights = np.zeros(len(signs) + 1)
    for _ in range(50):
        found = sigmoid(inputs @ weights)
        slope = inputs.T @ (found - truth) + pull @ weights
        curve = (inputs * (found * (1 - found))[:, None]).T @ inputs + pull + 1e-9 * np.eye(len(weights))
        weights -= np.linalg.solve(curve, slope)
    plain = weights[:-1] / spread
    return {
        "weights": {sign: round(float(weight), 5) for sign, weight in zip(signs, plain, strict=True)},
        "bias": round(float(weights[-1] - plain @ mean), 5),
    }


def expected(photos: Sequence[Values], model: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected and true IoU of each photo."""
    total = [
        model["bias"] + sum(weight * photo["signs"][sign] for sign, weight in model["weights"].items())
        for photo in photos
    ]
    return sigmoid(np.array(total, np.float64)), np.array([photo["iou"] for photo in photos])


def crossed(photos: Sequence[Values], signs: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected and true IoU of each photo, each set's by a model of the other sets."""
    parts = []
    for name in dict.fromkeys(photo["set"] for photo in photos):
        others = [photo for photo in photos if photo["set"] != name] or list(photos)
        parts.append(expected([photo for photo in photos if photo["set"] == name], fitted(others, signs)))
    found, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    return found, truth


def judgement(found: NDArray[np.float64], truth: NDArray[np.float64]) -> Values:
    """Rank correlation and calibration error of expected and true IoU, [M] each."""
    ranks = [rank(values) for values in (found, truth)]
    inside = np.minimum((found * BINS).astype(int), BINS - 1)
    gaps = np.abs(np.bincount(inside, found - truth, BINS)).sum() / len(found)
    return {
        "photos": len(found),
        "rank_correlation": round(float(np.corrcoef(*ranks)[0, 1]), 3),
        "calibration_error": round(float(gaps), 3),
        "mean_expected": round(float(found.mean()), 3),
        "mean_true": round(float(truth.mean()), 3),
    }


def rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each value; equal ones share the mean of theirs."""
    _, inverse, repeats = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(repeats) - (repeats - 1) / 2)[inverse])


def counts(photos: Sequence[Values]) -> dict[str, int]:
    """Number of photos of each set."""
    names = [photo["set"] for photo in photos]
    return {name: names.count(name) for name in dict.fromkeys(names)}


if __name__ == "__main__":
    main()
