"""Episode lists as files: what one program writes another is scored on, and what is no such list is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.scenes import ColourModel, mixed_scenes, open_scenes, write_dataset
from evaluation.test_protocol import figures

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.index import ImageIndex
from rifenet.evaluation.lists import EpisodeList, read_episodes, write_episodes
from rifenet.evaluation.protocol import drawn_episodes, evaluate, settled
from rifenet.evaluation.settings import setting_sentence


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageIndex:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    return open_scenes(write_dataset(tmp_path / "scenes", mixed_scenes()))


def config(protocol: str = "pfenet", *, shots: int = 2, fold: int = 0, **rules: Any) -> Config:
    data = DataConfig(dataset="custom", shots=shots, image_size=64, min_area=100, fold=fold)
    rules = {"episodes": 20, "seeds": (3, 5), "image_size": 64, **rules}
    return Config(data=data, eval=EvalConfig(protocol=protocol, **rules))


@pytest.fixture
def file(tmp_path: Path, index: ImageIndex) -> Path:
    path = tmp_path / "lists" / "episodes.json"
    write_episodes(path, index, config(), drawn_episodes(index, config()))
    return path


def test_a_list_comes_back_whole_on_any_index_of_the_images(index: ImageIndex, file: Path) -> None:
    found = read_episodes(file, index)
    assert found == EpisodeList("episodes.json", (3, 5), drawn_episodes(index, config()))
    assert found.shots == 2
    backwards = index.with_records(reversed(index.records))
    again = read_episodes(file, backwards)
    for here, there in zip(found.runs[1], again.runs[1], strict=True):
        names = [index.records[image].name for image in (here.query, *here.supports)]
        assert names == [backwards.records[image].name for image in (there.query, *there.supports)]
    assert [path.name for path in file.parent.iterdir()] == ["episodes.json"]


def test_the_file_says_what_another_program_needs(index: ImageIndex, file: Path) -> None:
    content = json.loads(file.read_text())
    assert {name: content[name] for name in ("protocol", "fold", "shots", "seeds", "format")} == {
        "protocol": "pfenet", "fold": 0, "shots": 2, "seeds": [3, 5], "format": 1
    }  # fmt: skip
    assert len(content["episodes"]) == 40
    first = drawn_episodes(index, config())[0][0]
    assert content["episodes"][0] == {
        "class": index.class_name(first.class_id),
        "query": index.records[first.query].name,
        "supports": [index.records[image].name for image in first.supports],
        "unlabeled": [],
    }


@pytest.mark.parametrize("protocol", ["pfenet", "hsnet"])
def test_a_list_of_the_protocols_own_episodes_gives_its_own_result(
    index: ImageIndex, tmp_path: Path, protocol: str
) -> None:
    rules = config(protocol)
    own = evaluate(ColourModel(), index, rules)
    write_episodes(tmp_path / "own.json", index, rules, drawn_episodes(index, settled(rules, index)))
    listed = read_episodes(tmp_path / "own.json", index)
    # Shots, seeds and N are the list's, whatever the config says.
    again = evaluate(ColourModel(), index, config(protocol, shots=1, seeds=(0,), episodes=9), listed=listed)
    assert figures(again) == figures(own)
    assert again["protocol"] == own["protocol"]
    assert (again["shots"], again["seeds"], again["episodes"]) == (2, [3, 5], 20)
    assert again["config"]["eval"]["seeds"] == [3, 5]


def test_other_episodes_are_named_in_the_record(index: ImageIndex, file: Path) -> None:
    content = json.loads(file.read_text())
    del content["seeds"]
    content["episodes"] = content["episodes"][::-1][:7]
    file.write_text(json.dumps(content))
    listed = read_episodes(file, index)
    assert (listed.seeds, [len(run) for run in listed.runs]) == ((0,), [7])
    result = evaluate(ColourModel(), index, config(), listed=listed)
    assert result["protocol"]["episode_list"] == "episodes.json"
    assert result["protocol"]["query_order"] == result["protocol"]["min_area_of"] == "as listed"
    assert "those of `episodes.json`" in setting_sentence(result)
    assert "classes of at least" not in setting_sentence(result)  # no filter was applied to them
    assert sum(row["episodes"][0] for row in result["per_class"]) == 7
    assert str(file.parent) not in json.dumps(result)


def test_a_list_of_classes_that_are_not_novel_is_refused(index: ImageIndex, file: Path) -> None:
    with pytest.raises(ValueError, match=r"novel classes of fold 1 \(apple, plum\), but episodes.json has others"):
        evaluate(ColourModel(), index, config(fold=1), listed=read_episodes(file, index))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "Expected an episode list of format 1"),
        ({"seeds": [1, 2, 3]}, r"same number of episodes for each of the 3 seeds in .*, but got 40 in all"),
        ({"seeds": "0"}, "seeds in .* to be a list of whole numbers, but got '0'"),
        ({"seeds": []}, "whole numbers"),
        ({"episodes": []}, "but got 0 in all"),
        ({"query": "nobody"}, "'nobody' is missing"),
        ({"class": "melon"}, "'melon'. Known: apple"),
        ({"supports": ["leaf0"]}, "same number of supports, at least one, but episode 1 of .* has 1"),
        ({"supports": ["leaf0", "leaf0"]}, "episode 1 of .* repeats one"),
        ({"query": "leaf1", "supports": ["leaf1", "leaf0"]}, "episode 1 of .* repeats one"),
        ({"class": "plum"}, "Expected plum in each image of episode 1 of .* does not show it"),
    ],
)
def test_what_breaks_a_rule_is_refused_in_a_sentence_that_names_the_file(
    index: ImageIndex, file: Path, change: dict[str, Any], sentence: str
) -> None:
    content = json.loads(file.read_text())
    content["episodes"][1] |= {"class": "leaf", "query": "leaf2", "supports": ["leaf3", "leaf0"]}
    file.write_text(json.dumps(content))
    read_episodes(file, index)
    top = {name: value for name, value in change.items() if name in content}
    content["episodes"][1] |= {name: value for name, value in change.items() if name not in content}
    file.write_text(json.dumps({**content, **top}))
    with pytest.raises(ValueError, match=sentence) as caught:
        read_episodes(file, index)
    assert "episodes.json" in str(caught.value)


def test_a_class_that_covers_no_pixel_is_not_shown(index: ImageIndex, file: Path) -> None:
    # As COCO's smallest outlines: the class is annotated, and no pixel is drawn.
    content = json.loads(file.read_text())["episodes"][0]
    number = next(number for number, record in enumerate(index.records) if record.name == content["supports"][0])
    record = index.records[number]
    class_id = index.class_names.index(content["class"]) + 1
    emptied = dataclasses.replace(record, areas={**record.areas, class_id: 0})
    changed = dataclasses.replace(index, records=(*index.records[:number], emptied, *index.records[number + 1 :]))
    with pytest.raises(ValueError, match=f"but {record.name} does not show it"):
        read_episodes(file, changed)


def test_no_file_and_no_text(index: ImageIndex, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected an episode list at .*none\.json"):
        read_episodes(tmp_path / "none.json", index)
    (tmp_path / "photo.json").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(ValueError, match="Expected an episode list of format 1"):
        read_episodes(tmp_path / "photo.json", index)
