"""Keeps the model of the step that scores best on held-out images of base classes (method.md 12, row 11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning_fabric
import torch

from rifenet.config import Config
from rifenet.data.sampling import sometimes_absent
from rifenet.evaluation.presence import fit_calibration, presence_pairs
from rifenet.evaluation.result_file import names_hash
from rifenet.evaluation.scoring import score_episodes
from rifenet.files import write_text
from rifenet.metrics import IoUMeter, auroc, calibrated, expected_calibration_error
from rifenet.models import RiFeNet
from rifenet.models.files.checkpoint import backbone_file, read_model, save_model
from rifenet.models.files.hub import MODEL_FILE
from rifenet.training.logging import RunLog
from rifenet.training.split import Split

CARD_FILE = "card.md"
LEAST_AUROC = 0.75  # of presence on held-out images: the model keeps its calibration from this value on


def select(
    config: Config,
    split: Split,
    model: RiFeNet,
    progress: dict[str, Any],
    folder: Path,
    fabric: lightning_fabric.Fabric,
    log: RunLog | None,
) -> None:
    """Scores the held-out base images and keeps the best model so far; without held-out images, always the newest."""
    miou = None
    if split.heldout_episodes:
        counts = score_episodes(model, split.heldout, split.heldout_episodes, config.data.image_size, fabric=fabric)
        meter = IoUMeter(split.heldout_classes)
        meter.update(counts, [episode.class_id for episode in split.heldout_episodes])
        miou = meter.compute()["miou"]
    better = miou is None or miou > progress["best_miou"]
    if better:
        progress.update(best_miou=miou, best_step=progress["step"])
        if fabric.is_global_zero:
            save_model(model, folder / MODEL_FILE, run_metadata(config, split, progress))
    if log and split.heldout_episodes:
        log.write(progress["step"], {"heldout_miou": miou, "best": better})


def run_metadata(config: Config, split: Split, progress: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a trained model."""
    index = split.pool.index
    classes = [index.class_name(class_id) for class_id in split.pool.classes]
    novel = [index.class_name(class_id) for class_id in index.novel_classes(config.data.fold)]
    exclude_novel: bool | None = config.data.exclude_novel
    trained: dict[str, Any] = {"classes_trained_on": classes}
    if "started_from" in progress:
        before: dict[str, Any] = progress["started_from"]
        seen = before.get("classes_trained_on")
        # Of a model that does not say what taught it, the new one cannot say it either.
        trained = {} if seen is None else {"classes_trained_on": list(dict.fromkeys((*classes, *seen)))}
        trained["started_from"] = {name: before[name] for name in ("name", "hash")}
        trained["images_trained_on_before"] = before.get("images_trained_on")
        exclude_novel = exclude_novel and _left_out_before(before, novel)
    name = Path(config.train.out).name
    if config.train.random_backbone:
        trained["random_backbone"] = True
        name += " (a trial: random backbone)"
    return {
        "name": name,
        "image_size": config.data.image_size,
        "dataset": config.data.dataset,
        "dataset_hash": index.hash,
        "images_trained_on": len(index),
        "list": Path(index.list_name).name,
        "fold": config.data.fold,
        "shots": config.data.shots,
        "mixed_shots": config.train.mixed_shots,
        "exclude_novel": exclude_novel,
        "novel_classes": novel,
        "classes_hash": names_hash(index.class_names),
        **trained,
        "backbone_file": backbone_file(config.model),
        "step": progress["best_step"],
        "heldout_base_miou": progress["best_miou"],
    }


def _left_out_before(before: dict[str, Any], novel: list[str]) -> bool | None:
    """Whether the start model's training left out images of the classes `novel`; None where its file does not say."""
    if not before.get("exclude_novel"):
        return before.get("exclude_novel")
    held_back = before.get("novel_classes")
    return None if held_back is None else set(novel) <= set(held_back)


def finished(folder: Path) -> bool:
    """Whether `finish` has run for the model that the folder holds."""
    card = folder / CARD_FILE
    return card.is_file() and card.stat().st_mtime >= (folder / MODEL_FILE).stat().st_mtime


def finish(config: Config, split: Split, folder: Path, device: torch.device) -> None:
    """Measures presence on the held-out base images, calibrates it where AUROC allows, and writes `card.md`."""
    model = read_model(folder / MODEL_FILE).to(device)
    facts = dict(model.metadata)
    classes = [class_id for class_id in split.heldout_classes if sometimes_absent(split.heldout, class_id)]
    episodes = [episode for episode in split.heldout_episodes if episode.class_id in classes]
    if episodes and len(classes) > 1:
        size, seed = config.data.image_size, config.train.seed
        statistics, present = presence_pairs(model, split.heldout, episodes, size, seed)
        fitted = fit_calibration(statistics, present)
        separation = auroc(statistics, present)
        facts["presence_on_heldout_base"] = {
            "pairs": len(episodes),
            "auroc": separation,
            "expected_calibration_error": expected_calibration_error(calibrated(statistics, fitted), present),
        }
        # If the statistic hardly separates present from absent, its confidence would drop classes at random.
        if separation >= LEAST_AUROC:
            facts["calibration"] = fitted
        save_model(model, folder / MODEL_FILE, facts)
    lines = [
        f"# Model card: {facts['name']}",
        "",
        "RiFeNet, meta-trained by `rifenet train`; its config is `config.yaml`.",
        "",
    ]
    lines += [f"- {name.replace('_', ' ')}: {json.dumps(value)}" for name, value in facts.items()]
    write_text(folder / CARD_FILE, "\n".join(lines) + "\n")
