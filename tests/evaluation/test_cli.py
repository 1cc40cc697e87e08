from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.scenes import mixed_scenes, write_dataset

from rifenet.cli.main import main
from rifenet.config import named_episodes
from rifenet.evaluation.result_file import unpack_counts
from rifenet.models import build_model
from rifenet.models.backbones import imagenet_weights
from rifenet.models.files.checkpoint import backbone_hash, save_model

SAME = ("scores", "per_class", "per_seed", "episodes_hash", "episode_counts")


@pytest.fixture
def line(tmp_path: Path) -> list[str]:
    """A command that scores a small random RiFeNet on rendered scenes; add --out."""
    torch.manual_seed(4)
    model = build_model(backbone="resnet18", width=0.25, pretrained=False, embed_dim=32, tokens_per_label=20)
    file = tmp_path / "model.safetensors"
    save_model(model, file, {"name": "small", "image_size": 65}, with_backbone=True)
    root = write_dataset(tmp_path / "scenes", mixed_scenes())
    words = ["evaluate", "--model", str(file), "--dataset", "custom", "--root", str(root), "--min-area", "100"]
    return [*words, "--episodes", "10", "--seeds", "0,1"]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_model_and_baseline_are_scored_on_the_same_episodes(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "result.json"
    assert main([*line, "--baseline", "--out", str(out)]) == 0
    model, baseline = read(out), read(out.with_name("result-prototype.json"))
    assert (model["model"]["kind"], baseline["model"]["kind"]) == ("rifenet", "prototype")
    assert model["episodes_hash"] == baseline["episodes_hash"]
    assert model["model"]["image_size"] == baseline["model"]["image_size"] == 65
    assert len(model["model"]["checkpoint_hash"]) >= 16
    assert model["model"]["name"] == "small"
    assert model["episodes"] == 10
    printed = capsys.readouterr().out
    assert "leaf" in printed
    assert str(out) in printed.replace("\n", "")

    tables = tmp_path / "docs" / "results.md"
    assert main(["report", str(out), str(out.with_name("result-prototype.json")), "--out", str(tables)]) == 0
    text = tables.read_text()
    assert "| small, 65 px |" in text
    assert "| prototype resnet18, 65 px |" in text
    assert "(../runs/result.json)" in text


def test_baseline_sees_the_very_backbone_of_the_model(line: list[str], tmp_path: Path) -> None:
    from rifenet.cli.evaluate import _baseline
    from rifenet.models.files.hub import load_model

    model = load_model(line[2])
    baseline = _baseline(model)
    assert backbone_hash(baseline) == backbone_hash(model)
    shallow = build_model(backbone="resnet18", width=0.25, pretrained=False, low=(1,), mid=(1, 2), high=(3,))
    with pytest.raises(ValueError, match="Score --model prototype --backbone resnet18 by itself"):
        _baseline(shallow)


def test_a_class_may_be_learned_otherwise_than_in_training(line: list[str], tmp_path: Path) -> None:
    plain, viewed = tmp_path / "plain.json", tmp_path / "viewed.json"
    changed = "support_views=4", "max_prior_keys=90", "mask_threshold=0.3"
    assert main([*line, "--out", str(plain)]) == 0
    assert main([*line, "--baseline", "--set", *changed, "--out", str(viewed)]) == 0
    own = read(viewed)["config"]["model"]
    assert (own["support_views"], own["max_prior_keys"], own["mask_threshold"]) == (4, 90, 0.3)
    assert read(plain)["config"]["model"]["support_views"] == 1
    assert read(plain)["episode_counts"] != read(viewed)["episode_counts"]
    assert read(plain)["model"]["weights_hash"] == read(viewed)["model"]["weights_hash"]
    assert read(plain)["model"]["checkpoint_hash"] != read(viewed)["model"]["checkpoint_hash"]  # it answers otherwise
    baseline = read(viewed.with_name("viewed-prototype.json"))
    network = baseline["config"]["model"]
    assert (network["support_views"], network["mask_threshold"]) == (1, 0.5)  # photos as they are, its own threshold
    tables = tmp_path / "tables.md"
    assert main(["report", str(plain), str(viewed), "--out", str(tables)]) == 0
    assert "| small, 65 px |" in tables.read_text()
    assert "| small, 65 px, 4 views of a support, masks from 0.3 |" in tables.read_text()
    closer = "support_views=2", "support_closer=true"
    assert main([*line, "--baseline", "--set", *closer, "--out", str(viewed)]) == 0
    assert read(viewed.with_name("viewed-prototype.json"))["model"] == baseline["model"]
    assert main(["report", str(plain), str(viewed), "--out", str(tables)]) == 0
    assert "| small, 65 px, 2 views of a support (one closer) |" in tables.read_text()
    assert main([*line, "--set", "embed_dim=8", "--out", str(viewed)]) == 1


def test_an_option_of_the_model_has_the_name_that_it_has_in_a_config(line: list[str], tmp_path: Path) -> None:
    named, older = tmp_path / "named.json", tmp_path / "older.json"
    assert main([*line, "--model.support_views", "2", "--model.mask_threshold", "0.3", "--out", str(named)]) == 0
    assert main([*line, "--set", "support_views=2", "mask_threshold=0.3", "--out", str(older)]) == 0
    assert read(named)["config"]["model"] == read(older)["config"]["model"]
    assert read(named)["config"]["model"]["support_views"] == 2
    assert main([*line, "--model.support_views", "3", "--out", str(named)]) == 1


def test_a_result_names_its_backbone_and_the_file_it_came_from(line: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    assert main([*line, "--out", str(own)]) == 0
    from rifenet.models.files.hub import load_model

    assert read(own)["model"]["backbone_hash"] == backbone_hash(load_model(line[2]))
    assert read(own)["model"]["backbone_file"] is None  # the model's file holds it
    weights = imagenet_weights("efficientnet_lite0")
    other = ["evaluate", "--model", "prototype", "--backbone", "efficientnet_lite0", "--dataset", "custom"]
    other += ["--root", line[6], "--min-area", "100", "--image-size", "65", "--episodes", "9", "--seeds", "0"]
    assert main([*other, "--out", str(own)]) == 0
    content = weights.read_bytes()
    told = {"name": weights.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert read(own)["model"]["backbone_file"] == told


def test_report_says_what_a_list_of_episodes_is(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "episodes.json"
    assert main([*line, "--save-episodes", str(saved), "--out", str(tmp_path / "result.json")]) == 0
    capsys.readouterr()
    assert main(["report", str(saved)]) == 1
    said = capsys.readouterr().err
    assert "it is a list of episodes, which holds no scores" in said
    assert f"--episodes-from {saved}" in said


def test_json_on_stdout_is_the_result_without_the_packed_counts(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    assert main([*line, "--json", "--name", "mine", "--image-size", "97", "--out", str(out)]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    stored = read(out)
    assert printed.pop("file") == str(out)
    assert printed == {key: stored[key] for key in stored if key != "episode_counts"}
    assert (stored["model"]["name"], stored["model"]["image_size"]) == ("mine", 97)


def test_hsnet_takes_its_own_size_and_seed_unless_told_otherwise(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    plain = [*line[: line.index("--min-area")], "--protocol", "hsnet", "--episodes", "3"]
    assert main([*plain, "--out", str(out)]) == 0
    own = read(out)
    assert (own["model"]["image_size"], own["seeds"], own["protocol"]["min_area"]) == (400, [0], 1)
    printed = capsys.readouterr().out
    assert "custom dataset `scenes`, hsnet, 1-shot, fold 0" in printed
    told = [*plain, "--seeds", "4,2", "--image-size", "97", "--shots", "2", "--vote", "--original-size"]
    assert main([*told, "--out", str(out)]) == 0
    result = read(out)
    assert (result["model"]["image_size"], result["seeds"], result["shots"]) == (97, [4, 2], 2)
    assert result["protocol"]["vote"]
    assert result["protocol"]["original_size"]
    assert "hsnet at original size with vote, 2-shot" in capsys.readouterr().out


def test_an_n_that_leaves_out_classes_is_confirmed_and_stands_in_the_title(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*line, "--episodes", "2", "--out", str(tmp_path / "result.json")]
    assert main(few) == 1
    assert "--some-classes" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
    assert main([*few, "--some-classes", "--class-area"]) == 0
    title = "custom dataset `scenes`, pfenet by class area, 1-shot, without 1 of 3 classes, fold 0"
    assert title in capsys.readouterr().out


def test_n_by_name_is_of_published_datasets(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--episodes", "pfenet_script"]) == 1
    assert "for pascal and coco one of rifenet, pfenet_script, but got pfenet_script" in capsys.readouterr().err
    assert [named_episodes("rifenet", name) for name in ("pascal", "coco")] == [1000, 5000]
    assert [named_episodes("pfenet_script", name) for name in ("pascal", "coco")] == [5000, 20000]


def test_counts_of_episodes_and_images_are_printed(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, "--episodes", "15", "--out", str(tmp_path / "result.json")]) == 0
    printed = capsys.readouterr().out
    # In list order: leaf and lemon of one image, 4 heather, 4 leaf, 4 lemon, and the first one again.
    for name, episodes, images in (("leaf", 6, 5), ("lemon", 5, 5), ("heather", 4, 4)):
        assert re.search(rf"{name} .* {episodes} +│ {images} of {images} ", printed), printed
    assert "95%" in printed


def test_a_model_file_that_does_not_say_what_taught_it_is_said_to_be_unknown(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line, "--baseline", "--out", str(tmp_path / "result.json")]) == 0
    said = [text for text in capsys.readouterr().out.splitlines() if "trained on what its file does not say" in text]
    assert len(said) == 1, "the baseline is trained on nothing"
    assert "result.json" in said[0]


def test_saved_episodes_are_what_another_model_is_scored_on(line: list[str], tmp_path: Path) -> None:
    saved, first, second = tmp_path / "episodes.json", tmp_path / "first.json", tmp_path / "second.json"
    assert main([*line, "--shots", "2", "--episodes", "4", "--save-episodes", str(saved), "--out", str(first)]) == 0
    assert [len(json.loads(saved.read_text())[key]) for key in ("seeds", "episodes")] == [2, 8]
    other = ["evaluate", "--model", "prototype", "--backbone", "efficientnet_lite0", "--dataset", "custom"]
    other += ["--root", line[6], "--min-area", "100", "--image-size", "65"]
    copy = tmp_path / "copy.json"
    assert main([*other, "--episodes-from", str(saved), "--save-episodes", str(copy), "--out", str(second)]) == 0
    assert read(first)["episodes_hash"] == read(second)["episodes_hash"]
    assert read(first)["protocol"] == read(second)["protocol"]
    assert copy.read_bytes() == saved.read_bytes()
    text = tmp_path / "tables.md"
    assert main(["report", str(first), str(second), "--out", str(text)]) == 0
    assert text.read_text().count("## custom dataset") == 1


def test_warnings_are_one_plain_line(line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (Path(line[6]) / "images").glob("heather[123].png"):
        image.unlink()
    assert main([*line, "--out", str(tmp_path / "result.json")]) == 0
    # On a slow machine, lines of progress come first.
    lines = capsys.readouterr().err.splitlines(keepends=True)
    error = "".join(line for line in lines if not line.startswith("episode "))
    assert error.startswith("warning: No episode of heather: left out of the mean.")
    assert error.count("warning") == 1
    assert ".py" not in error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--model", "nowhere"], "Expected a model at nowhere, but there is none"),
        (["--root", "nowhere"], "Expected a dataset folder"),
        (["--fold", "7"], "Expected a fold between 0 and 1, but got 7"),
        (["--episodes", "0"], "Expected eval.episodes to be at least 1, but got 0"),
        (["--seeds", "3,3"], "Expected different seeds"),
        (["--device", "mps"], "Expected a device of this machine"),
        (["--weights", "file.pth"], "which holds its own, but got file.pth"),
    ],
)
def test_failure_is_one_sentence_and_exit_1(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], sentence: str
) -> None:
    out = tmp_path / "result.json"
    assert main([*line, "--out", str(out), *change]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_a_list_that_is_not_there_is_one_sentence(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line[: line.index("--episodes")]
    assert main([*words, "--episodes-from", "none.json", "--out", str(tmp_path / "result.json")]) == 1
    captured = capsys.readouterr()
    assert "Expected an episode list at none.json" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        ["--seeds", "0,x"],
        ["--protocol", "other"],
        ["--protocol", "hsnet"],  # with --min-area, which it does not have
        ["--vote"],
        ["--episodes", "many"],
        ["--unlabeled", "2", "--presence", "10"],
        ["--original-size"],
        ["--episodes-from", "episodes.json"],  # with --episodes and --seeds, which the file brings
        ["--model", "prototype"],
        ["--backbone", "resnet18"],
        ["--model", "prototype", "--backbone", "resnet18", "--baseline"],
        ["--model", "prototype", "--backbone", "resnet18", "--set", "support_views=4"],
        ["--model", "prototype", "--backbone", "resnet18", "--model.support_views", "4"],
    ],
)
def test_wrong_usage_is_exit_2(line: list[str], capsys: pytest.CaptureFixture[str], change: list[str]) -> None:
    assert main([*line, *change]) == 2
    assert "usage: rifenet evaluate" in capsys.readouterr().err


def test_report_refuses_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none.json")]) == 1
    assert "Expected a result file" in capsys.readouterr().err
    assert main(["report"]) == 2


def under_torchrun(line: list[str], out: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the evaluation with two ranks."""
    # Without a repository: a commit made between two starts would make them evaluations of two programs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GIT_DIR": str(out.parent / "no repository")}
    source = str(Path(__file__).parents[2] / "src")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "-m", "rifenet", *line, "--device", "cpu", "--out", str(out)], environment


@pytest.mark.slow
def test_two_ranks_under_torchrun_score_the_digits_of_one(line: list[str], tmp_path: Path) -> None:
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    assert main([*line, "--out", str(alone)]) == 0
    command, environment = under_torchrun(line, together)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FB-IoU") == 1  # one rank speaks for all
    first, second = read(alone), read(together)
    assert (first["environment"]["ranks"], second["environment"]["ranks"]) == (1, 2)
    assert {name: first[name] for name in SAME} == {name: second[name] for name in SAME}
    assert any(row["iou"] not in (0.0, 1.0) for row in first["per_class"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Stops the launcher by a signal.")
def test_two_ranks_that_are_stopped_go_on_with_the_digits_of_one(line: list[str], tmp_path: Path) -> None:
    line = [*line, "--episodes", "300"]  # so many that both ranks are at work when they are stopped
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    assert main([*line, "--out", str(alone)]) == 0
    command, environment = under_torchrun(line, together)
    parts = [together.with_name(f"{together.name}.partial{ending}") for ending in ("", ".1")]

    def scored(path: Path) -> list[str]:
        """Lines of whole episodes in the file of a rank."""
        text = path.read_text() if path.is_file() else ""
        return [each for each in text.splitlines() if each.startswith("[") and each.endswith("]")]

    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as ranks:
        until = time.monotonic() + 300
        while min(len(scored(path)) for path in parts) < 10:
            assert ranks.poll() is None, "the evaluation ended before it was stopped"
            assert time.monotonic() < until
            time.sleep(0.01)
        ranks.terminate()
        assert ranks.wait(120) != 0
    assert 20 <= sum(len(scored(path)) for path in parts) < 600
    assert not together.exists()
    # What rank 1 has scored is taken as it stands: so one of its episodes gets counts that no model gives.
    known = scored(parts[1])[0]
    position, *_, seconds = json.loads(known)
    parts[1].write_text(parts[1].read_text().replace(known, json.dumps([position, 1, 2, 3, 4, seconds])))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = read(alone), read(together)
    assert first["episodes_hash"] == second["episodes_hash"]
    counts, found = (unpack_counts(each).counts.reshape(600, 4) for each in (first, second))
    assert found[position].tolist() == [1, 2, 3, 4]
    others = np.arange(600) != position
    np.testing.assert_array_equal(found[others], counts[others])
    assert not any(path.exists() for path in parts)
