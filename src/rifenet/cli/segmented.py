"""The folder that `rifenet segment` writes: a record, from which the same command goes on and another is refused.

`manifest.json` says what was learned and by which model, and each photo's JSON, written last, says that the photo is
done.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rifenet.cli.console import note

MANIFEST = "manifest.json"
CLASSES = "classes.safetensors"
"""The learned classes of a run that adapts: what it goes on with."""


def output_names(photos: list[Path]) -> dict[Path, str]:
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


def digest(path: str) -> str:
    """Identifies what a file holds."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def claim(out: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Makes sure that `out` is empty or holds results of the same settings, and begins its manifest.

    Returns the photos that classes adopted before, as the manifest had them; {} where there is nothing to go on from.
    """
    adopted: dict[str, Any] = {}
    if not overwrite and out.exists() and any(out.iterdir()):
        known = _read_json(out / MANIFEST)
        if known is None:
            raise ValueError(
                f"Expected an empty or new folder, but {out} holds other files. Choose another --out, or add"
                " --overwrite."
            )
        if _of_the_weights_alone(known.get("settings"), settings):
            note(
                f"{out} is from a version that did not record the model's threshold and calibration: its photos are"
                " segmented again."
            )
        elif known.get("settings") != settings:
            raise ValueError(
                f"Expected {out} to hold results of these classes, model and options, but it holds others."
                " Choose another --out, or add --overwrite."
            )
        else:
            adopted = known.get("adopted", {})
    begin(out, settings, adopted)
    return adopted


def _of_the_weights_alone(known: Any, settings: dict[str, Any]) -> bool:
    """Whether `known` settings are the same, but name the model by the hash of its weights, as older versions did."""
    model = settings["model"]
    return bool(known == {**settings, "model": {"name": model["name"], "hash": model["weights_hash"]}})


def begin(out: Path, settings: dict[str, Any], adopted: dict[str, Any]) -> None:
    """Writes the manifest of a run that is not finished; without `adopted` where no class has adopted a photo."""
    write_manifest(out, {"settings": settings, "finished": False} | ({"adopted": adopted} if adopted else {}))


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Raises OSError where the disk is full; an older one then stays."""
    from rifenet.files import write_bytes

    write_bytes(out / MANIFEST, json.dumps(manifest, indent=1).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_together(out: Path, records: list[dict[str, Any]], formats: list[str]) -> None:
    """The files of all photos, of those that were asked for."""
    from rifenet.formats.outputs import merge_coco, write_page

    if records and "coco" in formats:
        merge_coco(out / "coco.json", (out / record["files"]["coco"] for record in records))
    if records and "html" in formats:
        write_page(out / "index.html", records, title=f"{len(records)} photos segmented")


def stamp(photo: Path) -> dict[str, int]:
    """Size and time of change: a photo with the same two is taken to be the same."""
    status = photo.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def done(out: Path, name: str, photo: Path, run: str) -> dict[str, Any] | None:
    """The record of a photo that this run has segmented before, as it is now, with all its files."""
    record = _read_json(out / f"{name}.json")
    if record is None or record.get("run") != run or not photo.is_file() or record.get("file") != stamp(photo):
        return None
    return record if all((out / file).is_file() for file in record["files"].values()) else None
