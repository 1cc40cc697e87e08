"""`rifenet segment` over a small engine; the last test runs the real program in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_engine import ColourEngine
from PIL import Image
from tiny_disk import tiny_disk
from tiny_model import write_tiny_model

from rifenet.cli.main import main
from rifenet.segmenting import result
from rifenet.segmenting.segmenter import Segmenter

RED, BLUE, GREY = (220, 30, 30), (30, 30, 220), (128, 128, 128)


def draw(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, GREY)
    image.paste(colour, (10, 10, 60, 50))
    image.save(path)
    return path


@pytest.fixture
def supports(tmp_path: Path) -> list[str]:
    """Options for red from two shots and blue from one."""
    words = []
    for name, colour, number in (("red", RED, 1), ("blue", BLUE, 1), ("red", RED, 2)):
        photo = draw(tmp_path / "supports" / f"{name}{number}.png", colour)
        mask = np.zeros((60, 80), np.uint8)
        mask[10:50, 10:60] = 1
        Image.fromarray(mask).save(tmp_path / "supports" / f"{name}{number}_mask.png")
        words += ["--support", name, str(photo), str(tmp_path / "supports" / f"{name}{number}_mask.png")]
    return words


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ColourEngine:
    """The engine that the command gets instead of a model from disk."""
    engine = ColourEngine()
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda cls, *arguments: cls(engine)))
    return engine


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "manifest.json").read_text()))


def test_segments_files_and_folders(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.PNG", "notes.txt"):
        draw(tmp_path / "photos" / "x.png", RED).rename(tmp_path / "photos" / name)
    single = draw(tmp_path / "single.png", BLUE)
    out = tmp_path / "out"
    code = main(["segment", *supports, "--query", str(tmp_path / "photos"), str(single), "--out", str(out), "--json"])
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == manifest(out)
    assert [Path(record["query"]).name for record in printed["results"]] == ["a.png", "b.PNG", "single.png"]
    assert [entry["name"] for entry in printed["results"][0]["classes"]] == ["red", "blue"]
    assert [[entry["present"] for entry in record["classes"]] for record in printed["results"]] == [
        [True, False],
        [True, False],
        [False, True],
    ]
    assert printed["failed"] == []
    mask = np.asarray(Image.open(out / "single_mask.png"))
    assert (mask[20:40, 20:50] == 2).all()
    assert (mask[:5] == 0).all()
    for record in printed["results"]:
        assert all((out / file).is_file() for file in (*record["files"].values(), record["json"]))


def test_the_table_is_for_people(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    query = draw(tmp_path / "[bold]odd.png", RED)
    assert main(["segment", *supports, "--query", str(query), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "[bold]odd.png" in text
    assert "1 photos segmented into" in text.replace("\n", " ")


def test_photos_that_cannot_be_read_are_named_and_skipped(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = draw(tmp_path / "good.png", RED), tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff nothing")
    missing = tmp_path / "missing.png"
    out = tmp_path / "out"
    words = ["segment", *supports, "--query", str(bad), str(missing), str(good), "--out", str(out)]
    assert main(words) == 0
    errors = capsys.readouterr().err
    assert f"skipped {bad}" in errors
    assert f"skipped {missing}" in errors
    assert [entry["query"] for entry in manifest(out)["failed"]] == [str(bad), str(missing)]
    assert len(manifest(out)["results"]) == 1


def test_it_is_a_failure_where_no_photo_can_be_read(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", *supports, "--query", str(tmp_path / "no.png"), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "Expected at least one photo that can be read, but all 1 failed." in capsys.readouterr().err


def test_the_same_command_goes_on_where_it_stopped(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [draw(tmp_path / "photos" / f"{name}.png", RED) for name in "abc"]
    out = tmp_path / "out"
    words = ["segment", *supports, "--query", str(tmp_path / "photos"), "--out", str(out), "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)["results"]
    (out / "a_mask.png").unlink()  # as if stopped before a was complete
    draw(photos[1], BLUE, (81, 60))  # b is another photo now
    engine.encoded_queries.clear()
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(engine.encoded_queries) == 2
    assert again["resumed"] == 1
    assert again["results"][0] == first[0]
    assert again["results"][1]["width"] == 81
    assert again["results"][2] == first[2]
    assert (out / "a_mask.png").is_file()


@pytest.mark.parametrize("change", [["--keep-absent"], ["--support", "red"]])
def test_a_folder_of_other_results_is_refused_unless_told(
    tmp_path: Path, supports: list[str], engine: ColourEngine, change: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    query = draw(tmp_path / "query.png", RED)
    words = ["segment", *supports, "--query", str(query), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    before = manifest(tmp_path / "out")
    other = [*words, *change, *([] if len(change) == 1 else supports[6:8])]
    assert main(other) == 1
    assert "Choose another --out, or add --overwrite." in capsys.readouterr().err
    assert manifest(tmp_path / "out") == before
    assert main([*other, "--overwrite"]) == 0
    assert manifest(tmp_path / "out")["settings"] != before["settings"]


def test_a_folder_of_other_files_is_left_alone(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    query = draw(tmp_path / "query.png", RED)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "query.json").write_text("mine")
    words = ["segment", *supports, "--query", str(query), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "out" / "query.json").read_text() == "mine"
    words[words.index("--query") + 1] = words[-1] = str(tmp_path / "supports")
    assert main(words) == 1
    assert "Expected --out to be another folder than --query" in capsys.readouterr().err


def test_results_of_photos_with_one_name_stay_apart(tmp_path: Path, supports: list[str], engine: ColourEngine) -> None:
    queries = [
        draw(tmp_path / "one" / "photo.png", RED),
        draw(tmp_path / "one" / "photo.bmp", BLUE),
        draw(tmp_path / "two" / "Photo.png", RED),
        draw(tmp_path / "two" / "manifest.png", RED),
    ]
    words = ["segment", *supports, "--query", *map(str, queries), str(tmp_path / "one"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    names = [record["json"] for record in manifest(tmp_path / "out")["results"]]
    assert names == ["photo.json", "photo_bmp.json", "Photo_png.json", "manifest_png.json"]
    assert len(list((tmp_path / "out").iterdir())) == 4 * 3 + 1


def test_masks_of_the_supports_are_no_queries(tmp_path: Path, supports: list[str], engine: ColourEngine) -> None:
    words = ["segment", *supports, "--query", str(tmp_path / "supports"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    names = [Path(record["query"]).name for record in manifest(tmp_path / "out")["results"]]
    assert names == ["blue1.png", "red1.png", "red2.png"]


def test_a_bad_support_stops_before_anything_is_written(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    query = draw(tmp_path / "query.png", RED)
    Image.new("L", (80, 60), 255).save(tmp_path / "white.png")
    extra = ["--support", "red", str(query), str(tmp_path / "white.png")]
    words = ["segment", *supports, *extra, "--query", str(query), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "marks none" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main([*words, "--white-is-object"]) == 0


def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for index in range(8):
        noise = Image.fromarray(rng.integers(0, 256, (160, 160, 3), np.uint8))
        (tmp_path / "photos").mkdir(exist_ok=True)
        noise.save(tmp_path / "photos" / f"{index}.png")
    with tiny_disk(tmp_path / "disk", kilobytes=96) as disk:
        if not disk.mounted:
            pytest.skip("This system mounts no small disk.")
        out = disk.folder / "out"
        words = ["segment", *supports, "--query", str(tmp_path / "photos"), "--out", str(out)]
        assert main(words) == 1
        error = capsys.readouterr().err
        assert "No space left" in error
        assert "Run the same command again to resume" in error
        done = {path.name for path in out.glob("?.json")}
        assert 1 <= len(done) < 8
        for name in done:
            facts = json.loads((out / name).read_text())
            with Image.open(out / facts["files"]["mask"]) as mask:
                assert mask.size == (160, 160)
        assert not list(out.glob(".*"))


PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from colour_engine import ColourEngine
from rifenet.cli.main import entry
from rifenet.segmenting.segmenter import Segmenter
Segmenter.from_pretrained = classmethod(lambda cls, *arguments: cls(ColourEngine()))
entry()
"""


def run_on(words: list[Any], *, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, on the small engine."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), *words]
    return subprocess.run(
        command, capture_output=True, check=False, timeout=120, env={**os.environ, **(environment or {})}
    )


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    """A folder of photos, two with names that leave no room for an ending, and one whose name is not UTF-8."""
    folder = tmp_path / "photos"
    long = [f"{'n' * 250}{end}.png" for end in ("a", "b")] + [f"{'é' * 124}.png"]
    for name in ("good.png", *long):
        draw(folder / name, RED)
    try:
        shutil.copy(folder / "good.png", os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("This disk takes no name that is not UTF-8.")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="Names are always Unicode there.")
@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_one_odd_file_name_does_not_end_a_folder(
    odd_names: Path, tmp_path: Path, supports: list[str], kind: list[str]
) -> None:
    out = tmp_path / "out"
    formats = ["--format", "index,binary,overlay,coco,labelme,cutout,html"]
    words = ["segment", *supports, "--query", str(odd_names), "x" * 300, "--out", str(out), *formats, *kind]
    done = run_on(words, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"skipped " + b"x" * 300 in done.stderr
    results = manifest(out)["results"]
    assert sorted(Path(record["query"]).name for record in results) == sorted(os.listdir(odd_names))
    names = [record["json"] for record in results]
    assert len({name.lower() for name in names}) == 5
    assert "good.json" in names
    for record in results:
        assert len(record["files"]) == 7
        assert all((out / file).is_file() for file in (*record["files"].values(), record["json"]))
        record["json"].encode()
    assert "caf" in (out / "index.html").read_text(encoding="utf-8")
    if kind:
        assert json.loads(done.stdout) == manifest(out)
    again = run_on(words)
    assert again.returncode == 0
    assert manifest(out)["resumed"] == 5


def test_a_disk_that_takes_shorter_names_costs_one_photo(
    tmp_path: Path,
    supports: list[str],
    engine: ColourEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a" * 100, "b", "c"):
        draw(tmp_path / "photos" / f"{name}.png", RED)
    real = result.write_bytes

    def write(path: Path, data: bytes) -> None:
        if len(path.name) > 100:
            raise OSError(errno.ENAMETOOLONG, "File name too long", str(path))
        real(path, data)

    monkeypatch.setattr(result, "write_bytes", write)
    words = ["segment", *supports, "--query", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert f"skipped {tmp_path / 'photos' / ('a' * 100)}.png: " in capsys.readouterr().err
    assert [Path(record["query"]).name for record in manifest(tmp_path / "out")["results"]] == ["b.png", "c.png"]


def test_a_folder_with_only_the_leftover_of_a_killed_run_is_free(
    tmp_path: Path, supports: list[str], engine: ColourEngine
) -> None:
    query = draw(tmp_path / "query.png", RED)
    (tmp_path / "out" / f".{uuid.uuid4().hex}.tmp").mkdir(parents=True)
    assert main(["segment", *supports, "--query", str(query), "--out", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out").glob(".*"))


MEASURE = """
from memory import peak
from rifenet.cli.main import main
before = []
class Measured(ColourEngine):
    def decode(self, *arguments):
        before.append(peak())
        return super().decode(*arguments)
Segmenter.from_pretrained = classmethod(lambda cls, *arguments: cls(Measured()))
assert main(sys.argv[1:]) == 0
print((peak() - before[0]) / 36e6, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells it in /proc.")
def test_large_photos_take_ten_bytes_a_pixel(tmp_path: Path, supports: list[str]) -> None:
    """Pillow's own photo takes 4 and ours 3; later ours, the mask and Pillow's overlay 8. Before: 23.

    Freed memory of up to 64 MiB stays with the process (`engines.allocator`).
    """
    small = draw(tmp_path / "a.png", RED)
    large = [draw(tmp_path / f"{name}.png", RED, (6000, 6000)) for name in "bc"]  # the second must not meet the first
    words = ["segment", *supports, "--query", small, *large, "--out", str(tmp_path / "out"), "--tiles", "no"]
    program = PROGRAM.replace("entry()", "") + MEASURE
    command = [sys.executable, "-c", program, str(Path(__file__).parents[1]), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert 6 < float(done.stderr.splitlines()[-1]) < 10.5 + 64 * 2**20 / 36e6


REDDISH, BROWN = (200, 70, 30), (120, 125, 30)  # found from red; found once the first is taken for red, too


def test_adapting_learns_from_the_photos_and_goes_on_as_one_run(
    tmp_path: Path,
    supports: list[str],
    engine: ColourEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.calibration = {"a": 20.0, "b": -8.0}  # so that adapting shifts the confidence, too
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name, colour in (("a.png", REDDISH), ("b.png", BROWN), ("c.png", BLUE), ("f.png", GREY), ("g.png", BROWN)):
        draw(photos / name, colour)
    draw(photos / "d.png", tuple(np.add(REDDISH, [8, -15, 0]).tolist()))
    plain = ["segment", *supports, "--query", str(photos), "--out"]
    assert main([*plain, str(tmp_path / "plain")]) == 0
    assert "adopted" not in manifest(tmp_path / "plain")
    command = [*plain, str(out), "--adapt", "2"]
    assert main(command) == 0
    assert "red: extra examples from d.png" in capsys.readouterr().out
    first = manifest(out)
    assert [Path(shot["query"]).name for shot in first["adopted"]["photos"]["red"]] == ["d.png", "a.png"]
    assert first["adopted"]["photos"]["blue"] == []  # its only photo is the annotated one, once more
    assert first["settings"]["adapt"] == 2

    def brown(folder: Path) -> tuple[float, int]:
        entry = json.loads((folder / "b.json").read_text())["classes"][0]
        return entry["confidence"], entry["pixels"]

    before = brown(out)
    assert before[0] > brown(tmp_path / "plain")[0]

    (out / "b.json").unlink()  # as if it had been stopped there
    draw(photos / "e.png", tuple(np.add(REDDISH, [12, -25, 0]).tolist()))  # surer, but the run is under way
    draw(photos / "d.png", BLUE)  # what it taught stays
    engine.encoded_queries.clear()
    monkeypatch.chdir(tmp_path)
    assert main(["segment", *supports, "--query", "photos", "--out", "out", "--adapt", "2"]) == 0
    second = manifest(out)
    assert second["adopted"] == first["adopted"]
    assert (second["resumed"], len(second["results"])) == (4, 7)
    assert brown(out) == before
    assert len(engine.encoded_queries) == 1 + 3  # the classes are tried, and b, d and e segmented: nothing is looked at
    engine.encoded_queries.clear()
    assert main(command) == 0
    assert manifest(out)["resumed"] == 7
    assert len(engine.encoded_queries) == 1

    (out / "classes.safetensors").write_bytes(b"damaged")  # so they are learned again, and all that hangs on them
    assert main(command) == 0
    third = manifest(out)
    assert [Path(shot["query"]).name for shot in third["adopted"]["photos"]["red"]] == ["e.png", "a.png"]
    assert third["resumed"] == 0
    assert main([*plain, str(out)]) == 1
    assert "holds others" in capsys.readouterr().err


def test_a_run_in_which_nothing_is_adopted_goes_on_as_well(
    tmp_path: Path, supports: list[str], engine: ColourEngine
) -> None:
    draw(tmp_path / "photos" / "a.png", GREY)
    command = ["segment", *supports, "--query", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--adapt"]
    assert main(command) == 0
    assert manifest(tmp_path / "out")["adopted"]["photos"] == {"red": [], "blue": []}
    draw(tmp_path / "photos" / "b.png", REDDISH)
    assert main(command) == 0
    assert manifest(tmp_path / "out")["adopted"]["photos"] == {"red": [], "blue": []}
    assert manifest(tmp_path / "out")["resumed"] == 1


def test_photos_that_cannot_be_read_are_named_once_when_adapting(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photos" / "a.png", REDDISH)
    (tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    command = ["segment", *supports, "--query", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--adapt"]
    assert main(command) == 0
    assert capsys.readouterr().err.count("skipped") == 1
    assert [Path(entry["query"]).name for entry in manifest(tmp_path / "out")["failed"]] == ["b.png"]


@pytest.mark.parametrize("count", ["0", "-1", "21", "many"])
def test_a_number_of_photos_to_adopt_is_positive(
    tmp_path: Path, supports: list[str], capsys: pytest.CaptureFixture[str], count: str
) -> None:
    command = ["segment", *supports, "--query", str(tmp_path), "--out", str(tmp_path / "out"), f"--adapt={count}"]
    assert main(command) == 2
    assert f"expected a number of photos from 1 to 20, but got {count}" in capsys.readouterr().err


def test_fits_are_told_on_request_and_can_be_left_out(
    tmp_path: Path, supports: list[str], engine: ColourEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.inner_names = ("high",)
    engine.inner = lambda features: [{"high": np.ones((2, 4, 4), np.float32)} for _ in features]  # type: ignore[attr-defined]
    photo = draw(tmp_path / "photo.png", RED)
    words = ["segment", *supports, "--query", str(photo), "--show-fit"]
    assert main([*words, "--out", str(tmp_path / "fitted")]) == 0
    told = capsys.readouterr().err
    assert "red: whole photo, " in told
    assert "blue: whole photo, " in told
    assert "  edges: IoU " in told
    assert main([*words, "--no-fit", "--out", str(tmp_path / "plain")]) == 0
    assert "IoU" not in capsys.readouterr().err
    assert [manifest(tmp_path / name)["settings"]["fit"] for name in ("fitted", "plain")] == [True, False]


def test_the_program_itself(tmp_path: Path, supports: list[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    queries = [str(draw(tmp_path / f"query{index}.png", RED)) for index in range(2)]
    words = ["-m", "rifenet", "segment", *supports, "--query", *queries, "--out", str(tmp_path / "out"), "--json"]
    words += ["--model", str(model), "--device", "cpu", "--threads", "1", "--keep-absent"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = json.loads(done.stdout)
    assert printed["settings"]["model"]["name"] == "tiny"
    assert Image.open(tmp_path / "out" / "query0_mask.png").size == (80, 60)
    wrong = subprocess.run(
        [sys.executable, *words[:-5], "--device", "abacus"], capture_output=True, text=True, timeout=120, check=False
    )
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("rifenet segment: Expected a device of this machine")
    assert wrong.stderr.count("\n") == 1


def results(out: Path) -> list[str]:
    return [record["json"] for record in manifest(out)["results"]]


def test_no_two_photos_share_a_file(tmp_path: Path, supports: list[str], engine: ColourEngine) -> None:
    names = ["a", "a_coco", "a_labelme", "a_red", "a_red_mask", "a_mask", "A_COCO", "coco", "a_coco_coco"]
    photos = [draw(tmp_path / ("upper" if name.isupper() else "photos") / f"{name}.png", RED) for name in names]
    out = tmp_path / "out"
    words = ["segment", *supports, "--query", *map(str, photos), "--out", str(out)]
    assert main([*words, "--format", "index,binary,overlay,coco,labelme,cutout"]) == 0
    records = manifest(out)["results"]
    files = [file.lower() for record in records for file in (record["json"], *record["files"].values())]
    assert len(files) == len(set(files)) == len(names) * 8  # index, two binary, overlay, coco, labelme, cutout, json
    for record, name in zip(records, names, strict=True):
        assert Path(record["query"]).stem == name
        assert json.loads((out / record["json"]).read_text())["query"] == record["query"]
        coco = json.loads((out / record["files"]["coco"]).read_text())
        assert coco["images"][0]["file_name"] == f"{name}.png"
    assert len(json.loads((out / "coco.json").read_text())["images"]) == len(names)
    assert records[0]["json"] == "a.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shots of red in `images/` and `masks/`, and the same in one folder."""
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 10:60] = 1
    for number in range(3):
        photo = draw(tmp_path / "two" / "images" / f"{number}.png", RED)
        (tmp_path / "two" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "two" / "masks" / photo.name)
        (tmp_path / "one").mkdir(exist_ok=True)
        Image.open(photo).save(tmp_path / "one" / f"{number}.jpg", quality=95)
        Image.fromarray(mask).save(tmp_path / "one" / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "shots"),
    [
        (["one"], 3),
        (["two"], 3),
        (["two/images", "two/masks"], 3),
        (["two/images/*.png", "two/masks/*.png"], 3),
        (["one/[01].jpg", "one/*.png"], 2),
        (["two/images", "one/all.json"], 3),
    ],
)
def test_folders_and_patterns_of_shots(
    words: list[str],
    shots: int,
    folder: Path,
    engine: ColourEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    shape = {"label": "red", "points": [[10, 10], [60, 10], [60, 50], [10, 50]]}
    (folder / "one" / "all.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 60, "imageWidth": 80}))
    if words == ["one"]:
        (folder / "one" / "all.json").unlink()
    assert main(["segment", "--support", "red", *words, "--query", "two/images/*.png", "--out", "out"]) == 0
    record = manifest(folder / "out")
    assert len(record["settings"]["classes"]["red"]) == shots
    assert [Path(each["query"]).name for each in record["results"]] == ["0.png", "1.png", "2.png"]
    warned = [line for line in capsys.readouterr().err.splitlines() if line]
    assert [line.split(": ")[0] for line in warned] == ["warning"] * (
        words[0] == "one/[01].jpg"
    )  # a mask without a photo


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["red"], "got red: the photo and the mask are missing."),
        (["red", "one/0.jpg"], "got red one/0.jpg: the MASK of one/0.jpg is missing."),
        (["one/0.jpg", "one/0.png"], "got one/0.jpg one/0.png: the CLASS is missing."),
        (["red", "nowhere"], "got red nowhere: there is no folder nowhere"),
        (
            ["red", "one/0.jpg", "one/1.jpg", "one/2.jpg"],
            "got red one/0.jpg one/1.jpg one/2.jpg: these are 4 words. Repeat --support",
        ),
    ],
)
def test_a_missing_word_of_a_support_is_named(
    words: list[str],
    sentence: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    for command in ("segment", "advise"):
        assert main([command, "--support", *words, "--query", "one", "--out", "out"]) == 2
        assert f"expected CLASS PHOTO MASK, or CLASS FOLDER, but {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("support", "query", "sentence"),
    [
        (["one/*.jpg"], "one", "Expected a second pattern after one/*.jpg, for the masks"),
        (["*.jpg", "*.png"], "one", "Expected files that match *.jpg, but there are none"),
        (["two"], "gone", "Expected photos or a folder of photos for --query, but there is no folder gone"),
        (["two"], "gone/", "there is no folder gone/"),
        (["two"], "one/x*.jpg", "Expected photos that match the pattern one/x*.jpg of --query"),
        (["out"], "one", "Expected photos with masks of the same name in out"),
    ],
)
def test_what_no_file_matches_is_named_before_any_work(
    support: list[str],
    query: str,
    sentence: str,
    folder: Path,
    engine: ColourEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "out").mkdir()
    assert main(["segment", "--support", "red", *support, "--query", query, "--out", "out"]) == 1
    assert sentence in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []
