"""Meta-training (method.md 10-11): episodes over base classes, one step at a time.

Each step is a function of (config, step). Episode numbers seed episodes and views. The step seeds dropout and the
choice of tokens, and sets the learning rates. So a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from rifenet.config import Config, TrainConfig, effective, from_outside, save_config
from rifenet.data.sampling import EpisodePool
from rifenet.data.sources import open_dataset
from rifenet.files import write_atomically
from rifenet.models import RiFeNet, RiFeNetOutput, aligned_resize, build_model
from rifenet.models.beyond.any_backbone_network import AnyBackboneNetwork
from rifenet.models.beyond.evidence_network import EvidenceNetwork, EvidenceOutput
from rifenet.models.files.checkpoint import backbone_hash
from rifenet.models.files.hub import MODEL_FILE
from rifenet.models.files.over_backbone import reference_photos
from rifenet.models.rivals.hsnet import HSNet
from rifenet.models.rivals.pfenet import PFENet, PFENetOutput
from rifenet.training import losses
from rifenet.training.average import WeightAverage
from rifenet.training.distributed import launch
from rifenet.training.features import PackedFeatures, unpack
from rifenet.training.logging import RunLog
from rifenet.training.optim import build_optimizers, learning_rates, set_learning_rates
from rifenet.training.selection import finish, finished, select
from rifenet.training.split import base_split, episodes_a_step, step_batches, training_episodes, with_steps
from rifenet.training.start import start_from
from rifenet.training.state import STATE_FILE, claimed, load_state, save_state


class NonFiniteLoss(ArithmeticError):
    """A loss term became infinite or NaN; the message names the term, the step and the episodes' files."""


def train(config: Config, *, stop_at: int | None = None) -> dict[str, Any]:
    """Trains up to `config.train.steps` and returns the progress; resumes the run in `config.train.out`.

    `stop_at` ends this call after that many steps in total, and saves the state.

    Raises:
        ValueError, FileNotFoundError: a config, dataset or earlier state that does not fit.
        NonFiniteLoss: a loss term or gradient is infinite or NaN; the last saved state stays.
    """
    settings = config.train
    fabric = launch(settings.device, devices=settings.devices, precision=settings.precision)
    with claimed(Path(settings.out)) if fabric.is_global_zero else nullcontext():
        return _train(effective(config), fabric, stop_at)


def _train(config: Config, fabric: Fabric, stop_at: int | None) -> dict[str, Any]:
    run = _Run(config, fabric)
    last = run.settings.steps if stop_at is None else min(stop_at, run.settings.steps)
    with run.log or nullcontext():
        run.announce()
        for batch in step_batches(run.episodes, run.config, run.fabric, run.progress["step"], last):
            terms, norm = run.step(batch)
            run.record(terms, norm, last)
        run.finish()
    return run.progress


class _Run:
    """Data, model and optimisers of a run, restored from its saved state where there is one."""

    def __init__(self, config: Config, fabric: Fabric) -> None:
        settings = config.train
        if config.model.kind == "prototype":
            raise ValueError("Expected a model.kind that trains, such as rifenet, but got prototype.")
        if config.model.pretrained == settings.random_backbone:
            raise ValueError(_about_random(config.model.pretrained))
        self.folder, self.batch_size = Path(settings.out), episodes_a_step(config)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.fabric = fabric
        if self.batch_size % self.fabric.world_size:
            raise ValueError(
                f"Expected train.batch_size to be a multiple of the {self.fabric.world_size} ranks, "
                f"but got {self.batch_size}."
            )
        data = config.data
        if settings.crossed > 0 and self.batch_size < 2 * self.fabric.world_size:
            raise ValueError(
                f"Expected at least 2 episodes a rank for train.crossed, but got {self.batch_size} on "
                f"{self.fabric.world_size} ranks. Raise train.batch_size, or set train.crossed to 0."
            )
        index = open_dataset(data.dataset, data.root, list_file=data.list_file, folds=data.folds)
        self.split = base_split(config, index)
        self.written, config = config, with_steps(config, self.split.pool.queried)
        settings = config.train
        self.config, self.settings = config, settings
        torch.manual_seed(settings.seed)
        model = build_model(config.model)
        assert isinstance(model, RiFeNet)
        self.model = model
        if isinstance(model, AnyBackboneNetwork):
            model.refer(*reference_photos(data.image_size))
        started = {}
        if settings.start and not (self.folder / STATE_FILE).is_file():
            started = {"started_from": start_from(settings.start, model)}
        self.optimizers = build_optimizers(model, settings)
        self.wrapped, *self.prepared = self.fabric.setup(model, *self.optimizers)
        # Restore after the model has moved: optimizers put their state on the device of their parameters at that time.
        content = {
            "images": self.split.pool.index.hash,
            "classes": [index.class_name(class_id) for class_id in self.split.pool.classes],
            "cached": bool(config.data.cache_dir),
            "backbone": backbone_hash(model),
            "ranks": self.fabric.world_size,  # each rank draws its own dropout and tokens
        }
        fresh: dict[str, Any] = {"step": 0, "best_miou": -1.0, "best_step": 0, **content, **started}
        self.average = WeightAverage(model, settings.average) if settings.average else None
        self.progress = load_state(self.folder, config, model, self.optimizers, content, self.average) or fresh
        prepare(model, settings)  # after the backbone has its final device and weights
        self.wrapped.train()
        self.episodes = training_episodes(config, self.split, model, self.fabric)
        self.log = None
        if self.fabric.is_global_zero:
            # As written, with epochs: the same file serves a fold with another number of images.
            write_atomically(self.folder / "config.yaml", lambda file: save_config(self.written, file))
            self.log = RunLog(self.folder, self.progress["step"], config)
        self.since, self.episodes_since = time.perf_counter(), 0

    def announce(self) -> None:
        """Prints the training data, and whether the run is resumed."""
        if self.log is None:
            return
        for note in self.split.notes:
            self.log.say(note)
        if self.settings.random_backbone:
            self.log.say("A TRIAL: the frozen backbone has random weights, so the scores say nothing of the method.")
        if not self.written.train.steps:
            steps = self.split.pool.queried // self.batch_size
            self.log.say(
                f"{self.settings.epochs} epochs of {steps:,} steps, with {self.batch_size} episodes each: "
                f"{self.settings.steps:,} steps"
            )
        if self.progress["step"]:
            self.log.say(f"resuming {self.folder} at step {self.progress['step']}")

    def step(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], float]:
        """One optimiser step: the loss terms (with `loss`, their total) and the gradient's norm before clipping."""
        settings, number = self.settings, self.progress["step"]
        torch.manual_seed(_step_seed(settings.seed, number, self.fabric.global_rank))
        set_learning_rates(self.prepared, learning_rates(settings, number))
        if settings.mixed_shots:
            batch = _fewer_shots(batch, int(torch.randint(self.config.data.shots, ())) + 1)
        terms = loss_terms(self.wrapped, self.model, self.fabric.to_device(batch), settings)
        loss = losses.total(terms, settings.w_aux, settings.beta)
        _check_finite(terms, number, batch["episode"], self.split.pool, settings.seed)
        for optimizer in self.prepared:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, settings.clip)
        _check_finite({"gradient": norm}, number, batch["episode"], self.split.pool, settings.seed)
        for optimizer in self.prepared:
            optimizer.step()
        self.progress["step"] += 1
        if self.average:
            self.average.update(self.progress["step"])
        self.episodes_since += self.batch_size
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}, float(norm)

    def record(self, terms: dict[str, Tensor], norm: float, last: int) -> None:
        """Logs, validates and saves after the steps that are due for it."""
        settings, done = self.settings, self.progress["step"]
        if done % settings.log_every == 0 or done == last:
            means = {name: self.fabric.all_reduce(term) for name, term in terms.items()}
            if self.log:
                figures: dict[str, Any] = {name: float(value) for name, value in means.items()}  # type: ignore[arg-type]  # tensors in, tensors out
                figures |= {"gradient_norm": norm, "lr": learning_rates(settings, done - 1)}
                figures["episodes_per_second"] = self.episodes_since / (time.perf_counter() - self.since)
                self.log.write(done, figures)
            self.since, self.episodes_since = time.perf_counter(), 0
        if self.log:
            self.log.step(done)
        if done % settings.validate_every == 0 or done == settings.steps:
            started = time.perf_counter()
            with self.average.applied() if self.average else nullcontext():
                select(self.config, self.split, self.model, self.progress, self.folder, self.fabric, self.log)
            self.since += time.perf_counter() - started
        if done % settings.save_every == 0 or done == last:
            if self.fabric.is_global_zero:
                save_state(self.folder, self.config, self.model, self.optimizers, self.progress, self.average)
            self.fabric.barrier()

    def finish(self) -> None:
        """Calibrates the kept model of a finished run and writes its card."""
        if self.log and self.progress["step"] == self.settings.steps and not finished(self.folder):
            finish(self.config, self.split, self.folder, self.fabric.device)
            self.log.say(f"finished: {self.folder / MODEL_FILE}, of step {self.progress['best_step']}")


def _about_random(pretrained: bool) -> str:
    if pretrained:
        return (
            "Expected model.pretrained false with train.random_backbone, but got true. Set it to false for a trial, or "
            "leave train.random_backbone out."
        )
    return (
        "Expected model.pretrained for training, but got false. Set it: the backbone stays frozen, and random features "
        "are of no use. For a trial of the program, set train.random_backbone too."
    )


def prepare(model: RiFeNet, settings: TrainConfig, backend: str = "inductor") -> None:
    """Makes training steps of `model` faster, or smaller in memory; names and values of its weights stay.

    Call it once `model` is on its device. It accelerates the backbone (`Backbone.accelerate`). `settings` decide on
    activation checkpointing and on compilation, by the `backend` of `torch.compile`.
    """
    model.backbone.accelerate()
    if isinstance(model, PFENet | HSNet | AnyBackboneNetwork):
        if settings.checkpoint_activations or settings.compile:
            raise ValueError(
                f"Expected model.kind rifenet or cyctr for train.checkpoint_activations and train.compile, but got"
                f" {model.config.kind}. Set them to false."
            )
        return
    model.activation.checkpointed = settings.checkpoint_activations
    if settings.compile:
        for part in (model.activation, model.activated_projection, model.residual, model.head):
            part.compile(backend=backend)


def loss_terms(wrapped: nn.Module, model: RiFeNet, batch: dict[str, Any], settings: TrainConfig) -> dict[str, Tensor]:
    """The named loss terms of one batch: `query`, and `aux` and `self` where they are on (method.md 10)."""
    images = {}
    for name in ("support_images", "query_images", "unlabeled_weak", "unlabeled_strong"):
        if name in batch:
            given = batch[name]
            cached = isinstance(given, PackedFeatures)
            images[name] = unpack(model, given, batch["query_masks"].shape[-1]) if cached else given
    mutual = settings.pseudo_labels == "mutual"
    output: RiFeNetOutput = wrapped(
        images.pop("support_images"),
        batch["support_masks"],
        images.pop("query_images"),
        support_valid=batch["support_valid"],
        query_valid=batch["query_valid"],
        query_masks=batch["query_masks"],
        unlabeled_valid=batch.get("unlabeled_valid"),
        mutual=mutual,
        **images,
        **_beyond(model, settings, len(batch["query_masks"])),
    )
    size = (batch["query_masks"].shape[-2], batch["query_masks"].shape[-1])
    terms = {"query": losses.mask_dice(aligned_resize(output.logits.float(), size), batch["query_masks"])}
    if output.aux_logits is not None:
        logits = aligned_resize(output.aux_logits.float().flatten(0, 1), size)
        terms["aux"] = losses.mask_dice(logits, batch["support_masks"].flatten(0, 1))
    if output.strong_logits is not None and output.weak_logits is not None and output.unlabeled_valid is not None:
        terms["self"] = losses.consistency(
            output.weak_logits.float(),
            output.strong_logits.float(),
            output.unlabeled_valid,
            mutual=mutual,
            hard=settings.hard_labels,
            confidence=settings.confidence,
        )
    terms |= _evidence_terms(output, batch, size) if isinstance(output, EvidenceOutput) else {}
    if isinstance(output, PFENetOutput):
        scales = [aligned_resize(each.float(), size) for each in output.scales]
        terms["scales"] = torch.stack([losses.mask_dice(each, batch["query_masks"]) for each in scales]).mean()
    return _own_terms(settings.loss, terms, output, batch) if settings.loss else terms


def _own_terms(name: str, terms: dict[str, Tensor], output: RiFeNetOutput, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The terms as the user's function `name` (`train.loss`) leaves them: named scalars, at least one."""
    own: Any = from_outside(name, "train.loss")(terms, output, batch)
    if not isinstance(own, dict) or not own or not all(isinstance(t, Tensor) and t.dim() == 0 for t in own.values()):
        raise ValueError(f"Expected {name} to return loss terms, a dict of names and scalar tensors, but it did not.")
    return own


def _evidence_terms(output: EvidenceOutput, batch: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """The terms of the evidence head (beyond the paper): `evidence`, and `crossed` where it is on."""
    assert output.evidence is not None
    fine, coarse = (
        losses.mask_evidence(aligned_resize(each.float(), size), batch["query_masks"]) for each in output.evidence
    )
    terms = {"evidence": fine + coarse / 2}
    if output.crossed is not None:
        logits = aligned_resize(output.crossed.fine.float(), size)
        terms["crossed"] = losses.mask_evidence(logits, batch["crossed_masks"][: len(logits)])
    return terms


def _beyond(model: RiFeNet, settings: TrainConfig, episodes: int) -> dict[str, int]:
    """Arguments of `forward` that only networks beyond the paper take."""
    return {"crossed": _crossed(settings.crossed, episodes)} if isinstance(model, EvidenceNetwork) else {}


def _fewer_shots(batch: dict[str, Any], shots: int) -> dict[str, Any]:
    """The batch with only the first `shots` supports of each episode; an episode's supports are in random order."""
    return {name: _first(value, shots) if name.startswith("support_") else value for name, value in batch.items()}


def _first(value: Any, shots: int) -> Any:
    if isinstance(value, PackedFeatures):
        return PackedFeatures(value.values[:, :shots])
    return value[:, :shots]


def _crossed(share: float, episodes: int) -> int:
    """Number of a rank's episodes whose query is also segmented for the next episode's class; never the last one."""
    return min(max(round(share * episodes), 1), episodes - 1) if share else 0


def _check_finite(terms: dict[str, Tensor], step: int, episodes: Tensor, pool: EpisodePool, seed: int) -> None:
    bad = [name for name, value in terms.items() if not torch.isfinite(value)]
    if not bad:
        return
    files = "; ".join(", ".join(pool.episode_files(seed, number)) for number in episodes.tolist())
    raise NonFiniteLoss(
        f"Expected finite losses and gradients, but {' and '.join(bad)} is not finite at step {step}; the last saved "
        "state is kept. "
        f"Lower the rates, or look at the episodes' files: {files}."
    )


def _step_seed(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
