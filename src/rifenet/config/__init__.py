"""The program's configuration: frozen dataclasses. The docstring of a field is its `--help`.

`Config(data, model, train, eval)` holds all options of a run. jsonargparse reads YAML files and dotted overrides into
these classes. Each class checks its own values and names the wrong field, so configs built in Python are checked, too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rifenet.config.extras import MissingExtra, needs
from rifenet.config.model import RIVALS, TEST_OPTIONS, ModelConfig, with_test_options
from rifenet.config.network import BACKBONES, GUIDES, NetworkConfig, is_backbone, is_hf
from rifenet.config.options import About, about_option, behaviour, free_options
from rifenet.config.outside import expect_allowed, from_outside, is_outside
from rifenet.config.protocols import AT_MOST, CLASS_DRAWS, NAMED_EPISODES, PROTOCOLS, default_episodes, named_episodes
from rifenet.config.reading import checked, shown
from rifenet.config.recipe import (
    DATASETS,
    FOLDS,
    PARTLY_MARKED,
    PSEUDO_LABELS,
    DataConfig,
    EvalConfig,
    TrainConfig,
    of_fold,
)

__all__ = [
    "AT_MOST",
    "BACKBONES",
    "CLASS_DRAWS",
    "DATASETS",
    "FOLDS",
    "FREE",
    "GUIDES",
    "NAMED_EPISODES",
    "PARTLY_MARKED",
    "PROTOCOLS",
    "PSEUDO_LABELS",
    "RIVALS",
    "SECTIONS",
    "TEST_OPTIONS",
    "About",
    "Config",
    "DataConfig",
    "EvalConfig",
    "MissingExtra",
    "ModelConfig",
    "NetworkConfig",
    "TrainConfig",
    "about_option",
    "behaviour",
    "default_episodes",
    "effective",
    "expect_allowed",
    "from_dict",
    "from_outside",
    "is_backbone",
    "is_hf",
    "is_outside",
    "load_config",
    "named_episodes",
    "needs",
    "of_fold",
    "resolved",
    "save_config",
    "shown",
    "to_dict",
    "with_test_options",
]

SECTIONS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "eval": EvalConfig}
FREE = {name: free_options(section) for name, section in SECTIONS.items()}
"""For each section, the options that do not change what a run computes."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a run; `config.yaml` in a run folder holds exactly these."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def effective(config: Config) -> Config:
    """The configuration that training uses: the fold's own values, and no parts that have no loss.

    A head without a loss would only shrink by weight decay, and would stall data-parallel training. Views without a
    loss would only cost time. Raises ValueError where `train.lr` or `train.batch_size` has no value for the fold.
    """
    model, settings, fold = config.model, config.train, config.data.fold
    settings = dataclasses.replace(
        settings,
        lr=of_fold("train.lr", settings.lr, fold),
        batch_size=of_fold("train.batch_size", settings.batch_size, fold),
    )
    if settings.w_aux == 0:
        model = dataclasses.replace(model, aux=False)
    if settings.beta == 0:
        settings = dataclasses.replace(settings, unlabeled=0)
    if model.kind in RIVALS:
        settings = dataclasses.replace(settings, unlabeled=0)
    if not model.evidence:
        settings = dataclasses.replace(settings, crossed=0.0)
    return dataclasses.replace(config, model=model, train=settings)


def resolved(config: Config) -> Config:
    """The configuration that evaluation uses: `config` with the protocol's defaults for what `eval` leaves open.

    `data` also takes the protocol's image size and area filter, and `eval.dataset` where that is given. Training reads
    `data` unchanged instead. N stays open where it is the number of queries, which only the dataset tells.
    """
    data, rules = config.data, config.eval
    if rules.dataset:
        data = dataclasses.replace(data, dataset=rules.dataset, root=rules.root, list_file="")
    own = PROTOCOLS[rules.protocol]
    size = rules.image_size or own.image_size or data.image_size
    rules = dataclasses.replace(
        rules,
        episodes=rules.episodes or default_episodes(rules.protocol, data.dataset),
        seeds=rules.seeds or own.seeds,
        image_size=size,
    )
    data = dataclasses.replace(data, image_size=size, min_area=data.min_area if own.filters_by_area else 1)
    return dataclasses.replace(config, data=data, eval=rules)


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
    """Builds `cls` from a plain dict, the inverse of `to_dict`.

    Raises ValueError for an unknown name, or for a value whose type does not fit the field.
    """
    arguments = checked(cls, values, where)
    if cls is Config:
        arguments = {name: from_dict(SECTIONS[name], value or {}, f"{where}.{name}") for name, value in values.items()}
    return cls(**arguments)


def save_config(config: Config, path: str | Path) -> None:
    """Writes `config` as YAML."""
    with needs("rifenet[train]"):
        import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def load_config(path: str | Path) -> Config:
    """Reads a YAML file written by `save_config` or by hand. Raises FileNotFoundError or ValueError."""
    with needs("rifenet[train]"):
        import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a config file at {path}, but there is none.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error).replace("\n", " ")
        raise ValueError(f"Expected {path} to be YAML, but it cannot be read: {reason}.") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"Expected {path} to hold data, model, train and eval sections, but got {type(values).__name__}."
        )
    result: Config = from_dict(Config, values, str(path))
    return result
