"""`rifenet segment --ray` on real Ray nodes, with a real server of the S3 protocol; `make partner-ray` runs it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs_blocks import ROOT, blocks
from PIL import Image
from rendered import make_custom, make_voc
from tiny_model import write_smallest_model

pytestmark = pytest.mark.partner("ray")

fsspec = pytest.importorskip("fsspec")
pyarrow = pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")

from rifenet.cli.main import main  # noqa: E402
from rifenet.formats.remarks import collected  # noqa: E402
from rifenet.integrations.blocks import BlockPlan, failed_of, part_name  # noqa: E402
from rifenet.integrations.places import FoundPhoto, Place, local_copy, photos_at  # noqa: E402
from rifenet.integrations.ray import Done, folder_of, table_part  # noqa: E402

BUCKET = "photos"


def render(path: Path, seed: int) -> Path:
    """A photo with a bright disc on a noisy ground, and beside it its mask."""
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(40, 72, 2))
    rows, columns = np.ogrid[:height, :width]
    middle = generator.uniform(0.3, 0.7, 2) * (height, width)
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (0.25 * min(height, width)) ** 2
    pixels = generator.integers(0, 90, (height, width, 3), dtype=np.uint8)
    pixels[disc] += np.array([150, 60, 20], np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    Image.fromarray(disc.astype(np.uint8)).save(path.with_name(f"{path.stem}_truth.png"))
    return path


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables by which boto finds the server on loopback, as a user of another store sets them."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "loopback",
        "AWS_SECRET_ACCESS_KEY": "loopback",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    yield variables
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def bucket(environment: dict[str, str], request: pytest.FixtureRequest) -> Place:
    """An empty bucket of the test's own."""
    name = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    place = Place(f"s3://{name}")
    place.files.mkdir(name)
    return place


@pytest.fixture(scope="session")
def cluster(environment: dict[str, str]) -> Iterator[Any]:
    """Three Ray nodes, each with processes of its own: a head without workers, and two of one core."""
    from ray.cluster_utils import Cluster

    made = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
    for _ in range(2):
        patiently(lambda: made.add_node(num_cpus=1))
    yield made
    made.shutdown()


def patiently(make: Callable[[], Any], tries: int = 5) -> Any:
    """Ray gives a node 30 seconds to start and no option to wait longer, which a crowded machine does not keep."""
    for _ in range(tries - 1):
        try:
            return make()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return make()


@pytest.fixture(scope="session")
def shot(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The model and the class, as options of the command."""
    folder = tmp_path_factory.mktemp("shot")
    model = write_smallest_model(folder / "tiny.safetensors", size=321)  # slow enough to be killed at work
    photo = render(folder / "shot.png", 10**6)
    words = ["--model", str(model), "--no-fit", "--threads", "1", "--device", "cpu"]
    return [*words, "--support", "disc", str(photo), str(photo.with_name("shot_truth.png"))]


def found(name: str, stamp: str = "1") -> FoundPhoto:
    return FoundPhoto(f"s3://{BUCKET}/{name}", 10, stamp)


def finish(place: Place, plan: BlockPlan, *blocks: int, error: str | None = None) -> None:
    """Writes the parts of blocks, as workers do."""
    for block in blocks:
        rows = {photo.photo: {"error": error} for _, photo in plan.blocks[block]}
        place.write(part_name(block), table_part(plan.blocks[block], rows, ["disc"], False))


def names_of(plan: BlockPlan) -> dict[int, list[str]]:
    return {block: [photo.photo.rpartition("/")[2] for _, photo in photos] for block, photos in plan.blocks.items()}


def settled(place: Place, photos: list[FoundPhoto], size: int = 2) -> tuple[BlockPlan, set[int]]:
    plan = BlockPlan(place, size)
    return plan, plan.settle(photos)


def test_a_plan_holds_each_photo_once_and_is_found_again(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    plan, done = settled(place, [found("c"), found("a"), found("b"), found("a")])
    assert done == set()
    assert names_of(plan) == {0: ["a", "b"], 1: ["c"]}
    finish(place, plan, 1)
    again, done = settled(place, [found("b"), found("a"), found("c")], size=50)
    assert done == {1}
    assert again.blocks == plan.blocks


def test_a_new_photo_gets_a_block_and_a_number_of_its_own(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    plan, _ = settled(place, [found(name) for name in "abc"])
    finish(place, plan, 0, 1)
    plan, done = settled(place, [found(name) for name in "abcd"])
    assert done == {0, 1}
    assert names_of(plan) == {0: ["a", "b"], 1: ["c"], 2: ["d"]}
    assert sorted(number for photos in plan.blocks.values() for number, _ in photos) == [0, 1, 2, 3]


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_block_whose_photos_changed_is_done_again(tmp_path: Path, change: str) -> None:
    place = Place(str(tmp_path))
    plan, _ = settled(place, [found(name) for name in "abcd"])
    finish(place, plan, 0, 1)
    photos = [found("a"), found("c"), found("d")] + ([found("b", stamp="2")] if change == "changed" else [])
    plan, done = settled(place, photos)
    assert done == {1}
    assert place.names("table") == ["00000001.parquet"], "no row of the void block may stay"
    assert names_of(plan) == {1: ["c", "d"], 2: ["a", "b"] if change == "changed" else ["a"]}
    numbers = [number for photos in plan.blocks.values() for number, _ in photos]
    assert len(set(numbers)) == len(numbers)
    assert min(number for number, _ in plan.blocks[2]) > 3, "annotations keep the numbers of their photos"


def test_a_split_block_is_tried_photo_by_photo(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    plan, _ = settled(place, [found(name) for name in "abc"])
    assert plan.split(0) == [2, 3]
    assert names_of(plan) == {1: ["c"], 2: ["a"], 3: ["b"]}
    again, _ = settled(place, [found(name) for name in "abc"])
    assert again.blocks == plan.blocks


def test_failed_photos_are_read_from_the_parts_and_half_a_part_is_found(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    plan, _ = settled(place, [found(name) for name in "abcde"])
    finish(place, plan, 0)
    finish(place, plan, 1, error="no picture")
    finish(place, plan, 2)
    data = (tmp_path / part_name(2)).read_bytes()
    (tmp_path / part_name(2)).write_bytes(data[: len(data) // 2])
    failed, broken = failed_of(place, {0, 1, 2})
    assert failed == {f"s3://{BUCKET}/{name}": "no picture" for name in "cd"}
    assert broken == {2}


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_place_is_a_folder_wherever_it_is(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    place = Place(str(tmp_path / "out")) if where == "disk" else request.getfixturevalue("bucket")
    assert place.is_empty()
    assert place.read("a/b.txt") is None
    assert place.names("a") == []
    place.write("a/b.txt", b"one")
    place.write("a/b.txt", b"two")
    place.write("a/c/d.txt", b"three")
    assert place.read("a/b.txt") == b"two"
    assert place.names("a") == ["b.txt"]
    assert not place.is_empty()
    place.remove("a")
    place.remove("a")
    assert place.names("a") == []


@pytest.mark.parametrize("where", ["disk", "store"])
def test_photos_of_folders_patterns_and_lists(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    place = Place(str(tmp_path / "in")) if where == "disk" else request.getfixturevalue("bucket")
    for name in ("a.png", "b.JPG", "notes.md", "below/c.png", "below/deeper/d.webp"):
        place.write(name, b"1234")

    def names(word: str) -> list[str]:
        return sorted(photo.photo.removeprefix(f"{place.url}/") for photo in photos_at([word]))

    with collected() as told:
        assert names(place.url) == ["a.png", "b.JPG"]
    assert len(told) == 1
    assert "Left out: 1 .md." in told[0]
    with collected() as told:
        assert names(f"{place.url}/*.png") == ["a.png"]
    assert not told
    with collected() as told:
        assert names(f"{place.url}/**") == ["a.png", "b.JPG", "below/c.png", "below/deeper/d.webp"]
    assert len(told) == 1
    (photo,) = photos_at([f"{place.url}/below/c.png"])
    assert photo.bytes == 4
    assert photo.stamp
    (missing,) = photos_at([f"{place.url}/below/none.png"])
    assert missing == FoundPhoto(f"{place.url}/below/none.png")
    place.write("list.txt", f"{place.url}/a.png\n\n{place.url}/gone.png\n".encode())
    assert names(f"{place.url}/list.txt") == ["a.png", "gone.png"]
    with pytest.raises(FileNotFoundError, match=r"Expected photos .* but there are none"):
        list(photos_at([f"{place.url}/below/*.gif"]))


def test_a_changed_photo_has_another_stamp(bucket: Place) -> None:
    bucket.write("a.png", b"1234")
    (before,) = photos_at([bucket.url + "/"])
    bucket.write("a.png", b"5678")
    (after,) = photos_at([bucket.url + "/"])
    assert before.photo == after.photo
    assert before.stamp != after.stamp


def test_the_folder_of_a_photo_is_its_own() -> None:
    urls = ["s3://b/a.jpg", "s3://b/a.png", "s3://b/x/a.jpg", "file:///b/a.jpg", "s3://b/A.jpg"]
    assert len({folder_of(url) for url in urls}) == len(urls)
    assert folder_of("s3://b/x/a.jpg") == "files/s3/b/x/a.jpg"
    with pytest.raises(ValueError, match=r"without '\.\.'"):
        folder_of("s3://b/../../etc/passwd.png")


def test_a_photo_on_this_disk_is_read_where_it_is(tmp_path: Path) -> None:
    photo = render(tmp_path / "a.png", 0)
    assert local_copy(photo.as_uri(), tmp_path / "nowhere", 0) == photo


def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The command in a process of its own, so that it can be killed."""
    command = [sys.executable, "-m", "rifenet", "segment", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the command ended before: {process.communicate()}"
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)


def table_of(out: Place) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in sorted(out.names("table")):
        rows += parquet.read_table(pyarrow.BufferReader(out.read(f"table/{name}"))).to_pylist()
    return rows


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 96 photos, and two files that are none."""
    folder = tmp_path_factory.mktemp("rendered") / "photos"
    for seed in range(96):
        render(folder / f"{seed:03d}.png", seed)
    for mask in folder.glob("*_truth.png"):
        mask.unlink()
    (folder / "empty.png").touch()
    (folder / "words.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def alone(photos: Path, shot: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the same command writes on one machine, without Ray."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert main(["segment", *shot, "--query", str(photos), "--out", str(out), "--format", "index,coco"]) == 0
    return out


def uploaded(photos: Path, bucket: Place) -> str:
    for photo in photos.iterdir():
        bucket.write(f"in/{photo.name}", photo.read_bytes())
    return f"{bucket.url}/in"


def expect_same(out: Place, alone: Path, query: str) -> None:
    """The masks to the bit, and every number of the record; each photo in one row, whatever was killed."""
    rows = table_of(out)
    records = {record["query"]: record for record in json.loads((alone / "manifest.json").read_text())["results"]}
    assert sorted(row["photo"] for row in rows) == sorted(
        [f"{query}/{Path(name).name}" for name in records] + [f"{query}/empty.png", f"{query}/words.jpg"]
    )
    good = {Path(row["photo"]).name: row for row in rows if row["error"] is None}
    assert len(good) == len(records) == 96
    for name, record in ((Path(query).name, record) for query, record in records.items()):
        row, entry = good[name], record["classes"][0]
        mask = out.read(f"{row['folder']}/{Path(name).stem}_mask.png")
        assert mask == (alone / record["files"]["mask"]).read_bytes(), name
        assert (row["height"], row["width"]) == (record["height"], record["width"])
        assert {key: row[f"disc.{key}"] for key in ("present", "confidence", "quality", "pixels")} == {
            key: entry[key] for key in ("present", "confidence", "quality", "pixels")
        }
    failed = parquet.read_table(pyarrow.BufferReader(out.read("failed.parquet"))).to_pylist()
    assert [row["photo"] for row in failed] == [f"{query}/empty.png", f"{query}/words.jpg"]
    assert all("Expected a readable picture" in row["error"] for row in failed)


def test_two_killed_nodes_cost_no_photo_and_no_bit(
    cluster: Any, environment: dict[str, str], bucket: Place, photos: Path, alone: Path, shot: list[str]
) -> None:
    query, out = uploaded(photos, bucket), Place(f"{bucket.url}/out")
    words = ["--query", query, "--out", out.url, "--ray", cluster.address, "--block", "4", "--format", "index,coco"]
    process = start([*shot, *words], environment)
    for _ in range(2):
        before = len(out.names("table"))
        wait_for(lambda before=before: len(out.names("table")) >= before + 2, process)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert process.poll() is None
    assert len(out.names("table")) < 25, "the run was over before nobody was left"
    for _ in range(2):
        patiently(lambda: cluster.add_node(num_cpus=1))
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed.startswith(f"96 photos segmented into {out.url}. 2 could not be read")
    expect_same(out, alone, query)
    parts = [json.loads(out.read(f"coco/{name}") or b"") for name in out.names("coco")]
    images = {image["id"]: image["file_name"] for part in parts for image in part["images"]}
    assert sorted(images.values()) == sorted(row["photo"] for row in table_of(out) if row["error"] is None)
    annotations = [row for part in parts for row in part["annotations"]]
    assert len({row["id"] for row in annotations}) == len(annotations)
    merged = json.loads((alone / "coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in merged["images"]}

    def drawn(rows: list[dict[str, Any]], named: dict[int, str]) -> list[str]:
        parts = ({**row, "id": 0, "image_id": Path(named[row["image_id"]]).name} for row in rows)
        return sorted(json.dumps(row, sort_keys=True) for row in parts)

    assert drawn(annotations, images) == drawn(merged["annotations"], names)


def test_a_killed_driver_goes_on_where_it_was(
    cluster: Any, environment: dict[str, str], bucket: Place, photos: Path, alone: Path, shot: list[str]
) -> None:
    query, out = uploaded(photos, bucket), Place(f"{bucket.url}/out")
    words = ["--query", query, "--out", out.url, "--ray", cluster.address, "--block", "4", "--format", "index,coco"]
    process = start([*shot, *words], environment)
    wait_for(lambda: len(out.names("table")) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(2)  # workers end with their driver; what they were writing is written or not
    before = {name: out.files.info(f"{out.root}/table/{name}")["LastModified"] for name in out.names("table")}
    assert 3 <= len(before) < 25
    process = start([*shot, *words, "--json"], environment)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    after = {name: out.files.info(f"{out.root}/table/{name}")["LastModified"] for name in out.names("table")}
    assert before.items() <= after.items(), "a block that was done is not done again"
    record = json.loads(printed)
    assert (record["photos"], record["failed"]) == (98, 2)
    assert record["resumed"] >= 4 * (len(before) - 1)
    expect_same(out, alone, query)
    process = start([*shot, *words, "--json"], environment)
    printed, said = process.communicate(timeout=300)
    assert json.loads(printed)["resumed"] == 98
    assert {name: out.files.info(f"{out.root}/table/{name}")["LastModified"] for name in out.names("table")} == after


def test_other_options_are_refused_and_other_files_too(tmp_path: Path, photos: Path, shot: list[str]) -> None:
    out = Place(str(tmp_path / "out"))
    out.write("notes.txt", b"mine")
    words = [*shot, "--query", str(photos), "--out", out.url, "--ray"]
    assert main(["segment", *words]) == 1
    out.write("manifest.json", json.dumps({"settings": {"formats": ["index"]}}).encode())
    assert main(["segment", *words]) == 1
    assert out.names("table") == []
    for wrong in (["--adapt"], ["--format", "labelme"], ["--worker-gpus", "-1"], ["--window", "0,9"], ["--bands", "1"]):
        assert main(["segment", *words, *wrong]) == 2


def test_the_page_says_what_works(
    cluster: Any, tmp_path: Path, shot: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command and the Python of docs/many_machines.md, with a small model and this cluster's address."""
    command, code, evaluate = blocks((ROOT / "docs" / "many_machines.md").read_text(encoding="utf-8"))
    photo = Path(shot[shot.index("--support") + 2])
    shutil.copy(photo, tmp_path / "dog.jpg")
    shutil.copy(photo.with_name("shot_truth.png"), tmp_path / "dog.png")
    for bucket in ("my-photos", "my-masks"):
        Place("s3://my-photos").files.mkdir(bucket)
    for name in ("2026/a.png", "2026/below/b.png"):
        Place("s3://my-photos").write(name, photo.read_bytes())
    install, segment = command.text.replace("\\\n", " ").strip().splitlines()
    assert install == "pip install '.[ray]'"
    words = shlex.split(segment)
    assert words[:2] == ["rifenet", "segment"]
    assert words[-2:] == ["--ray", "auto"]
    monkeypatch.chdir(tmp_path)
    small = shot[: shot.index("--support")]
    assert main([*words[1:-1], cluster.address, *small]) == 0
    capsys.readouterr()
    exec(code.text, {})
    printed = capsys.readouterr().out
    assert "s3://my-photos/2026/a.png" in printed
    assert "s3://my-photos/2026/below/b.png" in printed
    assert Place("s3://my-masks/2026").read("files/s3/my-photos/2026/a.png/a_mask.png")
    words = shlex.split(evaluate.text.replace("\\\n", " "))
    assert words[:2] == ["rifenet", "evaluate"]
    assert words[-2:] == ["--ray", "auto"]
    make_voc(tmp_path / "voc", per_class=3, mixed=0)
    options = {"--model": small[1], "--root": str(tmp_path / "voc"), "--episodes": "9"}
    words = [options.get(before, word) for before, word in zip([words[0], *words], words, strict=False)]
    assert main([*words[1:-1], cluster.address, "--seeds", "0", "--shard", "4", "--some-classes"]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["episodes"] == 9


def test_a_photo_that_kills_its_worker_is_named(
    cluster: Any, tmp_path: Path, shot: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rifenet.integrations.ray as over_ray

    class Fragile(over_ray.BlockWorker):
        def segment(self, block: int, photos: Any) -> Done:
            if any("poison" in photo.photo for _, photo in photos):
                os._exit(1)  # as the system does to a process that takes all memory
            return super().segment(block, photos)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(over_ray, "BlockWorker", Fragile)
    folder = tmp_path / "photos"
    for seed in range(5):
        render(folder / f"{seed}.png", seed).with_name(f"{seed}_truth.png").unlink()
    shutil.copy(folder / "3.png", folder / "3_poison.png")
    words = ["--query", str(folder), "--out", str(tmp_path / "out"), "--ray", cluster.address, "--block", "3"]
    assert main(["segment", *shot, *words]) == 0
    rows = {Path(row["photo"]).name: row for row in table_of(Place(str(tmp_path / "out")))}
    assert len(rows) == 6
    assert [name for name, row in rows.items() if row["error"]] == ["3_poison.png"]
    assert "2 died over it" in rows["3_poison.png"]["error"]


def test_a_wrong_model_on_the_workers_is_said_in_one_sentence(
    cluster: Any, tmp_path: Path, photos: Path, shot: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from rifenet.cli import over_ray

    other = write_smallest_model(tmp_path / "other.safetensors", size=97).read_bytes()
    monkeypatch.setattr(over_ray, "_model_file", lambda name: other)
    words = ["--query", str(photos), "--out", str(tmp_path / "out"), "--ray", cluster.address]
    assert main(["segment", *shot, *words]) == 1
    assert "Expected every machine to load the model" in capsys.readouterr().err


def test_the_runs_of_a_grid_are_tasks_and_a_killed_one_starts_again(cluster: Any, tmp_path: Path) -> None:
    from evaluation.test_ablation import written
    from evaluation.test_report import scored

    from rifenet.config import Config
    from rifenet.evaluation.ablation import run_grid
    from rifenet.evaluation.grid import read_grid
    from rifenet.evaluation.result_file import read_result
    from rifenet.integrations.ray import Crew, spread

    rules = {"protocol": "pfenet", "episodes": 1000, "seeds": [0, 1, 2, 3, 4], "absent_as_zero": False}
    result = read_result(
        scored(tmp_path / "a.json", fold=0, config={"data": {"root": "photos", "image_size": 473}, "eval": rules})
    )
    grid = read_grid(written(tmp_path / "grid.yaml"), Config())
    tried = tmp_path / "tried"
    tried.mkdir()

    def run(config: Config) -> dict[str, Any]:
        unlabeled, kind = config.train.unlabeled, config.model.kind
        mark = tried / f"{kind}-{unlabeled}-{os.getpid()}"
        mark.touch()
        if kind == "prototype":
            raise ValueError("no data here")
        if unlabeled == 0 and len(list(tried.glob(f"{kind}-0-*"))) == 1:
            os._exit(1)
        return result

    told: list[str] = []
    tasks = spread(cluster.address, Crew())
    failures = run_grid(grid, tmp_path / "out", run, told.append, tasks)
    assert list(failures.values()) == ["ValueError: no data here"]
    rows = json.loads((tmp_path / "out" / "grid.json").read_text())["rows"]
    assert [row["runs"] for row in rows] == [1, 1, 0]
    pids = [int(mark.name.rpartition("-")[2]) for mark in tried.iterdir()]
    assert os.getpid() not in pids
    assert len(list(tried.glob("rifenet-0-*"))) == 2, "the killed one was tried again"
    assert len(list(tried.glob("rifenet-2-*"))) == 1
    again = run_grid(grid, tmp_path / "out", run, told.append, tasks)
    assert list(again.values()) == ["ValueError: no data here"]
    assert len(list(tried.glob("rifenet-*"))) == 3, "what is finished is not made again"


@pytest.fixture(scope="session")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model and a dataset, as options of `rifenet evaluate`: 2 seeds of 90 episodes."""
    folder = tmp_path_factory.mktemp("scoring")
    model = write_smallest_model(folder / "tiny.safetensors", size=161)  # slow enough to be killed at work
    make_custom(folder / "set", per_class=6)
    data = ["--dataset", "custom", "--root", str(folder / "set"), "--min-area", "400"]
    return ["--model", str(model), *data, "--episodes", "90", "--seeds", "0,1", "--shots", "2", "--threads", "1"]


@pytest.fixture(scope="session")
def scored_alone(scoring: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same command writes on one machine, without Ray."""
    out = tmp_path_factory.mktemp("scored") / "result.json"
    assert main(["evaluate", *scoring, "--device", "cpu", "--out", str(out)]) == 0
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def positions(partial: Path) -> list[int]:
    """Positions of the episodes that a stopped evaluation has kept."""
    if not partial.is_file():
        return []
    rows = (line for line in partial.read_text().splitlines() if line.startswith("[") and line.endswith("]"))
    return [json.loads(row)[0] for row in rows]


def expect_same_scores(out: Path, alone: dict[str, Any]) -> None:
    """All that is counted and computed, to the bit: workers and one machine have the same processor here."""
    result = json.loads(out.read_text())
    for name in ("episode_counts", "episodes_hash", "per_class", "per_seed", "scores", "protocol", "dataset", "model"):
        assert result[name] == alone[name], name
    assert not out.with_name(f"{out.name}.partial").exists()


def half_scored(cluster: Any, scoring: list[str], out: Path, partial: Path) -> tuple[list[str], subprocess.Popen[str]]:
    """The words of an evaluation over the cluster, and its process once some shards are back."""
    words = ["evaluate", *scoring, "--out", str(out), "--ray", cluster.address, "--shard", "6"]
    process = start_any(words)
    wait_for(lambda: len(positions(partial)) >= 12, process)
    return words, process


def test_a_killed_node_costs_no_episode_and_no_bit(
    cluster: Any, scoring: list[str], scored_alone: dict[str, Any], tmp_path: Path
) -> None:
    out, partial = tmp_path / "result.json", tmp_path / "result.json.partial"
    _, process = half_scored(cluster, scoring, out, partial)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert len(positions(partial)) < 180, "the evaluation was over before the node was killed"
    patiently(lambda: cluster.add_node(num_cpus=1))
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    expect_same_scores(out, scored_alone)


def test_a_killed_evaluation_goes_on_where_it_was(
    cluster: Any, scoring: list[str], scored_alone: dict[str, Any], tmp_path: Path
) -> None:
    out, partial = tmp_path / "result.json", tmp_path / "result.json.partial"
    words, process = half_scored(cluster, scoring, out, partial)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = positions(partial)
    assert len(set(before)) == len(before) < 180
    process = start_any(words)
    wait_for(lambda: len(positions(partial)) > len(before), process)
    during = positions(partial)
    assert during[: len(before)] == before
    assert len(set(during)) == len(during), "what is scored is not scored again"
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    expect_same_scores(out, scored_alone)


def start_any(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rifenet", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_an_address_without_a_cluster_is_said_in_one_sentence(
    command: str,
    environment: dict[str, str],
    scoring: list[str],
    shot: list[str],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = scoring if command == "evaluate" else [*shot, "--query", str(photos)]
    assert main([command, *words, "--out", str(tmp_path / "out"), "--ray", "127.0.0.1:1"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("rifenet")
    assert "Expected a Ray cluster at 127.0.0.1:1, but" in line


def test_credentials_extras_and_empty_lists_are_said_in_one_sentence(
    environment: dict[str, str], shot: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def said(query: str) -> str:
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # which would keep an earlier address and credentials
        assert main(["segment", *shot, "--query", query, "--out", str(tmp_path / "out"), "--ray"]) == 1
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if "Error" in line or "xpected" in line]
        assert len(lines) == 1, lines
        return lines[0]

    (tmp_path / "names.txt").write_text("\n\n")
    assert "there are none" in said(str(tmp_path / "names.txt"))
    assert "gs:// needs the package gcsfs" in said("gs://bucket/photos/")
    assert "Expected names.txt to be there" in said("names.txt")
    assert "s3://nowhere/photos/* of --query, but there are none" in said("s3://nowhere/photos/*")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "the address of the store" in said("s3://nowhere/photos/")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "credentials" in said("s3://private/photos/").casefold()
