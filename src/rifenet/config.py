"""The program's configuration: four frozen dataclasses, each field with the sentence that becomes its `--help`.

What a run needs is a tree `Config(data, model, train, eval)`. YAML files and dotted overrides are read by jsonargparse over
these classes; each class refuses wrong values by itself, naming the field, so a config built in Python is checked too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
)
DATASETS = ("pascal", "custom")
GUIDES = ("query", "self", "none")
PSEUDO_LABELS = ("weak_to_strong", "mutual")


def _expect(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"Expected {name} to be {expected}, but got {value!r}.")


def _one_of(name: str, value: object, options: tuple[str, ...]) -> None:
    _expect(value in options, name, value, "one of " + ", ".join(options))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures are, which fold and shots, and how views are made (method.md 11)."""

    dataset: str = "pascal"
    """Kind of dataset: pascal or custom."""
    root: str = ""
    """Folder of the dataset."""
    list_file: str = ""
    """Text file of image ids to use instead of the dataset's own list (pascal: relative to root or absolute)."""
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
    unlabeled_source: str = "class"
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
    workers: int = 0
    """Loader processes."""
    cache_dir: str = ""
    """Folder of the frozen-feature cache; empty: no cache, the backbone runs in every step."""
    cache_views: int = 4
    """Cached weak views an image; each has a strong partner where the unlabeled branch is on."""

    def __post_init__(self) -> None:
        _one_of("data.dataset", self.dataset, DATASETS)
        _expect(self.fold >= 0, "data.fold", self.fold, "0 or more")
        _expect(1 <= self.shots <= 20, "data.shots", self.shots, "between 1 and 20")
        _expect(self.image_size >= 32, "data.image_size", self.image_size, "at least 32 px")
        _expect(self.min_area >= 1, "data.min_area", self.min_area, "at least 1 px")
        _one_of("data.unlabeled_source", self.unlabeled_source, ("class", "any"))
        _one_of("data.sampling", self.sampling, ("image", "class", "root"))
        _expect(0 < self.scale_min <= self.scale_max, "data.scale_min", self.scale_min, "above 0 and at most scale_max")
        _expect(0 <= self.rotate <= 180, "data.rotate", self.rotate, "between 0 and 180 degrees")
        _expect(0 <= self.blur <= 1, "data.blur", self.blur, "a probability in [0,1]")
        _expect(0 <= self.flip <= 1, "data.flip", self.flip, "a probability in [0,1]")
        _expect(0 <= self.holdout < 1, "data.holdout", self.holdout, "a share in [0,1)")
        _expect(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _expect(self.cache_views >= 1, "data.cache_views", self.cache_views, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (method.md 3-9). Every ablation of the architecture is a field here."""

    kind: str = "rifenet"
    """rifenet, or prototype: the training-free baseline of protocols.md 5."""
    backbone: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101 or efficientnet_lite0, efficientnet_lite1, efficientnet_lite2."""
    weights: str = ""
    """File with the backbone's ImageNet weights; empty: found by the backbone's name where a package carries them."""
    pretrained: bool = True
    """False: random backbone weights (tests, and models whose weights are loaded afterwards)."""
    stride: int = 8
    """Output stride of the features: 8 or 16."""
    deep_stages: str = "resize"
    """EfficientNet-Lite stages past the output stride: dilate them, or keep their stride and resize their features."""
    stem: str = "plain"
    """ResNet stem: plain (7x7), deep (PSPNet's three 3x3), or caffe (7x7, max-pool without padding, ceil mode)."""
    stride_on: str = "conv2"
    """ResNet bottleneck convolution that carries the stride: conv1 or conv2."""
    width: float = 1.0
    """ResNet width multiplier."""
    normalization: str = "imagenet"
    """Input normalisation of a ResNet: imagenet (mean and deviation) or caffe (BGR 0..255 minus 104, 117, 123)."""
    low: tuple[int, ...] = ()
    """Backbone stages of the low features; empty: the family's default (ResNet 2; EfficientNet-Lite 3)."""
    mid: tuple[int, ...] = ()
    """Backbone stages of the mid features; empty: the default (ResNet 2, 3; EfficientNet-Lite 3, 5)."""
    high: tuple[int, ...] = ()
    """Backbone stages of the high features; empty: the default (ResNet 4; EfficientNet-Lite 7)."""
    embed_dim: int = 256
    """C: channels of the method's own layers."""
    use_global: bool = True
    """Global support prototype on."""
    use_local: bool = True
    """Local query prototype on."""
    local_dim: int = 64
    """Channels of the local query prototype."""
    local_grid: int = 4
    """g: the local prototype is pooled on a g x g grid."""
    local_refine: bool = True
    """1x1 convolution and channel attention after the pooling (method.md 12, row 1)."""
    layers: int = 2
    """Layers of the feature activation; 0 leaves only its convolutions."""
    self_attention: bool = True
    """Deformable self-attention on."""
    cross_attention: bool = True
    """Cycle-consistent cross-attention on."""
    cycle: bool = True
    """Mask support tokens that are not cycle-consistent."""
    heads: int = 8
    """Attention heads."""
    points: int = 9
    """Sampling points a head in the deformable attention."""
    ffn_ratio: int = 3
    """Width of the feed-forward layers over embed_dim."""
    tokens_per_label: int = 300
    """Support tokens of each label for one shot."""
    max_support_tokens: int = 1200
    """Cap on support tokens over all shots."""
    max_prior_keys: int = 1024
    """Cap on the prior mask's keys over all shots."""
    random_tokens: bool = True
    """Training only: random token choice and count; off, training chooses as the test does."""
    guide: str = "query"
    """Local prototype that guides the unlabeled branch: query (the labeled query's), self (its own) or none."""
    aux: bool = True
    """Auxiliary support loss in training."""
    proj_dropout: float = 0.5
    """Channel dropout after the projections."""
    dropout: float = 0.1
    """Dropout in projections and feed-forward layers of the attention."""
    attention_dropout: float = 0.0
    """Dropout on the cross-attention's weights (method.md 8: the authors' 0.1 is an option)."""
    head_dropout: float = 0.1
    """Channel dropout in the head."""

    def __post_init__(self) -> None:
        _one_of("model.kind", self.kind, ("rifenet", "prototype"))
        _one_of("model.backbone", self.backbone, BACKBONES)
        _expect(self.stride in (8, 16), "model.stride", self.stride, "8 or 16")
        _one_of("model.deep_stages", self.deep_stages, ("dilate", "resize"))
        _one_of("model.stem", self.stem, ("plain", "deep", "caffe"))
        _one_of("model.stride_on", self.stride_on, ("conv1", "conv2"))
        _one_of("model.normalization", self.normalization, ("imagenet", "caffe"))
        _one_of("model.guide", self.guide, GUIDES)
        _expect(self.width > 0, "model.width", self.width, "above 0")
        _expect(
            self.embed_dim > 0 and self.embed_dim % (4 * self.heads) == 0,
            "model.embed_dim",
            self.embed_dim,
            f"a positive multiple of 4 x model.heads ({4 * self.heads})",
        )
        _expect(self.layers >= 0, "model.layers", self.layers, "0 or more")
        if not (self.use_global or (self.cross_attention and self.layers)):
            raise ValueError(
                "Expected model.use_global or model.cross_attention (with layers) to be on, but both are off: nothing "
                "but the prior mask would say what to segment. Switch one of them on."
            )
        for name in (
            "local_dim",
            "local_grid",
            "heads",
            "points",
            "ffn_ratio",
            "tokens_per_label",
            "max_prior_keys",
        ):
            _expect(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        _expect(self.max_support_tokens >= 2, "model.max_support_tokens", self.max_support_tokens, "at least 2")
        for name in ("proj_dropout", "dropout", "attention_dropout", "head_dropout"):
            _expect(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "a probability in [0,1)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe (method.md 10-11). All rates are the true ones."""

    out: str = "runs/rifenet"
    """Run folder; the same command resumes from what it finds there."""
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 4
    """Total episodes a step, over all ranks."""
    seed: int = 0
    """Seed of episodes, views, initial weights and dropout."""
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
    """Steps of linear warm-up (adamw)."""
    clip: float = 1.0
    """Largest gradient norm."""
    unlabeled: int = 2
    """U: unlabeled images an episode; 0 switches the unlabeled branch off."""
    beta: float = 0.5
    """Weight of the self-supervised loss."""
    w_aux: float = 1.0
    """Weight of the auxiliary support loss."""
    pseudo_labels: str = "weak_to_strong"
    """weak_to_strong, or mutual: the mean of both directions."""
    hard_labels: bool = False
    """Threshold the pseudo-labels at 0.5 instead of using probabilities."""
    confidence: float = 0.0
    """Ignore pseudo-label positions whose larger probability is below this; 0 keeps all."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = 250
    """Steps between two validations on held-out base images."""
    validate_episodes: int = 100
    """Episodes of one validation."""
    save_every: int = 100
    """Steps between two resumable states."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: int = 1
    """Processes or devices on this machine; torchrun and Slurm set it themselves."""
    precision: str = "auto"
    """auto (bfloat16 where the device gains by it), 32-true or bf16-mixed."""
    threads: int = 0
    """CPU threads a process; 0 leaves torch's choice."""
    tensorboard: bool = False
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
            _expect(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("unlabeled", "beta", "w_aux", "warmup", "threads", "seed", "weight_decay"):
            _expect(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        for name in ("lr", "transformer_lr", "clip"):
            _expect(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "above 0")
        _one_of("train.optimizer", self.optimizer, ("paper", "adamw"))
        _one_of("train.pseudo_labels", self.pseudo_labels, PSEUDO_LABELS)
        _expect(0 <= self.confidence < 1, "train.confidence", self.confidence, "in [0,1)")
        _one_of("train.device", self.device, ("auto", "cpu", "cuda", "mps"))
        _one_of("train.precision", self.precision, ("auto", "32-true", "bf16-mixed"))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How novel classes are scored (protocols.md 3-4)."""

    protocol: str = "pfenet"
    """pfenet: the paper's family."""
    episodes: int = 1000
    """N: episodes scored, exactly."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One run of N episodes for each seed."""
    batch_size: int = 1
    """Episodes loaded together; changes no digit."""
    workers: int = 0
    """Loader processes; changes no digit."""
    absent_as_zero: bool = False
    """Count a class without episodes as 0, as the published codes do, instead of leaving it out."""

    def __post_init__(self) -> None:
        _one_of("eval.protocol", self.protocol, ("pfenet",))
        _expect(self.episodes >= 1, "eval.episodes", self.episodes, "at least 1")
        _expect(len(self.seeds) >= 1, "eval.seeds", self.seeds, "at least one seed")
        _expect(self.batch_size >= 1, "eval.batch_size", self.batch_size, "at least 1")
        _expect(self.workers >= 0, "eval.workers", self.workers, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run needs; `config.yaml` of a run folder holds exactly this."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dict of a config dataclass, tuples as lists, ready for YAML or JSON."""
    plain = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(cls: type, values: dict[str, Any], where: str = "config") -> Any:
    """Builds `cls` from a plain dict (the inverse of `to_dict`). Raises ValueError for a name that `cls` does not have."""
    known = {item.name: item for item in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"Expected only known names in {where}, but got {', '.join(unknown)}. Known: {', '.join(known)}."
        )
    sections = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "eval": EvalConfig}
    arguments = {}
    for name, value in values.items():
        if cls is Config:
            value = from_dict(sections[name], value or {}, f"{where}.{name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)


def save_config(config: Config, path: str | Path) -> None:
    """Writes `config` as YAML."""
    import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def load_config(path: str | Path) -> Config:
    """Reads a YAML file written by `save_config` or by hand. Raises FileNotFoundError, or ValueError for bad content."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a config file at {path}, but there is none.")
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(
            f"Expected {path} to hold data, model, train and eval sections, but got {type(values).__name__}."
        )
    result: Config = from_dict(Config, values, str(path))
    return result
