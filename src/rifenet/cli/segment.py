"""`rifenet segment`: learns classes from annotated photos and segments others into a folder.

The folder is a record: `manifest.json` says what was learned and by which model, and each photo's JSON, written last,
says that the photo is done. So the same command goes on where it was stopped, and another one is refused there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, print_json, progress

if TYPE_CHECKING:
    from rifenet.segmenter import Segmenter

FORMATS = ("index", "binary", "overlay", "coco", "labelme", "cutout", "html")
PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MANIFEST = "manifest.json"


def main(argv: list[str]) -> int:
    """0 where at least one photo is segmented, 1 where none is; photos that cannot be read are named and skipped."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    masks = {Path(mask).resolve() for _, _, mask in arguments.support}
    queries = _output_names(photos_of(arguments.query, out, masks))

    from rifenet.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained(arguments.model, arguments.device, arguments.threads)
    supports: dict[str, list[tuple[str, str]]] = {}
    for name, image, mask in arguments.support:
        supports.setdefault(name, []).append((image, mask))
    labels = _labels(arguments.label, list(supports))
    for name, shots in supports.items():
        pair = zip(*shots, strict=True)
        segmenter.learn(name, *pair, white_is_object=arguments.white_is_object, label=labels.get(name))
    settings = {
        "model": {"name": segmenter.engine.name, "hash": segmenter.engine.hash},
        "classes": {name: [[_digest(path) for path in shot] for shot in shots] for name, shots in supports.items()},
        "keep_absent": arguments.keep_absent,
        "white_is_object": arguments.white_is_object,
        "labels": labels,
        "tiles": arguments.tiles,
        "refine": arguments.refine,
        "formats": arguments.format,
    }
    _claim(out, settings, arguments.overwrite)
    return _run(segmenter, queries, out, settings, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rifenet segment",
        description="Learns classes from annotated photos and segments others: a mask, an overlay and a JSON for each.",
        epilog="example: rifenet segment --support dog a.jpg a.png --support dog b.jpg b.png --support bus c.jpg c.png"
        " --query photos/ --out out/",
    )
    parser.add_argument(
        "--support",
        nargs=3,
        action="append",
        required=True,
        metavar=("CLASS", "PHOTO", "MASK"),
        help="a shot: the class, a photo, and its mask (0 background, 255 ignored, anything else the class; or a"
        " cut-out, a colour mask, or a COCO, LabelMe or Label Studio JSON); once for each shot, 1 to 20 a class",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="CLASS=LABEL",
        help="what the class is called in label files: a name, a number or a colour (#rrggbb); of a JSON it is the"
        " class's own name unless told",
    )
    parser.add_argument(
        "--query", nargs="+", action="extend", required=True, metavar="PATH", help="photos, or folders of photos"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the results; the same command resumes there"
    )
    parser.add_argument(
        "--model",
        default="default",
        help="default (bundled), a run folder, a .safetensors file, an export folder or hf:owner/name",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the library's choice)")
    parser.add_argument(
        "--format",
        type=_formats,
        default=["index", "overlay"],
        metavar="A,B,...",
        help=f"what to write, among {', '.join(FORMATS)} (default: index,overlay); with coco and html also coco.json"
        " and index.html of all photos",
    )
    parser.add_argument(
        "--tiles",
        choices=("auto", "yes", "no"),
        default="auto",
        help="look at photos again in tiles, for small things; auto: at large photos",
    )
    parser.add_argument("--refine", action="store_true", help="make masks follow the photos' edges")
    parser.add_argument("--keep-absent", action="store_true", help="keep classes in the masks that are judged absent")
    parser.add_argument("--white-is-object", action="store_true", help="255 in a mask marks the class, too")
    parser.add_argument("--overwrite", action="store_true", help="use a folder that holds something else")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return parser


def _formats(text: str) -> list[str]:
    chosen = [word.strip() for word in text.split(",")]
    if wrong := [word for word in chosen if word not in FORMATS]:
        raise argparse.ArgumentTypeError(f"expected formats among {', '.join(FORMATS)}, but got {', '.join(wrong)}")
    if "html" in chosen and "overlay" not in chosen:
        chosen.append("overlay")  # which the page shows
    return list(dict.fromkeys(chosen))


def _labels(words: list[str], classes: list[str]) -> dict[str, str]:
    """Class -> its label in label files. Raises ValueError for a word that begins with no class."""
    labels: dict[str, str] = {}
    for word in words:
        fitting = [name for name in classes if word.startswith(f"{name}=") and len(word) > len(name) + 1]
        if not fitting:
            raise ValueError(
                f"Expected --label CLASS=LABEL with a class of --support ({', '.join(classes)}), but got {word!r}."
            )
        name = max(fitting, key=len)
        labels[name] = word[len(name) + 1 :]
    return labels


def photos_of(queries: list[str], out: Path | None, masks: set[Path]) -> list[Path]:
    """Each photo once: files as given (a missing one is reported later), a folder's own by name, less the masks."""
    photos: dict[Path, Path] = {}
    for path in map(Path, queries):
        found = [path]
        if path.is_dir():
            if out is not None and path.resolve() == out.resolve():
                raise ValueError(f"Expected --out to be another folder than --query, but both are {path}.")
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTOS and file.is_file())
            found = [file for file in found if file.resolve() not in masks]
            if not found:
                raise ValueError(f"Expected photos ({', '.join(sorted(PHOTOS))}) in {path}, but it holds none.")
        for file in found:
            photos.setdefault(file.resolve(), file)
    return list(photos.values())


def _output_names(photos: list[Path]) -> dict[Path, str]:
    """A name for each photo's results that no other has, also where file names ignore case."""
    names: dict[Path, str] = {}
    taken = {Path(MANIFEST).stem, "coco", "index"}
    for photo in photos:
        stem, suffix = photo.stem, photo.suffix.lstrip(".")
        choices = [stem, f"{stem}_{suffix}", f"{photo.resolve().parent.name}_{stem}"]
        choices += [f"{stem}_{number}" for number in range(2, len(photos) + 2)]
        names[photo] = next(choice for choice in choices if choice.lower() not in taken)
        taken.add(names[photo].lower())
    return names


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Makes sure that `out` is empty or holds results of the same settings, and writes its manifest."""
    from rifenet.files import write_bytes

    if not overwrite and out.exists() and any(out.iterdir()):
        known = _read_json(out / MANIFEST)
        if known is None:
            raise ValueError(
                f"Expected an empty or new folder, but {out} holds other files. Choose another --out, or add"
                " --overwrite."
            )
        if known.get("settings") != settings:
            raise ValueError(
                f"Expected {out} to hold results of these classes, model and options, but it holds others."
                " Choose another --out, or add --overwrite."
            )
    write_bytes(out / MANIFEST, json.dumps({"settings": settings, "finished": False}, indent=1).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _run(
    segmenter: Segmenter, queries: dict[Path, str], out: Path, settings: dict[str, Any], arguments: argparse.Namespace
) -> int:
    from rifenet.files import write_bytes

    run = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    records = {photo: known for photo, name in queries.items() if (known := _done(out, name, photo, run))}
    resumed, failed = len(records), dict[str, str]()
    todo = [photo for photo in queries if photo not in records]

    def skip(photo: Any, error: Exception) -> None:
        failed[str(photo)] = str(error)
        note(f"rifenet segment: skipped {photo}: {error}")

    options: dict[str, Any] = {
        "tiles": {"auto": "auto", "yes": True, "no": False}[arguments.tiles],
        "refine": arguments.refine,
    }
    results = segmenter.segment_many(todo, batch_size=1, keep_absent=arguments.keep_absent, **options, on_error=skip)
    formats = [each for each in arguments.format if each != "html"]
    by_source = {str(photo): photo for photo in todo}
    for result in progress(results, len(todo), "segmenting"):
        photo = by_source[result.source]
        try:
            paths = result.save(out, queries[photo], {"run": run, "file": _stamp(photo)}, formats=formats)
        except OSError as error:
            raise OSError(
                f"Could not save the results of {photo} ({error.strerror or error}). {len(records)} of {len(queries)}"
                " photos are done; the same command goes on from there."
            ) from error
        records[photo] = json.loads(paths["json"].read_text(encoding="utf-8"))
    manifest: dict[str, Any] = {
        "settings": settings,
        "finished": True,
        "resumed": resumed,
        "results": [{**records[photo], "json": f"{queries[photo]}.json"} for photo in queries if photo in records],
        "failed": [{"query": query, "reason": reason} for query, reason in failed.items()],
    }
    _write_together(out, manifest["results"], arguments.format)
    write_bytes(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    if arguments.json:
        print_json(manifest)
    else:
        _print_summary(manifest, out)
    if not records:
        raise ValueError(f"Expected at least one photo that can be read, but all {len(failed)} failed.")
    return 0


def _write_together(out: Path, records: list[dict[str, Any]], formats: list[str]) -> None:
    """The files of all photos, of those that were asked for."""
    from rifenet.outputs import merge_coco, write_page

    if records and "coco" in formats:
        merge_coco(out / "coco.json", (out / record["files"]["coco"] for record in records))
    if records and "html" in formats:
        write_page(out / "index.html", records, title=f"{len(records)} photos segmented")


def _stamp(photo: Path) -> dict[str, int]:
    """Size and time of change: a photo with the same two is taken to be the same."""
    status = photo.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _done(out: Path, name: str, photo: Path, run: str) -> dict[str, Any] | None:
    """The record of a photo that this run has segmented before, as it is now, with all its files."""
    record = _read_json(out / f"{name}.json")
    if record is None or record.get("run") != run or not photo.is_file() or record.get("file") != _stamp(photo):
        return None
    return record if all((out / file).is_file() for file in record["files"].values()) else None


def _print_summary(manifest: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, results = Console(), manifest["results"]
    if results and len(results) <= 40:
        table = Table("photo", *(escape(entry["name"]) for entry in results[0]["classes"]))
        for record in results:
            cells = [
                f"{entry['confidence']:.2f}" if entry["present"] else f"[dim]{entry['confidence']:.2f} absent[/dim]"
                for entry in record["classes"]
            ]
            table.add_row(escape(Path(record["query"]).name), *cells)
        console.print(table)
    before = f" ({manifest['resumed']} of them before)" if manifest["resumed"] else ""
    failed = f" {len(manifest['failed'])} could not be read." if manifest["failed"] else ""
    console.print(f"{len(results)} photos segmented{before} into {out}.{failed}", markup=False, highlight=False)
