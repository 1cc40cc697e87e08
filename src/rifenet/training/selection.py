"""Keeps the model of the step that scores best on held-out images of base classes (method.md 12, row 11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning_fabric
import torch

from rifenet.config import Config
from rifenet.evaluation.presence import fit_calibration, presence_pairs
from rifenet.evaluation.result_file import names_hash
from rifenet.evaluation.scoring import score_episodes
from rifenet.files import write_text
from rifenet.metrics import IoUMeter, auroc, calibrated, expected_calibration_error
from rifenet.models import RiFeNet
from rifenet.models.files.checkpoint import read_model, save_model
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
    started = {}
    if "started_from" in progress:
        before: dict[str, Any] = progress["started_from"]
        classes += [name for name in before["classes_trained_on"] if name not in classes]  # it saw these, too
        started = {"started_from": {name: before[name] for name in ("name", "hash")}}
    return {
        "name": Path(config.train.out).name,
        "image_size": config.data.image_size,
        "dataset": config.data.dataset,
        "dataset_hash": index.hash,
        "images_trained_on": len(index),
        "fold": config.data.fold,
        "shots": config.data.shots,
        "exclude_novel": config.data.exclude_novel,
        "novel_classes": [index.class_name(class_id) for class_id in index.novel_classes(config.data.fold)],
        "classes_hash": names_hash(index.class_names),
        "classes_trained_on": classes,
        **started,
        "step": progress["best_step"],
        "heldout_base_miou": progress["best_miou"],
    }


def finished(folder: Path) -> bool:
    """Whether `finish` has run for the model that the folder holds."""
    card = folder / CARD_FILE
    return card.is_file() and card.stat().st_mtime >= (folder / MODEL_FILE).stat().st_mtime


def finish(config: Config, split: Split, folder: Path, device: torch.device) -> None:
    """Measures presence on the held-out base images, calibrates it where AUROC allows, and writes `card.md`."""
    model = read_model(folder / MODEL_FILE).to(device)
    facts = dict(model.metadata)
    if split.heldout_episodes and len(split.heldout_classes) > 1:
        size, seed = config.data.image_size, config.train.seed
        statistics, present = presence_pairs(model, split.heldout, split.heldout_episodes, size, seed)
        fitted = fit_calibration(statistics, present)
        separation = auroc(statistics, present)
        facts["presence_on_heldout_base"] = {
            "pairs": len(split.heldout_episodes),
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
