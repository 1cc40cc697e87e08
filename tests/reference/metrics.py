"""Reference for the metrics (protocols.md section 4).

> *mIoU*: per class, sum intersection and union of the foreground over all its episodes, divide, then average over the
> fold's novel classes.
> *FB-IoU*: sum background and foreground over all episodes regardless of class, divide each, average the two.
> A class with no episode is reported as absent, with a warning, and is left out of the mean.
> [...] expected calibration error at 50% prevalence; area under the ROC curve for "target present".

Beyond the text: pixels whose target is 255 count nowhere; a union of 0 has no IoU and raises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def intersection_union(prediction: np.ndarray, target: np.ndarray, label: int) -> tuple[int, int]:
    """Intersection and union, in pixels, of the pixels that carry `label`; `prediction` and `target` are [H, W]."""
    intersection = union = 0
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            if target[i, j] == 255:
                continue
            predicted, wanted = prediction[i, j] == label, target[i, j] == label
            intersection += int(predicted and wanted)
            union += int(predicted or wanted)
    return intersection, union


def accumulated_iou(predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], label: int) -> float:
    """Sum of the intersections over sum of the unions, in [0, 1]."""
    intersection = union = 0
    for prediction, target in zip(predictions, targets, strict=True):
        one_intersection, one_union = intersection_union(prediction, target, label)
        intersection += one_intersection
        union += one_union
    if union == 0:
        raise ValueError(f"Expected label {label} in some prediction or target, but got none: its IoU is undefined.")
    return intersection / union


def class_iou(
    predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], class_ids: Sequence[int]
) -> dict[int, float]:
    """Foreground IoU of every class that has an episode, in [0, 1]."""
    ious = {}
    for class_id in sorted(set(class_ids)):
        own = [episode for episode in range(len(class_ids)) if class_ids[episode] == class_id]
        ious[class_id] = accumulated_iou([predictions[e] for e in own], [targets[e] for e in own], 1)
    return ious


def miou(predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], class_ids: Sequence[int]) -> float:
    """Mean foreground IoU over the classes that have an episode, in [0, 1]; lists have one entry per episode."""
    ious = class_iou(predictions, targets, class_ids)
    return sum(ious.values()) / len(ious)


def fb_iou(predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> float:
    """Mean of the background and the foreground IoU over all episodes, in [0, 1]."""
    return (accumulated_iou(predictions, targets, 0) + accumulated_iou(predictions, targets, 1)) / 2


def ece(confidences: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error of "target present", in [0, 1].

    Bins of equal width over [0, 1], each with its lower edge, the last one also with 1; a bin weighs its share of the
    examples. The examples are taken as they are: their prevalence is up to the caller.
    """
    error = 0.0
    for b in range(bins):
        inside = []
        for confidence, label in zip(confidences, labels, strict=True):
            if min(int(confidence * bins), bins - 1) == b:
                inside.append((float(confidence), float(label)))
        if inside:
            mean_confidence = sum(confidence for confidence, _ in inside) / len(inside)
            mean_label = sum(label for _, label in inside) / len(inside)
            error += len(inside) / len(confidences) * abs(mean_confidence - mean_label)
    return error


def auroc(confidences: Sequence[float], labels: Sequence[bool]) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher, in [0, 1]; a tie counts one half."""
    won = 0.0
    pairs = 0
    for positive, is_positive in zip(confidences, labels, strict=True):
        for negative, is_other_positive in zip(confidences, labels, strict=True):
            if is_positive and not is_other_positive:
                pairs += 1
                won += 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    if pairs == 0:
        raise ValueError("Expected at least one positive and one negative, but got only one kind.")
    return won / pairs
