from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from reference import metrics as reference

from rifenet import metrics


def random_episodes(seed: int, episodes: int = 12, classes: tuple[int, ...] = (3, 7, 9)) -> tuple[list, list, list]:
    """Predictions, targets with ignored pixels, and class ids; every class has an episode."""
    rng = np.random.default_rng(seed)
    targets = [rng.choice([0, 1, 255], size=(6, 5), p=[0.5, 0.4, 0.1]).astype(np.uint8) for _ in range(episodes)]
    predictions = [
        np.where(rng.random(target.shape) < 0.8, target == 1, target != 1).astype(np.uint8) for target in targets
    ]
    return predictions, targets, [classes[i % len(classes)] for i in range(episodes)]


def counted(predictions: list, targets: list) -> np.ndarray:
    return np.stack([metrics.intersection_union(*pair) for pair in zip(predictions, targets, strict=True)])


def test_counts_of_a_hand_drawn_pair() -> None:
    prediction = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], np.uint8)
    target = np.array([[1, 0, 1, 0], [255, 0, 0, 255]], np.uint8)
    # Background is in both at (0,3), (1,1), (1,2); foreground is in both at (0,0) only.
    assert metrics.intersection_union(prediction, target).tolist() == [[3, 5], [1, 3]]


@given(st.integers(0, 10_000))
def test_counts_match_the_reference(seed: int) -> None:
    (prediction,), (target,), _ = random_episodes(seed, episodes=1)
    expected = [reference.intersection_union(prediction, target, label) for label in (0, 1)]
    assert metrics.intersection_union(prediction, target).tolist() == [list(pair) for pair in expected]


def test_counts_match_torchmetrics_jaccard() -> None:
    predictions, targets, _ = random_episodes(1)
    jaccard = torchmetrics.classification.BinaryJaccardIndex(ignore_index=255)
    for prediction, target in zip(predictions, targets, strict=True):
        jaccard.update(torch.from_numpy(prediction), torch.from_numpy(target).long())
    (iou,) = metrics.class_iou(counted(predictions, targets).sum(0)[None])
    assert iou == pytest.approx(float(jaccard.compute()), abs=1e-6)


def test_prediction_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        metrics.intersection_union(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@given(st.integers(0, 10_000))
def test_means_match_the_reference(seed: int) -> None:
    predictions, targets, class_ids = random_episodes(seed)
    meter = metrics.IoUMeter((3, 7, 9))
    meter.update(counted(predictions, targets), class_ids)
    expected = reference.class_iou(predictions, targets, class_ids)
    assert metrics.class_iou(meter.state) == pytest.approx([expected[class_id] for class_id in (3, 7, 9)])
    assert meter.compute()["miou"] == pytest.approx(reference.miou(predictions, targets, class_ids))
    assert meter.compute()["fb_iou"] == pytest.approx(reference.fb_iou(predictions, targets))


def test_miou_weighs_classes_equally_and_pixels_within_a_class() -> None:
    meter = metrics.IoUMeter((1, 2))
    # Class 1: 10/20 and 90/100 accumulate to 100/120, not to the mean of 0.5 and 0.9.
    counts = np.array([[[0, 0], [10, 20]], [[0, 0], [90, 100]], [[0, 0], [1, 4]]])
    meter.update(counts, (1, 1, 2))
    assert meter.compute()["miou"] == pytest.approx((100 / 120 + 1 / 4) / 2)


def test_absent_class_is_left_out_or_zero() -> None:
    meter = metrics.IoUMeter((1, 2))
    meter.update(np.array([[[4, 8], [3, 6]]]), (1,))
    assert np.isnan(metrics.class_iou(meter.state)[1])
    assert meter.compute()["miou"] == 0.5
    assert meter.compute(absent_as_zero=True)["miou"] == 0.25
    assert meter.episodes.tolist() == [1, 0]
    assert metrics.miou(meter.state) == 0.5
    assert metrics.miou(meter.state, absent_as_zero=True) == 0.25


def test_fb_iou_without_any_background_is_the_foreground() -> None:
    counts = metrics.intersection_union(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    assert metrics.fb_iou(counts) == 1.0


def test_meter_refuses_what_it_does_not_count() -> None:
    meter = metrics.IoUMeter((1, 2))
    with pytest.raises(ValueError, match=r"got \[5\]"):
        meter.update(np.zeros((1, 2, 2), int), (5,))


# Two-sided 95% points as printed tables of Student's t have them, by degrees of freedom.
T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 19: 2.0930, 30: 2.0423, 60: 2.0003}


@pytest.mark.parametrize("freedom", T_TABLE)
def test_seed_interval_is_students_t(freedom: int) -> None:
    values = np.random.default_rng(0).random(freedom + 1).tolist()
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / freedom) ** 0.5
    half = T_TABLE[freedom] * deviation / len(values) ** 0.5
    assert metrics.seed_interval(values) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_equal_seeds_leave_no_width() -> None:
    assert metrics.seed_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_one_seed_has_no_interval() -> None:
    assert metrics.seed_interval([0.5]) is None


def slow_bootstrap(counts: np.ndarray, class_ids: np.ndarray, units: np.ndarray, samples: int) -> list[float]:
    """Draws groups with replacement one by one and scores each sample by itself (another generator, on purpose)."""
    rng = np.random.default_rng(99)
    names = np.unique(units)
    values = []
    for _ in range(samples):
        drawn = rng.choice(names, size=len(names))
        runs = []
        for run in range(len(class_ids)):
            chosen = [i for name in drawn for i in np.flatnonzero(units[run] == name)]
            ious = []
            for class_id in np.unique(class_ids[run][chosen]):
                own = [i for i in chosen if class_ids[run][i] == class_id]
                ious.append(counts[run][own, 1, 0].sum() / counts[run][own, 1, 1].sum())
            runs.append(np.mean(ious))
        values.append(np.mean(runs))
    return values


@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_agrees_with_slow_resampling(grouped: bool) -> None:
    rng = np.random.default_rng(5)
    union = rng.integers(50, 200, size=(2, 30))
    share = np.clip(rng.normal(0.5, 0.2, 30), 0, 1)  # the same query scores alike in both runs
    counts = np.zeros((2, 30, 2, 2), np.int64)
    counts[..., 1, 1], counts[..., 1, 0] = union, (union * share).astype(int)
    class_ids = np.tile(np.arange(30) % 3 + 1, (2, 1))
    queries = np.tile(np.arange(30), (2, 1))
    units = queries if grouped else np.arange(60).reshape(2, 30)
    low, high = metrics.bootstrap_miou(counts, class_ids, (1, 2, 3), queries if grouped else None, samples=4000)
    expected = np.percentile(slow_bootstrap(counts, class_ids, units, 1500), (2.5, 97.5))
    assert (low, high) == pytest.approx(expected, abs=0.012)
    assert low < metrics.miou(counts.sum((0, 1))[None]) < high


def test_bootstrap_repeats_exactly_and_ignores_episode_order() -> None:
    rng = np.random.default_rng(6)
    counts = rng.integers(1, 100, size=(1, 20, 2, 2)).cumsum(-1)
    class_ids, queries = rng.integers(1, 3, size=(1, 20)), rng.integers(0, 8, size=(1, 20))
    first = metrics.bootstrap_miou(counts, class_ids, (1, 2), queries)
    order = rng.permutation(20)
    assert first == metrics.bootstrap_miou(counts, class_ids, (1, 2), queries)
    assert first == metrics.bootstrap_miou(counts[:, order], class_ids[:, order], (1, 2), queries[:, order])


def test_episodes_of_one_query_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(7)
    union = np.full(40, 100)
    intersection = rng.integers(10, 90, 40)
    one = np.stack([np.zeros((40, 2), int), np.stack([intersection, union], -1)], 1)
    counts, class_ids = np.concatenate([one] * 4)[None], np.ones((1, 160), int)
    queries = np.tile(np.arange(40), 4)[None]
    low, high = metrics.bootstrap_miou(counts, class_ids, (1,), queries)
    naive_low, naive_high = metrics.bootstrap_miou(counts, class_ids, (1,))
    # Four copies of the same forty queries hold no more evidence than the forty: the honest interval is twice as wide.
    assert (high - low) / (naive_high - naive_low) == pytest.approx(2, rel=0.15)


def test_absent_class_counts_in_the_bootstrap_as_in_the_mean() -> None:
    counts = np.array([[[[0, 0], [5, 10]]] * 4])
    class_ids = np.ones((1, 4), int)
    assert metrics.bootstrap_miou(counts, class_ids, (1, 2)) == (0.5, 0.5)
    assert metrics.bootstrap_miou(counts, class_ids, (1, 2), absent_as_zero=True) == (0.25, 0.25)


def test_paired_difference_is_narrower_than_two_intervals_and_signed() -> None:
    rng = np.random.default_rng(8)
    difficulty = rng.uniform(0.1, 0.9, 50)
    counts = np.zeros((1, 50, 2, 2), np.int64)
    counts[..., 1, 1] = 1000
    better = counts.copy()
    counts[..., 1, 0] = 1000 * difficulty
    better[..., 1, 0] = 1000 * difficulty + 20
    class_ids = np.ones((1, 50), int)
    low, high = metrics.bootstrap_miou(better, class_ids, (1,), other=counts)
    assert (low, high) == pytest.approx((0.02, 0.02), abs=1e-9)
    own_low, own_high = metrics.bootstrap_miou(counts, class_ids, (1,))
    assert own_high - own_low > 0.1
    assert metrics.bootstrap_miou(counts, class_ids, (1,), other=better) == pytest.approx((-high, -low))
    with pytest.raises(ValueError, match="same episodes"):
        metrics.bootstrap_miou(counts, class_ids, (1,), other=counts[:, :3])


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=30))
def test_auroc_matches_the_reference_with_ties(examples: list[tuple[int, bool]]) -> None:
    scores, present = [value / 8 for value, _ in examples], [label for _, label in examples]
    if len(set(present)) == 1:
        with pytest.raises(ValueError, match="positives and negatives"):
            metrics.auroc(scores, present)
    else:
        assert metrics.auroc(scores, present) == pytest.approx(reference.auroc(scores, present))


def test_auroc_and_calibration_match_torchmetrics() -> None:
    rng = np.random.default_rng(3)
    confidences, present = rng.random(500), rng.random(500) < 0.4
    tensors = torch.from_numpy(confidences), torch.from_numpy(present).long()
    auroc = torchmetrics.classification.BinaryAUROC()(*tensors)
    assert metrics.auroc(confidences, present) == pytest.approx(float(auroc), abs=1e-6)
    error = torchmetrics.classification.BinaryCalibrationError(n_bins=15, norm="l1")(*tensors)
    ours = metrics.expected_calibration_error(confidences, present, bins=15)
    assert ours == pytest.approx(float(error), abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_matches_the_reference(examples: list[tuple[float, bool]]) -> None:
    confidences, present = [value for value, _ in examples], [label for _, label in examples]
    expected = reference.ece(confidences, present)
    assert metrics.expected_calibration_error(confidences, present) == pytest.approx(expected, abs=1e-12)


def test_calibration_at_a_prevalence_equals_repeated_examples() -> None:
    # One positive and three negatives at prevalence 0.5 weigh as three copies of the positive would.
    confidences, present = [0.9, 0.1, 0.2, 0.7], [True, False, False, False]
    balanced = reference.ece([0.9] * 3 + confidences[1:], [True] * 3 + present[1:])
    ours = metrics.expected_calibration_error(confidences, present, prevalence=0.5)
    assert ours == pytest.approx(balanced)
    assert ours != pytest.approx(metrics.expected_calibration_error(confidences, present))


def test_calibration_at_a_prevalence_weighs_every_positive_alike() -> None:
    confidences, present = [0.9, 0.35, 0.1, 0.2, 0.7, 0.3], [True, True, False, False, False, False]
    balanced = reference.ece([0.9, 0.35] * 2 + confidences[2:], [True, True] * 2 + present[2:])
    assert metrics.expected_calibration_error(confidences, present, prevalence=0.5) == pytest.approx(balanced)


def test_certainty_is_in_the_last_bin() -> None:
    confidences, present = [1.0, 0.92], [False, True]  # together: mean confidence 0.96, half of them right
    assert metrics.expected_calibration_error(confidences, present) == pytest.approx(0.46)


def test_calibration_refuses_what_is_no_confidence() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        metrics.expected_calibration_error([0.5, 1.5], [True, False])
    with pytest.raises(ValueError, match="one kind"):
        metrics.expected_calibration_error([0.5, 0.6], [True, True], prevalence=0.5)


def test_presence_statistic_by_hand() -> None:
    scores = np.array([[0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    assert metrics.presence_statistic(scores) == pytest.approx((0.25 + 0.25 + 1) / 2)
    assert metrics.presence_statistic(np.zeros((2, 2), np.float32)) == 0.0
    assert metrics.presence_statistic(np.full((3, 3), 0.25, np.float32)) == pytest.approx(0.25)
    # A certain object outweighs a doubtful haze many times its size.
    haze = np.full((40, 40), 0.1, np.float32)
    haze[:4, :4] = 1.0
    assert metrics.presence_statistic(haze) == pytest.approx((16 + 1584 * 0.01) / (16 + 158.4), rel=1e-4)


def test_the_interval_of_a_mean_is_that_of_means_of_draws_with_replacement() -> None:
    values = np.random.default_rng(5).normal(3, 2, 24)
    rng = np.random.default_rng(0)
    means = sorted(sum(values[place] for place in row) / 24 for row in rng.integers(24, size=(10_000, 24)).tolist())
    low, high = metrics.mean_interval(values.tolist())
    assert low == pytest.approx(means[250], abs=1e-3)
    assert high == pytest.approx(means[9_749], abs=1e-3)
    assert low < values.mean() < high
    assert metrics.mean_interval([4.0] * 7) == (4.0, 4.0)
