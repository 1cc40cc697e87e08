"""`rifenet data`: what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rifenet.cli.data import main


def test_index_reports_classes_folds_and_bad_files(custom_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (custom_root / "images" / "broken.jpg").write_bytes(b"no picture")
    assert main(["index", "--dataset", "custom", "--root", str(custom_root)]) == 0
    text = capsys.readouterr().out
    assert "10 images" in text
    for word in ("disc", "block", "roof", "1 files left out", "broken", "broken.jpg"):
        assert word in text


def test_index_as_json(custom_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (custom_root / "images" / "broken.jpg").write_bytes(b"no picture")
    arguments = ["index", "--dataset", "custom", "--root", str(custom_root), "--min-area", "500", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 10
    assert found["images_without_class"] == 0
    assert [row["name"] for row in found["classes"]] == ["disc", "block", "roof"]
    # Three pictures of each class alone, and one of disc and disc's neighbour (class_ids[0] and [3 % 3]).
    assert (
        sum(row["images"] for row in found["classes"])
        == found["folds"][0]["novel_pairs"] + found["folds"][0]["base_pairs"]
    )
    assert [row["novel"] for row in found["folds"]] == [["disc"], ["block"], ["roof"]]
    (bad,) = found["bad_files"]
    assert bad["file"] == "broken"
    assert "broken.jpg" in bad["reason"]


@pytest.mark.parametrize("extra", [[], ["--train"]])
def test_show_writes_a_contact_sheet(
    extra: list[str], voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheets" / "episodes.png"
    common = ["--dataset", "pascal", "--root", str(voc_root), "--min-area", "500", "--size", "64", "--out", str(out)]
    assert main(["show", *common, "--fold", "1", "--shots", "2", "--episodes", "3", *extra]) == 0
    captured = capsys.readouterr()
    assert "3 episodes" in captured.out
    assert captured.err.startswith("warning: ")
    assert {"left", "bird" if extra else "chair"} <= set(captured.err.split())
    width, height = Image.open(out).size
    assert width > 3 * 200
    assert height > 3 * 200


def test_wrong_use(voc_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["index", "--dataset", "pascal"])
    assert stopped.value.code == 2
    assert "--root" in capsys.readouterr().err
    for action in ("index", "show"):
        with pytest.raises(SystemExit) as stopped:
            main([action, "--help"])
        assert stopped.value.code == 0
        assert f"rifenet data {action} --dataset" in capsys.readouterr().out
    with pytest.raises(ValueError, match="between 0 and 3, but got 9"):
        main(["show", "--dataset", "pascal", "--root", str(voc_root), "--fold", "9"])
    with pytest.raises(ValueError, match="at least 1 episode"):
        main(["show", "--dataset", "pascal", "--root", str(voc_root), "--episodes", "0"])
