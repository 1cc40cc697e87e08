"""Confidence that a class is in a picture at all (protocols.md 4, calibration figures).

A logistic curve turns a statistic of the scores into the confidence: `sigmoid(a * statistic + b)`. It is fitted at 50%
prevalence: each episode is scored with its own query, which shows the class, and with a photo that does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rifenet.config import Config
from rifenet.data.episodes import load_episode
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, absent_query, evaluation_episodes
from rifenet.data.transforms import resize_and_pad
from rifenet.evaluation.prediction import Model, device_of, margins, mask_threshold
from rifenet.metrics import auroc, calibrated, expected_calibration_error, presence_statistic, sigmoid
from rifenet.models.baseline import PrototypeFeatures
from rifenet.models.masks import soft_masks, valid_on_grid
from rifenet.models.matching import matching_prototypes, matching_score

BINS = 10
HARD_OF = 8
HARD = f"of {HARD_OF} class-uniform ones the most alike by training-free matching"
Pairs = tuple[NDArray[np.float64], NDArray[np.bool_]]


@torch.inference_mode()
def presence_pairs(model: Model, index: ImageIndex, episodes: Sequence[Episode], size: int, seed: int) -> Pairs:
    """Presence statistics [2N] in [0,1] and class present [2N] bool: for each episode its query, then a negative.

    A negative is a photo without the class, drawn class-uniform by (seed, position). The model must be in eval mode; it
    runs one image at a time.
    """
    statistics: list[float] = []
    for position, episode in enumerate(episodes):
        queries = (episode.query, absent_query(index, episode.class_id, seed, position))
        statistics += _statistics(model, index, episode, queries, size)
    return np.array(statistics), np.tile([True, False], len(episodes))


@torch.inference_mode()
def hard_statistics(
    model: Model, index: ImageIndex, episodes: Sequence[Episode], size: int, seed: int
) -> NDArray[np.float64]:
    """Presence statistics [N] in [0,1] of one hard negative for each episode.

    `HARD_OF` photos without the class are drawn class-uniform by (seed, position). The hard negative is the photo whose
    best position has the highest training-free matching score with the episode's supports (`models.matching`). The
    choice uses only frozen features, so all models over one backbone get the same photos.
    """
    statistics: list[float] = []
    for position, episode in enumerate(episodes):
        (images, masks, valid), _, _ = _inputs(model, index, episode, size)
        features = _matched(model, images[0])[None]
        prototypes = matching_prototypes(features, *soft_masks(masks, valid, (features.shape[-2], features.shape[-1])))
        drawn = {absent_query(index, episode.class_id, seed, position * HARD_OF + number) for number in range(HARD_OF)}
        likeness = {query: _likeness(model, index.records[query].image(), prototypes, size) for query in sorted(drawn)}
        statistics += _statistics(model, index, episode, [max(likeness, key=likeness.__getitem__)], size)
    return np.array(statistics)


def _likeness(model: Model, photo: NDArray[np.uint8], prototypes: Tensor, size: int) -> float:
    """The matching score of a photo's best position, in [-2,2]."""
    pixels, real, _ = resize_and_pad(photo, size)
    features = _matched(model, torch.from_numpy(pixels)[None].to(prototypes.device))
    here = valid_on_grid(torch.from_numpy(real)[None].to(features.device), (features.shape[-2], features.shape[-1]))
    return float(matching_score(features, prototypes)[:, 0][here].max())


def _matched(model: Model, images: Tensor) -> Tensor:
    """Unit-length features [B,D,h,w] of images [B,3,H,W] for training-free matching; RiFeNet's prior uses the same."""
    features = model.encode_query(images, None)
    return features.features if isinstance(features, PrototypeFeatures) else features.high


def _statistics(model: Model, index: ImageIndex, episode: Episode, queries: Sequence[int], size: int) -> list[float]:
    """The presence statistic of each query, given the episode's supports; the supports are encoded once."""
    context, found = None, []
    for number in queries:
        support, query, seen = _inputs(model, index, replace(episode, query=number), size)
        context = model.encode_support(*support) if context is None else context
        logits = model.decode(model.encode_query(query[0], query[2]), context)
        own = margins(logits, size, mask_threshold(model))
        found.append(presence_statistic(sigmoid(own[seen])))
    return found


def _inputs(
    model: Model, index: ImageIndex, episode: Episode, size: int
) -> tuple[list[Tensor], list[Tensor], NDArray[np.bool_]]:
    """Images, masks and valid of support and query, with a batch axis, and the query's real pixels [S,S]."""
    device = device_of(model)
    arrays = load_episode(index, episode, size)
    support, query = (
        [torch.from_numpy(arrays[f"{branch}_{part}"])[None].to(device) for part in ("images", "masks", "valid")]
        for branch in ("support", "query")
    )
    return support, query, arrays["query_valid"]


def fit_calibration(statistics: NDArray[np.float64], present: NDArray[np.bool_]) -> dict[str, float]:
    """Fits `a` and `b` of the logistic curve by Newton's method on the likelihood, with a weak ridge penalty.

    The penalty keeps both finite where present and absent do not overlap. Raises ValueError where either is missing.
    """
    if present.all() or not present.any():
        raise ValueError("Expected statistics of pictures with and without the class, but got only one kind.")
    inputs = np.stack([statistics, np.ones_like(statistics)], 1)
    weights = np.zeros(2)
    ridge = np.eye(2) / 100
    for _ in range(100):
        probability = sigmoid(inputs @ weights)
        gradient = inputs.T @ (probability - present) + ridge @ weights
        curvature = (inputs * (probability * (1 - probability))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return {"a": float(weights[0]), "b": float(weights[1])}


def judged_presence(model: Any, index: ImageIndex, config: Config, count: int) -> dict[str, Any]:
    """Measures how reliable the model's confidence is, for a result file: scores, and `bins` for a reliability diagram.

    It draws `count` episodes of the novel classes by the protocol `pfenet` with `class_area` and the first seed, and
    scores each with its query and with a negative. `hard` holds the scores with hard negatives instead
    (`hard_statistics`). The model's own calibration is used as it is. A model without one, such as `prototype`, gives
    `{"pairs": 0}`.
    """
    calibration = getattr(model, "metadata", {}).get("calibration")
    if calibration is None:
        return {"pairs": 0}
    data, seed = config.data, config.eval.seeds[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `evaluate` has warned of absent classes
        episodes = evaluation_episodes(
            index,
            index.novel_classes(data.fold),
            shots=data.shots,
            seed=seed,
            episodes=count,
            min_area=data.min_area,
            class_area=True,
        )
    statistics, present = presence_pairs(model.eval(), index, episodes, data.image_size, seed)
    sure = calibrated(statistics, calibration)
    told = {"pairs": len(episodes), "negatives": "class-uniform", **separation(statistics, present, sure)}
    statistics = against_hard(statistics, present, hard_statistics(model, index, episodes, data.image_size, seed))
    hard = separation(statistics, present, calibrated(statistics, calibration))
    return {**told, "bins": reliability_bins(sure, present), "hard": {"negatives": HARD, **hard}}


def separation(
    statistics: NDArray[np.float64], present: NDArray[np.bool_], sure: NDArray[np.float64]
) -> dict[str, float]:
    """Area under the ROC curve of the statistics, and calibration error of the confidences `sure`, from [M] each."""
    return {
        "auroc": auroc(statistics, present),
        "expected_calibration_error": expected_calibration_error(sure, present),
    }


def against_hard(
    statistics: NDArray[np.float64], present: NDArray[np.bool_], hard: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The statistics [2N] of `presence_pairs` with those of the negatives replaced by `hard` [N]."""
    mixed = statistics.copy()
    mixed[~present] = hard
    return mixed


def reliability_bins(sure: NDArray[np.float64], present: NDArray[np.bool_], count: int = BINS) -> list[dict[str, Any]]:
    """Equal bins of confidence in [0,1]: edges, number of examples, mean confidence and share of positives.

    Both means are 0 in an empty bin. As in `metrics.expected_calibration_error`, each bin includes its lower edge, and
    the last bin also includes 1.
    """
    inside = np.minimum((sure * count).astype(np.int64), count - 1)
    held = [(inside == number) for number in range(count)]
    return [
        {
            "low": number / count,
            "high": (number + 1) / count,
            "examples": int(here.sum()),
            "confidence": float(sure[here].mean()) if here.any() else 0.0,
            "share": float(present[here].mean()) if here.any() else 0.0,
        }
        for number, here in enumerate(held)
    ]
