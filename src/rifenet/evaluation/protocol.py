"""The named protocols (protocols.md 2-4): scores exactly N episodes of a fold's novel classes for each seed.

This module chooses the episodes and rules, and records both. `scoring` runs the episodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rifenet.config import AT_MOST, CLASS_DRAWS, Config, resolved
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, episodes_to_json, evaluation_episodes, queries
from rifenet.evaluation.deviations import deviations
from rifenet.evaluation.leakage import (
    PHOTOS_WORDS,
    classes_seen,
    exclude_novel_here,
    names_unchecked,
    photos_trained_on,
    seen_words,
)
from rifenet.evaluation.lists import EpisodeList
from rifenet.evaluation.partial import Journal
from rifenet.evaluation.prediction import Model, ScoringRules, accelerate, device_of
from rifenet.evaluation.provenance import config_record, dataset_record, environment, model_record, peak_memory
from rifenet.evaluation.result_file import FORMAT, PREDICTION_WORDS, EpisodeCounts, figures, pack_counts
from rifenet.evaluation.scoring import score_episodes
from rifenet.evaluation.settings import by_class_area
from rifenet.evaluation.shards import Elsewhere, score_elsewhere
from rifenet.segmenting.pseudo_labels import COUNT

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["PFENET_WORDS", "drawn_episodes", "episodes_hash", "evaluate", "score_episodes", "settled"]

PFENET_WORDS = {
    "query_order": "(image, class) pairs in list order, cycled; the published codes draw a class of each image",
    "supports": "drawn by (seed, position), never the query",
    "min_area_of": "pixels of the class in all of the mask as stored, for queries and supports",
    "resize": "longer side to the image size, ratio kept, padded right and below with the mean",
    "scored_at": "original size; ignored pixels and padding excluded",
    "k_shot": "one forward pass over K supports",
    "prediction": PREDICTION_WORDS,
}
"""The rules of `pfenet` with `class_area` in words, for the result file."""
IMAGE_AREA_WORDS = {
    "class_area": False,
    "min_area_of": "pixels of some class of the fold in all of the mask as stored, for a query's image, which is asked "
    "for every class of the fold in it, of any size; of the class itself, for supports",
}
"""What the published area rule, the default, changes in them."""

UNLABELED_USED = (
    f"photos of the class drawn by (seed, position), fewer where it has no more, without their masks; the {COUNT} in "
    "which the supports find the class most surely are shots besides, with the sure pixels found there"
)
_VOTE = "each shot alone; votes over the most votes in the picture, foreground from 0.5 on"


def evaluate(
    model: Model,
    index: ImageIndex,
    config: Config,
    *,
    listed: EpisodeList | None = None,
    name: str = "",
    fabric: Fabric | None = None,
    progress: Callable[[int], None] | None = None,
    journal: Journal | None = None,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """Scores `model` on the novel classes of `config.data.fold`, and returns the content of `result.json`.

    A UserWarning names novel classes of two kinds. A class without an episode is listed in `absent_classes` and left
    out of the mean, or counts as 0 with `absent_as_zero`. A class that the model was trained on, by any name, is listed
    in `novel_classes_seen`. The model's backbone stays accelerated (`Backbone.accelerate`).

    Args:
        model: the network to score.
        index: the dataset.
        config: its sections data (fold, shots, image_size, min_area) and eval are used, `settled`.
        listed: episodes to score instead of the protocol's own; they also set shots, seeds and N.
        name: the model's name in tables; empty: the model's own name.
        fabric: shares the work among its processes; None: this process does all of it.
        progress: called, from any thread, with the number of episodes done since its last call.
        journal: keeps what is scored in a file, goes on from there, and decides about images that cannot be read; the
            caller removes the file (`discard_partial`) once the result is written. None: nothing is kept.
        elsewhere: other machines that score, in place of this process; not with `fabric`.

    Raises:
        ValueError: an unknown fold, a repeated seed, no class with enough images, an N too small for every class
            (unless `eval.some_classes`), a listed episode of a class that is not novel, or logits that are not finite.
    """
    config = settled(config, index, listed)
    data, rules = config.data, config.eval
    assert rules.episodes is not None
    if len(set(rules.seeds)) < len(rules.seeds):
        raise ValueError(f"Expected different seeds, but got {', '.join(map(str, rules.seeds))}. Give each one once.")
    classes = {class_id: index.class_name(class_id) for class_id in index.novel_classes(data.fold)}
    runs = drawn_episodes(index, config) if listed is None else _novel_only(listed, classes, data.fold)
    episodes = [episode for run in runs for episode in run]
    journal = Journal() if journal is None else journal
    device = device_of(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    accelerate(model)
    machine = environment(device, fabric.world_size if fabric is not None else 1)
    if elsewhere is not None:
        machine |= {"device": elsewhere.device, "threads": elsewhere.threads}
    origin = {
        "protocol": _record(index, config, listed),
        "episodes_hash": episodes_hash(index, runs),
        "model": model_record(model, data.image_size, name),
    }
    with journal.shared(_facts(origin, machine), fabric):
        started = time.perf_counter()
        if elsewhere is None:
            scored = score_episodes(
                model,
                index,
                episodes,
                data.image_size,
                rules=_scoring_rules(config),
                batch_size=rules.batch_size,
                workers=rules.workers,
                fabric=fabric,
                progress=progress,
                journal=journal,
            )
            memory = peak_memory(device)
        else:
            scored, there, memory = score_elsewhere(
                model,
                index,
                episodes,
                data.image_size,
                rules=_scoring_rules(config),
                elsewhere=elsewhere,
                journal=journal,
                progress=progress,
            )
            machine |= there
        seconds = time.perf_counter() - started + journal.seconds
    shape = (len(runs), rules.episodes)
    counted = EpisodeCounts(
        np.array([episode.class_id for episode in episodes], dtype=np.int32).reshape(shape),
        np.array([episode.query for episode in episodes], dtype=np.int32).reshape(shape),
        scored.astype(np.int32).reshape(*shape, 2, 2),
    )
    result = {
        "format": FORMAT,
        "protocol": origin["protocol"],
        "dataset": dataset_record(index),
        "fold": data.fold,
        "shots": data.shots,
        "seeds": list(rules.seeds),
        "episodes": rules.episodes,
        "episodes_hash": origin["episodes_hash"],
        "skipped": _skipped(index, episodes, journal.skipped, config),
        "model": origin["model"],
        **figures(counted, classes, rules.seeds, rules.absent_as_zero),
        "seconds": round(seconds, 3),
        "episodes_per_second": round((len(episodes) - len(journal.skipped)) / seconds, 3),
        "peak_memory_mib": memory,
        "environment": machine,
        "config": config_record(model, config),
        "episode_counts": pack_counts(counted),
    }
    asked = _queries(index, config, shots=0) if listed is None else index.pairs(classes)
    for row in result["per_class"]:
        row["images"] = sum(class_id == row["id"] for _, class_id in asked)
    seen = classes_seen(result)
    result["novel_classes_seen"], result["seen_as"] = list(seen), {name: list(names) for name, names in seen.items()}
    result["names_unchecked"] = names_unchecked(result)
    result["photos_trained_on"] = photos_trained_on(result)
    result["model"]["exclude_novel"] = exclude_novel_here(result)
    result["deviations"] = deviations(rules.protocol, _circumstances(result))
    _warn(result)
    return result


def _circumstances(result: dict[str, Any]) -> set[str]:
    """Those of `Deviation.only_with` that hold for a result."""
    rules, several = result["protocol"], result["shots"] > 1
    holds = {
        "class_area": by_class_area(rules),
        "several shots": several,
        "one pass": several and not rules.get("vote"),
        result["dataset"]["name"]: True,
        "absent class": bool(result["absent_classes"]) and not rules["absent_as_zero"],
    }
    return {name for name, applies in holds.items() if applies}


def settled(config: Config, index: ImageIndex, listed: EpisodeList | None = None) -> Config:
    """`config` as the evaluation uses it: `resolved`, with K, N and seeds of `listed` where given.

    An N that is still open becomes the number of queries. Raises ValueError for an unknown fold, or for no query.
    """
    if listed is not None:
        rules = dataclasses.replace(config.eval, seeds=listed.seeds, episodes=len(listed.runs[0]))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, shots=listed.shots), eval=rules)
    config = resolved(config)
    if config.eval.episodes is None:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, episodes=_open_n(index, config)))
    return config


def _open_n(index: ImageIndex, config: Config) -> int:
    """N where the protocol leaves it to the dataset: the number of queries, or of photos asked about (`AT_MOST`)."""
    asked = _queries(index, config)
    most = AT_MOST.get(index.dataset)
    if config.eval.protocol != "hsnet" or most is None:
        return len(asked)
    return min(len({(index.records[image].image_path, class_id) for image, class_id in asked}), most)


def _queries(index: ImageIndex, config: Config, shots: int | None = None) -> list[tuple[int, int]]:
    """The protocol's queries; `shots` replaces the config's K, and 0 keeps classes of too few images for it."""
    data, rules = config.data, config.eval
    novel = index.novel_classes(data.fold)
    return queries(
        index, novel, data.shots if shots is None else shots, data.min_area, rules.protocol, rules.class_area
    )


def drawn_episodes(index: ImageIndex, config: Config) -> tuple[tuple[Episode, ...], ...]:
    """Draws the protocol's own episodes, N for each seed, for a `settled` config.

    Absent classes raise no warning here; `evaluate` warns once for all seeds. Raises ValueError for an unknown fold,
    where no class has enough images, or where N leaves out a class that has (unless `eval.some_classes`).
    """
    runs = _drawn(index, config)
    if not config.eval.some_classes:
        asked = _queries(index, config)
        wanted = {class_id for _, class_id in asked}
        left_out = {class_id for run in runs for class_id in wanted - {episode.class_id for episode in run}}
        if left_out:
            named = [index.class_name(class_id) for class_id in sorted(left_out)]
            raise ValueError(
                f"Expected a number of episodes with a query of each class, but {config.eval.episodes:,} leave out "
                f"{len(named)}: {', '.join(named[:5])}{', ...' if named[5:] else ''}. The fold has {len(asked):,} "
                f"queries: give --episodes {len(asked)}, or confirm with --some-classes (eval.some_classes)."
            )
    return runs


def _drawn(index: ImageIndex, config: Config) -> tuple[tuple[Episode, ...], ...]:
    data, rules = config.data, config.eval
    assert rules.episodes is not None
    assert rules.seeds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        runs = [
            evaluation_episodes(
                index,
                index.novel_classes(data.fold),
                shots=data.shots,
                seed=seed,
                episodes=rules.episodes,
                min_area=data.min_area,
                protocol=rules.protocol,
                class_area=rules.class_area,
                unlabeled=rules.unlabeled,
            )
            for seed in rules.seeds
        ]
    return tuple(map(tuple, runs))


_OF_THE_MACHINE = ("platform", "threads", "ranks")  # change no digit


def _facts(origin: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for an evaluation to go on where it stopped."""
    model = origin["model"]
    return {
        "the list of episodes": origin["episodes_hash"],
        **{f"the model's {name}": model[name] for name in ("checkpoint_hash", "backbone_hash", "image_size")},
        **{f"the protocol's {name}": value for name, value in origin["protocol"].items()},
        **{f"the program's {name}": value for name, value in machine.items() if name not in _OF_THE_MACHINE},
    }


def _skipped(
    index: ImageIndex, episodes: Sequence[Episode], skipped: dict[int, str], config: Config
) -> list[dict[str, Any]]:
    """The episodes that could not be loaded, with the reason."""
    assert config.eval.episodes is not None
    return [
        {
            "seed": config.eval.seeds[position // config.eval.episodes],
            "episode": position % config.eval.episodes,
            "class": index.class_name(episodes[position].class_id),
            "query": index.records[episodes[position].query].name,
            "reason": reason,
        }
        for position, reason in sorted(skipped.items())
    ]


def _novel_only(listed: EpisodeList, classes: dict[int, str], fold: int) -> tuple[tuple[Episode, ...], ...]:
    if not {episode.class_id for run in listed.runs for episode in run} <= classes.keys():
        raise ValueError(
            f"Expected episodes of the novel classes of fold {fold} ({', '.join(classes.values())}), but "
            f"{listed.name} has others. Name the fold that the list was made for with --fold."
        )
    return listed.runs


def _scoring_rules(config: Config) -> ScoringRules:
    hsnet = config.eval.protocol == "hsnet"
    return ScoringRules(hsnet, config.eval.original_size or not hsnet, config.eval.vote and config.data.shots > 1)


def _record(index: ImageIndex, config: Config, listed: EpisodeList | None) -> dict[str, Any]:
    """The protocol with every filter and choice, in words. Scores are comparable only where these records are equal."""
    data, rules = config.data, config.eval
    words: dict[str, Any] = PFENET_WORDS if rules.class_area else PFENET_WORDS | IMAGE_AREA_WORDS
    if rules.protocol == "hsnet":
        scoring, size = _scoring_rules(config), data.image_size
        square = f"{size} x {size} px"
        order = "(image, class) pairs in list order, cycled"
        if (draws := CLASS_DRAWS.get(index.dataset)) is not None:
            turn = {"uniform": "class uniform", "turn": "each class in turn"}[draws]
            order = f"{turn}, then one of its images, uniform, drawn by (seed, position)"
        words = PFENET_WORDS | {
            "query_order": order,
            "supports": "drawn by (seed, position), uniform among the class's other images, all different",
            "min_area_of": "no area filter: any pixel of the class in the mask as stored",
            "resize": f"squashed to {square}, as the network sees it; masks by nearest neighbour, pixel centres to "
            "pixel centres, and an object between them keeps a pixel",
            "network_size": size,
            "scored_at": f"{'original size' if scoring.original_size else f'network size, {square}'}; ignored pixels "
            "excluded",
            "k_shot": _VOTE if scoring.vote else PFENET_WORDS["k_shot"],
            "image_size": size,
            "original_size": scoring.original_size,
            "vote": scoring.vote,
        }
    unlabeled = rules.unlabeled if listed is None else listed.unlabeled
    if unlabeled:
        words = words | {"unlabeled": unlabeled, "unlabeled_used": UNLABELED_USED}
    record = {"name": rules.protocol, "min_area": data.min_area, "absent_as_zero": rules.absent_as_zero, **words}
    if listed is not None and not _own(index, config, listed):
        record |= dict.fromkeys(("query_order", "supports", "min_area_of"), "as listed")
        record["episode_list"] = listed.name
    return record


def _own(index: ImageIndex, config: Config, listed: EpisodeList) -> bool:
    """Whether the list equals the protocol's own episodes, so that scores on both are comparable."""
    with contextlib.suppress(ValueError):  # the protocol itself may find no class with enough images
        return _drawn(index, config) == listed.runs
    return False


def episodes_hash(index: ImageIndex, runs: Sequence[Sequence[Episode]]) -> str:
    """Hash of the episode lists by image and class names; results with equal hashes can be paired."""
    digest = hashlib.sha256()
    for run in runs:
        digest.update(episodes_to_json(index, run).encode())
    return digest.hexdigest()


def _warn(result: dict[str, Any]) -> None:
    if result["skipped"]:
        reasons = list(dict.fromkeys(each["reason"] for each in result["skipped"]))
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        warnings.warn(
            f"{len(result['skipped'])} episodes are in no figure, because an image could not be read: "
            f"{' '.join(reasons[:3])}{more}",
            stacklevel=3,
        )
    if result["absent_classes"]:
        outcome = "counted as 0" if result["protocol"]["absent_as_zero"] else "left out of the mean"
        warnings.warn(
            f"No episode of {', '.join(result['absent_classes'])}: {outcome}. A class needs {result['shots'] + 1} "
            f"images of at least {result['protocol']['min_area']} px, and enough episodes for its turn to come.",
            stacklevel=3,
        )
    if seen := classes_seen(result):
        warnings.warn(f"The model was trained on {seen_words(seen)}: these are not novel for it.", stacklevel=3)
    if result["photos_trained_on"]:
        warnings.warn(f"The model's {PHOTOS_WORDS}.", stacklevel=3)
    if names := result["names_unchecked"]:
        warnings.warn(
            f"No table of class names has {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}: "
            "whether the model was trained on a novel class under another name is unchecked.",
            stacklevel=3,
        )
