"""The result file (protocols.md section 6): computes scores from episode counts, reads, writes, compares two models.

One `result.json` holds one model on one fold. Beside the scores it keeps the pixel counts of every episode, packed into
one string of some tens of kilobytes. From these, intervals can be recomputed and two models compared episode by
episode, without the data. This module needs no torch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rifenet.files import misfit, parse_json, write_text
from rifenet.metrics import Interval, IoUMeter, bootstrap_miou, class_iou, seed_interval

FORMAT = 1


class EpisodeCounts(NamedTuple):
    """Pixel counts of every episode: R runs, one for each seed, of N episodes."""

    class_ids: NDArray[np.int32]  # [R,N]
    queries: NDArray[np.int32]  # position of the query image in the dataset's index, [R,N]
    counts: NDArray[np.int32]  # rows background and foreground, columns intersection and union, pixels, [R,N,2,2]

    @property
    def scored(self) -> NDArray[np.bool_]:
        """False for a skipped episode, [R,N]: its counts are 0, and a scored one has pixels."""
        found: NDArray[np.bool_] = (self.counts > 0).max((-2, -1))
        return found

    def meters(self, classes: Sequence[int]) -> list[IoUMeter]:
        """One filled meter for each run."""
        meters = [IoUMeter(classes) for _ in self.class_ids]
        for meter, counts, class_ids, scored in zip(meters, self.counts, self.class_ids, self.scored, strict=True):
            meter.update(counts[scored], class_ids[scored])
        return meters


class Difference(NamedTuple):
    """The mIoU of one model minus another's on the same episodes, and its paired 95% bootstrap interval."""

    miou: float
    interval: Interval


def figures(
    counted: EpisodeCounts, classes: Mapping[int, str], seeds: Sequence[int], absent_as_zero: bool
) -> dict[str, Any]:
    """The figures of a result: scores, per_class, per_seed and absent_classes.

    Args:
        counted: counts of every episode.
        classes: name of each novel class id.
        seeds: seed of each run.
        absent_as_zero: count a class without episodes as 0 instead of leaving it out.

    Returns:
        Plain values ready for JSON; shares in [0,1], None where there is no figure.
    """
    meters = counted.meters(list(classes))
    runs = [meter.compute(absent_as_zero) for meter in meters]
    scores: dict[str, Any] = {}
    for name in ("miou", "fb_iou"):
        values = [run[name] for run in runs]
        interval = seed_interval(values)
        scores[name] = {"mean": float(np.mean(values)), "std": _deviation(values), "interval_seeds": interval}
    scores["miou"]["interval_bootstrap"] = bootstrap_miou(
        counted.counts, counted.class_ids, list(classes), counted.queries, absent_as_zero=absent_as_zero
    )
    ious = np.stack([class_iou(meter.state) for meter in meters])
    per_class: list[dict[str, Any]] = []
    for row, (class_id, name) in enumerate(classes.items()):
        present = [float(value) for value in ious[:, row] if not np.isnan(value)]
        per_class.append(
            {
                "id": class_id,
                "name": name,
                "iou": float(np.mean(present)) if present else None,
                "std": _deviation(present),
                "per_seed": [None if np.isnan(value) else float(value) for value in ious[:, row]],
                "episodes": [int(meter.episodes[row]) for meter in meters],
                "queries": len(np.unique(counted.queries[counted.scored & (counted.class_ids == class_id)])),
            }
        )
    return {
        "scores": scores,
        "per_class": per_class,
        "per_seed": [{"seed": seed, **run} for seed, run in zip(seeds, runs, strict=True)],
        "absent_classes": [row["name"] for row in per_class if not any(row["episodes"])],
    }


def compare_results(result: dict[str, Any], other: dict[str, Any]) -> Difference:
    """mIoU of `result` minus that of `other`, with an interval paired over their episodes.

    Raises:
        ValueError: the two were not scored on the same episodes by the same rules.
    """
    expect_same_episodes(result, other)
    mine, theirs = unpack_counts(result), unpack_counts(other)
    interval = bootstrap_miou(
        mine.counts,
        mine.class_ids,
        [row["id"] for row in result["per_class"]],
        mine.queries,
        other=theirs.counts,
        absent_as_zero=result["protocol"]["absent_as_zero"],
    )
    return Difference(result["scores"]["miou"]["mean"] - other["scores"]["miou"]["mean"], interval)


def expect_same_episodes(result: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises ValueError, naming what differs, unless both were scored on the same episodes by the same rules."""
    for field in ("episodes_hash", "protocol", "fold", "shots", "seeds"):
        if result[field] != other[field]:
            raise ValueError(
                f"Expected two results on the same episodes, but {field} differs: {result[field]} and {other[field]}. "
                "Evaluate both models with the same data, fold, shots, seeds and number of episodes."
            )
    if _left_out(result) != _left_out(other):
        raise ValueError(
            "Expected two results on the same episodes, but one of them skipped episodes that the other has, because "
            "an image could not be read. Evaluate both models again with all images."
        )


def _left_out(result: dict[str, Any]) -> set[tuple[int, int]]:
    return {(each["seed"], each["episode"]) for each in result.get("skipped", ())}


def pack_counts(counted: EpisodeCounts) -> str:
    """One ASCII string: base64 of zlib-compressed little-endian int32 [R,N,6]: class, query, and the four counts."""
    shape = counted.class_ids.shape
    parts = (counted.class_ids[..., None], counted.queries[..., None], counted.counts.reshape(*shape, 4))
    return base64.b64encode(zlib.compress(np.concatenate(parts, axis=-1).astype("<i4").tobytes(), 9)).decode("ascii")


def unpack_counts(result: dict[str, Any]) -> EpisodeCounts:
    """The inverse of `pack_counts`, from a result's `episode_counts`. Raises ValueError where that is damaged."""
    shape = (len(result["seeds"]), result["episodes"])
    try:
        raw = zlib.decompress(base64.b64decode(result["episode_counts"], validate=True))
        table = np.frombuffer(raw, dtype="<i4").reshape(*shape, 6).astype(np.int32)
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"Expected the counts of {shape[0]} x {shape[1]} episodes in episode_counts, but could not unpack them "
            f"({error}). Run `rifenet evaluate` again."
        ) from error
    return EpisodeCounts(table[..., 0], table[..., 1], table[..., 2:].reshape(*shape, 2, 2))


PREDICTION_WORDS = "foreground probability above the model's mask_threshold (config, section model), else above 0.5"
"""When a pixel is in the mask. The rule is the same for every model, so that models with other thresholds compare."""
_OLDER_PREDICTION_WORDS = "foreground logit above background logit"
"""What older files say of the same rule, whatever their threshold; `read_result` puts the rule in its place."""

_SHARE = (float, None)
_SCORE = {"mean": float, "std": _SHARE, "interval_seeds": ([float, float], None)}
_METADATA = {
    **dict.fromkeys(("dataset?", "list?", "dataset_hash?", "classes_hash?"), (str, None)),
    **dict.fromkeys(("fold?", "shots?", "images_trained_on?", "images_trained_on_before?"), (int, None)),
    **dict.fromkeys(("exclude_novel?", "mixed_shots?"), (bool, None)),
    **dict.fromkeys(("classes_trained_on?", "classes_never_seen?", "novel_classes?"), ([str], None)),
    "started_from?": (dict, None),
}
_PRESENCE = {
    **dict.fromkeys(("pairs?", "examples?"), int),
    **dict.fromkeys(("auroc?", "expected_calibration_error?"), _SHARE),
    "negatives?": str,
}
_BIN = {"low": float, "high": float, "examples": int, "confidence": _SHARE, "share": _SHARE}
_SHAPE = {
    **dict.fromkeys(("fold", "shots", "episodes"), int),
    **dict.fromkeys(("episodes_hash", "episode_counts"), str),
    **dict.fromkeys(("episodes_per_second", "seconds?"), float),
    **{"absent_classes": [str], "novel_classes_seen?": [str], "deviations?": [str]},
    "seeds": [int],
    "protocol": {
        **dict.fromkeys(("name", "query_order", "min_area_of", "resize", "scored_at", "k_shot"), str),
        **dict.fromkeys(("supports?", "prediction?", "unlabeled_used?"), str),
        **dict.fromkeys(("absent_as_zero", "class_area?", "original_size?", "vote?"), bool),
        "min_area": int,
        "unlabeled?": int,
        "episode_list?": (str, None),
    },
    "dataset": {
        **dict.fromkeys(("name", "hash", "list", "names_hash"), str),
        **dict.fromkeys(("images", "bad_files"), int),
        "median_sides": [float, float],
        "classes_hash?": (str, None),
    },
    "model": {
        **dict.fromkeys(("name", "kind", "backbone", "checkpoint_hash"), str),
        **dict.fromkeys(("weights_hash?", "backbone_hash?"), (str, None)),
        "backbone_file?": (dict, None),
        "image_size": int,
        "exclude_novel?": (bool, None),
        "metadata": _METADATA,
    },
    "scores": {"miou": {**_SCORE, "interval_bootstrap": ([float, float], None)}, "fb_iou": _SCORE},
    "per_class": [
        {
            **{"id": int, "name": str, "iou": _SHARE, "std": _SHARE},
            **{"per_seed": [_SHARE], "episodes": [int], "queries?": int, "images?": int},
        }
    ],
    "per_seed": [{"seed": int, "miou": float, "fb_iou": float}],
    "skipped?": [{"seed": int, "episode": int, "class?": str, "reason?": str}],
    "presence?": {**_PRESENCE, "bins?": [_BIN], "hard?": (_PRESENCE, None)},
    "config": {
        "data": {"root": str, "list_file?": str},
        "model?": {"support_views?": int, "support_closer?": bool, "mask_threshold?": float},
    },
    "environment": {
        **dict.fromkeys(("torch", "device", "device_name"), str),
        **dict.fromkeys(("threads", "ranks"), int),
        "git_commit": (str, None),
    },
    "peak_memory_mib": dict.fromkeys(("process", "device"), _SHARE),
}
"""What `rifenet evaluate` writes, in this version and earlier ones (`rifenet.files.misfit`)."""


def write_result(result: dict[str, Any], path: str | Path) -> None:
    """Writes `result` as JSON; a killed or failed write leaves the previous file, or none."""
    write_text(Path(path), json.dumps(result, indent=1, allow_nan=False) + "\n")


def read_result(path: str | Path) -> dict[str, Any]:
    """Reads a file of `write_result`. Raises FileNotFoundError, or ValueError for a file of another format."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a result file at {path}, but there is none. Write one with rifenet evaluate."
        )
    try:
        result = parse_json(path.read_bytes(), path)
    except ValueError as error:
        raise ValueError(f"Expected {path} to be a result file. {error}") from error
    if isinstance(result, dict) and "episodes" in result and "episode_counts" not in result:
        raise ValueError(
            f"Expected {path} to be a result file, but it is a list of episodes, which holds no scores. Score a model "
            f"on it: rifenet evaluate --episodes-from {path} --out result.json."
        )
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT or "episode_counts" not in result:
        raise ValueError(
            f"Expected {path} to be a result file of format {FORMAT}, but got format {found}. "
            "Run `rifenet evaluate` again."
        )
    if wrong := misfit(result, _SHAPE, "its content"):
        raise ValueError(
            f"Expected {path} to be as `rifenet evaluate` writes it, but it is not: expected {wrong}."
            " Run `rifenet evaluate` again."
        )
    rules = result["protocol"]
    if rules.get("prediction") == _OLDER_PREDICTION_WORDS:
        rules["prediction"] = PREDICTION_WORDS
    return dict(result)


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 of the image names, independent of their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
