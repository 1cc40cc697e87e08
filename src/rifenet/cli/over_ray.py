"""`rifenet segment --ray`: the options, and the folder at `--out` that many machines write (`integrations.ray`).

OUT/manifest.json           the model, the classes and the options; the same command resumes
OUT/plan.parquet, table/    which photos are done together, and a row for each (`integrations.blocks`)
OUT/failed.parquet          the photos that could not be read, and why
OUT/coco/                   a COCO file for each block, with --format coco
OUT/files/                  the masks and other files of a photo, in a folder of its URL
OUT/classes.safetensors     the learned classes, which all workers load
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, print_json, progress_bar
from rifenet.cli.options import model_of
from rifenet.cli.segmented import CLASSES, MANIFEST

if TYPE_CHECKING:
    from rifenet.integrations.places import FoundPhoto, Place
    from rifenet.integrations.ray import Done
    from rifenet.segmenting.segmenter import Segmenter

OWN = "rifenet segment --ray"
FAILED = "failed.parquet"
FORMATS = ("index", "binary", "overlay", "coco", "cutout", "csv", "geojson", "yolo", "cvat")
"""Formats whose files are of one photo each, and name it by a URL as well as by a path."""
BLOCK = 32  # photos
_EVERY = 60.0  # seconds between two lines on the progress where there is no terminal
_SHOWN = 20  # photos that could not be read, by name; all are in the table


def add_ray(parser: argparse.ArgumentParser) -> None:
    """`--ray` and what belongs to it."""
    group = parser.add_argument_group("many machines (needs rifenet[ray])")
    add_cluster(
        group,
        "segment over a Ray cluster",
        " --query and --out may then be URLs (s3://bucket/photos/), or --query a .txt that names a photo a line;"
        " FOLDER/** takes the photos of all folders below",
    )
    group.add_argument("--workers", type=whole, metavar="N", help="workers (default: as many as the cluster holds)")
    group.add_argument(
        "--block",
        type=whole,
        default=BLOCK,
        metavar="N",
        help=f"photos done together, which is what a killed worker loses at most (default: {BLOCK})",
    )


def add_cluster(parser: Any, does: str, further: str = "") -> None:
    """`--ray`, `--worker-cpus` and `--worker-gpus`."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help=f"{does}: its address, or auto on one of its machines; without an address, on the cores of this"
        f" machine.{further}",
    )
    parser.add_argument("--worker-cpus", type=whole, default=1, metavar="N", help="CPUs of a worker (default: 1)")
    parser.add_argument("--worker-gpus", type=float, default=0.0, metavar="X", help="GPUs of a worker (default: 0)")


def whole(value: str | int) -> int:
    """A whole number of at least 1, for argparse."""
    text = str(value)  # the parser of configurations checks what it has read once more
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text}")
    return int(text)


def check_ray(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program (2) where another option means nothing on many machines."""
    if arguments.adapt is not None:
        parser.error("--adapt looks at all photos twice from one machine. Leave it out with --ray.")
    if arguments.window or arguments.bands or arguments.no_steady:
        parser.error(
            "--window, --bands and --no-steady are for scientific files and videos. Leave them out with --ray."
        )
    if wrong := [each for each in arguments.format if each not in FORMATS]:
        parser.error(f"argument --format: expected {', '.join(FORMATS)} with --ray, but got {', '.join(wrong)}")
    if arguments.worker_gpus < 0:
        parser.error(f"argument --worker-gpus: expected at least 0, but got {arguments.worker_gpus:g}")


def over_ray(
    segmenter: Segmenter,
    settings: dict[str, Any],
    options: dict[str, Any],
    masks: set[Path],
    arguments: argparse.Namespace,
) -> int:
    """Segments the photos of `--query` over Ray, and returns 0.

    Args:
        segmenter: with the classes learned.
        settings: what a resumed run must have in common with this one.
        options: of `Segmenter.segment_many`.
        masks: those of the shots, which are no photos.
        arguments: of the command.

    Raises:
        ValueError: `--out` holds other files or results; no photo could be read; the model fails on a worker.
        FileNotFoundError: `--query` names no photos.
    """
    from rifenet.config import needs
    from rifenet.integrations.blocks import BlockPlan, failed_of, part_name
    from rifenet.integrations.places import EXTRA, Place, photos_at, reaching
    from rifenet.integrations.ray import Crew, SegmentingTask, segment_blocks

    with needs(EXTRA):
        import pyarrow  # noqa: F401 (before any work, and not only once the table is written)
    place = Place(arguments.out)
    with reaching(place.url):
        _claim(place, settings, arguments.overwrite)
        classes = _classes(place, segmenter)
    left_out = {mask.as_uri() for mask in masks}
    photos = _listed(photo for photo in photos_at(arguments.query) if photo.photo not in left_out)
    plan = BlockPlan(place, arguments.block)
    done = plan.settle(photos)
    failed, broken = failed_of(place, done)
    done -= broken
    for block in broken:
        place.remove(part_name(block))
    resumed = sum(len(plan.blocks[block]) for block in done)
    total = sum(map(len, plan.blocks.values()))
    task = SegmentingTask(
        model=model_of(arguments),
        model_file=_model_file(model_of(arguments)),
        model_hash=segmenter.engine.hash,
        classes=tuple(segmenter.classes),
        classes_file=classes,
        device=_device(arguments),
        threads=arguments.threads or arguments.worker_cpus,
        out=place.url,
        formats=tuple(arguments.format),
        objects=arguments.instances,
        options=options,
    )
    if resumed < total:
        crew = Crew(arguments.workers, arguments.worker_cpus, arguments.worker_gpus)
        with _told(total, resumed) as tell:

            def hear(block: Done, workers: int) -> None:
                failed.update(block.failed)
                tell(block, workers)

            segment_blocks(task, plan, done, crew, arguments.ray or None, hear, lambda text: note(f"{OWN}: {text}"))
    return _finish(place, settings, total, resumed, failed, arguments.json)


def _listed(photos: Iterator[FoundPhoto]) -> list[FoundPhoto]:
    with progress_bar() as bar:
        task = bar.add_task("listing photos", total=None)
        found = []
        for photo in photos:
            found.append(photo)
            bar.update(task, completed=len(found))
    return found


def _device(arguments: argparse.Namespace) -> str:
    """A worker's device: without a GPU of its own it takes none, even where its machine has one."""
    return "cpu" if arguments.device == "auto" and not arguments.worker_gpus else str(arguments.device)


def _claim(place: Place, settings: dict[str, Any], overwrite: bool) -> None:
    """Begins the manifest. Raises ValueError if `place` holds other files or results, unless `overwrite` is set."""
    known = _read_json(place, MANIFEST)
    if known is None and not overwrite and not place.is_empty():
        raise ValueError(
            f"Expected an empty or new folder, but {place.url} holds other files. Choose another --out, or add"
            " --overwrite."
        )
    same = known is not None and known.get("settings") == json.loads(json.dumps(settings))
    if known is not None and not same:
        if not overwrite:
            raise ValueError(
                f"Expected {place.url} to hold results of these classes, model and options, but it holds others."
                " Choose another --out, or add --overwrite."
            )
        # The manifest goes last: a run killed in between is then still known as one of other settings.
        for name in ("table", "coco", "plan.parquet", FAILED, CLASSES, MANIFEST):
            place.remove(name)
    _write_json(place, MANIFEST, {"settings": settings, "finished": False})


def _read_json(place: Place, name: str) -> dict[str, Any] | None:
    try:
        value = json.loads(place.read(name) or b"null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _write_json(place: Place, name: str, value: dict[str, Any]) -> None:
    place.write(name, json.dumps(value, indent=1).encode())


def _classes(place: Place, segmenter: Segmenter) -> bytes:
    """The file of learned classes; an earlier run's, so that a driver on another machine goes on with its bits."""
    kept = place.read(CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CLASSES
        if kept is None:
            segmenter.save_classes(file)
            place.write(CLASSES, file.read_bytes())
        return kept or file.read_bytes()


def _model_file(name: str) -> bytes:
    """The model's file, to send to the workers; empty for what they have or must have on their disks."""
    from rifenet.engines import is_export
    from rifenet.models.files.hub import is_over_backbone, locate

    return b"" if name == "default" or is_export(name) or is_over_backbone(name) else locate(name).read_bytes()


@contextmanager
def _told(total: int, resumed: int) -> Iterator[Callable[[Done, int], None]]:
    """Shows the progress: a bar on a terminal; elsewhere, such as in the log of a job, a line a minute."""
    told_of: set[str] = set()
    began, last, count, missed = time.monotonic(), time.monotonic(), 0, 0
    with progress_bar() as bar:
        task = bar.add_task("segmenting", total=total, completed=resumed)

        def tell(block: Done, workers: int) -> None:
            nonlocal last, count, missed
            count, missed = count + block.photos, missed + len(block.failed)
            bar.update(task, advance=block.photos)
            for sentence in (each for each in block.remarks if each not in told_of):
                told_of.add(sentence)
                note(f"warning: {sentence}")
            now = time.monotonic()
            if bar.disable and now - last >= _EVERY:
                last, rate = now, count / (now - began)
                note(
                    f"{OWN}: {resumed + count} of {total} photos, {missed} unreadable, {rate:.1f} a second with"
                    f" {workers} workers, about {(total - resumed - count) / rate / 60:.0f} min to go"
                )

        yield tell


def _finish(
    place: Place, settings: dict[str, Any], total: int, resumed: int, failed: dict[str, str], as_json: bool
) -> int:
    import pyarrow

    from rifenet.integrations.blocks import encoded_table

    schema = pyarrow.schema([("photo", pyarrow.string()), ("error", pyarrow.string())])
    rows = sorted(failed.items())
    columns = {"photo": [photo for photo, _ in rows], "error": [reason for _, reason in rows]}
    place.write(FAILED, encoded_table(columns, schema))
    manifest = {
        "settings": settings,
        "finished": True,
        "resumed": resumed,
        "photos": total,
        "failed": len(failed),
    }
    _write_json(place, MANIFEST, manifest)
    for photo, reason in rows[:_SHOWN]:
        note(f"{OWN}: skipped {photo}: {reason}")
    if as_json:
        print_json(manifest)
    else:
        before = f" ({resumed} photos in an earlier run)" if resumed else ""
        unread = f" {len(failed)} could not be read: {FAILED} says why." if failed else ""
        print(f"{total - len(failed)} photos segmented{before} into {place.url}.{unread}")
    if len(failed) == total:
        raise ValueError(f"Expected at least one photo that can be read, but all {total} failed.")
    return 0
