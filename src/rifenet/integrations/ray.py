"""Many machines over Ray: `rifenet segment --ray` for photos, `rifenet ablate --ray` for the runs of a grid.

Each worker is a Ray actor that loads the model and the learned classes once. The driver hands it blocks of photos; the
worker reads the photos, writes their files, and last the block's part of the table (`integrations.blocks`). The driver
keeps nothing that the files at `--out` do not tell. So a killed worker or node costs the blocks in its hands, a killed
driver those of all workers, and what is done stays done.

Plain actors and not Ray Data: its pipelines name their outputs anew in each run, so a driver that starts again would
have to find out what an earlier one wrote, which is all that the loop below does.
"""

from __future__ import annotations

import collections
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rifenet.config import needs
from rifenet.formats.contrast import How
from rifenet.formats.geotiff import is_scene
from rifenet.formats.paged_files import opened
from rifenet.formats.remarks import collected
from rifenet.integrations.blocks import BlockPlan, encoded_table, part_name
from rifenet.integrations.places import EXTRA, FoundPhoto, Place, local_copy

if TYPE_CHECKING:
    import pyarrow

    from rifenet.segmenting.result import Result

DEATHS = 2
"""So many workers may die over a block before its photos are tried one by one, and over one photo before it counts as
one that cannot be read."""
STARTS = 10
"""So many workers in a row may die before they have loaded the model, before the run ends."""
ERRORS = 3
"""So often a block may fail because a file system does, before the run ends."""
PAGES = (
    "Expected a plain photo, but {} holds several pages, scientific numbers or a place on the map. Segment it without"
    " --ray, which looks at all such files of a run before the first."
)
COCO = "coco"
AHEAD = 4  # photos that a worker reads while the network is busy with another
_IDS_A_PHOTO = 2**16  # numbers of annotations; a photo has fewer
_LOOK = 5.0  # seconds between two looks at the cluster's size
_NO_CLUSTER = (
    "Expected a Ray cluster at {}, but cannot connect to one ({}). `ray start --head` starts one and prints its"
    " address."
)
_PATIENCE = 60.0  # seconds without a worker after which the user reads why

Photos = Sequence[tuple[int, FoundPhoto]]


@dataclass(frozen=True)
class SegmentingTask:
    """What every worker needs, the same for all photos."""

    model: str
    """A name as for `--model`; ignored if `model_file` is given, but for `default` and the folder of an export."""
    model_file: bytes
    """The model's file, which need not be on the workers' disks; empty for the bundled model and for an export."""
    model_hash: str
    classes: tuple[str, ...]
    classes_file: bytes
    """The learned classes, as `Segmenter.save_classes` writes them."""
    device: str
    threads: int
    out: str
    formats: tuple[str, ...]
    objects: bool
    options: Mapping[str, Any]
    """Of `Segmenter.segment_many`."""


@dataclass(frozen=True)
class Crew:
    """How many workers, and what of a machine each takes."""

    workers: int | None = None
    """None: as many as the cluster has room for, also once it grows."""
    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Done:
    """A block that is done."""

    block: int
    photos: int
    failed: Mapping[str, str]
    """Photos that could not be read, with the reason."""
    remarks: tuple[str, ...] = ()
    node: str = ""


class BlockWorker:
    """A Ray actor. Its constructor does nothing, so that an error of `load` reaches the driver as what it is."""

    def load(self, task: SegmentingTask) -> str:
        """Loads the model and the classes; returns the node's name. Raises ValueError for another model."""
        import platform

        from rifenet.segmenting.segmenter import Segmenter

        self.task, self.place = task, Place(task.out)
        with tempfile.TemporaryDirectory() as folder:
            model, classes = Path(folder) / "model.safetensors", Path(folder) / "classes.safetensors"
            classes.write_bytes(task.classes_file)
            if task.model_file:
                model.write_bytes(task.model_file)
            name = str(model) if task.model_file else task.model
            self.segmenter = Segmenter.from_pretrained(name, task.device, task.threads)
            if self.segmenter.engine.hash != task.model_hash:
                raise ValueError(
                    f"Expected every machine to load the model {task.model_hash}, but {platform.node()} has"
                    f" {self.segmenter.engine.hash} under the name {task.model}. Install the same version of rifenet"
                    " on all machines."
                )
            self.segmenter.load_classes(classes)
        return platform.node()

    def segment(self, block: int, photos: Photos) -> Done:
        """Segments the photos, and writes their files and then the block's parts. Raises where a file system fails."""
        import platform

        rows: dict[str, dict[str, Any]] = {}
        coco: list[dict[str, Any]] = []
        formats = [each for each in self.task.formats if each != COCO]
        with collected() as remarks, ThreadPoolExecutor(2 * AHEAD) as pool:
            written: list[Future[None]] = []
            for (number, photo), found in self._results(photos, pool):
                if isinstance(found, str):
                    rows[photo.photo] = {"error": found}
                    continue
                folder = folder_of(photo.photo)
                for name, data in _files(found, photo, formats, self.task.objects):
                    written.append(pool.submit(self.place.write, f"{folder}/{name}", data))
                if COCO in self.task.formats:
                    coco.append(_coco_of(found, number, self.task.objects))
                rows[photo.photo] = {"folder": folder, **_row(found, self.task.objects)}
            for each in written:
                each.result()
        if COCO in self.task.formats:
            self.place.write(part_name(block, COCO, "json"), json.dumps(_together(coco, self.task.classes)).encode())
        self.place.write(part_name(block), table_part(photos, rows, self.task.classes, self.task.objects))
        failed = {photo: row["error"] for photo, row in rows.items() if "error" in row}
        return Done(block, len(photos), failed, tuple(remarks), platform.node())

    def _results(
        self, photos: Photos, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[tuple[int, FoundPhoto], Result | str]]:
        """Each photo with its result, or with the reason why it cannot be read."""
        with tempfile.TemporaryDirectory() as folder:
            copies = _ahead(photos, lambda at: _copied(photos[at][1].photo, Path(folder), at), pool)
            for photo, copy in zip(photos, copies, strict=True):
                if isinstance(copy, str):
                    yield photo, copy
                    continue
                try:
                    if opened([copy], How(), first_will_do=True)[0] is not None or is_scene(copy):
                        raise ValueError(PAGES.format(copy))
                    result = next(self.segmenter.segment_many([copy], **self.task.options))
                except (ValueError, OSError) as error:
                    yield photo, _reason(error, copy, photo[1].photo)
                else:
                    yield photo, replace(result, source=photo[1].photo)
                if copy.parent == Path(folder):
                    copy.unlink(missing_ok=True)


def _ahead(items: Sequence[Any], make: Callable[[int], Any], pool: ThreadPoolExecutor) -> Iterator[Any]:
    """`make(i)` for each item in order, a few made ahead by the pool."""
    waiting: collections.deque[Future[Any]] = collections.deque()
    for at in range(len(items)):
        waiting.append(pool.submit(make, at))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _copied(url: str, folder: Path, number: int) -> Path | str:
    """The photo on this disk, or why it cannot be read. Any other error is the file system's, and not the photo's."""
    try:
        return local_copy(url, folder, number)
    except FileNotFoundError:
        return f"Expected a photo at {url}, but there is none."
    except (PermissionError, IsADirectoryError) as error:
        return f"Expected to be able to read {url}, but cannot: {error.strerror or error}."


def _reason(error: Exception, copy: Path, url: str) -> str:
    return " ".join(str(error).split()).replace(str(copy), url)


def folder_of(url: str) -> str:
    """The folder of a photo's files at OUT: by the photo's whole URL, so that no two photos share one."""
    protocol, _, path = url.partition("://")
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part != "/"]
    if not parts or ".." in parts:
        raise ValueError(f"Expected the URL of a photo without '..', but got {url}.")
    return "/".join(["files", protocol, *(part.replace(":", "_") for part in parts)])


def _files(result: Result, photo: FoundPhoto, formats: Sequence[str], objects: bool) -> Iterator[tuple[str, bytes]]:
    from rifenet.formats.outputs import encoded

    if formats:
        stem = PurePosixPath(photo.photo).stem
        yield from encoded(result, stem, formats, Path(), objects=objects).values()


def _coco_of(result: Result, number: int, objects: bool) -> dict[str, Any]:
    """COCO of one photo, with numbers that no other photo of the run has."""
    from rifenet.formats.outputs import coco_of

    content = coco_of(result, number + 1, objects=objects)
    content["images"][0]["file_name"] = result.source
    for at, row in enumerate(content["annotations"], 1):
        row["id"] = number * _IDS_A_PHOTO + at
    return content


def _together(photos: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "images": [photo["images"][0] for photo in photos],
        "annotations": [row for photo in photos for row in photo["annotations"]],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }


def _row(result: Result, objects: bool) -> dict[str, Any]:
    """What the table says of a photo, beside its name."""
    record = result.to_dict(objects=objects)
    row = {"height": record["height"], "width": record["width"]}
    for entry in record["classes"]:
        row |= {f"{entry['name']}.{key}": value for key, value in entry.items() if key not in ("id", "name")}
    return row


def table_schema(classes: Sequence[str], objects: bool) -> pyarrow.Schema:
    """Columns of the table: those of the photo, and five or six of each class."""
    import pyarrow

    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    own = {"present": pyarrow.bool_(), "confidence": real, "quality": real, "pixels": whole}
    own |= {"objects": whole} if objects else {}
    fields = {"number": whole, "photo": text, "bytes": whole, "stamp": text, "folder": text, "error": text}
    fields |= {"height": whole, "width": whole}
    return pyarrow.schema(
        [*fields.items(), *((f"{name}.{key}", kind) for name in classes for key, kind in own.items())]
    )


def table_part(photos: Photos, rows: Mapping[str, Mapping[str, Any]], classes: Sequence[str], objects: bool) -> bytes:
    """The block's part of the table, a Parquet file: a row for each photo, in their order."""
    schema = table_schema(classes, objects)
    whole = [{"number": number, **photo._asdict(), **rows[photo.photo]} for number, photo in photos]
    return encoded_table({name: [row.get(name) for row in whole] for name in schema.names}, schema)


def segment_blocks(
    task: SegmentingTask,
    plan: BlockPlan,
    done: set[int],
    crew: Crew,
    address: str | None,
    on_done: Callable[[Done, int], None],
    say: Callable[[str], None],
) -> None:
    """Has all blocks of `plan` done that `done` lacks.

    Args:
        task: what to do with each photo.
        plan: the blocks.
        done: numbers of blocks that are done.
        crew: the workers.
        address: of a Ray cluster; None starts Ray on this machine alone, `auto` finds the one that this machine is in.
        on_done: called with each block, and the number of workers at that time.
        say: gets a line on what the user may want to know.

    Raises:
        ValueError: the model cannot be loaded, or a block fails `ERRORS` times.
        ConnectionError: there is no cluster at `address`.
    """
    with _connected(address):
        _Driver(task, plan, done, crew, on_done, say).run()


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """The library, connected to the cluster at `address`, or to one of this machine alone."""
    with needs(EXTRA):
        import ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone = {"include_dashboard": False} if address is None else {}
    _expect_cluster(address)
    with redirect_stdout(sys.stderr):  # Ray reports dead nodes there, which would break the JSON of a command
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **alone)
        except (ConnectionError, SystemExit) as error:  # Ray exits where something else answers at the address
            raise ConnectionError(_NO_CLUSTER.format(address, " ".join(str(error).split()))) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _expect_cluster(address: str | None) -> None:
    """Raises ConnectionError where nothing answers at HOST:PORT. Ray itself tries for minutes, and ends the process."""
    where, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not where or not port.isdigit():  # auto, or this machine alone
        return
    try:
        socket.create_connection((where.strip("[]"), int(port)), timeout=_LOOK).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(_NO_CLUSTER.format(address, error)) from error


def spread(address: str | None, crew: Crew) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """Has jobs done by Ray tasks, each with the CPUs and GPUs of one of `crew`.

    For the runs of `evaluation.ablation.run_grid` and the shards of `evaluation.protocol.evaluate`.

    Ray starts a task again, three times at most, if its process or its node dies.
    """

    def over_ray(jobs: Sequence[Any], make: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        with _connected(address) as ray:
            task = ray.remote(_outcome).options(num_cpus=crew.cpus, num_gpus=crew.gpus, max_retries=3)
            shared = ray.put(make)  # sent to each machine once, and not with every job
            waiting = {task.remote(shared, job): job for job in jobs}
            while waiting:
                (answer,), _ = ray.wait(list(waiting))
                try:
                    outcome = ray.get(answer)
                except ray.exceptions.RayTaskError as error:  # the job itself could not be unpacked there
                    outcome = error.cause
                except ray.exceptions.RayError as error:  # its process died again and again
                    outcome = error
                yield waiting.pop(answer), outcome

    return over_ray


def _outcome(make: Callable[[Any], Any], job: Any) -> Any:
    """The result or the exception, without the traceback of another machine."""
    try:
        return make(job)
    except Exception as error:
        return error.with_traceback(None)


class _Driver:
    """The loop that hires workers, hands out blocks, and takes back the blocks of workers that die."""

    def __init__(
        self,
        task: SegmentingTask,
        plan: BlockPlan,
        done: set[int],
        crew: Crew,
        on_done: Callable[[Done, int], None],
        say: Callable[[str], None],
    ) -> None:
        import ray

        self.plan, self.crew, self.on_done, self.say = plan, crew, on_done, say
        self.task, self.shared = task, ray.put(task)
        self.actor = ray.remote(BlockWorker).options(num_cpus=crew.cpus, num_gpus=crew.gpus)
        self.waiting = collections.deque(block for block in plan.blocks if block not in done)
        self.starting: dict[Any, Any] = {}  # what `load` will answer -> the worker
        self.busy: dict[Any, tuple[Any, int]] = {}  # what `segment` will answer -> the worker and its block
        self.deaths: collections.Counter[int] = collections.Counter()
        self.errors: collections.Counter[int] = collections.Counter()
        self.room, self.looked = 0, -_LOOK
        self.unborn = 0  # workers in a row that died before they had loaded the model
        self.idle_since, self.told = time.monotonic(), False

    def run(self) -> None:
        """Returns once all blocks are done."""
        import ray

        while self.waiting or self.busy:
            self._hire()
            ready, _ = ray.wait([*self.starting, *self.busy], timeout=_LOOK) if self.starting or self.busy else ([], [])
            for answer in ready:
                self._hear(answer)
            self._tell_if_nobody_works()

    def _hire(self) -> None:
        import ray

        if time.monotonic() - self.looked >= _LOOK:
            self.looked, self.room = time.monotonic(), self._wanted(ray.cluster_resources())
        open_places = min(self.room, len(self.waiting) + len(self.busy)) - len(self.starting) - len(self.busy)
        for _ in range(open_places):
            worker = self.actor.remote()
            self.starting[worker.load.remote(self.shared)] = worker
        if not self.starting and not self.busy:
            time.sleep(1.0)  # the cluster has no room for a single worker

    def _wanted(self, resources: Mapping[str, float]) -> int:
        if self.crew.workers is not None:
            return self.crew.workers
        room = resources.get("CPU", 0.0) // self.crew.cpus
        if self.crew.gpus:
            room = min(room, resources.get("GPU", 0.0) // self.crew.gpus)
        return int(room)

    def _hear(self, answer: Any) -> None:
        """Takes a worker's answer, which may be that it died."""
        import ray

        worker, block = (self.starting.pop(answer), None) if answer in self.starting else self.busy.pop(answer)
        try:
            value = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            self._failed(block, error)
        except ray.exceptions.RayError as error:
            ray.kill(worker)  # one that Ray cannot reach any more may still be at work
            self._died(block, error)
            return
        else:
            self.unborn = 0
            if block is not None:
                self.on_done(value, len(self.busy) + 1)
        if self.waiting:
            block = self.waiting.popleft()
            self.busy[worker.segment.remote(block, self.plan.blocks[block])] = worker, block
        else:
            ray.kill(worker)

    def _failed(self, block: int | None, error: Any) -> None:
        """A worker raised an error: again later, or the end of the run."""
        if block is None:
            raise error.cause
        self.errors[block] += 1
        if self.errors[block] == ERRORS:
            raise ValueError(
                f"Expected to write the results of block {block}, but it failed {ERRORS} times, the last time with"
                f" {type(error.cause).__name__}: {error.cause} Run the same command again to resume."
            ) from error.cause
        self.waiting.append(block)

    def _died(self, block: int | None, error: Exception) -> None:
        """A worker died, with its process or its node."""
        if block is None:
            self.unborn += 1
            if self.unborn == STARTS:
                raise ValueError(
                    f"Expected workers that can load the model, but {STARTS} in a row died over it"
                    f" ({type(error).__name__}). Give them more memory, or more CPUs each: fewer then share a machine."
                ) from error
            return
        self.deaths[block] += 1
        photos = self.plan.blocks[block]
        if self.deaths[block] < DEATHS:
            self.waiting.appendleft(block)
        elif len(photos) > 1:
            self.say(f"{DEATHS} workers died over the {len(photos)} photos of block {block}: now one by one.")
            self.waiting.extendleft(reversed(self.plan.split(block)))
        else:
            self._give_up(block, error)

    def _give_up(self, block: int, error: Exception) -> None:
        """Notes in the table that a photo cannot be read: each worker that tries dies."""
        (photo,) = self.plan.blocks[block]
        url = photo[1].photo
        reason = f"Expected a photo that a worker can segment, but {DEATHS} died over it ({type(error).__name__})."
        part = table_part([photo], {url: {"error": reason}}, self.task.classes, self.task.objects)
        Place(self.task.out).write(part_name(block), part)
        self.on_done(Done(block, 1, {url: reason}), len(self.busy))

    def _tell_if_nobody_works(self) -> None:
        if self.busy:
            self.idle_since, self.told = time.monotonic(), False
        elif not self.told and time.monotonic() - self.idle_since > _PATIENCE:
            self.told = True
            wish = f"{self.crew.cpus} CPUs" + (f" and {self.crew.gpus:g} GPUs" if self.crew.gpus else "")
            self.say(f"Waiting: the cluster has had no worker for a minute. Each needs {wish}.")
