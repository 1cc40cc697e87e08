"""What the options say of themselves: which change nothing that is computed, and which are read with which."""

from __future__ import annotations

import dataclasses

from rifenet.config import FREE, SECTIONS, about_option


def test_free_options_are_these() -> None:
    assert {
        "data": {"root", "workers", "cache_dir"},
        "model": set(),
        "train": {
            *("out", "log_every", "save_every", "device", "devices", "threads", "tensorboard", "wandb"),
            *("checkpoint_activations", "compile"),
        },
        "eval": {"root", "batch_size", "workers", "some_classes"},
    } == FREE


def test_options_are_read_with_these() -> None:
    read_with = {
        f"{name}.{option.name}": about_option(option).read_with
        for name, section in SECTIONS.items()
        for option in dataclasses.fields(section)
        if about_option(option).read_with
    }
    assert read_with == {
        "data.unlabeled_source": ("train.unlabeled",),
        "data.cache_views": ("data.cache_dir",),
        "data.cache_strong": ("data.cache_dir",),
        "model.guide": ("train.unlabeled", "model.use_local"),
        "train.beta": ("train.unlabeled",),
        "train.w_aux": ("model.aux",),
        "train.pseudo_labels": ("train.unlabeled",),
        "train.hard_labels": ("train.unlabeled",),
        "train.confidence": ("train.unlabeled",),
    }


def test_a_run_depends_on_whether_there_is_a_cache_and_not_on_where() -> None:
    told = [
        f"{name}.{option.name}"
        for name, section in SECTIONS.items()
        for option in dataclasses.fields(section)
        if about_option(option).whether
    ]
    assert told == ["data.cache_dir"]
