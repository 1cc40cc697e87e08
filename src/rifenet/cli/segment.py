"""`rifenet segment`: learns classes from annotated photos, and segments others into a folder (`cli.segmented`)."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli import scenes
from rifenet.cli.console import note, noted_remarks, print_json, progress
from rifenet.cli.options import add_engine, add_photos, labels_of, model_of, photos_of
from rifenet.cli.over_ray import add_ray, check_ray, over_ray
from rifenet.cli.paged import add_contrast, paged, segmented, whole_files
from rifenet.cli.segmented import (
    CLASSES,
    begin,
    claim,
    digest,
    done,
    output_names,
    stamp,
    write_manifest,
    write_together,
)
from rifenet.cli.supports import shots_of
from rifenet.formats.contrast import How

if TYPE_CHECKING:
    from rifenet.segmenting.segmenter import Segmenter

FORMATS = (
    *("index", "binary", "overlay", "coco", "labelme", "cutout"),
    *("csv", "geojson", "yolo", "cvat", "cvat_masks", "gpkg", "html"),
)
OBJECTS = ("csv",)  # formats that list objects, with or without --instances

_CHOICES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def main(argv: list[str]) -> int:
    """Names and skips photos that cannot be read. Raises ValueError if no photo was segmented."""
    with noted_remarks():
        return _segment(argv)


def _segment(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    support = shots_of(parser, arguments.support)
    if arguments.ray is not None:
        check_ray(parser, arguments)
    out = Path(arguments.out)
    masks = {Path(mask).resolve() for _, _, mask in support}
    from rifenet.formats.outputs import NO_GPKG, endings

    classes = list(dict.fromkeys(name for name, _, _ in support))
    labels = labels_of(arguments.label, classes)
    failed = Failed()
    how = How(arguments.window, arguments.bands or ())
    on_disk = photos_of(arguments.query, out, masks, pages=True) if arguments.ray is None else []
    supports, photos = paged(support, on_disk, how, labels, failed.skip)
    queries = output_names(photos, [*endings(classes, arguments.format), *scenes.ENDINGS])
    if "gpkg" in arguments.format and not scenes.scenes_among(photos):
        parser.error(f"argument --format: {NO_GPKG}")

    from rifenet.engines.allocator import give_back_memory
    from rifenet.segmenting.instances import expect_extra
    from rifenet.segmenting.pseudo_labels import COUNT
    from rifenet.segmenting.queries import model_record
    from rifenet.segmenting.segmenter import Segmenter

    give_back_memory()  # else a large photo leaves a hole that the next one does not fit into
    if arguments.clean or arguments.instances or set(OBJECTS) & set(arguments.format):
        expect_extra()
    segmenter = Segmenter.from_pretrained(model_of(arguments), arguments.device, arguments.threads)
    _learn(segmenter, supports, labels, arguments)
    settings = {
        "model": model_record(segmenter.engine),
        "classes": {
            name: [[digest(path) for path in shot[1:]] for shot in support if shot[0] == name] for name in classes
        },
        "keep_absent": arguments.keep_absent,
        "white_is_object": arguments.white_is_object,
        "labels": labels,
        "tiles": arguments.tiles,
        "refine": arguments.refine,
        "fit": not arguments.no_fit,
        "formats": arguments.format,
    }
    if arguments.clean:
        settings["clean"] = True
    if arguments.no_steady:
        settings["steady"] = False
    if arguments.instances:
        settings["instances"] = True
    settings |= {key: value for key, value in zip(("window", "bands"), map(_listed, how), strict=True) if value}
    if arguments.adapt is not None:
        settings["adapt"] = arguments.adapt or COUNT
    if arguments.ray is not None:
        return over_ray(segmenter, settings, _options(arguments), masks, arguments)
    adopted = claim(out, settings, arguments.overwrite)
    if arguments.adapt is not None:
        adopted = _adapt(segmenter, photos_alone(queries), settings["adapt"], out, adopted)
        begin(out, settings, adopted)
    return _run(segmenter, queries, out, settings, adopted, failed, arguments)


class Failed(dict[str, str]):
    """Why photos were skipped, by their names."""

    def skip(self, photo: Any, error: Exception) -> None:
        """Keeps the reason, and tells it."""
        self[str(photo)] = str(error)
        note(f"rifenet segment: skipped {photo}: {error}")


def photos_alone(queries: Iterable[Any]) -> list[Any]:
    """The photos and pages among what is segmented, without scenes."""
    among = list(queries)
    own = scenes.scenes_among(among)
    return [query for query in among if query not in own]


def _listed(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _learn(
    segmenter: Segmenter,
    supports: dict[str, list[Any]],
    labels: dict[str, str],
    arguments: argparse.Namespace,
) -> None:
    from rifenet.segmenting.instances import compact

    for name, shots in supports.items():
        pair = zip(*shots, strict=True)
        options: dict[str, Any] = {"label": labels.get(name), "fit": not arguments.no_fit}
        segmenter.learn(name, *pair, white_is_object=arguments.white_is_object, **options)
        if arguments.show_fit and name in segmenter.fits:
            fit = segmenter.fits[name]
            note("\n  ".join([f"{name}: {fit}", *fit.notes]))
    together = [known.name for known in segmenter.learned if not compact(known.shapes)] if arguments.instances else []
    if together:
        note(
            f"rifenet segment: the shots' objects of {', '.join(together)} are not compact, so objects that touch count"
            " as one."
        )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `Segmenter.segment_many`, but for those of its input and output."""
    return {
        "tiles": _CHOICES[arguments.tiles],
        "refine": _CHOICES[arguments.refine],
        "clean": arguments.clean,
        "keep_absent": arguments.keep_absent,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rifenet segment",
        description="Learns classes from annotated photos, and segments other photos. Writes a mask, an overlay and a"
        " JSON file for each photo.",
        epilog="example: rifenet segment --support dog a.jpg a.png --support dog b.jpg b.png --support bus c.jpg c.png"
        " --query photos/ --out out/",
    )
    add_photos(
        parser,
        shot="an annotated photo (a shot): class, photo and mask; repeat the option for each, 1 to 20 per class. In a"
        " mask 0 is background, 255 is ignored, and any other value is the class. A cut-out, a colour mask, or a COCO,"
        " LabelMe or Label Studio JSON can take the place of the mask",
        query_required=True,
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the results; run the same command again to resume"
    )
    add_engine(parser)
    add_contrast(parser)
    parser.add_argument(
        "--format",
        type=_formats,
        default=["index", "overlay"],
        metavar="A,B,...",
        help=f"what to write, one or more of {', '.join(FORMATS)} (default: index,overlay). For all photos together,"
        " coco adds coco.json, csv table.csv, cvat annotations.xml, cvat_masks labelmap.txt, yolo data.yaml, and"
        " html index.html",
    )
    parser.add_argument(
        "--tiles",
        choices=("auto", "yes", "no"),
        default="auto",
        help="also segment photos in tiles, which finds small things; auto does so for large photos and for classes"
        " whose fit says so (default: auto)",
    )
    parser.add_argument(
        "--adapt",
        type=_adopted_at_most,
        nargs="?",
        const=0,
        metavar="N",
        help="look at all photos first, and add each class's N most confident results (default: 3) to its examples;"
        " takes two passes over the photos",
    )
    parser.add_argument(
        "--refine",
        choices=("auto", "yes", "no"),
        nargs="?",
        const="yes",
        default="auto",
        help="make masks follow the photos' edges; auto does so for classes whose fit says so (default: auto)",
    )
    parser.add_argument(
        "--no-fit", action="store_true", help="do not fit the classes to their shots: quicker learning, the plain masks"
    )
    parser.add_argument("--show-fit", action="store_true", help="print what each class was fitted to, and why")
    parser.add_argument(
        "--instances",
        action="store_true",
        help="tell objects apart, also touching ones, in the overlay, coco, labelme, geojson, yolo, cvat and"
        " cvat_masks, and count them; csv always lists objects",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="fill small holes of the masks and remove specks, both judged by the size of the shots' objects",
    )
    parser.add_argument(
        "--no-steady",
        action="store_true",
        help="segment each frame of a video by itself; by default neighbouring frames weigh in",
    )
    parser.add_argument(
        "--keep-absent", action="store_true", help="keep a class in the mask even if it is judged absent"
    )
    parser.add_argument("--overwrite", action="store_true", help="use --out even if it holds other files")
    parser.add_argument("--json", action="store_true", help="print manifest.json, the record of the run")
    add_ray(parser)
    return parser


def _adopted_at_most(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 20:
        raise argparse.ArgumentTypeError(f"expected a number of photos from 1 to 20, but got {text}")
    return int(text)


def _formats(text: str) -> list[str]:
    chosen = [word.strip() for word in text.split(",")]
    if wrong := [word for word in chosen if word not in FORMATS]:
        raise argparse.ArgumentTypeError(f"expected formats among {', '.join(FORMATS)}, but got {', '.join(wrong)}")
    if "html" in chosen and "overlay" not in chosen:
        chosen.append("overlay")  # the page shows the overlays
    return list(dict.fromkeys(chosen))


def _adapt(segmenter: Segmenter, photos: list[Any], count: int, out: Path, before: dict[str, Any]) -> dict[str, Any]:
    """Adds each class's most confident results to its examples, and returns the record of them for the manifest.

    A resumed run loads the classes that it started with, even if there are new photos.
    """
    learned = out / CLASSES
    if before and learned.is_file() and digest(str(learned)) == before["file"]:
        for name in segmenter.classes:
            segmenter.forget(name)
        segmenter.load_classes(learned)
        return before
    watched = progress(photos, len(photos), "looking at photos")
    found = segmenter.adapt(watched, count=count, on_error=lambda photo, error: None)  # `_run` names such a photo
    segmenter.save_classes(learned)
    shots = {
        name: [{"query": shot.source, "confidence": round(shot.confidence, 4)} for shot in shots]
        for name, shots in found.items()
    }
    return {"file": digest(str(learned)), "photos": shots}


def _run(
    segmenter: Segmenter,
    queries: dict[Any, str],
    out: Path,
    settings: dict[str, Any],
    adopted: dict[str, Any],
    failed: Failed,
    arguments: argparse.Namespace,
) -> int:
    learned = [settings, adopted["file"]] if adopted else settings
    run = hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()[:16]
    records = {photo: known for photo, name in queries.items() if (known := done(out, name, photo, run))}
    resumed = len(records)
    options = _options(arguments)
    own, whole = scenes.scenes_among(queries), whole_files(queries)
    records |= scenes.segment_scenes(segmenter, own, queries, out, run, arguments.format, options, failed.skip)
    todo = [photo for photo in photos_alone(queries) if photo not in records]
    results = segmented(segmenter, todo, [] if arguments.no_steady else whole, options, failed.skip)
    formats = [each for each in arguments.format if each not in ("html", "gpkg")] or ["index"]
    by_source = {str(photo): photo for photo in todo}
    for result in progress(results, len(todo), "segmenting"):
        photo = by_source[result.source]
        try:
            facts = {"run": run, "file": stamp(photo)}
            paths = result.save(out, queries[photo], facts, formats=formats, objects=arguments.instances)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ) or error.filename == str(photo):
                failed.skip(photo, error)  # some disks take less than others, and the photo itself may be gone
                continue
            raise OSError(
                f"Could not save the results of {photo} ({_reason(error)}). {len(records)} of {len(queries)}"
                " photos are done. Run the same command again to resume."
            ) from error
        records[photo] = json.loads(paths["json"].read_text(encoding="utf-8"))
        del result  # a large photo, while the next is read
    in_order = {query: records[query] for query in queries if query in records}
    manifest: dict[str, Any] = {
        "settings": settings,
        "finished": True,
        "resumed": resumed,
        "results": [{**record, "json": f"{queries[query]}.json"} for query, record in in_order.items()],
        "failed": [{"query": query, "reason": reason} for query, reason in failed.items()],
    } | ({"adopted": adopted} if adopted else {})
    of_photos = [record for query, record in zip(in_order, manifest["results"], strict=True) if query not in own]
    write_together(out, of_photos, [each for each in arguments.format if each != "gpkg"], whole)
    write_manifest(out, manifest)
    if arguments.json:
        print_json(manifest)
    else:
        _print_summary(manifest, out)
    if not records:
        raise ValueError(f"Expected at least one photo that can be read, but all {len(failed)} failed.")
    return 0


def _reason(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)


def _cell(entry: dict[str, Any], pixels: int) -> str:
    """One class in one photo, for the table."""
    if not entry["present"]:
        return f"[dim]{entry['confidence']:.2f} absent[/dim]"
    counted = f" · {entry['objects']}" if "objects" in entry else ""
    return f"{entry['confidence']:.2f} · {100 * entry['pixels'] / pixels:.1f} %{counted}"


def _print_summary(manifest: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, results = Console(), manifest["results"]
    if results and len(results) <= 40:
        table = Table("photo", *(escape(entry["name"]) for entry in results[0]["classes"]))
        for record in results:
            pixels = record["height"] * record["width"]
            table.add_row(escape(Path(record["query"]).name), *(_cell(entry, pixels) for entry in record["classes"]))
        console.print(table)
        counted = ", and the number of its objects" if "objects" in results[0]["classes"][0] else ""
        console.print(
            f"The numbers: how likely the photo shows the class (0 to 1), its share of the photo{counted}.",
            highlight=False,
        )
    for name, shots in manifest.get("adopted", {}).get("photos", {}).items():
        names = (
            ", ".join(f"{Path(shot['query']).name} ({shot['confidence']:.2f})" for shot in shots) or "no other photo"
        )
        console.print(f"{name}: extra examples from {names}", markup=False, highlight=False)
    before = f" ({manifest['resumed']} of them in an earlier run)" if manifest["resumed"] else ""
    failed = f" {len(manifest['failed'])} could not be read." if manifest["failed"] else ""
    console.print(f"{len(results)} photos segmented{before} into {out}.{failed}", markup=False, highlight=False)
