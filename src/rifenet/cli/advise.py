"""`rifenet advise`: warns of annotated photos that hurt, and suggests photos to annotate next."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, noted_remarks, print_json, progress
from rifenet.cli.options import add_engine, add_photos, labels_of, model_of, photos_of
from rifenet.cli.supports import shots_of

if TYPE_CHECKING:
    from rifenet.advice import Advice
    from rifenet.drawing.visualize import Section
    from rifenet.segmenting.segmenter import Segmenter


def main(argv: list[str]) -> int:
    """Prints the advice, writes it into `--out`, and returns 0, whatever the advice is."""
    with noted_remarks():
        return _advise(argv)


def _advise(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    support = shots_of(parser, arguments.support)
    annotated = {Path(path).resolve() for _, *pair in support for path in pair}
    out = Path(arguments.out) if arguments.out else None
    queries = photos_of(arguments.query, out, annotated) if arguments.query else []

    from rifenet.advice import advise
    from rifenet.segmenting.segmenter import Segmenter

    shots: dict[str, list[tuple[Any, Any]]] = {}
    for name, photo, mask in support:
        shots.setdefault(name, []).append((photo, mask))
    segmenter = Segmenter.from_pretrained(model_of(arguments), arguments.device, arguments.threads)
    options: dict[str, Any] = {
        "white_is_object": arguments.white_is_object,
        "labels": labels_of(arguments.label, list(shots)),
    }
    advice = advise(
        segmenter,
        shots,
        queries,
        suggest=arguments.suggest,
        **options,
        on_error=lambda photo, error: note(f"rifenet advise: skipped {photo}: {error}"),
        watch=progress,
    )
    if out is not None:
        for name, pairs in shots.items():
            photos, masks = zip(*pairs, strict=True)
            label = options["labels"].get(name)
            segmenter.learn(name, photos, masks, label=label, white_is_object=arguments.white_is_object)
        _write(advice, segmenter, out)
    if arguments.json:
        print_json(advice.to_dict())
    else:
        _print(advice)
    if queries and not advice.looked_at:
        raise ValueError(f"Expected at least one photo that can be read, but all {len(queries)} failed.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rifenet advise",
        description="Segments each annotated photo after learning from the others, and warns of annotated photos that"
        " hurt. With --query it also suggests which photos to annotate next.",
        epilog="example: rifenet advise --support dog a.jpg a.png --support dog b.jpg b.png --query photos",
    )
    add_photos(
        parser,
        shot="an annotated photo (a shot), as in rifenet segment; repeat the option for each",
        query_required=False,
    )
    add_engine(parser)
    parser.add_argument("--suggest", type=int, default=5, metavar="N", help="suggest at most N photos (default: 5)")
    parser.add_argument("--out", metavar="DIR", help="folder for advice.json and advice.html, which shows the photos")
    parser.add_argument("--json", action="store_true", help="print the advice as JSON")
    return parser


def _print(advice: Advice) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table("class", "shot", "IoU from the others", "", title="Annotated photos")
    for shot in advice.shots:
        mark = "[bold red]![/bold red] " if shot.warns else ""
        name = f"{mark}{shot.number} {escape(Path(shot.source).name)}"
        table.add_row(escape(shot.class_name), name, f"{100 * shot.iou:.0f}", escape(shot.reason))
    console.print(table)
    if advice.next:
        table = Table("", "photo", "why", title=f"Annotate next, out of {advice.looked_at}")
        for photo in advice.next:
            table.add_row(str(photo.rank), escape(Path(photo.source).name), escape(photo.reason))
        console.print(table)
    if advice.failed:
        console.print(f"{len(advice.failed)} photos could not be read.", highlight=False)


_LEAD = (
    "An annotated photo is a photo with a mask that somebody drew. Each was segmented by what the others of its class"
    " teach; the IoU says how far that mask agrees with the drawn one, from 0 (not at all) to 100 (exactly). Where it"
    " is low, look at the drawn mask first. Annotate the photos of the last part next, from the first on: draw the"
    " class in each, and add it to the annotated ones."
)


def _write(advice: Advice, segmenter: Segmenter, out: Path) -> None:
    """Writes `advice.json`, and `advice.html`, which shows the photos with their masks and explains itself."""
    from rifenet.drawing.visualize import Report, render
    from rifenet.files import write_text

    table = [
        [f"{shot.class_name} {shot.number}: {Path(shot.source).name}", f"{100 * shot.iou:.0f}", shot.verdict]
        for shot in advice.shots
    ]
    report = Report(
        title="Which photo should I annotate?",
        lead=f"{len(advice.shots)} annotated photos were judged, and {advice.looked_at} others looked at. {_LEAD}",
        header=("annotated photo", "IoU from the others", "verdict"),
        table=table,
        legend=segmenter.classes,
        notes=[f"{query}: {reason}" for query, reason in advice.failed],
        sections=[*_shot_sections(advice, segmenter), *_next_sections(advice, segmenter)],
        footer="Written by rifenet advise.",
    )
    write_text(out / "advice.json", json.dumps(advice.to_dict(), indent=1))
    write_text(out / "advice.html", render(report))


def _shot_sections(advice: Advice, segmenter: Segmenter) -> Iterator[Section]:
    """One section for each class: the shots to check on the left, the others beside them."""
    from rifenet.drawing.visualize import Figure, Section

    for class_id, known in enumerate(segmenter.learned, 1):
        warned: list[Figure] = []
        good: list[Figure] = []
        own = [shot for shot in advice.shots if shot.class_name == known.name]
        for shot, picture in zip(own, known.annotated().overlays(class_id), strict=True):
            caption = f"{shot.number}, {Path(shot.source).name}: {shot.reason}"
            (warned if shot.warns else good).append(Figure(picture, caption))
        heads = ("look at these masks" if warned else "no mask to look at", "in order" if good else "", "", "")
        yield Section(f"Annotated: {known.name}", heads, warned, [good], class_id=class_id)


def _next_sections(advice: Advice, segmenter: Segmenter) -> Iterator[Section]:
    """One section: the first suggestion on the left, the others beside it, with the masks that they have now."""
    from rifenet.drawing.visualize import Figure, Section

    if advice.next:
        figures = [
            Figure(
                segmenter.segment(each.source, keep_absent=True, tiles=False).overlay(),
                f"{each.rank}, {Path(each.source).name}: {each.reason}",
            )
            for each in advice.next
        ]
        text = (
            "Photos without a mask, with what the model finds in them now. Its own scores call the first masks the"
            " worst. That is a guess, so look at the others, too."
        )
        heads = ("first", "then" if figures[1:] else "", "", "")
        yield Section("Annotate next", heads, figures[:1], [figures[1:]], text=text)
