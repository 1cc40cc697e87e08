"""FSS-1000's layout: 1,000 classes whose masks are white on black, parted by lists of names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import ColourModel
from PIL import Image
from rendered import make_fss, render
from torch import Tensor

from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.episodes import EpisodePool, EvaluationEpisodes, evaluation_episodes
from rifenet.data.index import ImageIndex
from rifenet.data.sources import open_dataset
from rifenet.evaluation.protocol import evaluate
from rifenet.evaluation.settings import setting_title

LISTS = {"train": ["zebra", "ab_wheel", "yes"], "val": ["10"], "test": ["no", "cup"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_fss(tmp_path / "fewshot_data", LISTS)


def opened(root: Path, **options: str) -> ImageIndex:
    return open_dataset("fss1000", root, progress=False, **options)


def test_lists_part_the_classes(root: Path) -> None:
    train, val = opened(root), opened(root, part="val")
    assert train.class_names == val.class_names == ("zebra", "ab_wheel", "yes", "10", "no", "cup")
    assert train.folds == val.folds == ((5, 6), (4,))
    for fold in (0, 1):
        assert train.base_classes(fold) == (1, 2, 3)  # those of the other list are no base classes
    assert {class_id for record in train.records for class_id in record.areas} == {1, 2, 3}
    assert {class_id for record in val.records for class_id in record.areas} == {4, 5, 6}
    assert [record.name for record in val.records][:4] == ["10/1", "10/2", "10/3", "no/1"]
    assert not train.bad_files
    assert not val.bad_files


def test_masks_are_white_on_black(root: Path) -> None:
    """The rendered edge is grey 100, under the half."""
    for record in opened(root).records:
        (class_id,) = record.palette
        rendered = render((class_id,), int(record.name.split("/")[1]), width=96, height=96)[1]
        np.testing.assert_array_equal(record.mask(), rendered == class_id)
        assert record.areas == {class_id: (rendered == class_id).sum()}


def test_images_are_in_the_order_of_their_numbers(root: Path) -> None:
    for number in (10, 11):
        for suffix in ("jpg", "png"):
            (root / "zebra" / f"{number}.{suffix}").write_bytes((root / "zebra" / f"1.{suffix}").read_bytes())
    names = [record.name for record in opened(root).records if record.name.startswith("zebra")]
    assert names == [f"zebra/{number}" for number in (1, 2, 3, 10, 11)]


def test_a_thousand_classes(tmp_path: Path) -> None:
    """Ids over 255 reach episodes: fold 0 tests classes 296 to 300."""
    names = [f"thing {number}" for number in range(300)]
    root = make_fss(tmp_path, {"train": names[:290], "val": names[290:295], "test": names[295:]}, per_class=2, size=48)
    index = opened(root, part="val")
    novel = index.novel_classes(0)
    assert novel == (296, 297, 298, 299, 300)
    episodes = evaluation_episodes(index, novel, shots=1, seed=0, episodes=10, min_area=1)
    loaded = EvaluationEpisodes(index, episodes, 32)
    for number, episode in enumerate(episodes):
        record = index.records[episode.query]
        assert record.name.startswith(f"{names[episode.class_id - 1]}/")
        assert (loaded[number]["query_mask_original"] == 1).sum() == record.areas[episode.class_id] > 100
        assert set(np.unique(loaded[number]["query_mask_original"])) == {0, 1}
    pool = EpisodePool(opened(root), index.base_classes(0), shots=1, min_area=1)
    assert len(pool.classes) == 290
    assert not pool.left_out


def test_bad_files_are_named(root: Path) -> None:
    (root / "zebra" / "1.png").unlink()
    (root / "zebra" / "2.jpg").write_bytes(b"text")
    Image.new("RGB", (96, 96), (1, 1, 1)).save(root / "yes" / "1.png")
    Image.new("RGB", (20, 20), (255, 255, 255)).save(root / "yes" / "2.png")
    (root / "left").mkdir()
    for path in (root / "ab_wheel").iterdir():
        path.unlink()
    index = opened(root)
    found = dict(index.bad_files)
    for name, sentence in {
        "zebra/1": "no such file",
        "zebra/2": "cannot read",
        "yes/1": "dark everywhere",
        "yes/2": "the mask 20 x 20",
        "left": "no list has it",
        "ab_wheel": "there are none",
    }.items():
        assert sentence in found.pop(name)
    assert not found
    assert [record.name for record in index.records] == ["zebra/3", "yes/3"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "one of them has none"),
        ("[train]\na\n[val]\nb\n", "one of them has none"),
        ("a\n[train]\n", "got 'a'"),
        ("[train]\na\n[tests]\nb\n", r"got '\[tests\]'"),
        ("[train]\na\n[test]\nb\na\n", "but they repeat a"),
    ],
)
def test_bad_lists(text: str, complaint: str, root: Path) -> None:
    (root / "splits.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"splits\.txt.*{complaint}"):
        opened(root)


def test_lists_elsewhere_and_nowhere(root: Path, tmp_path: Path) -> None:
    elsewhere = (root / "splits.txt").rename(tmp_path / "published.txt")
    with pytest.raises(FileNotFoundError, match=r"splits\.txt.*\[train\], \[val\] and \[test\]"):
        opened(root)
    assert len(opened(root, list_file=str(elsewhere))) == 9


class Guess(ColourModel):
    """Says foreground everywhere: what counts here is which episodes are scored."""

    def decode(self, features: Tensor, context: Any) -> Tensor:
        ones = torch.ones_like(features[:, :1])
        return torch.cat([-ones, ones], 1)


def score(root: Path, protocol: str, **rules: Any) -> dict[str, Any]:
    data = DataConfig(dataset="fss1000", root=str(root), image_size=32, min_area=50)
    config = Config(data=data, eval=EvalConfig(protocol=protocol, image_size=32, seeds=(0,), **rules))
    return evaluate(Guess(), opened(root, part="val"), config)


@pytest.mark.parametrize("protocol", ["pfenet", "hsnet"])
@pytest.mark.parametrize(
    ("classes", "images"), [(5, 3), pytest.param(240, 10, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_n_is_the_number_of_queries_and_every_class_is_scored(
    tmp_path: Path, protocol: str, classes: int, images: int
) -> None:
    names = [f"thing {number}" for number in range(classes)]
    root = make_fss(tmp_path / "fss", {"train": ["zebra"], "test": names}, per_class=images, size=32)
    result = score(root, protocol)
    assert result["episodes"] == classes * images
    assert result["absent_classes"] == []
    assert [row["episodes"] for row in result["per_class"]] == [[images]] * classes
    assert [row["queries"] for row in result["per_class"]] == [images] * classes  # each image once
    some = images * (classes - 2)
    left_out = (
        f"{some:,} leave out 2: thing {classes - 2}, thing {classes - 1}. The fold has {classes * images:,} queries"
    )
    with pytest.raises(ValueError, match=re.escape(left_out)):
        score(root, protocol, episodes=some)
    with pytest.warns(UserWarning, match="No episode of"):
        partial = score(root, protocol, episodes=some, partial=True)
    assert setting_title(partial).endswith(f", without 2 of {classes} classes")
