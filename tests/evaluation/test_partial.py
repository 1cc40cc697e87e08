"""An evaluation that is killed goes on with the same digits; images that cannot be read stop it or are left out."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation.scenes import ColourModel, mixed_scenes, open_scenes, write_dataset
from evaluation.test_protocol import config, figures, threads
from lightning_fabric import Fabric

from rifenet.cli.main import main
from rifenet.data.index import ImageIndex
from rifenet.evaluation.partial import Journal, discard_partial, partial_path
from rifenet.evaluation.protocol import evaluate
from rifenet.evaluation.result_file import compare_results, unpack_counts
from rifenet.models import build_model
from rifenet.models.files.checkpoint import save_model

SHOTS = 2


TORN = "[12, 34, 5"  # what a kill in the middle of a line leaves


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line != TORN]


def scored(path: Path) -> list[int]:
    """Positions of the episodes in a partial result, in the order in which they were scored."""
    return [line[0] for line in lines(path) if isinstance(line, list)]


def evaluate_until_killed(index: ImageIndex, path: Path, after: int) -> int:
    """Evaluates in a process of its own, which dies without a word after that many episodes; its exit status."""
    child = os.fork()
    if child == 0:
        done = 0

        def dying(count: int) -> None:
            nonlocal done
            done += count
            if done >= after + known:
                os.kill(os.getpid(), signal.SIGKILL)

        known = len(set(scored(path))) if path.is_file() else 0
        with threads(1):
            evaluate(ColourModel(), index, config(shots=SHOTS), progress=dying, journal=Journal(path))
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="Starts the processes that die by fork.")
def test_killed_five_times_it_gives_the_digits_of_one_run(index: ImageIndex, tmp_path: Path) -> None:
    whole = evaluate(ColourModel(), index, config(shots=SHOTS))
    path = partial_path(tmp_path / "result.json")
    for kill in range(1, 6):
        assert evaluate_until_killed(index, path, 7) == signal.SIGKILL
        assert len(scored(path)) == 7 * kill, "nothing is scored twice"
        with path.open("a") as file:
            file.write(TORN)
    model, done = ColourModel(), []
    resumed = evaluate(model, index, config(shots=SHOTS), progress=done.append, journal=Journal(path))
    assert figures(resumed) == figures(whole)
    assert done[0] == 35
    assert sum(done) == 60
    assert 0 < model.queries < 28, "what was scored is not scored again"
    assert sorted(scored(path)) == list(range(60))
    starts = [line["facts"] for line in lines(path) if isinstance(line, dict)]
    assert len(starts) == 6
    assert all(start == starts[0] for start in starts)
    discard_partial(tmp_path / "result.json")
    assert not path.exists()


def test_seconds_are_those_of_all_starts(index: ImageIndex, tmp_path: Path) -> None:
    path = tmp_path / "result.json.partial"
    journal = Journal(path)
    evaluate(ColourModel(), index, config(), journal=journal)
    text = [line for line in path.read_text().splitlines() if not line.startswith("[")]
    rows = [line for line in lines(path) if isinstance(line, list)]
    rows[29][5], rows[-1][5] = 1000.0, 2000.0
    path.write_text("\n".join([text[0], *map(json.dumps, rows[:30]), text[0], *map(json.dumps, rows[30:])]) + "\n")
    result = evaluate(ColourModel(), index, config(), journal=Journal(path))
    assert 3000 <= result["seconds"] < 3010
    assert result["episodes_per_second"] == pytest.approx(60 / result["seconds"], rel=0.01)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shots": 2}, "list of episodes"),
        ({"image_size": 97}, "image_size"),
        ({"absent_as_zero": True}, "absent_as_zero"),
    ],
)
def test_a_part_of_another_evaluation_is_refused(
    index: ImageIndex, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    path = tmp_path / "result.json.partial"
    evaluate(ColourModel(), index, config(), journal=Journal(path))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"hold a part of this evaluation, but .*{named} was .*another --out"):
        evaluate(ColourModel(), index, config(**change), journal=Journal(path))
    assert path.read_bytes() == before


def test_another_model_or_another_file_is_refused(index: ImageIndex, tmp_path: Path) -> None:
    path, model, other = tmp_path / "result.json.partial", ColourModel(), ColourModel()
    model.hash, other.hash = "one", "two"
    evaluate(model, index, config(), journal=Journal(path))
    with pytest.raises(ValueError, match="checkpoint_hash was 'one' and is 'two'"):
        evaluate(other, index, config(), journal=Journal(path))
    path.write_text("my notes\n")
    with pytest.raises(ValueError, match="partial result, but it is none"):
        evaluate(model, index, config(), journal=Journal(path))


@pytest.mark.skipif(sys.platform != "linux", reason="Starts its second rank by fork.")
def test_ranks_keep_their_own_files_and_go_on_together(index: ImageIndex, tmp_path: Path) -> None:
    whole = evaluate(ColourModel(), index, config())
    path = tmp_path / "result.json.partial"
    evaluate(ColourModel(), index, config(), journal=Journal(path))
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:18]) + "\n")  # 17 of 60 episodes
    (tmp_path / "result.json.partial.1").write_text("\n".join([rows[0], *rows[30:35]]) + "\n")  # 5 more

    def run(fabric: Fabric) -> tuple[dict[str, Any], int]:
        model = ColourModel()
        return evaluate(model, index, config(), fabric=fabric, journal=Journal(path)), model.queries

    together, _ = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(run)
    assert figures(together) == figures(whole)
    own = [scored(path), scored(tmp_path / "result.json.partial.1")]
    assert sorted(own[0] + own[1]) == list(range(60)), "each episode once, on one rank"
    assert min(map(len, own)) > 17


@pytest.fixture
def gone(tmp_path: Path) -> tuple[ImageIndex, Path]:
    """A dataset from which a photo goes after it was scanned; the photo."""
    index = open_scenes(write_dataset(tmp_path / "gone", mixed_scenes()))
    photo = tmp_path / "gone" / "images" / "lemon1.png"
    photo.rename(photo.with_suffix(".away"))
    return index, photo


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_gone_stops_the_evaluation_which_then_goes_on(
    gone: tuple[ImageIndex, Path], tmp_path: Path, workers: int
) -> None:
    index, photo = gone
    path = tmp_path / "result.json.partial"
    with (
        threads(1),
        pytest.raises(ValueError, match=r"lemon1\.png.* kept in .*result\.json\.partial.*--on-error skip") as error,
    ):
        evaluate(ColourModel(), index, config(workers=workers), journal=Journal(path))
    assert "Traceback" not in str(error.value)
    before = scored(path)
    assert before
    photo.with_suffix(".away").rename(photo)
    result = evaluate(ColourModel(), index, config(workers=workers), journal=Journal(path))
    assert len(scored(path)) == 60
    assert result["skipped"] == []
    assert figures(result) == figures(evaluate(ColourModel(), index, config()))


def test_skipped_episodes_are_counted_and_named_and_in_no_figure(gone: tuple[ImageIndex, Path], tmp_path: Path) -> None:
    index, photo = gone
    with pytest.warns(UserWarning, match=r"episodes are in no figure.*lemon1\.png"):
        result = evaluate(ColourModel(), index, config(shots=SHOTS), journal=Journal(skip=True))
    photo.with_suffix(".away").rename(photo)
    whole = evaluate(ColourModel(), index, config(shots=SHOTS))
    kept, counts = unpack_counts(result).scored, unpack_counts(whole).counts
    assert (unpack_counts(result).counts[kept] == counts[kept]).all()
    left_out = {(row["seed"], row["episode"]) for row in result["skipped"]}
    assert left_out == {(seed, episode) for seed in (0, 1) for episode in range(30) if not kept[seed, episode]}
    assert {row["class"] for row in result["skipped"]} == {"lemon"}
    assert "lemon1" in {row["query"] for row in result["skipped"]}, "as a query"
    assert {row["query"] for row in result["skipped"]} != {"lemon1"}, "and as a support"
    assert all("lemon1.png" in row["reason"] for row in result["skipped"])
    for row, other in zip(result["per_class"], whole["per_class"], strict=True):
        lost = [
            sum(each["class"] == row["name"] and each["seed"] == seed for each in result["skipped"]) for seed in (0, 1)
        ]
        assert [a + b for a, b in zip(row["episodes"], lost, strict=True)] == other["episodes"]
    lemon = result["per_class"][1]
    assert lemon["queries"] == whole["per_class"][1]["queries"] - 1
    with pytest.raises(ValueError, match="skipped episodes that the other has"):
        compare_results(result, whole)


def test_the_command_skips_when_told_and_says_how_many(
    gone: tuple[ImageIndex, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photo goes between the scan and the evaluation, as on a disk that others use."""
    index, _ = gone
    monkeypatch.setattr("rifenet.data.sources.open_dataset", lambda *_, **__: index)
    model = build_model(kind="prototype", backbone="resnet18", width=0.125, pretrained=False)
    file = tmp_path / "model.safetensors"
    save_model(model, file, {"name": "small", "image_size": 65}, with_backbone=True)
    out = tmp_path / "result.json"
    line = ["evaluate", "--model", str(file), "--dataset", "custom", "--root", str(index.root), "--min-area", "100"]
    line += ["--episodes", "20", "--seeds", "0", "--out", str(out)]
    assert main(line) == 1
    assert "lemon1.png" in capsys.readouterr().err
    assert partial_path(out).is_file()
    assert not out.exists()
    assert main([*line, "--on-error", "skip"]) == 0
    printed = capsys.readouterr()
    skipped = json.loads(out.read_text())["skipped"]
    assert f"{len(skipped)} of these episodes were skipped" in printed.out
    assert "lemon1.png" in printed.err
    assert not partial_path(out).exists()
    tables = tmp_path / "tables.md"
    assert main(["report", str(out), "--out", str(tables)]) == 0
    assert f"{len(skipped)} episodes were skipped" in tables.read_text()
