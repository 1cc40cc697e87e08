"""Options of data, training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from rifenet.config.checks import expect, one_of
from rifenet.config.options import about
from rifenet.config.outside import is_outside
from rifenet.config.protocols import PROTOCOLS

DATASETS = (
    *("pascal", "coco", "fss1000", "custom"),
    *("lvis", "paco_part", "pascal_part", "deepglobe", "isic", "chest_xray"),
)
PARTLY_MARKED = ("lvis", "paco_part")
"""Datasets whose photos may show a class that nobody marked."""
FOLDS = ("interleaved", "contiguous")
PSEUDO_LABELS = ("weak_to_strong", "mutual")
Value = TypeVar("Value", int, float)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The dataset, its fold, the shots, and the random views of training."""

    dataset: str = "pascal"
    """Kind of dataset: pascal, coco, fss1000, custom, lvis, paco_part, pascal_part, deepglobe, isic or chest_xray."""
    root: str = field(default="", metadata=about(free=True))
    """Folder of the dataset."""
    list_file: str = ""
    """File to use instead of the dataset's own list, absolute or relative to root: image ids, one a line; coco, lvis
    and paco_part: also an annotation json; fss1000: the class lists."""
    folds: str = "interleaved"
    """coco only: classes that fold i tests, interleaved (i+1, i+5, ...: COCO-20i) or contiguous (20i+1 .. 20i+20)."""
    fold: int = 0
    """Fold whose classes are novel: kept out of training, for the test."""
    shots: int = 1
    """K: support images in an episode."""
    image_size: int = 473
    """Side of the square network input in pixels."""
    min_area: int = 2048
    """Least area of a class, in pixels of the stored mask, for an image to count as showing it."""
    skip_classes: tuple[str, ...] = ()
    """Beyond the paper, training only: names of base classes that no episode is of. Their photos stay in the index, so
    runs with and without a set of its own classes share one cache."""
    exclude_novel: bool = True
    """Training only: leave out every image that shows a novel class."""
    unlabeled_source: str = field(default="class", metadata=about(read_with=("train.unlabeled",)))
    """Source of unlabeled images: class (images of the episode's class) or any (all base images)."""
    sampling: str = "image"
    """How training draws a query. image: uniform over all image-class pairs, with replacement; the published codes pass
    over shuffled images and draw a class of each (docs/protocols.md, section 7). Beyond the paper: class (a
    class, uniform, then one of its images), or root (the same, but a class has the weight of the square root of its
    number of images)."""
    scale_min: float = 0.9
    """Smallest random scale of the training views."""
    scale_max: float = 1.1
    """Largest random scale of the training views."""
    rotate: float = 10.0
    """Largest rotation of the training views in degrees; half of the views are rotated."""
    blur: float = 0.5
    """Probability of Gaussian blur in the training views."""
    flip: float = 0.5
    """Probability of a mirror image (left-right) in the training views."""
    holdout: float = 0.1
    """Beyond the paper: share of the base images that training leaves out; validation on them selects the
    checkpoint."""
    seed: int | None = None
    """Seed of the held-out images and of the cached views; null: train.seed. Set it to share one cache between runs
    with different train.seed."""
    workers: int = field(default=0, metadata=about(free=True))
    """Processes that load data; 0: the main process."""
    # Runs with a cache keep their names from the time when no name mentioned the cache: hence `unnamed`.
    cache_dir: str = field(default="", metadata=about(free=True, whether=True, unnamed="on"))
    """Beyond the paper: folder that caches the frozen backbone's features; empty: no cache, so the backbone runs in
    every step."""
    cache_views: int = field(default=4, metadata=about(read_with=("data.cache_dir",)))
    """Beyond the paper: cached views of an image: the plain image, its mirror image, then weak views (scale, rotate,
    blur and flip as above). With the unlabeled branch, the cache also holds a strong version of each."""
    cache_strong: bool = field(default=False, metadata=about(read_with=("data.cache_dir",)))
    """Beyond the paper: cache strong versions even without the unlabeled branch, so that runs with and without it share
    one cache."""
    worlds: float = 0.0
    """Beyond the paper: share of training episodes whose images are all shown in one world other than everyday photos:
    grey, inverted, or turned by any angle. Needs data.cache_dir, which then holds three more views of each image."""
    own_views: float = 0.0
    """Beyond the paper: share of training episodes whose supports are several cached views of the same photo, as with
    model.support_views; the other episodes use one view of each of K photos. Needs data.cache_dir."""

    def __post_init__(self) -> None:
        one_of("data.dataset", self.dataset, DATASETS)
        one_of("data.folds", self.folds, FOLDS)
        expect(self.fold >= 0, "data.fold", self.fold, "0 or more")
        expect(1 <= self.shots <= 20, "data.shots", self.shots, "between 1 and 20")
        expect(self.image_size >= 32, "data.image_size", self.image_size, "at least 32 px")
        expect(self.min_area >= 1, "data.min_area", self.min_area, "at least 1 px")
        one_of("data.unlabeled_source", self.unlabeled_source, ("class", "any"))
        one_of("data.sampling", self.sampling, ("image", "class", "root"))
        expect(0 < self.scale_min <= self.scale_max, "data.scale_min", self.scale_min, "above 0 and at most scale_max")
        expect(0 <= self.rotate <= 180, "data.rotate", self.rotate, "between 0 and 180 degrees")
        expect(0 <= self.blur <= 1, "data.blur", self.blur, "a probability in [0,1]")
        expect(0 <= self.flip <= 1, "data.flip", self.flip, "a probability in [0,1]")
        expect(0 <= self.holdout < 1, "data.holdout", self.holdout, "a share in [0,1)")
        expect(self.seed is None or self.seed >= 0, "data.seed", self.seed, "0 or more, or null")
        expect(self.workers >= 0, "data.workers", self.workers, "0 or more")
        expect(self.cache_views >= 1, "data.cache_views", self.cache_views, "at least 1")
        expect(0 <= self.own_views <= 1, "data.own_views", self.own_views, "a share in [0,1]")
        expect(0 <= self.worlds <= 1, "data.worlds", self.worlds, "a share in [0,1]")
        if self.worlds and not self.cache_dir:
            raise ValueError(
                f"Expected data.worlds only with a cache, but got {self.worlds} and no data.cache_dir. Set "
                "data.cache_dir, or set data.worlds to 0."
            )
        if self.own_views and not (self.cache_dir and self.cache_views > 1 and self.shots > 1):
            raise ValueError(
                f"Expected data.own_views only with a cache of several views and several shots, but got data.cache_dir "
                f"{self.cache_dir!r}, data.cache_views {self.cache_views} and data.shots {self.shots}. Set these three "
                "options, or set data.own_views to 0."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training recipe. The optimiser uses the learning rates exactly as given."""

    out: str = field(default="runs/rifenet", metadata=about(free=True))
    """Run folder; the same command resumes the run that it finds there."""
    steps: int = 1000
    """Optimiser steps; 0: as many as train.epochs makes."""
    epochs: int = 0
    """Read with train.steps 0 only: each is images // batch_size steps; an image counts that shows a base class over
    data.min_area."""
    batch_size: int | tuple[int, ...] = 4
    """Episodes in a step, over all ranks together; a list has one value for each fold."""
    seed: int = 0
    """Seed of episodes, views, initial weights and dropout."""
    start: str = ""
    """Beyond the paper: model whose weights training starts from: default (the bundled model), a run folder, a
    .safetensors file or hf:owner/name; its weights must fit the model section. Empty: random weights."""
    optimizer: str = "paper"
    """paper (SGD, with AdamW for the transformer) or, beyond the paper, adamw (one AdamW with warm-up and cosine
    decay)."""
    lr: float | tuple[float, ...] = 0.075
    """Learning rate of SGD (paper) or of AdamW (adamw); a list has one value for each fold."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD; AdamW uses transformer_weight_decay."""
    poly_power: float = 0.9
    """Power of the polynomial decay of SGD's learning rate."""
    transformer_lr: float = 1e-4
    """Constant learning rate of AdamW for the transformer (paper only)."""
    transformer_weight_decay: float = 1e-2
    """Weight decay of AdamW; biases have none."""
    warmup: int = 0
    """Beyond the paper: steps of linear warm-up (adamw only)."""
    clip: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    unlabeled: int = 2
    """U: unlabeled images in an episode; 0 switches the unlabeled branch off."""
    beta: float = field(default=0.5, metadata=about(read_with=("train.unlabeled",)))
    """Weight of the self-supervised loss."""
    loss: str = ""
    """Beyond the paper: a function of your own, as module:name, that adds to the loss terms or changes them
    (docs/backbones.md); empty: the terms as they are."""
    random_backbone: bool = False
    """Beyond the paper, for a trial: train over a frozen backbone of random weights (model.pretrained false). Its
    scores say nothing of the method, and the model's name says so."""
    w_aux: float = field(default=1.0, metadata=about(read_with=("model.aux",)))
    """Weight of the auxiliary support loss."""
    crossed: float = 0.0
    """Beyond the paper, evidence head only: share of queries that are also segmented for another episode's class, to
    teach the head to find nothing where a class is absent. Above 0, at least one query of each step and rank."""
    mixed_shots: bool = False
    """Beyond the paper: draw the number of supports anew in each step, from 1 to data.shots; a class with too few
    images repeats some. Validation uses one support."""
    average: float = 0.0
    """Beyond the paper: decay of a running average of the weights, which validation uses and the run saves; 0: no
    average. In the first steps the average follows faster."""
    pseudo_labels: str = field(default="weak_to_strong", metadata=about(read_with=("train.unlabeled",)))
    """Direction of the pseudo-labels: weak_to_strong, or mutual (the mean of both directions)."""
    hard_labels: bool = field(default=False, metadata=about(read_with=("train.unlabeled",)))
    """Use the more probable label as the pseudo-label, instead of the probability."""
    confidence: float = field(default=0.0, metadata=about(read_with=("train.unlabeled",)))
    """Ignore pseudo-labels less probable than this; 0 keeps all."""
    log_every: int = field(default=10, metadata=about(free=True))
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 250
    """Steps between two validations on held-out base images."""
    validate_episodes: int = 100
    """Episodes of one validation."""
    save_every: int = field(default=100, metadata=about(free=True))
    """Steps between two resumable states."""
    device: str = field(default="auto", metadata=about(free=True))
    """auto, cpu, cuda or mps."""
    devices: int = field(default=1, metadata=about(free=True))
    """Devices on this machine (on a CPU: processes); torchrun or Slurm overrides it."""
    precision: str = "auto"
    """32-true, or beyond the paper bf16-mixed; auto: bf16-mixed on CUDA devices with native bfloat16, else 32-true."""
    threads: int = field(default=0, metadata=about(free=True))
    """CPU threads of each process; 0: torch decides."""
    checkpoint_activations: bool = field(default=False, metadata=about(free=True))
    """Recompute the feature activation in the backward pass instead of storing it: less memory, more time."""
    compile: bool = field(default=False, metadata=about(free=True))
    """Compile the feature activation, the residual block and the head with torch.compile; the first steps then take
    minutes. On a CPU, this needs a C++ compiler."""
    tensorboard: bool = field(default=False, metadata=about(free=True))
    """Also write TensorBoard curves; needs the extra tensorboard."""
    wandb: bool = field(default=False, metadata=about(free=True))
    """Also send the curves to Weights & Biases; needs the extra wandb, and an account or WANDB_MODE=offline."""

    def __post_init__(self) -> None:
        for name in (
            "log_every",
            "validate_every",
            "validate_episodes",
            "save_every",
            "devices",
        ):
            expect(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("steps", "epochs", "unlabeled", "beta", "w_aux", "warmup", "threads", "seed", "weight_decay"):
            expect(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        for name in ("transformer_lr", "clip"):
            expect(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        for size in _listed(self.batch_size):
            expect(size >= 1, "train.batch_size", self.batch_size, "at least 1")
        for rate in _listed(self.lr):
            expect(rate > 0, "train.lr", self.lr, "above 0")
        if not (self.steps or self.epochs):
            raise ValueError("Expected train.steps or train.epochs above 0, but got 0 for both. Set one of them.")
        expect(not self.loss or is_outside(self.loss), "train.loss", self.loss, "empty or module:name")
        one_of("train.optimizer", self.optimizer, ("paper", "adamw"))
        if self.warmup and self.optimizer == "paper":
            raise ValueError(
                "Expected train.warmup only with train.optimizer adamw, but the optimizer is paper. Leave train.warmup "
                "out, or choose adamw."
            )
        expect(0 <= self.crossed <= 1, "train.crossed", self.crossed, "a share in [0,1]")
        expect(0 <= self.average < 1, "train.average", self.average, "in [0,1)")
        expect(0 <= self.momentum < 1, "train.momentum", self.momentum, "in [0,1)")
        expect(self.poly_power > 0, "train.poly_power", self.poly_power, "above 0")
        one_of("train.pseudo_labels", self.pseudo_labels, PSEUDO_LABELS)
        expect(0 <= self.confidence < 1, "train.confidence", self.confidence, "in [0,1)")
        one_of("train.device", self.device, ("auto", "cpu", "cuda", "mps"))
        one_of("train.precision", self.precision, ("auto", "32-true", "bf16-mixed"))


def _listed(values: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return values if isinstance(values, tuple) else (values,)


def of_fold(name: str, values: Value | tuple[Value, ...], fold: int) -> Value:
    """The value of `fold`, of an option that has one value for all folds or a list with one for each.

    Raises ValueError where the list has none for the fold.
    """
    if not isinstance(values, tuple):
        return values
    if fold >= len(values):
        raise ValueError(
            f"Expected {name} to have a value for each fold up to data.fold {fold}, but got {len(values)}: "
            f"{', '.join(map(str, values))}. Add the missing ones, or give a single value."
        )
    return values[fold]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How novel classes are scored."""

    dataset: str = ""
    """Beyond the paper, for rifenet ablate: kind of another dataset than data.dataset, whose classes of data.fold are
    scored. Its list is its own."""
    root: str = field(default="", metadata=about(free=True))
    """Folder of that dataset."""
    protocol: str = "pfenet"
    """pfenet (as in the paper) or hsnet (photos stretched to a square, no area filter, scored at network size)."""
    episodes: int | None = None
    """N: exact number of episodes; null: 1000, 5000 for pfenet on coco, on fss1000 each query once, and on other sets
    what docs/protocols.md 3 says."""
    some_classes: bool = field(default=False, metadata=about(free=True))
    """Score even where N is too small for a query of each class; the title of the table then says so."""
    class_area: bool = False
    """pfenet only: a query's own class must cover data.min_area. Off, the published rule: some class of the fold must,
    and the query's class may be of any size. Supports always need it."""
    seeds: tuple[int, ...] = ()
    """Each seed is one run of N episodes; empty: 0 to 4 (pfenet) or 0 (hsnet)."""
    image_size: int | None = None
    """Side of the square network input in pixels; null: data.image_size (pfenet) or 400 (hsnet)."""
    original_size: bool = False
    """hsnet only: score at the original image size, as pfenet always does, instead of the network's size."""
    vote: bool = False
    """hsnet with several shots: segment with each shot alone and let the masks vote, instead of using all shots at
    once."""
    unlabeled: int = 0
    """Beyond the paper: U further photos of the episode's class, without masks, from which the model also learns
    (semi-supervised)."""
    batch_size: int = field(default=1, metadata=about(free=True))
    """Episodes loaded together; does not change the scores."""
    workers: int = field(default=0, metadata=about(free=True))
    """Processes that load data (0: the main process); does not change the scores."""
    absent_as_zero: bool = False
    """Count a class without episodes as 0, as published code does, instead of leaving it out."""

    def __post_init__(self) -> None:
        if bool(self.dataset) != bool(self.root):
            raise ValueError(
                f"Expected eval.dataset and eval.root together, but got {self.dataset!r} and {self.root!r}. Give both"
                " to score another dataset, or neither."
            )
        one_of("eval.dataset", self.dataset, ("", *DATASETS))
        one_of("eval.protocol", self.protocol, tuple(PROTOCOLS))
        for name in ("original_size", "vote"):
            if getattr(self, name) and self.protocol != "hsnet":
                raise ValueError(
                    f"Expected eval.{name} only with eval.protocol hsnet, but the protocol is {self.protocol}. "
                    "Leave it out, or choose hsnet."
                )
        if self.class_area and self.protocol != "pfenet":
            raise ValueError(
                f"Expected eval.class_area only with eval.protocol pfenet, but the protocol is {self.protocol}. "
                "Leave it out, or choose pfenet."
            )
        expect(self.unlabeled >= 0, "eval.unlabeled", self.unlabeled, "0 or more")
        if self.unlabeled and self.protocol != "pfenet":
            raise ValueError(
                f"Expected eval.unlabeled only with eval.protocol pfenet, but the protocol is {self.protocol}. "
                "Leave it out, or choose pfenet."
            )
        expect(self.episodes is None or self.episodes >= 1, "eval.episodes", self.episodes, "at least 1")
        expect(
            self.image_size is None or self.image_size >= 32,
            "eval.image_size",
            self.image_size,
            "at least 32 px",
        )
        expect(self.batch_size >= 1, "eval.batch_size", self.batch_size, "at least 1")
        expect(self.workers >= 0, "eval.workers", self.workers, "0 or more")
