"""Metrics of few-shot segmentation, in numpy, from whole-number pixel counts.

`intersection_union` counts the pixels of one episode: int64 [2, 2], rows background and foreground, columns
intersection and union. The IoU figures are computed from sums of these counts. Such sums are exact in any order, so
splitting the episodes over batches, workers or ranks changes no figure. IoU is in [0, 1], or NaN without pixels.

    N episodes of a run · R runs (seeds) · C classes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rifenet import IGNORE

Interval = tuple[float, float]
_Float = TypeVar("_Float", np.float32, np.float64)


def intersection_union(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Intersection and union in pixels, [2, 2]: rows background and foreground.

    Args:
        prediction: predicted mask, [H, W], 0 background, any other value foreground.
        target: true mask, [H, W], 0 background, 255 ignored, any other value foreground.

    Raises:
        ValueError: `prediction` and `target` differ in size.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected prediction and target of one size, but got {prediction.shape} and {target.shape}. "
            "Restore the prediction to the size of the original image first."
        )
    valid = target != IGNORE
    predicted, wanted = prediction != 0, target != 0
    both = np.count_nonzero(predicted & wanted & valid)
    either = np.count_nonzero((predicted | wanted) & valid)
    total = np.count_nonzero(valid)
    # The background is all that is not foreground, so its two counts follow from those of the foreground.
    return np.array([[total - either, total - both], [both, either]], dtype=np.int64)


class IoUMeter:
    """Sums of `intersection_union` for each class."""

    def __init__(self, class_ids: Sequence[int]) -> None:
        self.class_ids = tuple(class_ids)
        self.state = np.zeros((len(self.class_ids), 2, 2), dtype=np.int64)
        """Counts of each class, [C, 2, 2]."""
        self.episodes = np.zeros(len(self.class_ids), dtype=np.int64)
        """Episodes of each class, [C]."""

    def update(self, counts: NDArray[np.integer], class_ids: Sequence[int] | NDArray[np.integer]) -> None:
        """Adds the counts [N, 2, 2] of episodes of the classes [N]. Raises ValueError for an unknown class."""
        rows = _rows(class_ids, self.class_ids)
        np.add.at(self.state, rows, counts)
        np.add.at(self.episodes, rows, 1)

    def compute(self, absent_as_zero: bool = False) -> dict[str, float]:
        """Metrics of the sums, `{"miou": ..., "fb_iou": ...}`; `absent_as_zero` as in `miou`."""
        return {"miou": miou(self.state, absent_as_zero), "fb_iou": fb_iou(self.state)}


def class_iou(sums: NDArray[np.integer]) -> NDArray[np.float64]:
    """Foreground IoU of each class, [C], from its summed counts, [C, 2, 2]; NaN for a class without pixels."""
    return _share(sums[..., 1, 0], sums[..., 1, 1])


def miou(sums: NDArray[np.integer], absent_as_zero: bool = False) -> float:
    """Mean of `class_iou` over the classes with pixels; `absent_as_zero` counts the others as 0, as published code."""
    return float(_mean(class_iou(sums)[None], absent_as_zero)[0])


def fb_iou(sums: NDArray[np.integer]) -> float:
    """Mean of background and foreground IoU over all episodes regardless of class, from counts [..., 2, 2].

    If no mask shows any background (or foreground), the mean leaves that IoU out.
    """
    total = sums.reshape(-1, 2, 2).sum(0)
    return float(_mean(_share(total[:, 0], total[:, 1])[None], False)[0])


def seed_interval(values: Sequence[float]) -> Interval | None:
    """95% Student's t interval of the mean of one figure over R seeds; None for fewer than two seeds."""
    count = len(values)
    if count < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1)) / count**0.5
    centre = float(np.mean(values))
    return centre - half, centre + half


def bootstrap_miou(
    counts: NDArray[np.integer],
    class_ids: NDArray[np.integer],
    classes: Sequence[int],
    groups: NDArray[np.integer] | None = None,
    *,
    other: NDArray[np.integer] | None = None,
    samples: int = 2000,
    absent_as_zero: bool = False,
) -> Interval:
    """95% percentile bootstrap interval, over episodes, of the mIoU averaged over runs.

    With `other`, the counts of another model on the same episodes, the interval is that of mIoU(`counts`) -
    mIoU(`other`). It is paired: each sample draws the same groups for both models, so the difficulty of the episodes
    cancels out.

    Episodes that share a query are not independent. Five runs of 1,000 episodes may have only a few hundred different
    queries, so drawing single episodes would make the interval several times too narrow. The bootstrap therefore draws
    whole groups; evaluation groups episodes by query image. The seed is constant, so the interval is reproducible.

    Args:
        counts: per-episode counts, [R, N, 2, 2].
        class_ids: class of each episode, [R, N].
        classes: the fold's novel classes, [C].
        groups: group of each episode, [R, N]; None makes every episode its own group.
        other: counts of the model to subtract, [R, N, 2, 2].
        samples: bootstrap samples.
        absent_as_zero: as in `miou`; classes absent from a sample count as 0, too.

    Raises:
        ValueError: `counts` and `other` differ in shape.
    """

    def mious(of: NDArray[np.integer]) -> NDArray[np.float64]:
        return _mean(resampled_runs(of, class_ids, classes, groups, samples, absent_as_zero), False)

    if other is None:
        return percentile_interval(mious(counts))
    if counts.shape != other.shape:
        raise ValueError(f"Expected counts of the same episodes, but got shapes {counts.shape} and {other.shape}.")
    return percentile_interval(mious(counts) - mious(other))


def sigmoid(values: NDArray[_Float]) -> NDArray[_Float]:
    """1 / (1 + exp(-values)), in the dtype of `values`; large values do not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(values / 2), values.dtype)


def calibrated(
    statistics: float | NDArray[np.float64], calibration: Mapping[str, float], shift: float = 0.0
) -> NDArray[np.float64]:
    """Confidence in [0,1] for each `presence_statistic`: `sigmoid(a * statistic + b + shift)`."""
    return sigmoid(np.asarray(calibration["a"] * statistics + calibration["b"] + shift, np.float64))


def log_odds(probability: float) -> float:
    """log(p / (1 - p)) of a probability in (0,1): the inverse of `sigmoid`."""
    return math.log(probability / (1 - probability))


def presence_statistic(scores: NDArray[np.float32]) -> float:
    """Mean score of a class's pixels, in [0,1], with the scores themselves as weights: `sum(s²) / sum(s)`.

    0 where all scores are 0. Without any threshold, a few certain pixels count more than many doubtful ones. A model's
    calibration turns this value into the class's confidence, which estimates the share of photos that show the class.
    """
    total = float(scores.sum(dtype=np.float64))
    return float(np.square(scores, dtype=np.float64).sum()) / total if total > 0 else 0.0


def auroc(scores: Sequence[float] | NDArray[np.floating], present: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative; a tie counts one half.

    Args:
        scores: [M].
        present: [M], True for the positives: examples that show the class.

    Raises:
        ValueError: only positives or only negatives.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(present, dtype=bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if positives == 0 or negatives == 0:
        raise ValueError(f"Expected positives and negatives, but got {positives} positives, {negatives} negatives.")
    _, inverse, repeats = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(repeats) - (repeats - 1) / 2  # ties share their mean rank
    return float((rank[inverse][truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(
    confidences: Sequence[float] | NDArray[np.floating],
    present: Sequence[bool] | NDArray[np.bool_],
    *,
    bins: int = 10,
    prevalence: float | None = None,
) -> float:
    """Mean gap, over equal-width bins of [0, 1], between the confidence and the share of examples with the class.

    Args:
        confidences: [M], each in [0, 1].
        present: [M], whether the example shows the class.
        bins: number of bins; each contains its lower edge, the last one also 1.
        prevalence: weight the examples so that this share is positive (evaluation: 0.5); None: equal weights.

    Raises:
        ValueError: a confidence outside [0, 1], no example, or `prevalence` with only positives or only negatives.
    """
    values, truth = np.asarray(confidences, dtype=np.float64), np.asarray(present, dtype=bool)
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("Expected at least one confidence, each in [0, 1]. Calibrate raw scores first.")
    weights = np.ones(values.size)
    if prevalence is not None:
        if truth.all() or not truth.any():
            raise ValueError(f"Expected positives and negatives for prevalence {prevalence}, but got only one kind.")
        weights = np.where(truth, prevalence / truth.sum(), (1 - prevalence) / (~truth).sum())
    weights = weights / weights.sum()
    inside = np.minimum((values * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(inside, weights * (values - truth), bins)).sum())


def _rows(class_ids: Sequence[int] | NDArray[np.integer], known: Sequence[int]) -> NDArray[np.int64]:
    position = {class_id: row for row, class_id in enumerate(known)}
    unknown = sorted(set(np.asarray(class_ids).tolist()) - set(position))
    if unknown:
        raise ValueError(f"Expected episodes of the classes {tuple(known)}, but got {unknown}.")
    return np.array([position[int(class_id)] for class_id in class_ids], dtype=np.int64)


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
    return share


def _mean(ious: NDArray[np.float64], absent_as_zero: bool) -> NDArray[np.float64]:
    """Mean over the last axis, without NaN entries; `absent_as_zero` counts them as 0."""
    absent = np.isnan(ious)
    total = np.where(absent, 0.0, ious).sum(-1)
    count = np.full(total.shape, ious.shape[-1]) if absent_as_zero else (~absent).sum(-1)
    return _share(total, count)


def resampled_runs(
    counts: NDArray[np.integer],
    class_ids: NDArray[np.integer],
    classes: Sequence[int],
    groups: NDArray[np.integer] | None,
    samples: int,
    absent_as_zero: bool,
    stream: int = 0,
) -> NDArray[np.float64]:
    """Mean IoU of each run in each bootstrap sample, [samples, R]; all runs of a sample use the same drawn groups.

    Arguments as in `bootstrap_miou`; `stream` seeds the draw.
    """
    runs, episodes = class_ids.shape
    units = np.arange(runs * episodes) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    run = np.repeat(np.arange(runs), episodes)
    foreground = np.zeros((units.max() + 1, runs, len(classes), 2))
    np.add.at(foreground, (units, run, _rows(class_ids.reshape(-1), classes)), counts[..., 1, :].reshape(-1, 2))
    size = len(foreground)
    draws = np.random.default_rng(stream).multinomial(size, np.full(size, 1 / size), samples).astype(np.float64)
    # float64 sums of whole numbers below 2**53 are exact, so the order in the matrix product changes no digit.
    sums = (draws @ foreground.reshape(size, -1)).reshape(samples, runs, len(classes), 2)
    return _mean(_share(sums[..., 0], sums[..., 1]), absent_as_zero)


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95% of bootstrap samples [samples], without NaN entries."""
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(values: Sequence[float] | NDArray[np.floating], samples: int = 10_000) -> Interval:
    """Bootstrap 95% interval of the mean of independent draws [M], such as paired differences."""
    drawn = np.asarray(values, dtype=np.float64)
    resampled = np.random.default_rng(0).integers(len(drawn), size=(samples, len(drawn)))
    return percentile_interval(drawn[resampled].mean(1))
