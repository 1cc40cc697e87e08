"""Every code block of the README and the docs runs, page by page, in order, in a folder with the files that they name.

Shell blocks run in bash with the stand-ins of docs_shim.py, whose rules are written there; the Python blocks of a page
share their names. JSON and YAML blocks are parsed; blocks without a language, or `text`, are pictures of folders. Of a
page with blocks that take long (`SLOW`) those before the first of these run here, and all of them among the slow tests.
A block that no test can run says why in the line above it: `<!-- not run: needs Docker -->`.

Files: a.jpg, b.jpg (bears) and c.jpg (a giraffe) with masks a.png, b.png, c.png (0 and 1), query.jpg (a bear), the
stack scan.tif with labels.tif, clip.mp4 with frame_mask.png, the folders photos and brush
(black-and-white masks), and rendered datasets: VOC2012, VOCdevkit/VOC2012, coco, my_photos.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import docs_shim
import numpy as np
import pytest
import tifffile
import yaml
from docs_blocks import PAGES, ROOT, Block, blocks, name_of
from PIL import Image
from rendered import make_coco, make_custom, make_voc

from rifenet.formats.video import write_video

EXAMPLES = ROOT / "src" / "rifenet" / "examples"
SLOW = re.compile(r"rifenet (?:demo|export|train|evaluate|ablate|report|bench)\b")
THERE = "http://127.0.0.1:8000"
SHELL, DATA, PICTURES = ("sh", "bash"), ("json", "yaml", "xml"), ("", "text")
MAX_NOT_RUN = 8
ELSEWHERE = {
    "docs/formats.md": "tests/formats/test_examples_of_formats.py",
    "docs/advice.md": "tests/advice/test_docs.py",
    "docs/maps.md": "tests/partners/test_geo.py",
    "docs/backbones.md": "tests/training/test_own_code.py",
    "docs/cvat.md": "tests/partners/test_cvat.py",
    "docs/fiftyone.md": "tests/partners/test_fiftyone.py",
    "docs/many_machines.md": "tests/partners/test_ray.py",
}
"""Pages whose blocks another test runs, with the files that they name."""

PROGRAMS = ("rifenet", "pip", "make", "python", "python3", "torchrun")
QUICK_LANGUAGES = (*SHELL, "python")

posix = pytest.mark.skipif(sys.platform == "win32", reason="The shell blocks are for a POSIX shell.")


def read(page: Path) -> list[Block]:
    return blocks(page.read_text(encoding="utf-8"))


def quick(page: Path) -> list[Block]:
    """The blocks before the first that takes long."""
    found = []
    for block in read(page):
        if block.language in SHELL and not block.not_run and SLOW.search(block.text):
            break
        found.append(block)
    return found


def to_run(found: list[Block]) -> list[Block]:
    return [block for block in found if block.language in QUICK_LANGUAGES and not block.not_run]


HERE = [page for page in PAGES if name_of(page) not in ELSEWHERE]
QUICK_PAGES = [page for page in HERE if to_run(quick(page))]
SLOW_PAGES = [page for page in HERE if quick(page) != read(page)]


def examples(class_name: str, support: bool) -> list[tuple[Path, Path, int]]:
    """Photo, mask and number of the class in that mask."""
    table = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    number = table["classes"].index(class_name) + 1
    return [
        (EXAMPLES / photo["image"], EXAMPLES / photo["mask"], number)
        for photo in table["photos"]
        if class_name in photo["classes"] and photo["support"] == support
    ]


def save_binary(mask: Path, number: int, path: Path, value: int = 1) -> None:
    with Image.open(mask) as picture:
        Image.fromarray(((np.asarray(picture) == number) * value).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: a few photos with masks, others without; links to the repository's own folders."""
    work = tmp_path / "work"
    for name in ("photos", "brush"):
        (work / name).mkdir(parents=True)
    shots = [*examples("bear", True), *examples("giraffe", True)[:1]]
    for name, (photo, mask, number) in zip("abc", shots, strict=True):
        shutil.copy(photo, work / f"{name}.jpg")
        save_binary(mask, number, work / f"{name}.png")
    save_binary(shots[0][1], shots[0][2], work / "brush" / "task-1-bear.png", 255)
    box = {"image_id": 1, "category_id": 1, "segmentation": [[40, 40, 160, 40, 160, 160, 40, 160]]}
    with Image.open(work / "a.jpg") as photo:
        size = {"width": photo.width, "height": photo.height}
    coco = {"images": [{"id": 1, "file_name": "a.jpg", **size}], "categories": [{"id": 1, "name": "dog"}]}
    (work / "coco.json").write_text(json.dumps({**coco, "annotations": [box]}))
    add_stack(work, shots)
    add_clip(work, shots[0])
    bears = examples("bear", False)
    shutil.copy(bears[0][0], work / "query.jpg")
    for photo in (bears[1][0], bears[2][0], examples("pizza", False)[0][0]):
        shutil.copy(photo, work / "photos")
    (work / ".venv" / "bin").mkdir(parents=True)
    (work / ".venv" / "bin" / "activate").touch()  # `make` does not make it here
    for name in ("benchmarks", "configs", "scripts"):
        (work / name).symlink_to(ROOT / name)
    (work / "build").symlink_to(ROOT / "build")  # where `make browser-runtime` has put its files before the tests
    return work


def add_stack(work: Path, shots: list[tuple[Path, Path, int]]) -> None:
    """`scan.tif`, whose three pages of 16 bits are the photos in grey, and `labels.tif`, which marks the first two."""
    photos, masks = [], []
    for page, (photo, mask, number) in enumerate(shots):
        with Image.open(photo) as colours, Image.open(mask) as marks:
            photos.append(np.asarray(colours.convert("L").resize((320, 240))).astype(np.uint16) * 16)
            inside = np.asarray(marks.resize((320, 240), Image.Resampling.NEAREST)) == number
            masks.append((inside * (page < 2)).astype(np.uint8))
    tifffile.imwrite(work / "scan.tif", np.stack(photos), photometric="minisblack")
    tifffile.imwrite(work / "labels.tif", np.stack(masks), photometric="minisblack")


def add_clip(work: Path, shot: tuple[Path, Path, int]) -> None:
    """`clip.mp4`, four frames of a photo that the camera moves along, and `frame_mask.png` of the first."""
    with Image.open(shot[0]) as photo, Image.open(shot[1]) as mask:
        colours = np.asarray(photo.convert("RGB").resize((340, 240)))
        inside = np.asarray(mask.resize((340, 240), Image.Resampling.NEAREST)) == shot[2]
    write_video(work / "clip.mp4", (colours[:, 4 * number :][:, :320] for number in range(4)), Fraction(4))
    Image.fromarray(inside[:, :320].astype(np.uint8)).save(work / "frame_mask.png")


def add_datasets(work: Path) -> None:
    """Rendered datasets under the names that the pages use."""
    voc = make_voc(work / "VOC2012", per_class=6)
    lists = voc / "ImageSets" / "Segmentation"
    shutil.copy(lists / "train.txt", lists / "voc_mini.txt")
    shutil.copytree(voc, work / "VOCdevkit" / "VOC2012")
    make_coco(work / "coco", class_ids=(1, 2, 3, 5, 6, 7), per_class=6)
    make_custom(work / "my_photos", per_class=6)
    (work / "val").mkdir()
    for fold, (number, class_id) in enumerate(((0, 1), (2, 6), (5, 11), (8, 16))):  # the first photos are of these
        (work / "val" / f"fold{fold}.txt").write_text(f"2007_{number:06d}__{class_id:02d}\n")


def add_weights(work: Path) -> None:
    """A file of backbone weights; random ones, since what is shown is that the commands run."""
    import torch

    from rifenet.models.backbones import build_backbone

    torch.manual_seed(0)
    torch.save(build_backbone("resnet50", stem="deep").state_dict(), work / "resnet50_v2.pth")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of shell blocks: stand-ins first on the path, this source tree, caches of its own."""
    bin, state = tmp_path / "bin", tmp_path / "state"
    for made in (bin, state):
        made.mkdir()
    for program in PROGRAMS:
        script = f'#!/bin/sh\nexec "{sys.executable}" "{docs_shim.__file__}" {program} "$@"\n'
        (bin / program).write_text(script)
        (bin / program).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "RIFENET_CACHE": str(tmp_path / "cache"),
        docs_shim.PATH: os.environ["PATH"],
        docs_shim.STATE: str(state),
    }
    yield environment
    docs_shim.stop(state)


def run_page(page: Path, found: list[Block], work: Path, environment: dict[str, str]) -> None:
    """Runs blocks in order; the first that fails ends it, with its place and what it said."""
    names: dict[str, object] = {"__name__": "__main__"}
    port = Path(environment[docs_shim.STATE]) / "server.port"
    for block in to_run(found):
        place = f"{name_of(page)}:{block.line}"
        text = block.text.replace(THERE, f"http://127.0.0.1:{port.read_text()}") if port.exists() else block.text
        if block.language == "python":
            exec(compile(text, place, "exec"), names)
            continue
        status, output = bash(text, work, environment)
        assert status == 0, f"{place} ended with {status}:\n{textwrap.indent(f'{text}{output[-6000:]}', '    ')}"


def bash(text: str, work: Path, environment: dict[str, str], seconds: float = 600) -> tuple[int, str]:
    """Exit status and output of a shell block; whatever it started ends with it, also where it takes too long."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


@posix
@pytest.mark.parametrize("page", QUICK_PAGES, ids=name_of)
def test_blocks_run(page: Path, folder: Path, shell: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = quick(page)
    if any("rifenet data" in block.text for block in found):
        add_datasets(folder)
    monkeypatch.chdir(folder)
    run_page(page, found, folder, shell)
    check_results(page, folder)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW_PAGES, ids=name_of)
def test_long_blocks_run(page: Path, folder: Path, shell: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    add_datasets(folder)
    add_weights(folder)
    monkeypatch.chdir(folder)
    run_page(page, read(page), folder, shell)


def check_results(page: Path, work: Path) -> None:
    """What the pages promise of their files, measured against the truth of the photos."""
    truth = examples("bear", False)[0]
    if name_of(page) == "README.md":
        assert iou(work / "out" / "query_mask.png", truth) > 0.6
        assert len(list((work / "masks").glob("*_mask.png"))) == 3
    if name_of(page) == "docs/server.md":
        assert iou(work / "query.png", truth) > 0.6


def iou(mask: Path, truth: tuple[Path, Path, int]) -> float:
    with Image.open(mask) as predicted, Image.open(truth[1]) as labels:
        found, there = np.asarray(predicted) == 1, np.asarray(labels) == truth[2]
    return float((found & there).sum() / (found | there).sum())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        assert block.language in (*QUICK_LANGUAGES, *DATA, *PICTURES), f"{name_of(page)}:{block.line}"
        if block.language == "json":
            json.loads(block.text)
        if block.language == "xml":
            ElementTree.fromstring(block.text)
        if block.language == "yaml":
            assert yaml.safe_load(block.text) is not None
        if block.language in PICTURES:
            assert not re.search(r"^(?:\$ )?(?:rifenet|pip|make|python3?) ", block.text, re.MULTILINE), block.text
    assert text.count("```") == 2 * len(blocks(text)), "a fence is indented, or not closed: nothing would run it"


def test_pages_that_are_run_elsewhere_are() -> None:
    assert {*ELSEWHERE} <= {name_of(page) for page in PAGES}
    for page, test in ELSEWHERE.items():
        text = (ROOT / test).read_text(encoding="utf-8")
        assert Path(page).name in text, f"{test} reads another page"
        assert "exec(" in text, f"{test} runs no Python block"


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = {
        f"{name_of(page)}:{block.line}": block.not_run for page in PAGES for block in read(page) if block.not_run
    }
    assert len(left_out) <= MAX_NOT_RUN, left_out
    assert all(reason.startswith("needs ") for reason in left_out.values()), left_out
    markers = sum(page.read_text(encoding="utf-8").count("<!-- not run") for page in PAGES)
    assert markers == len(left_out), "a marker stands somewhere else than in the line above its block"


@posix
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rifenet fly", "fly"),
        ("pip install 'rifenet[nothing]'", "rifenet[nothing]"),
        ("make nothing", "nothing"),
        ("rifenet data index --dataset custom --root nowhere | cat", "nowhere"),
    ],
)
def test_a_wrong_shell_block_is_found(text: str, complaint: str, folder: Path, shell: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run_page(PAGES[0], [Block("sh", text)], folder, shell)
    assert not (folder / "out").exists()


def test_a_wrong_python_block_is_found(folder: Path) -> None:
    found = [Block("python", "masks = 1"), Block("python", "assert masks == 2")]
    with pytest.raises(AssertionError):
        run_page(PAGES[0], found, folder, {docs_shim.STATE: str(folder)})


def test_pages_with_long_blocks_are_known() -> None:
    names = {name_of(page) for page in SLOW_PAGES}
    assert {"README.md", "docs/training.md", "docs/reproduce.md", "docs/own_classes.md"} <= names
    assert "docs/server.md" not in names
