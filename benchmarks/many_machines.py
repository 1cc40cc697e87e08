"""Photos over a Ray cluster of this machine's cores: throughput of one and two nodes, and nodes killed at work.

PYTHONPATH=tests python -m benchmarks.many_machines --out docs/results/many_machines.json [--only PART]

Each Ray node has processes of its own and one core (Linux only: they are bound to it); photos and masks lie in a server
of the S3 protocol on loopback, also with a process of its own. `speed` takes the bundled model; `kills` a small
untrained one, because there the number of photos matters and not their masks. Needs what `make partner-ray` installs.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Values, parser
from rifenet.drawing.visualize import mask_image
from rifenet.evaluation.provenance import git_commit
from rifenet.examples.samples import load_examples
from rifenet.files import write_text
from rifenet.formats.outputs import picture_bytes
from rifenet.formats.pictures import load_mask
from rifenet.integrations.blocks import BlockPlan
from rifenet.integrations.places import FoundPhoto, Place
from rifenet.integrations.ray import BlockWorker, Crew, Done, SegmentingTask, folder_of, segment_blocks
from rifenet.segmenting.segmenter import Segmenter

SIDE = 96  # pixels of a rendered photo
PORT = 9123
BLOCK = 8
VARIABLES = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback",
    "AWS_DEFAULT_REGION": "us-east-1",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Takes the figures, part by part; parts that are not asked for stay as they were."""
    words = parser(__doc__)
    words.add_argument("--only", choices=PARTS, help="take this part alone")
    words.add_argument("--photos", type=int, default=5000, help="photos of the part `kills`")
    words.add_argument("--timed", type=int, default=480, help="photos of each run of the part `speed`")
    words.add_argument("--runs", type=int, default=3, help="runs of the part `speed` with each number of nodes")
    words.add_argument("--planned", type=int, default=200_000, help="photos of the part `plan`")
    options = words.parse_args(argv)
    record = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    os.environ.update(VARIABLES)
    for name in [options.only] if options.only else PARTS:
        measured = PARTS[name](options)
        record[name] = {**measured, "commit": git_commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        write_text(options.out, json.dumps(record, indent=1) + "\n")
        print(name, measured, flush=True)


def speed(options: Any) -> Values:
    """Photos a second of one and of two nodes with one worker each, in turns; blocks at the ends are not counted."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with store() as bucket, cluster(2) as (address, _), tempfile.TemporaryDirectory() as folder:
        task = task_of("default", Path(folder), bucket)
        plan = uploaded(bucket, options.timed)
        for run in range(options.runs):
            for nodes in rates:
                own = with_out(task, f"{bucket.url}/out-{run}-{nodes}")
                events = timed(own, plan, Crew(workers=nodes), address)
                rates[nodes].append(steady(events, nodes))
                print(nodes, "nodes:", rates[nodes], flush=True)
    one, two = (float(np.median(rates[nodes])) for nodes in (1, 2))
    return {"photos": options.timed, "block": BLOCK, "rates": rates, "one": one, "two": two, "ratio": two / one}


def work(options: Any) -> Values:
    """Seconds that a worker computes for a photo, with reading and writing; other work on the machine is not in it."""
    with store() as bucket, tempfile.TemporaryDirectory() as folder:
        worker = BlockWorker()
        worker.load(with_out(task_of("default", Path(folder), bucket), f"{bucket.url}/out"))
        blocks = uploaded(bucket, options.timed).blocks
        worker.segment(0, blocks[0])  # warms up
        started, rates = time.process_time(), []
        for block in list(blocks)[1:]:
            worker.segment(block, blocks[block])
            rates.append((time.process_time() - started) / len(blocks[block]))
            started = time.process_time()
    return {"photos": options.timed, "block": BLOCK, "seconds": float(np.median(rates))}


def bare(options: Any) -> Values:
    """Photos a second of one and of two processes without Ray and without a store, each on a core: what two cores can.

    They share the memory and whatever else the machine's cores share.
    """
    cores = sorted(os.sched_getaffinity(0))
    rates: dict[int, list[float]] = {1: [], 2: []}
    apart = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, apart) as pool:
        for _ in range(options.runs):
            for count in rates:
                starts = time.time() + 10  # once both have loaded the model
                found = [pool.submit(segmented_on, core, starts, options.timed // 2) for core in cores[:count]]
                rates[count].append(sum(each.result() for each in found))
                print(count, "processes:", rates[count], flush=True)
    one, two = (float(np.median(rates[count])) for count in (1, 2))
    return {"photos": options.timed // 2, "rates": rates, "one": one, "two": two, "ratio": two / one}


def segmented_on(core: int, starts: float, count: int) -> float:
    """Photos a second of this process, bound to a core, from the time `starts` on."""
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory() as folder:
        worker = BlockWorker()
        worker.load(task_of("default", Path(folder), Place(folder)))
    photos = [rendered(np.random.default_rng(number)) for number in range(BLOCK)]
    for photo in photos:
        worker.segmenter.segment(photo)  # warms up
    if time.time() > starts:
        raise RuntimeError("Expected the model to be loaded in time, but the machine is too busy to measure on.")
    time.sleep(starts - time.time())
    for number in range(count):
        worker.segmenter.segment(photos[number % BLOCK])
    return count / (time.time() - starts)


def steady(events: Sequence[tuple[float, int]], workers: int) -> float:
    """Photos a second between the first block of the last worker to start and the last block of the first to end."""
    times = [when for when, _ in events]
    inside = events[workers : len(events) - workers + 1]
    return sum(photos for _, photos in inside) / (inside[-1][0] - times[workers - 1])


def kills(options: Any) -> Values:
    """A node is killed at a third and at two thirds of the photos, and replaced each time."""
    from tiny_model import write_smallest_model  # of tests/

    with store() as bucket, cluster(2) as (address, nodes), tempfile.TemporaryDirectory() as folder:
        model = write_smallest_model(Path(folder) / "small.safetensors")
        task = with_out(task_of(str(model), Path(folder), bucket), f"{bucket.url}/out")
        plan = uploaded(bucket, options.photos)
        killed: list[float] = []
        done: list[Done] = []

        def hear(block: Done, workers: int) -> None:
            done.append(block)
            if sum(each.photos for each in done) > options.photos * (len(killed) + 1) / 3 and len(killed) < 2:
                killed.append(time.monotonic())
                nodes.replace_one()  # the loop waits for the new one, since Ray starts nodes in the main thread only

        started = time.monotonic()
        segment_blocks(task, plan, set(), Crew(), address, hear, print)
        seconds = time.monotonic() - started
        rows = collections.Counter(row["photo"] for row in table_of(Place(task.out)))
        alone = Segmenter.from_pretrained(str(model), "cpu", 1)
        (Path(folder) / "classes.safetensors").write_bytes(task.classes_file)
        alone.load_classes(Path(folder) / "classes.safetensors")
        compared = [photo for photos in plan.blocks.values() for _, photo in photos][:: max(options.photos // 500, 1)]
        out = Place(task.out)
        same = sum(mask_of(out, photo) == mask_alone(alone, bucket, photo, Path(folder)) for photo in compared)
    return {
        "photos": options.photos,
        "block": BLOCK,
        "nodes killed": len(killed),
        "rows": sum(rows.values()),
        "lost": options.photos - len(rows),
        "twice": sum(rows.values()) - len(rows),
        "masks compared": len(compared),
        "masks equal to the bit": same,
        "seconds": seconds,
    }


def planning(options: Any) -> Values:
    """Time and memory of the driver's plan, a photo: made, and found again with half of the blocks done."""
    code = (
        "import json, resource, sys, time\n"
        "from rifenet.integrations.blocks import BlockPlan, part_name\n"
        "from rifenet.integrations.places import FoundPhoto, Place\n"
        "import pyarrow.parquet, pyarrow.compute\n"
        "def peak():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "count, before = int(sys.argv[2]), peak()\n"
        "photos = [FoundPhoto(f's3://bucket/photos/{i:09d}.jpg', 300_000 + i, f'{i:032x}') for i in range(count)]\n"
        "started = time.monotonic()\n"
        "BlockPlan(Place(sys.argv[1]), 32).settle(photos)\n"
        "print(json.dumps({'seconds': time.monotonic() - started, 'bytes': peak() - before}))\n"
    )
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            command = [sys.executable, "-c", code, folder, str(options.planned)]
            figures.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {"photos": options.planned, "first": figures[0], "again": figures[1]}


PARTS: dict[str, Callable[[Any], Values]] = {
    "plan": planning,
    "work": work,
    "bare": bare,
    "speed": speed,
    "kills": kills,
}


@contextmanager
def store() -> Iterator[Place]:
    """A bucket in a server of the S3 protocol on loopback, rclone's, which takes little of the cores that work."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench").mkdir()
        command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{PORT}"]
        command += ["--auth-key", "loopback,loopback", f":local:{folder}"]
        with open(Path(folder) / "store.log", "wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            place = Place("s3://bench")
            for _ in range(120):
                time.sleep(0.5)
                try:
                    place.files.ls("")
                    break
                except Exception as error:  # it does not listen yet
                    print("waiting for the store:", type(error).__name__, flush=True)
            yield place
        finally:
            server.terminate()
            server.wait()


class Nodes:
    """The worker nodes of a local cluster, each with processes of its own, which share one core."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
        self.core_of: dict[Any, int] = {}

    def add(self, core: int | None = None) -> None:
        """Starts a node, on the next core or on this. A crowded machine may need several tries of 30 seconds each."""
        everywhere, core = os.sched_getaffinity(0), next(self.cores) if core is None else core
        # Processes inherit it. Else the threads that read and write would take a second core as long as it is free.
        os.sched_setaffinity(0, {core})
        try:
            for _ in range(5):
                try:
                    self.core_of[self.made.add_node(num_cpus=1)] = core
                    return
                except Exception as error:
                    print("a node did not start:", str(error)[:80], flush=True)
        finally:
            os.sched_setaffinity(0, everywhere)

    def replace_one(self) -> None:
        """Kills a node with all its processes, at once, and starts another on its core."""
        node = next(iter(self.made.worker_nodes))
        self.made.remove_node(node, allow_graceful=False)
        self.add(self.core_of.pop(node))


@contextmanager
def cluster(count: int) -> Iterator[tuple[str, Nodes]]:
    """The address of a head without workers, and `count` nodes of one core."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = Nodes(made)
    try:
        for _ in range(count):
            nodes.add()
        yield made.address, nodes
    finally:
        made.shutdown()


def task_of(model: str, folder: Path, bucket: Place) -> SegmentingTask:
    """One class of one example, on one thread."""
    segmenter = Segmenter.from_pretrained(model, "cpu", 1)
    names, examples = load_examples()
    example = next(each for each in examples if each.support)
    mask = (np.asarray(load_mask(example.mask)) == names.index(example.classes[0]) + 1).astype(np.uint8)
    segmenter.learn(example.classes[0], [example.image], [mask], fit=False)
    file = folder / "learned.safetensors"
    segmenter.save_classes(file)
    return SegmentingTask(
        model=model,
        model_file=b"" if model == "default" else Path(model).read_bytes(),
        model_hash=segmenter.engine.hash,
        classes=tuple(segmenter.classes),
        classes_file=file.read_bytes(),
        device="cpu",
        threads=1,
        out=bucket.url,
        formats=("index",),
        objects=False,
        options={},
    )


def with_out(task: SegmentingTask, out: str) -> SegmentingTask:
    """The task with another place for its results."""
    return dataclasses.replace(task, out=out)


def uploaded(bucket: Place, count: int) -> BlockPlan:
    """The plan of so many rendered photos, which lie in the bucket."""
    generator = np.random.default_rng(0)
    photos = []
    for number in range(count):
        bucket.write(f"in/{number:06d}.png", picture_bytes(Image.fromarray(rendered(generator)), "PNG"))
        photos.append(FoundPhoto(f"{bucket.url}/in/{number:06d}.png"))
    plan = BlockPlan(bucket, BLOCK)
    plan.settle(photos)
    return plan


def rendered(generator: np.random.Generator) -> NDArray[np.uint8]:
    """A photo with a bright square."""
    pixels = generator.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    top, left = generator.integers(10, SIDE - 40, 2)
    pixels[top : top + 30, left : left + 30] += np.uint8(120)
    return pixels


def timed(task: SegmentingTask, plan: BlockPlan, crew: Crew, address: str) -> list[tuple[float, int]]:
    """When each block was done, and its photos."""
    events: list[tuple[float, int]] = []

    def hear(block: Done, workers: int) -> None:
        events.append((time.monotonic(), block.photos))

    segment_blocks(task, plan, set(), crew, address, hear, print)
    return events


def table_of(out: Place) -> list[Values]:
    """All rows of the table."""
    import pyarrow
    from pyarrow import parquet

    parts = (pyarrow.BufferReader(out.read(f"table/{name}")) for name in out.names("table"))
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def mask_of(out: Place, photo: FoundPhoto) -> bytes | None:
    """The mask that a worker wrote."""
    return out.read(f"{folder_of(photo.photo)}/{Path(photo.photo).stem}_mask.png")


def mask_alone(segmenter: Segmenter, bucket: Place, photo: FoundPhoto, folder: Path) -> bytes:
    """The mask that one machine writes without Ray."""
    file = folder / Path(photo.photo).name
    file.write_bytes(bucket.read(f"in/{file.name}") or b"")
    mask: bytes = picture_bytes(mask_image(segmenter.segment(file).mask), "PNG")
    file.unlink()
    return mask


if __name__ == "__main__":
    main()
