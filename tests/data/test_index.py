"""The scan, what it leaves out and why, and its cache."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rendered import VOC_IDS, make_custom, make_voc, render, save_mask

from rifenet.data.index import ImageIndex, read_mask
from rifenet.data.sources import open_dataset


def open_custom(root: Path) -> ImageIndex:
    return open_dataset("custom", root, progress=False)


def reasons(index: ImageIndex) -> dict[str, str]:
    return dict(index.bad_files)


def test_areas_and_sizes_are_those_of_the_files(voc_root: Path) -> None:
    index = open_dataset("pascal", voc_root, progress=False)
    assert len(index) == 4 * len(VOC_IDS) + 4
    assert not index.bad_files
    for record in index.records:
        mask = np.asarray(Image.open(record.mask_path))
        assert Image.open(record.image_path).size == (record.width, record.height)
        assert mask.shape == (record.height, record.width)
        labels, counts = np.unique(mask, return_counts=True)
        expected = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        assert record.areas == {label: count for label, count in expected.items() if label not in (0, 255)}


def test_pairs_and_filters(voc_root: Path) -> None:
    index = open_dataset("pascal", voc_root, progress=False)
    pairs = index.pairs((8, 1), 500)
    assert pairs == sorted(pairs)
    assert {class_id for _, class_id in pairs} == {1, 8}
    assert all(index.records[image].areas[class_id] >= 500 for image, class_id in pairs)
    assert index.images_of(1, 500) == [image for image, class_id in pairs if class_id == 1]
    assert index.images_of(1, 10**6) == []
    largest = max(index.records[image].areas[1] for image in index.images_of(1))
    assert len(index.images_of(1, largest)) == 1
    without = index.without_classes((1, 2))
    assert not any(record.areas.keys() & {1, 2} for record in without.records)
    gone = [record.name for record in index.records if record.areas.keys() & {1, 2}]
    assert len(without) == len(index) - len(gone)
    assert without.class_names == index.class_names


def test_class_names(voc_root: Path) -> None:
    index = open_dataset("pascal", voc_root, progress=False)
    assert index.class_id("cat") == 8
    assert index.class_name(8) == "cat"
    with pytest.raises(ValueError, match=r"'unicorn'. Known: aeroplane, bicycle"):
        index.class_id("unicorn")


def test_hash_is_of_the_content_not_the_folder(tmp_path: Path) -> None:
    first, second = (open_custom(make_custom(tmp_path / name, per_class=1, mixed=0)) for name in ("a", "b"))
    assert first.hash == second.hash
    shutil.copy(tmp_path / "b/masks/photo 001.png", tmp_path / "b/masks/photo 000.png")
    changed = open_custom(tmp_path / "b")
    assert changed.hash != first.hash


def test_hash_tells_folds_that_the_user_wrote(tmp_path: Path) -> None:
    """Runs whose fold 0 tests other classes differ in their data. A file that says the usual folds changes nothing."""
    root = make_custom(tmp_path, per_class=1, mixed=0)
    usual = open_custom(root)
    hashes = []
    names = usual.class_names
    for folds in ([names], [names[1:], names[:1]], [names[:1], names[1:3], names[3:4], names[4:]]):
        text = "".join(f"{fold}: [{', '.join(classes)}]\n" for fold, classes in enumerate(folds))
        (root / "folds.yaml").write_text(text)
        hashes.append(open_custom(root).hash)
    assert hashes[2] == usual.hash
    assert len({*hashes}) == 3


def test_every_bad_file_is_named_and_the_rest_goes_on(custom_root: Path) -> None:
    images, masks = custom_root / "images", custom_root / "masks"
    photo, mask = render((1,), 0)
    whole = images / "whole.jpg"
    Image.fromarray(photo).save(whole)
    content = whole.read_bytes()
    whole.unlink()
    good = len(open_custom(custom_root))
    for name, data in {
        "empty": b"",
        "text": b"not a picture",
        "cut": content[: len(content) // 2],
        "header": content[:30],
        "other_size": content,
        "no_mask": content,
        "coloured": content,
        "broken_mask": content,
        "empty_mask_file": content,
        "label": content,
    }.items():
        (images / f"{name}.jpg").write_bytes(data)
        save_mask(mask, masks / f"{name}.png")
    save_mask(mask.T, masks / "other_size.png")
    (masks / "no_mask.png").unlink()
    Image.fromarray(photo).save(masks / "coloured.png")
    (masks / "broken_mask.png").write_bytes((masks / "label.png").read_bytes()[:-300])
    (masks / "empty_mask_file.png").write_bytes(b"")
    save_mask(np.where(mask == 1, 9, mask), masks / "label.png")
    save_mask(mask, masks / "no_image.png")
    (images / "Thumbs.db").write_bytes(b"ignored")

    index = open_custom(custom_root)
    assert len(index) == good
    found = reasons(index)
    for name, sentence in {
        "empty": "is empty",
        "text": "cannot read",
        "cut": "truncated",
        "header": "cannot read",
        "other_size": "image is 160 x 128 and the mask 128 x 160",
        "no_mask": "no such file",
        "coloured": "coloured",
        "broken_mask": "cannot read",
        "empty_mask_file": "cannot read",
        "label": "labels 0..3 and 255",
        "no_image.png": "image of the same name",
    }.items():
        assert sentence in found.pop(name)
    assert not found


def test_two_images_of_one_name(custom_root: Path) -> None:
    Image.new("RGB", (160, 128)).save(custom_root / "images" / "photo 000.jpg")
    found = reasons(open_custom(custom_root))
    assert found == {"photo 000.png": "Expected one image of each name, but photo 000.jpg has the same."}


@pytest.mark.parametrize("cut", [1, 2, 20, 2000])
def test_no_truncated_photo_gets_past_the_scan_and_the_use(cut: int, custom_root: Path) -> None:
    """Either the scan leaves it out, or it decodes in full."""
    photo, mask = render((1,), 0)
    path = custom_root / "images" / "cut.jpg"
    Image.fromarray(photo).save(path)
    path.write_bytes(path.read_bytes()[:-cut])
    save_mask(mask, custom_root / "masks" / "cut.png")
    index = open_custom(custom_root)
    kept = [record for record in index.records if record.name == "cut"]
    assert bool(kept) != ("cut" in reasons(index))
    for record in kept:
        assert np.asarray(Image.open(record.image_path)).shape == (128, 160, 3)
    if cut >= 20:
        assert not kept


def test_bytes_after_the_end_do_no_harm(custom_root: Path) -> None:
    photo, mask = render((1,), 0)
    path = custom_root / "images" / "trailer.jpg"
    Image.fromarray(photo).save(path)
    path.write_bytes(path.read_bytes() + b"a camera's own trailer" * 10)
    save_mask(mask, custom_root / "masks" / "trailer.png")
    index = open_custom(custom_root)
    assert "trailer" in [record.name for record in index.records]


def test_turned_photos_count_upright(custom_root: Path) -> None:
    photo, mask = render((1,), 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned", "raw"):
        picture = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
        picture.save(custom_root / "images" / f"{name}.jpg", exif=exif)
    save_mask(mask, custom_root / "masks" / "turned.png")
    save_mask(mask.T, custom_root / "masks" / "raw.png")  # painted by a program that ignores EXIF
    index = open_custom(custom_root)
    (record,) = [record for record in index.records if record.name == "turned"]
    assert (record.height, record.width) == (128, 160)
    assert "(upright) image is 160 x 128 and the mask 128 x 160" in reasons(index)["raw"]


@pytest.mark.parametrize("value", [0, 255])
def test_masks_without_any_class_are_images_without_class(value: int, custom_root: Path) -> None:
    Image.new("RGB", (40, 30)).save(custom_root / "images" / "plain.png")
    save_mask(np.full((30, 40), value, np.uint8), custom_root / "masks" / "plain.png")
    index = open_custom(custom_root)
    (record,) = [record for record in index.records if record.name == "plain"]
    assert record.areas == {}
    assert not index.bad_files


def test_nothing_usable_tells_the_first_reason(tmp_path: Path) -> None:
    root = make_custom(tmp_path, class_names=("disc",), per_class=2, mixed=0)
    for path in (root / "masks").iterdir():
        Image.new("RGB", (160, 128), (128, 0, 0)).save(path)
    with pytest.raises(ValueError, match=r"none of 2 could be used. The first, photo 000: Expected an index mask"):
        open_custom(root)
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    shutil.rmtree(root / "masks")
    (root / "masks").mkdir()
    with pytest.raises(ValueError, match="there are none"):
        open_custom(root)


def cache_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "own cache"))
    return tmp_path / "own cache"


def stored(own_cache: Path) -> Path:
    (path,) = [path for path in own_cache.rglob("*") if path.is_file()]
    return path


def test_the_cache_is_used_and_gives_the_same_index(custom_root: Path, own_cache: Path) -> None:
    first = open_custom(custom_root)
    assert open_custom(custom_root) == first
    content = json.loads(stored(own_cache).read_text())
    content["scans"][0] = "a reason that only the cache knows"
    stored(own_cache).write_text(json.dumps(content))
    assert reasons(open_custom(custom_root)) == {"photo 000": "a reason that only the cache knows"}


def _touch(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: _touch(root / "masks" / "photo 000.png"),
        lambda root: _touch(root / "images" / "photo 003.png"),
        lambda root: (root / "images" / "photo 001.png").unlink(),
        lambda root: shutil.copy(root / "masks" / "photo 001.png", root / "masks" / "photo 000.png"),
        lambda root: shutil.copy(root / "images" / "photo 001.png", root / "images" / "new.png"),
        lambda root: (root / "classes.txt").write_text("disc\nblock\nroof\nmore\n"),
    ],
)
def test_any_change_makes_the_cache_stale(change, custom_root: Path, own_cache: Path) -> None:
    open_custom(custom_root)
    content = json.loads(stored(own_cache).read_text())
    content["scans"] = ["stale"] * len(content["scans"])
    stored(own_cache).write_text(json.dumps(content))
    change(custom_root)
    assert "stale" not in reasons(open_custom(custom_root)).values()


def test_other_lists_have_caches_of_their_own(custom_root: Path, own_cache: Path) -> None:
    open_custom(custom_root)
    (custom_root / "some.txt").write_text("photo 000\nphoto 001.png\n")
    assert len(open_dataset("custom", custom_root, list_file="some.txt", progress=False)) == 2
    assert len([path for path in own_cache.rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize("content", ["", "no json", "[]", "{}", '{"fingerprint": 1, "scans": 3}'])
def test_a_spoilt_cache_is_made_again(content: str, custom_root: Path, own_cache: Path) -> None:
    first = open_custom(custom_root)
    stored(own_cache).write_text(content)
    assert open_custom(custom_root) == first
    assert json.loads(stored(own_cache).read_text())["scans"]


def test_a_cache_folder_that_cannot_be_written_is_fine(
    custom_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RIFENET_CACHE", str(tmp_path / "file"))
    first = open_custom(custom_root)
    assert open_custom(custom_root) == first


def test_the_progress_bar_is_on_stderr_of_a_terminal(
    custom_root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_dataset("custom", custom_root)
    assert capsys.readouterr() == ("", "")
    stored(own_cache).unlink()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    open_dataset("custom", custom_root)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Indexing 10 images" in captured.err
    open_dataset("custom", custom_root)
    assert capsys.readouterr() == ("", "")  # nothing to wait for


def test_sbd_masks(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    mask = render((3,), 2)[1]
    path = tmp_path / "2008_000001.mat"
    scipy_io.savemat(path, {"GTcls": {"Segmentation": mask, "CategoriesPresent": [3]}})
    np.testing.assert_array_equal(read_mask(path), mask)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2008_000001\.mat"):
        read_mask(path)
    scipy_io.savemat(path, {"other": mask})
    with pytest.raises(ValueError, match="GTcls"):
        read_mask(path)
    with pytest.raises(FileNotFoundError, match="gone"):
        read_mask(tmp_path / "gone.mat")


@pytest.mark.slow
def test_twelve_thousand_masks(tmp_path: Path, own_cache: Path) -> None:
    """The bounds for PASCAL with SBD: 90 s at first, 1 s from the cache. The files are links to 24 at VOC's size.

    In processor time, because tests share the machine: the first scan on two cores takes half of it.
    """
    root = make_voc(tmp_path / "voc", class_ids=(1, 2), per_class=0, mixed=0)
    scenes = [render((1 + i % 20,), i, width=500, height=375) for i in range(24)]
    names = [f"2008_{i:06d}" for i in range(12_000)]
    for i, name in enumerate(names):
        image, mask = root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClassAug" / f"{name}.png"
        if i < len(scenes):
            Image.fromarray(scenes[i][0]).save(image)
            save_mask(scenes[i][1], mask)
        else:
            source = names[i % len(scenes)]
            os.link(root / "JPEGImages" / f"{source}.jpg", image)
            os.link(root / "SegmentationClassAug" / f"{source}.png", mask)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names))
    took = []
    for _ in range(2):
        start = time.process_time()
        index = open_dataset("pascal", root, progress=False)
        took.append(time.process_time() - start)
        assert len(index) == 12_000
    assert took[0] < 90
    assert took[1] < 1
