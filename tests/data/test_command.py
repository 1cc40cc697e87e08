"""`rifenet data`: what it prints and writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rendered import make_coco, save_mask
from tiny_disk import tiny_disk

from rifenet.cli.data import main
from rifenet.drawing import visualize


def test_index_reports_classes_folds_and_bad_files(custom_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (custom_root / "images" / "broken.jpg").write_bytes(b"no picture")
    assert main(["index", "--dataset", "custom", "--root", str(custom_root)]) == 0
    text = capsys.readouterr().out
    assert "10 images" in text
    for word in ("disc", "block", "roof", "1 files left out", "broken", "broken.jpg"):
        assert word in text


def test_ten_bad_files_are_printed_and_all_are_in_a_file(
    custom_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "cache"))
    names = [f"broken {number:02}" for number in range(23)]
    for name in names:
        (custom_root / "images" / f"{name}.jpg").write_bytes(b"no picture")
    line = ["index", "--dataset", "custom", "--root", str(custom_root)]
    assert main(line) == 0
    text = capsys.readouterr().out
    printed = [each for each in text.splitlines() if each.startswith("  broken")]
    assert [each.split(":")[0].strip() for each in printed] == names[:10]
    said = re.search(r"23 files left out:.*and 13 more. All 23 are listed in (\S+)", text, re.DOTALL)
    assert said is not None
    listed = Path(said[1])
    assert listed.is_relative_to(tmp_path / "cache")
    assert [each.split(":")[0] for each in listed.read_text().splitlines()] == names
    own = tmp_path / "left out.txt"
    assert main([*line, "--bad-files", str(own)]) == 0
    assert own.read_text() == listed.read_text()
    for name in names[5:]:
        (custom_root / "images" / f"{name}.jpg").unlink()
    listed.unlink()
    capsys.readouterr()
    assert main(line) == 0
    assert "listed in" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--list-file", "--list", "--data.list_file"])
def test_a_list_has_one_name_and_its_older_ones(
    option: str, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (voc_root / "ImageSets" / "Segmentation" / "train.txt").read_text().split()[:3]
    (tmp_path / "three.txt").write_text("\n".join(names))
    line = ["index", "--dataset", "pascal", "--root", str(voc_root), "--json", option, str(tmp_path / "three.txt")]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


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


def test_pairs_of_an_image_and_a_class_with_and_without_the_area_filter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VOC's counting rule on masks painted by hand: one pair for each class in an image, none for 255."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    shown = {  # class id -> pixels
        "2007_000001": {1: 2048, 6: 10},
        "2007_000002": {1: 2047},
        "2007_000003": {2: 1, 20: 5000, 255: 3000},
        "2007_000004": {},
        "2007_000005": {5: 2048, 10: 4000, 20: 1},
        "2007_000006": {1: 9000},  # on no list
    }
    for name, areas in shown.items():
        mask = np.zeros((100, 200), np.uint8)
        mask.flat[: sum(areas.values())] = np.repeat([*areas], [*areas.values()])
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
        Image.new("RGB", (200, 100)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join([*shown][:5]))
    assert main(["index", "--dataset", "pascal", "--root", str(root), "--part", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["images_without_class"]) == (5, 1)
    assert [row["novel_pairs"] for row in found["folds"]] == [2, 1, 0, 1]
    assert [row["novel_pairs_of_any_area"] for row in found["folds"]] == [4, 2, 0, 2]
    assert [row["base_pairs_of_any_area"] for row in found["folds"]] == [4, 6, 8, 6]
    assert [row["images_of_any_area"] for row in found["classes"] if row["images_of_any_area"]] == [2, 1, 1, 1, 1, 2]
    assert main(["index", "--dataset", "pascal", "--root", str(root), "--part", "val"]) == 0
    assert "2 of 4" in capsys.readouterr().out


def test_coco_and_its_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_coco(tmp_path, class_ids=(1, 2, 21), per_class=2, mixed=0)
    common = ["index", "--dataset", "coco", "--root", str(root), "--json"]
    for extra, pairs in (
        ([], [4, 2, 0, 0]),
        (["--folds", "contiguous"], [4, 2, 0, 0]),
        (["--part", "val"], [4, 2, 0, 0]),
    ):
        assert main([*common, *extra]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [row["novel_pairs_of_any_area"] for row in found["folds"]] == pairs
        first = "thing 5" if "contiguous" not in extra else "thing 2"
        assert found["folds"][0]["novel"][1] == first
    sheet = tmp_path / "sheet.png"
    arguments = [
        "show",
        "--dataset",
        "coco",
        "--root",
        str(root),
        "--min-area",
        "100",
        "--size",
        "64",
        "--episodes",
        "2",
    ]
    assert main([*arguments, "--out", str(sheet)]) == 0
    assert sheet.is_file()


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


def test_show_squashes_what_hsnet_squashes(custom_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture that the command paints is the one that the protocol's evaluation loads, by its own means."""
    drawn: list[list[Any]] = []
    monkeypatch.setattr("rifenet.drawing.visualize.contact_sheet", lambda strips: drawn.append(strips) or strips[0])
    painted: list[NDArray[np.uint8]] = []
    original = visualize.overlay

    def spy(photo: NDArray[np.uint8], mask: NDArray[np.uint8], **options: Any) -> Image.Image:
        painted.append(photo)
        return original(photo, mask, **options)

    monkeypatch.setattr("rifenet.drawing.visualize.overlay", spy)
    common = ["show", "--dataset", "custom", "--root", str(custom_root), "--episodes", "2"]
    for protocol, side in (("pfenet", 473), ("hsnet", 400)):
        painted.clear()
        assert main([*common, "--protocol", protocol, "--out", str(tmp_path / f"{protocol}.png")]) == 0
        assert [photo.shape for photo in painted] == [(side, side, 3)] * 4
        plain = [bool((photo[-1] == photo[-1, 0]).all() or (photo[:, -1] == photo[0, -1]).all()) for photo in painted]
        assert plain == [protocol == "pfenet"] * 4  # padding, which a squashed picture has not
    with pytest.raises(ValueError, match="Expected no protocol with --train"):
        main([*common, "--protocol", "hsnet", "--train"])


@pytest.mark.skipif(sys.platform == "win32", reason="Names are always Unicode there.")
@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_odd_file_names_are_counted_or_named(kind: list[str], custom_root: Path, tmp_path: Path) -> None:
    """Names that are not UTF-8, of a photo with a mask and of one without, and a listed name that no disk takes."""
    photo = next((custom_root / "images").iterdir())
    try:
        for name in (b"caf\xe9.png", b"th\xe9.png"):
            shutil.copy(photo, os.path.join(os.fsencode(custom_root / "images"), name))
    except OSError:
        pytest.skip("This disk takes no name that is not UTF-8.")
    size = Image.open(photo).size
    save_mask(np.zeros(size[::-1], np.uint8), Path(os.fsdecode(os.fsencode(custom_root / "masks") + b"/caf\xe9.png")))
    words = ["data", "index", "--dataset", "custom", "--root", str(custom_root), *kind]
    environment = {**os.environ, "RIFENET_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-m", "rifenet", *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    if kind:
        assert [bad["file"] for bad in json.loads(done.stdout)["bad_files"]] == ["th\udce9"]
    else:
        assert "th\\udce9: Expected" in done.stdout
    (tmp_path / "list.txt").write_text(f"{'n' * 300}\n{photo.stem}\n")
    program += ["--list", str(tmp_path / "list.txt")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "n" * 300 in done.stdout


def test_a_sheet_that_does_not_fit_on_the_disk_is_named(custom_root: Path, tmp_path: Path) -> None:
    words = ["show", "--dataset", "custom", "--root", str(custom_root), "--episodes", "2", "--out"]
    with tiny_disk(tmp_path / "disk", kilobytes=16) as disk:
        if not disk.mounted:
            pytest.skip("This system mounts no small disk.")
        with pytest.raises(OSError, match="No space left") as full:
            main([*words, str(disk.folder / "sheet.png")])
        assert full.value.filename == str(disk.folder / "sheet.png")
        assert list(disk.folder.iterdir()) == []
    with pytest.raises(ValueError, match=r"Expected a picture such as episodes\.png for --out, but got sheet\.xyz"):
        main([*words, "sheet.xyz"])
