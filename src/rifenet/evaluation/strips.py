"""Galleries of scored episodes: the worst, the median and the best of each class by IoU.

A strip shows support | query | prediction | truth | prior | score. `prior` is the prior mask of the query, `score` the
foreground probability of each pixel. A model without a prior, such as `prototype`, has no prior panel.

The counts in a result file select the episodes. Only these run again, with the model that the file names.
"""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from rifenet.data.episodes import load_episode, load_pair
from rifenet.data.index import ImageIndex
from rifenet.data.sampling import Episode, evaluation_episodes
from rifenet.data.transforms import restore
from rifenet.drawing.visualize import contact_sheet, heat, overlay, strip
from rifenet.evaluation.prediction import Model, device_of, mask_threshold, predicted_mask
from rifenet.evaluation.protocol import episodes_hash
from rifenet.evaluation.report import percent
from rifenet.evaluation.report_pictures import image, unused
from rifenet.evaluation.result_file import EpisodeCounts, unpack_counts
from rifenet.evaluation.settings import by_class_area
from rifenet.evaluation.unlabeled import semi_supervised
from rifenet.files import write_bytes
from rifenet.formats.pictures import binary_mask
from rifenet.metrics import class_iou, intersection_union
from rifenet.models import RiFeNet, aligned_resize

RANKS = ("worst", "median", "best")
_HEIGHT = 150  # of a strip's photos, pixels
_TOLERANCE = 0.02  # allowed difference of a recomputed IoU: versions or the device may differ


class Chosen(NamedTuple):
    """One episode of a result: its run (row of `EpisodeCounts`), position and IoU."""

    run: int
    position: int
    iou: float


def chosen_episodes(counted: EpisodeCounts, class_id: int) -> dict[str, Chosen]:
    """The worst, median and best episode of a class by IoU, ties by run and position; empty without episodes."""
    runs, positions = np.nonzero(counted.scored & (counted.class_ids == class_id))
    ious = class_iou(counted.counts[runs, positions])
    order = [number for number in np.argsort(-ious, kind="stable") if not np.isnan(ious[number])]
    if not order:
        return {}
    picked = (order[-1], order[len(order) // 2], order[0])
    return {
        rank: Chosen(int(runs[number]), int(positions[number]), float(ious[number]))
        for rank, number in zip(RANKS, picked, strict=True)
    }


def strip_sections(
    model: Model, index: ImageIndex, result: dict[str, Any], name: str, folder: Path, relative_to: Path
) -> list[str]:
    """Writes one JPEG for each class into `folder` and returns the lines of Markdown that show them.

    Args:
        model: the scored model, in eval mode.
        index: the dataset that it was scored on.
        result: the model's result under `pfenet`.
        name: prefix of the pictures' file names.
        folder: folder of the pictures.
        relative_to: folder of the Markdown.

    Raises:
        ValueError: the protocol is not `pfenet`, or images, episodes or an IoU differ from those of the result.
    """
    if result["protocol"]["name"] != "pfenet":
        raise ValueError(
            f"Expected a result of the protocol pfenet, but got {result['protocol']['name']}. Leave it out."
        )
    if index.hash != result["dataset"]["hash"]:
        raise ValueError(
            f"Expected the images of dataset hash {result['dataset']['hash'][:12]}, but got {index.hash[:12]}. Give "
            "the folder, and with --list-file the list, that the result was scored on."
        )
    counted = unpack_counts(result)
    episodes = _episodes(index, result)
    lines = [f"## Episodes: {result['model']['name']}, fold {result['fold']}, {result['shots']}-shot", ""]
    panels = "support, query, prediction, truth, prior mask (where the model has one), score"
    lines += [f"Of each class the worst, the median and the best episode by IoU, over all seeds: {panels}.", ""]
    taken: set[str] = set()
    for row in result["per_class"]:
        chosen = chosen_episodes(counted, row["id"])
        if not chosen:
            continue
        strips = [
            _strip(model, index, episodes[one.run][one.position], result["model"]["image_size"], rank, one.iou)
            for rank, one in chosen.items()
        ]
        slug = unused(re.sub(r"\W+", "-", row["name"]).strip("-").lower() or "class", taken)
        path = folder / f"{name}-{slug}.jpg"
        data = BytesIO()
        contact_sheet(strips).save(data, "JPEG", quality=85)
        write_bytes(path, data.getvalue())
        text = f"worst, median and best episode of {row['name']}"
        lines += [f"### {row['name']}: mean IoU {percent(row['iou'])}", "", image(path, text, relative_to), ""]
    return lines


def _episodes(index: ImageIndex, result: dict[str, Any]) -> list[list[Episode]]:
    """Draws the episodes of each run again. Raises ValueError where they differ from the scored ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report names the absent classes
        runs = [
            evaluation_episodes(
                index,
                index.novel_classes(result["fold"]),
                shots=result["shots"],
                seed=seed,
                episodes=result["episodes"],
                min_area=result["protocol"]["min_area"],
                class_area=by_class_area(result["protocol"]),
                unlabeled=result["protocol"].get("unlabeled", 0),
            )
            for seed in result["seeds"]
        ]
    if episodes_hash(index, runs) != result["episodes_hash"]:
        raise ValueError(
            "Expected the episodes that the result was scored on, but its seeds draw others. Score the model again "
            "with this version."
        )
    return runs


@torch.inference_mode()
def _strip(model: Model, index: ImageIndex, episode: Episode, size: int, rank: str, recorded: float) -> Image.Image:
    arrays = load_episode(index, episode, size)
    device = device_of(model)
    support, query = (
        [torch.from_numpy(arrays[f"{branch}_{part}"])[None].to(device) for part in ("images", "masks", "valid")]
        for branch in ("support", "query")
    )
    features, context = model.encode_query(query[0], query[2]), model.encode_support(*support)
    if episode.unlabeled:
        unlabeled = [torch.from_numpy(arrays[f"unlabeled_{part}"]).to(device) for part in ("images", "valid")]
        context = semi_supervised(model, support, unlabeled, context)
    logits = model.decode(features, context)
    mask = predicted_mask(logits, arrays["placement"], threshold=mask_threshold(model))
    truth = arrays["query_mask_original"]
    iou = float(class_iou(intersection_union(mask, truth)))
    if abs(iou - recorded) > _TOLERANCE:
        raise ValueError(
            f"Expected IoU {recorded:.3f} as recorded for {index.records[episode.query].name}, but the model gives "
            f"{iou:.3f}. Give the model that was scored."
        )
    shot, shot_mask = load_pair(index, episode.supports[0])
    photo, _ = load_pair(index, episode.query)
    more = f" (1 of {len(episode.supports)})" if len(episode.supports) > 1 else ""
    panels = [
        overlay(shot, binary_mask(shot_mask, *index.records[episode.supports[0]].values(episode.class_id))),
        Image.fromarray(photo),
        overlay(photo, mask),
        overlay(photo, truth),
    ]
    captions = [f"support{more}", f"{rank}: query", f"prediction, IoU {100 * iou:.0f}", "truth"]
    maps = {"score": logits.float().softmax(1)[:, 1:]}
    if isinstance(model, RiFeNet):
        maps = {"prior": model.decode_all(features, context).prior, **maps}
    for caption, values in maps.items():
        whole = aligned_resize(values.float(), (size, size))[0, 0]
        panels.append(heat(restore(whole.cpu().numpy(), arrays["placement"])))
        captions.append(caption)
    return strip(panels, captions, height=_HEIGHT)
