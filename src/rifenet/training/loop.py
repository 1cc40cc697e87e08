"""Meta-training (method.md 10-11): episodes over base classes, one step at a time.

Everything a step computes is a function of (config, step): episodes and views are seeded by their number, dropout and token
choice by the step, rates by the step. So a run that was stopped goes on bit for bit, and a run reads top to bottom here.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import Tensor

from rifenet import losses
from rifenet.checkpoint import write_atomically
from rifenet.config import Config, TrainConfig, save_config
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.models import RiFeNet, RiFeNetOutput, build_model, upsample
from rifenet.training.episodes import base_split, step_batches, training_episodes
from rifenet.training.features import unpack
from rifenet.training.logging import RunLog
from rifenet.training.optim import build_optimizers, learning_rates, set_learning_rates
from rifenet.training.selection import MODEL_FILE, select, write_card
from rifenet.training.state import load_state, save_state


class NonFiniteLoss(ArithmeticError):
    """A loss term became infinite or NaN; the message names the term, the step and the episodes' files."""


def train(config: Config, *, stop_at: int | None = None) -> dict[str, Any]:
    """Trains to `config.train.steps` and returns the last progress; resumes what `config.train.out` holds.

    `stop_at` ends this call early, with the state saved, after so many steps in total.

    Raises:
        ValueError, FileNotFoundError: a config, data set or earlier state that does not fit, each in a sentence.
        NonFiniteLoss: see there; the last saved state stays.
    """
    config = _without_unused_parts(config)
    settings = config.train
    if config.model.kind != "rifenet":
        raise ValueError(
            f"Expected model.kind rifenet for training, but got {config.model.kind}, which has no parameters."
        )
    fabric = _fabric(settings)
    if settings.batch_size % fabric.world_size:
        raise ValueError(
            f"Expected train.batch_size to be a multiple of the {fabric.world_size} ranks, but got {settings.batch_size}."
        )
    folder = Path(settings.out)

    # 1. Data: base classes only, and a slice of their images kept for selection.
    index = open_dataset(config.data.dataset, config.data.root, list_file=config.data.list_file)
    split = base_split(config, index)

    # 2. Model and optimisers, and where an earlier start left them.
    torch.manual_seed(settings.seed)
    model = build_model(config.model)
    assert isinstance(model, RiFeNet)
    optimizers = build_optimizers(model, settings)
    progress = load_state(folder, config, model, optimizers) or {"step": 0, "best_miou": -1.0, "best_step": 0}
    wrapped, *prepared = fabric.setup(model, *optimizers)
    dataset = training_episodes(config, split, model, fabric)
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.yaml", lambda file: save_config(config, file))
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    loader = step_batches(dataset, config, fabric, progress["step"], last)
    log = RunLog(
        folder, progress["step"], settings.steps, tensorboard=settings.tensorboard
    ) if fabric.is_global_zero else None  # fmt: skip

    # 3. Steps.
    wrapped.train()
    started, episodes_since = time.perf_counter(), 0
    with log or nullcontext():
        if log and progress["step"]:
            log.say(f"resuming {folder} at step {progress['step']}")
        for step, batch in enumerate(loader, start=progress["step"]):
            torch.manual_seed(_step_seed(settings.seed, step, fabric.global_rank))
            rates = learning_rates(settings, step)
            set_learning_rates(prepared, rates)
            terms = _losses(wrapped, model, fabric.to_device(batch), settings)
            loss = losses.total(terms, settings.w_aux, settings.beta)
            _check_finite(terms, step, batch["episode"], split.pool, settings.seed)
            for optimizer in prepared:
                optimizer.zero_grad()
            fabric.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(
                [p for p in wrapped.parameters() if p.grad is not None], settings.clip
            )
            for optimizer in prepared:
                optimizer.step()
            progress["step"] = done = step + 1
            episodes_since += settings.batch_size

            # 4. Log, select, save.
            ends = done in (last, settings.steps)
            if done % settings.log_every == 0 or ends:
                means = fabric.all_reduce({"loss": loss.detach(), **{n: v.detach() for n, v in terms.items()}})
                if log:
                    speed = episodes_since / (time.perf_counter() - started)
                    figures = {name: float(value) for name, value in means.items()}
                    log.write(
                        done, {**figures, "gradient_norm": float(norm), "lr": rates, "episodes_per_second": speed}
                    )
                started, episodes_since = time.perf_counter(), 0
            if log:
                log.step(done)
            if done % settings.validate_every == 0 or done == settings.steps:
                select(config, split, model, progress, folder, fabric, log)
                started = time.perf_counter()
            if (done % settings.save_every == 0 or ends) and fabric.is_global_zero:
                save_state(folder, config, model, optimizers, progress)
            fabric.barrier()
        if log and progress["step"] == settings.steps:
            write_card(folder)
            log.say(f"finished: {folder / MODEL_FILE} (step {progress['best_step']})")
    return progress


def _without_unused_parts(config: Config) -> Config:
    # A head that no loss reaches would train on nothing but weight decay, and stall data-parallel wrappers.
    if config.train.w_aux == 0 and config.model.aux:
        return dataclasses.replace(config, model=dataclasses.replace(config.model, aux=False))
    return config


def _fabric(settings: TrainConfig) -> lightning_fabric.Fabric:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    precision = settings.precision
    if precision == "auto":
        on_cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
        # bfloat16 gains on CUDA; on CPUs without matrix units it is slower than float32.
        precision = "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported() else "32-true"
    fabric = lightning_fabric.Fabric(accelerator=settings.device, devices=settings.devices, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _losses(
    wrapped: torch.nn.Module, model: RiFeNet, batch: dict[str, Tensor], settings: TrainConfig
) -> dict[str, Tensor]:
    """The named loss terms of one batch (method.md 10)."""
    images = {}
    for name in ("support_images", "query_images", "unlabeled_weak", "unlabeled_strong"):
        if name in batch:
            packed = batch[name].shape[-3] != 3
            images[name] = unpack(model, batch[name]) if packed else batch[name]
    output: RiFeNetOutput = wrapped(
        images.pop("support_images"),
        batch["support_masks"],
        images.pop("query_images"),
        support_valid=batch["support_valid"],
        query_valid=batch["query_valid"],
        query_masks=batch["query_masks"],
        unlabeled_valid=batch.get("unlabeled_valid"),
        mutual=settings.pseudo_labels == "mutual",
        **images,
    )
    size = (batch["query_masks"].shape[-2], batch["query_masks"].shape[-1])
    terms = {"query": losses.mask_dice(upsample(output.logits.float(), size), batch["query_masks"])}
    if output.aux_logits is not None:
        logits = upsample(output.aux_logits.float().flatten(0, 1), size)
        terms["aux"] = losses.mask_dice(logits, batch["support_masks"].flatten(0, 1))
    if output.strong_logits is not None:
        assert output.weak_logits is not None and output.unlabeled_valid is not None
        terms["self"] = losses.consistency(
            output.weak_logits.float(),
            output.strong_logits.float(),
            output.unlabeled_valid,
            mutual=settings.pseudo_labels == "mutual",
            hard=settings.hard_labels,
            confidence=settings.confidence,
        )
    return terms


def _check_finite(terms: dict[str, Tensor], step: int, episodes: Tensor, pool: EpisodePool, seed: int) -> None:
    bad = [name for name, value in terms.items() if not torch.isfinite(value)]
    if not bad:
        return
    files = "; ".join(", ".join(pool.episode_files(seed, number)) for number in episodes.tolist())
    raise NonFiniteLoss(
        f"The loss term {' and '.join(bad)} is not finite at step {step}; the last saved state is kept. "
        f"Lower the rates, or look at the episodes' files: {files}."
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 65_537 + rank
