"""Options of data, training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from rifenet.config.checks import expect, one_of
from rifenet.config.options import about
from rifenet.config.protocols import PROTOCOLS

DATASETS = ("pascal", "coco", "fss1000", "custom")
FOLDS = ("interleaved", "contiguous")
PSEUDO_LABELS = ("weak_to_strong", "mutual")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures are, which fold and shots, and how views are made (method.md 11)."""

    dataset: str = "pascal"
    """Kind of dataset: pascal, coco, fss1000 or custom."""
    root: str = field(default="", metadata=about(free=True))
    """Folder of the dataset."""
    list_file: str = ""
    """Text file of image ids to use instead of the dataset's own list (pascal: relative to root or absolute); coco: or
    the json to read; fss1000: the file of class lists."""
    folds: str = "interleaved"
    """coco only, which classes fold i tests: interleaved (i+1, i+5, ...: COCO-20i) or contiguous (20i+1 .. 20i+20)."""
    fold: int = 0
    """Fold whose classes are novel."""
    shots: int = 1
    """K: support images an episode."""
    image_size: int = 473
    """Side of the square network input in pixels."""
    min_area: int = 2048
    """A class counts in an image where it covers at least this many pixels of the mask as stored."""
    exclude_novel: bool = True
    """Training only: leave out every image in which any novel class appears."""
    unlabeled_source: str = field(default="class", metadata=about(read_with=("train.unlabeled",)))
    """Where unlabeled images come from: class (images of the episode's class) or any (all base images)."""
    sampling: str = "image"
    """How a training episode picks its query: image (uniform over image-class pairs), class (class first, uniform) or
    root (class first, in proportion to the square root of its number of images)."""
    scale_min: float = 0.9
    """Smallest random scale of the training views."""
    scale_max: float = 1.1
    """Largest random scale of the training views."""
    rotate: float = 10.0
    """Largest rotation of the training views, degrees, applied with probability 0.5."""
    blur: float = 0.5
    """Probability of Gaussian blur in the training views."""
    flip: float = 0.5
    """Probability of a horizontal flip in the training views."""
    holdout: float = 0.1
    """Share of the base images kept out of training, on which the checkpoint is selected."""
    seed: int | None = None
    """Seed of the held-out slice and of the cached views, so that runs of several train.seed share one cache; null:
    that of train.seed."""
    workers: int = field(default=0, metadata=about(free=True))
    """Loader processes."""
    # The names of runs with a cache stay what they were when the cache was in no name.
    cache_dir: str = field(default="", metadata=about(free=True, whether=True, unnamed="on"))
    """Folder of the frozen-feature cache; empty: no cache, the backbone runs in every step."""
    cache_views: int = field(default=4, metadata=about(read_with=("data.cache_dir",)))
    """Cached views an image: the plain one, its mirror image, then weak views (scale, rotate, blur and flip as above);
    each has a strong partner where the unlabeled branch is on."""
    cache_strong: bool = field(default=False, metadata=about(read_with=("data.cache_dir",)))
    """Cache the strong partners without the unlabeled branch too, so that runs with and without it share one cache."""
    own_views: float = 0.0
    """Share of the training episodes whose supports are all cached views of a photo, then those of the next, as a class
    is learned with `model.support_views`; 0: one view of each of K photos. Needs `data.cache_dir`."""

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
        if self.own_views and not (self.cache_dir and self.cache_views > 1 and self.shots > 1):
            raise ValueError(
                f"Expected data.own_views only with a cache of several views and several shots, but got data.cache_dir "
                f"{self.cache_dir!r}, data.cache_views {self.cache_views} and data.shots {self.shots}. Set them, or "
                "data.own_views to 0."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe (method.md 10-11). All rates are the true ones."""

    out: str = field(default="runs/rifenet", metadata=about(free=True))
    """Run folder; the same command resumes from what it finds there."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 4
    """Total episodes a step, over all ranks."""
    seed: int = 0
    """Seed of episodes, views, initial weights and dropout."""
    start: str = ""
    """Model whose trained weights the first step starts from: default (the bundled one), a run folder, a .safetensors
    file or hf:owner/name; its weights must fit the model section. Empty: random weights."""
    optimizer: str = "paper"
    """paper (SGD, with AdamW for the transformer) or adamw (one AdamW with warm-up and cosine decay)."""
    lr: float = 0.075
    """SGD's rate (paper), or AdamW's rate (adamw)."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 1e-4
    """SGD's weight decay; AdamW uses transformer_weight_decay."""
    poly_power: float = 0.9
    """Power of SGD's polynomial decay."""
    transformer_lr: float = 1e-4
    """AdamW's constant rate for the transformer (paper)."""
    transformer_weight_decay: float = 1e-2
    """AdamW's weight decay; biases have none."""
    warmup: int = 0
    """Steps of linear warm-up (adamw only)."""
    clip: float = 1.0
    """Largest gradient norm."""
    unlabeled: int = 2
    """U: unlabeled images an episode; 0 switches the unlabeled branch off."""
    beta: float = field(default=0.5, metadata=about(read_with=("train.unlabeled",)))
    """Weight of the self-supervised loss."""
    w_aux: float = field(default=1.0, metadata=about(read_with=("model.aux",)))
    """Weight of the auxiliary support loss."""
    crossed: float = 0.0
    """Evidence head only: share of the queries that are also segmented for another episode's class, which they may not
    show; it learns to find nothing. At least one of a batch of two and more, on every rank."""
    mixed_shots: bool = False
    """Each step's episodes have 1 to `data.shots` supports, drawn by the step; a class with too few images repeats
    some. Validation has one."""
    average: float = 0.0
    """Decay of a running average of the trained weights, which is what is validated and kept; 0: the weights
    themselves. In the first steps the average follows faster."""
    pseudo_labels: str = field(default="weak_to_strong", metadata=about(read_with=("train.unlabeled",)))
    """weak_to_strong, or mutual: the mean of both directions."""
    hard_labels: bool = field(default=False, metadata=about(read_with=("train.unlabeled",)))
    """Take the more probable label as the pseudo-label instead of its probability."""
    confidence: float = field(default=0.0, metadata=about(read_with=("train.unlabeled",)))
    """Ignore pseudo-label positions whose larger probability is below this; 0 keeps all."""
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
    """Processes or devices on this machine; the count of torchrun or Slurm goes first."""
    precision: str = "auto"
    """auto (bfloat16 where the device gains by it), 32-true or bf16-mixed."""
    threads: int = field(default=0, metadata=about(free=True))
    """CPU threads a process; 0 leaves torch's choice."""
    checkpoint_activations: bool = field(default=False, metadata=about(free=True))
    """Keep less for the backward pass of the feature activation and compute it again there: less memory, more time."""
    compile: bool = field(default=False, metadata=about(free=True))
    """Compile the feature activation, the residual block and the head (`torch.compile`; on a CPU it takes a C++
    compiler). The first steps take minutes."""
    tensorboard: bool = field(default=False, metadata=about(free=True))
    """Write TensorBoard curves beside the JSON lines (extra: tensorboard)."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "validate_every",
            "validate_episodes",
            "save_every",
            "devices",
        ):
            expect(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("unlabeled", "beta", "w_aux", "warmup", "threads", "seed", "weight_decay"):
            expect(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        for name in ("lr", "transformer_lr", "clip"):
            expect(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        one_of("train.optimizer", self.optimizer, ("paper", "adamw"))
        if self.warmup and self.optimizer == "paper":
            raise ValueError(
                "Expected train.warmup only with train.optimizer adamw: the paper's recipe has none. Leave it out."
            )
        expect(0 <= self.crossed <= 1, "train.crossed", self.crossed, "a share in [0,1]")
        expect(0 <= self.average < 1, "train.average", self.average, "in [0,1)")
        expect(0 <= self.momentum < 1, "train.momentum", self.momentum, "in [0,1)")
        expect(self.poly_power > 0, "train.poly_power", self.poly_power, "above 0")
        one_of("train.pseudo_labels", self.pseudo_labels, PSEUDO_LABELS)
        expect(0 <= self.confidence < 1, "train.confidence", self.confidence, "in [0,1)")
        one_of("train.device", self.device, ("auto", "cpu", "cuda", "mps"))
        one_of("train.precision", self.precision, ("auto", "32-true", "bf16-mixed"))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How novel classes are scored (protocols.md 3-4)."""

    protocol: str = "pfenet"
    """pfenet (the paper's family) or hsnet (input squashed, no area filter, scored at network size)."""
    episodes: int | None = None
    """N: episodes scored, exactly; null: the protocol's own, 1000, and 5000 for pfenet on coco."""
    seeds: tuple[int, ...] = ()
    """One run of N episodes for each seed; empty: the protocol's own, 0 to 4 (pfenet) or 0 (hsnet)."""
    image_size: int | None = None
    """Side of the square network input in pixels; null: the protocol's own, 400 (hsnet) or data.image_size (pfenet)."""
    original_size: bool = False
    """hsnet: score at the original image size instead of the network's; pfenet always does."""
    vote: bool = False
    """hsnet, more than one shot: segment with each shot alone and let the masks vote, instead of one pass over all."""
    unlabeled: int = 0
    """U: photos of an episode's class without their masks, from which it is learned besides (semi-supervised)."""
    batch_size: int = field(default=1, metadata=about(free=True))
    """Episodes loaded together; changes no digit."""
    workers: int = field(default=0, metadata=about(free=True))
    """Loader processes; changes no digit."""
    absent_as_zero: bool = False
    """Count a class without episodes as 0, as the published codes do, instead of leaving it out."""

    def __post_init__(self) -> None:
        one_of("eval.protocol", self.protocol, tuple(PROTOCOLS))
        for name in ("original_size", "vote"):
            if getattr(self, name) and self.protocol != "hsnet":
                raise ValueError(
                    f"Expected eval.{name} only with eval.protocol hsnet, but the protocol is {self.protocol}. "
                    "Leave it out, or choose hsnet."
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
