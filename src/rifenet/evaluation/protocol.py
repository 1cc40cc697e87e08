"""The `pfenet` protocol (protocols.md 2-4): exactly N episodes of a fold's novel classes for each seed, scored.

How episodes are run is in `scoring`; here is which episodes, by which rules, and what is said about them.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rifenet.config import Config
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, episodes_to_json, evaluation_episodes
from rifenet.evaluation.provenance import config_record, dataset_record, environment, model_record, peak_memory
from rifenet.evaluation.result import FORMAT, EpisodeCounts, figures, pack_counts
from rifenet.evaluation.scoring import Model, device_of, score_episodes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["RULES", "episodes_hash", "evaluate", "score_episodes"]

RULES = {
    "query_order": "(image, class) pairs in list order, cycled; the published codes draw a class of each image",
    "supports": "drawn by (seed, position), never the query",
    "min_area_of": "pixels of the class in all of the mask as stored, for queries and supports",
    "resize": "longer side to the image size, ratio kept, padded right and below with the mean",
    "scored_at": "original size; ignored pixels and padding excluded",
    "k_shot": "one forward pass over K supports",
    "prediction": "foreground logit above background logit",
}
"""What `pfenet` fixes, in words, for the result file."""


def evaluate(
    model: Model,
    index: ImageIndex,
    config: Config,
    *,
    name: str = "",
    fabric: Fabric | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The content of `result.json` (protocols.md 6): `model` on the novel classes of `config.data.fold`.

    Of `config` it uses data (fold, shots, image_size, min_area) and eval. A novel class without an episode is named in
    a UserWarning, listed in `absent_classes` and left out of the mean, or counted as 0 with `absent_as_zero`; a novel
    class on which the model says it was trained is named in a UserWarning and listed in `novel_classes_seen`. `name` is
    what tables call the model; without it, the model's own name.

    Raises:
        ValueError: no such fold, a seed given twice, no class with enough images, or logits that are not finite.
    """
    data, rules = config.data, config.eval
    if len(set(rules.seeds)) < len(rules.seeds):
        raise ValueError(f"Expected different seeds, but got {', '.join(map(str, rules.seeds))}. Give each one once.")
    classes = {class_id: index.class_name(class_id) for class_id in index.novel_classes(data.fold)}
    runs = [_episodes(index, config, seed) for seed in rules.seeds]
    listed = [episode for run in runs for episode in run]
    device = device_of(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    scored = score_episodes(
        model,
        index,
        listed,
        data.image_size,
        batch_size=rules.batch_size,
        workers=rules.workers,
        fabric=fabric,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    shape = (len(runs), rules.episodes)
    counted = EpisodeCounts(
        np.array([episode.class_id for episode in listed], dtype=np.int32).reshape(shape),
        np.array([episode.query for episode in listed], dtype=np.int32).reshape(shape),
        scored.astype(np.int32).reshape(*shape, 2, 2),
    )
    result = {
        "format": FORMAT,
        "protocol": {
            "name": rules.protocol,
            "min_area": data.min_area,
            "absent_as_zero": rules.absent_as_zero,
            **RULES,
        },
        "dataset": dataset_record(index),
        "fold": data.fold,
        "shots": data.shots,
        "seeds": list(rules.seeds),
        "episodes": rules.episodes,
        "episodes_hash": episodes_hash(index, runs),
        "model": model_record(model, data.image_size, name),
        **figures(counted, classes, rules.seeds, rules.absent_as_zero),
        "seconds": round(seconds, 3),
        "episodes_per_second": round(len(listed) / seconds, 3),
        "peak_memory_mib": peak_memory(device),
        "environment": environment(device, fabric.world_size if fabric is not None else 1),
        "config": config_record(model, config),
        "episode_counts": pack_counts(counted),
    }
    seen = result["model"]["metadata"].get("classes_trained_on", ())
    result["novel_classes_seen"] = [class_name for class_name in classes.values() if class_name in seen]
    _warn(result)
    return result


def _episodes(index: ImageIndex, config: Config, seed: int) -> list[Episode]:
    data, rules = config.data, config.eval
    with warnings.catch_warnings():
        # It would name the classes that are left out once for each seed; `_warn` names them once.
        warnings.simplefilter("ignore", UserWarning)
        return evaluation_episodes(
            index,
            index.novel_classes(data.fold),
            shots=data.shots,
            seed=seed,
            episodes=rules.episodes,
            min_area=data.min_area,
            protocol=rules.protocol,
        )


def episodes_hash(index: ImageIndex, runs: Sequence[Sequence[Episode]]) -> str:
    """Hash of the episode lists by image and class names: equal hashes, paired results."""
    digest = hashlib.sha256()
    for run in runs:
        digest.update(episodes_to_json(index, run).encode())
    return digest.hexdigest()


def _warn(result: dict[str, Any]) -> None:
    if result["absent_classes"]:
        outcome = "counted as 0" if result["protocol"]["absent_as_zero"] else "left out of the mean"
        warnings.warn(
            f"No episode of {', '.join(result['absent_classes'])}: {outcome}. A class takes {result['shots'] + 1} "
            f"images of at least {result['protocol']['min_area']} px, and enough episodes to reach it.",
            stacklevel=3,
        )
    if result["novel_classes_seen"]:
        warnings.warn(
            f"The model was trained on {', '.join(result['novel_classes_seen'])}: these are not novel for it.",
            stacklevel=3,
        )
