"""Photos and masks in folders, paired by name; what could be paired in two ways is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from rifenet.formats.pairs import pairs_in, pairs_of
from rifenet.formats.remarks import collected


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(pairs: Sequence[tuple[Path, Path]], folder: Path) -> list[tuple[str, str]]:
    return [(photo.relative_to(folder).as_posix(), label.relative_to(folder).as_posix()) for photo, label in pairs]


def test_one_folder(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "a.png",
        "b.JPG",
        "b.json",
        "c.png",
        "c_mask.png",
        "d.webp",
        "D.png",
        "notes.txt",
        ".x.jpg",
        ".x.png",
    ]
    filled(tmp_path, *names)
    with collected() as said:
        found = named(pairs_in(tmp_path), tmp_path)
    assert found == [("a.jpg", "a.png"), ("b.JPG", "b.json"), ("c.png", "c_mask.png"), ("d.webp", "D.png")]
    assert said == []


def test_two_folders(tmp_path: Path) -> None:
    filled(tmp_path, "images/a.png", "images/b.jpg", "masks/a.png", "masks/b.png", "thumb.jpg")
    assert named(pairs_in(tmp_path), tmp_path) == [("images/a.png", "masks/a.png"), ("images/b.jpg", "masks/b.png")]


def test_accents_written_in_two_ways_meet(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    filled(tmp_path, f"images/{composed}.jpg", f"masks/{decomposed}.png")
    assert len(pairs_in(tmp_path)) == 1


def test_one_json_belongs_to_all_photos(tmp_path: Path) -> None:
    filled(tmp_path, "a.jpg", "b.png", "annotations.json")
    assert [label.name for _, label in pairs_in(tmp_path)] == ["annotations.json"] * 2


def test_what_is_left_alone_is_said(tmp_path: Path) -> None:
    filled(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg", "d_mask.png")
    with collected() as said:
        assert len(pairs_in(tmp_path)) == 1
    assert said == [f"{tmp_path}: 3 files without a partner were left out: b.jpg, c.jpg, d_mask.png."]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a.png", "a.bmp"], r"one photo \(JPEG or WebP\) beside a mask.*a\.bmp, a\.png"),
        (["a.jpg", "a.webp", "a.png"], r"one photo .*a\.jpg, a\.png, a\.webp"),
        (["a.jpg", "a.png", "a.json"], r"one mask of a\.jpg in .*a\.png, a\.json"),
        (["a.jpg", "b.png"], r"such as a\.jpg and a\.png .*but got a\.jpg, b\.png"),
        (["a.txt"], "but got no pictures"),
        ([], "but got no pictures"),
    ],
)
def test_what_cannot_be_paired(names: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        pairs_in(filled(tmp_path, *names))


def test_a_photo_is_not_its_own_label(tmp_path: Path) -> None:
    filled(tmp_path, "photos/a.jpg", "photos/list.json", "masks/a.png")
    photos = sorted((tmp_path / "photos").iterdir())
    assert named(pairs_of(photos, [tmp_path / "masks/a.png"], "here"), tmp_path) == [("photos/a.jpg", "masks/a.png")]


def test_photos_in_folders_below_belong_to_class_pictures_alone(tmp_path: Path) -> None:
    filled(tmp_path, "JPEGImages/day/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png")
    found = named(pairs_in(tmp_path), tmp_path)
    assert found == [
        ("JPEGImages/b.jpg", "SegmentationClass/b.png"),
        ("JPEGImages/day/a.jpg", "SegmentationClass/a.png"),
    ]
    plain = filled(tmp_path / "plain", "a.jpg", "a.png", "below/b.jpg", "below/b.png")
    assert named(pairs_in(plain), plain) == [("a.jpg", "a.png")]
