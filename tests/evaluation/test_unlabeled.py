"""Episodes with unlabeled images: what they are, and that they teach as a slow reference says, and only by pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import COLOURS, NOVEL, ColourModel, mixed_scenes, write_dataset
from evaluation.test_protocol import figures, threads
from numpy.typing import NDArray
from PIL import Image

from rifenet.cli.main import main
from rifenet.config import Config, DataConfig, EvalConfig
from rifenet.data.index import ImageIndex, ImageRecord
from rifenet.data.sampling import Episode, evaluation_episodes
from rifenet.data.sources import open_dataset
from rifenet.evaluation.lists import read_episodes, write_episodes
from rifenet.evaluation.protocol import drawn_episodes, evaluate, score_episodes
from rifenet.evaluation.result_file import compare_results, read_result
from rifenet.evaluation.settings import setting_sentence, setting_title
from rifenet.evaluation.strips import strip_sections
from rifenet.models import build_model
from rifenet.models.files.checkpoint import save_model


def config(*, shots: int = 1, **rules: Any) -> Config:
    data = DataConfig(dataset="custom", fold=0, shots=shots, image_size=64, min_area=100)
    return Config(data=data, eval=EvalConfig(**{"episodes": 20, "seeds": (0, 1), "unlabeled": 4, **rules}))


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    """Squares of three classes in shades: from one shade a model finds only those near it. Leaves: 8; lemons: 3."""
    root = write_dataset(tmp_path / "shades", {name: scene for name, scene in mixed_scenes().items() if "plum" in name})
    rng = np.random.default_rng(1)  # no colour lies on the model's threshold
    for class_id, name, count in ((2, "leaf", 8), (4, "lemon", 3), (5, "heather", 6)):
        for number in range(count):
            image = np.broadcast_to(COLOURS[0], (48 + 4 * number, 64, 3)).copy()
            mask = np.zeros(image.shape[:2], np.uint8)
            top, left = rng.integers(0, 20, 2)
            area = np.s_[top : top + 20, left : left + 20]
            image[area] = np.clip(COLOURS[class_id].astype(int) + rng.integers(-50, 51, 3), 0, 255)
            mask[area] = class_id
            Image.fromarray(image).save(root / "images" / f"{name}{number}.png")
            Image.fromarray(mask).save(root / "masks" / f"{name}{number}.png")
    return open_dataset("custom", root, progress=False)


def drawn(index: ImageIndex, unlabeled: int, shots: int = 1) -> list[Episode]:
    options: dict[str, Any] = {"shots": shots, "seed": 3, "episodes": 40, "min_area": 100}
    return evaluation_episodes(index, NOVEL, unlabeled=unlabeled, **options)


@pytest.mark.parametrize("shots", [1, 2])
def test_unlabeled_images_are_others_of_the_class_and_change_nothing_else(index: ImageIndex, shots: int) -> None:
    plain, episodes, more = (drawn(index, unlabeled, shots) for unlabeled in (0, 4, 5))
    for before, episode, larger in zip(plain, episodes, more, strict=True):
        assert (episode.class_id, episode.query, episode.supports) == (before.class_id, before.query, before.supports)
        images = (episode.query, *episode.supports, *episode.unlabeled)
        assert len(set(images)) == len(images)
        assert all(episode.class_id in index.records[image].areas for image in images)
        left = len(index.images_of(episode.class_id, 100)) - 1 - shots
        assert len(episode.unlabeled) == min(4, left)
        assert larger.unlabeled[: len(episode.unlabeled)] == episode.unlabeled
    assert len({len(episode.unlabeled) for episode in episodes}) > 1  # lemons are few
    assert episodes == drawn(index, 4, shots)


def reference(index: ImageIndex, episode: Episode) -> list[list[int]]:
    """The counts of one episode whose images need no resizing, by loops over pixels."""

    def picture(image: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        record = index.records[image]
        with Image.open(record.image_path) as opened:
            pixels = np.asarray(opened.convert("RGB")) / 255
        return pixels, record.mask()

    def found(pixels: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
        return 30 * (0.2 - np.abs(pixels - colour).max(-1))

    shots = []  # each a list of foreground pixels: the model's mean weighs all of them alike
    for image in episode.supports:
        pixels, mask = picture(image)
        shots.append(pixels[mask == episode.class_id])
    colour = np.concatenate(shots).mean(0)
    ranked = []
    for place, image in enumerate(episode.unlabeled):
        pixels, _ = picture(image)
        scores = 1 / (1 + np.exp(-found(pixels, colour)))
        sure = pixels[scores >= 0.7]
        if len(sure):
            ranked.append((float((scores**2).sum() / scores.sum()), -place, sure))
    ranked.sort(key=lambda each: each[:2], reverse=True)
    colour = np.concatenate([*shots, *(sure for _, _, sure in ranked[:3])]).mean(0)
    pixels, mask = picture(episode.query)
    predicted, truth = found(pixels, colour) > 0, mask == episode.class_id
    return [
        [int((~predicted & ~truth).sum()), int((~predicted | ~truth).sum())],
        [int((predicted & truth).sum()), int((predicted | truth).sum())],
    ]


def same_size(index: ImageIndex) -> ImageIndex:
    """Only images of 64 x 64 or lower: padding is all that the network's input adds."""
    return index.with_records(record for record in index.records if record.height <= 64)


@pytest.mark.parametrize("shots", [1, 2])
def test_counts_are_those_of_the_reference(index: ImageIndex, shots: int) -> None:
    index = same_size(index)
    episodes = drawn(index, 4, shots)
    counts = score_episodes(ColourModel(), index, episodes, 64)
    expected = [reference(index, episode) for episode in episodes]
    assert counts.tolist() == expected
    plain = score_episodes(ColourModel(), index, drawn(index, 0, shots), 64)
    assert (counts != plain).any()
    assert plain.tolist() == [reference(index, episode) for episode in drawn(index, 0, shots)]


def test_batches_and_threads_change_no_digit(index: ImageIndex) -> None:
    results = []
    for batch_size, count in ((1, 1), (3, 1), (4, 2)):
        with threads(count):
            results.append(figures(evaluate(ColourModel(), index, config(batch_size=batch_size))))
    assert results[0] == results[1] == results[2]


def test_masks_of_unlabeled_images_are_never_read(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    real = ImageRecord.mask
    monkeypatch.setattr(ImageRecord, "mask", lambda record: read.add(record.name) or real(record))
    query, support, *others = index.images_of(2, 100)
    episode = Episode(2, query, (support,), tuple(others[:3]))
    score_episodes(ColourModel(), index, [episode], 64)
    assert read == {index.records[query].name, index.records[support].name}


def test_each_image_is_encoded_once_for_all_episodes(index: ImageIndex) -> None:
    model, episodes = ColourModel(), drawn(index, 4)
    with threads(1):
        score_episodes(model, index, episodes, 64)
    queries = len({episode.query for episode in episodes})
    assert model.queries == queries + len({image for episode in episodes for image in episode.unlabeled})


def test_the_result_says_so_and_stands_apart(index: ImageIndex) -> None:
    plain, taught = (evaluate(ColourModel(), index, config(unlabeled=count)) for count in (0, 4))
    assert "unlabeled" not in plain["protocol"]
    assert taught["protocol"]["unlabeled"] == 4
    assert taught["config"]["eval"]["unlabeled"] == 4
    assert setting_title(taught).endswith("1-shot and 4 unlabeled")
    assert "; 4 photos of the class drawn by (seed, position)" in setting_sentence(taught)
    assert "unlabeled" not in setting_sentence(plain)
    with pytest.raises(ValueError, match="episodes_hash differs"):
        compare_results(taught, plain)


def test_a_list_brings_its_own(index: ImageIndex, tmp_path: Path) -> None:
    own = config()
    write_episodes(tmp_path / "list.json", index, own, drawn_episodes(index, own))
    listed = read_episodes(tmp_path / "list.json", index)
    assert listed.unlabeled == 4
    first = evaluate(ColourModel(), index, own)
    second = evaluate(ColourModel(), index, config(unlabeled=0), listed=listed)
    assert figures(first) == figures(second)
    text = (tmp_path / "list.json").read_text()
    query = index.records[listed.runs[0][0].query].name
    unlabeled = index.records[listed.runs[0][0].unlabeled[0]].name
    (tmp_path / "list.json").write_text(text.replace(f'"{unlabeled}"', f'"{query}"', 1))
    with pytest.raises(ValueError, match="different images as query, supports and unlabeled"):
        read_episodes(tmp_path / "list.json", index)


def test_strips_are_of_what_was_scored(index: ImageIndex, tmp_path: Path) -> None:
    index = same_size(index)
    result = evaluate(ColourModel(), index, config(seeds=(0,)))
    lines = strip_sections(ColourModel().eval(), index, result, "x", tmp_path / "pictures", tmp_path)
    assert len([line for line in lines if line.startswith("![")]) == 3
    plain = evaluate(ColourModel(), index, config(seeds=(0,), unlabeled=0))
    wrong = {**plain, "protocol": result["protocol"], "episodes_hash": result["episodes_hash"]}
    with pytest.raises(ValueError, match="as recorded for"):
        strip_sections(ColourModel().eval(), index, wrong, "x", tmp_path / "pictures", tmp_path)


def test_where_nothing_is_sure_the_supports_alone_teach(index: ImageIndex) -> None:
    class Unsure(ColourModel):
        def decode(self, features: torch.Tensor, context: Any) -> torch.Tensor:
            return super().decode(features, context) / 30

    taught, plain = (score_episodes(Unsure(), index, drawn(index, unlabeled), 64) for unlabeled in (4, 0))
    assert (taught == plain).all()


def test_what_is_refused(index: ImageIndex) -> None:
    with pytest.raises(ValueError, match=r"eval\.unlabeled to be 0 or more, but got -1"):
        EvalConfig(unlabeled=-1)
    with pytest.raises(ValueError, match=r"eval\.unlabeled only with eval\.protocol pfenet"):
        EvalConfig(protocol="hsnet", unlabeled=2)


def test_the_command(index: ImageIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(4)
    model = build_model(backbone="resnet18", width=0.25, pretrained=False, embed_dim=32, tokens_per_label=20)
    save_model(model, tmp_path / "model.safetensors", {"name": "small", "image_size": 65}, with_backbone=True)
    words = ["evaluate", "--model", str(tmp_path / "model.safetensors"), "--dataset", "custom", "--root"]
    words += [str(index.root), "--episodes", "3", "--some-classes", "--seeds", "0", "--min-area", "100"]
    assert main([*words, "--unlabeled", "2", "--out", str(tmp_path / "result.json")]) == 0
    assert "1-shot and 2 unlabeled" in capsys.readouterr().out
    assert read_result(tmp_path / "result.json")["protocol"]["unlabeled"] == 2
    assert main([*words[:-2], "--protocol", "hsnet", "--unlabeled", "2"]) == 2
    assert "--unlabeled belong to --protocol pfenet" in capsys.readouterr().err
