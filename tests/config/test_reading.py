"""What files say is checked by type, so that a wrong value is named where it stands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rifenet.config import Config, DataConfig, ModelConfig, TrainConfig, from_dict, load_config, to_dict
from rifenet.files import expect_writable, parse_json


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (TrainConfig, {"steps": "5"}, "f: steps to be a whole number, but got '5'"),
        (TrainConfig, {"steps": 5.0}, "f: steps to be a whole number, but got 5.0"),
        (TrainConfig, {"steps": True}, "f: steps to be a whole number, but got True"),
        (TrainConfig, {"steps": 10**12}, "f: steps to be a whole number, but got 1000000000000"),
        (TrainConfig, {"weight_decay": math.nan}, "f: weight_decay to be a number, but got nan"),
        (TrainConfig, {"lr": math.nan}, "f: lr to be a number or a list, each a number, but got nan"),
        (TrainConfig, {"weight_decay": [0.1]}, "f: weight_decay to be a number, but got list"),
        (TrainConfig, {"lr": ["0.1"]}, "f: lr to be a number or a list, each a number, but got list"),
        (TrainConfig, {"mixed_shots": 1}, "f: mixed_shots to be true or false, but got 1"),
        (DataConfig, {"root": None}, "f: root to be a text, but got None"),
        (DataConfig, {"seed": "x"}, "f: seed to be a whole number or null, but got 'x'"),
        (ModelConfig, {"high": [5, "7"]}, "f: high to be a list, each a whole number, but got list"),
        (ModelConfig, {"high": 5}, "f: high to be a list, each a whole number, but got 5"),
        (ModelConfig, {"backbone": "x" * 100}, r"one of .* but got 'x"),
        (Config, {"data": 3}, "f.data to hold names and values, but got 3"),
        (Config, {"date": {}}, "Expected only known names in f, but got date"),
        (Config, [], "f to hold names and values, but got list"),
    ],
)
def test_a_wrong_value_is_named(cls: type, values: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_dict(cls, values, "f")


def test_right_values_come_back() -> None:
    config = Config(
        data=DataConfig(seed=3, scale_min=1.0), model=ModelConfig(high=(5, 7)), train=TrainConfig(lr=1e-3, steps=7)
    )
    again = from_dict(Config, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert type(from_dict(TrainConfig, {"lr": 1}).lr) is float


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "cannot be read"),
        ("a: !!python/object:os.system x", "cannot be read"),
        ("[" * 3000, "cannot be read"),
        ("- 1", "sections, but got list"),
        ("train: {steps: '5'}", "steps to be a whole number"),
    ],
)
def test_yaml_that_is_no_config(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe\x00"])
def test_json_that_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="Expected here to be JSON"):
        parse_json(text, "here")


def test_numbers_that_json_does_not_have_are_null() -> None:
    assert parse_json('{"a": NaN, "b": [-Infinity, 1]}', "here") == {"a": None, "b": [None, 1]}


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    expect_writable(tmp_path / "new" / "file.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Expected to be able to write .*file/x\.json"):
        expect_writable(tmp_path / "file" / "x.json")
    with pytest.raises(OSError, match="Is a directory"):
        expect_writable(tmp_path / "new")
