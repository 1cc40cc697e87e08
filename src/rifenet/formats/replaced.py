"""Says where saved results take the place of another photo's: photos of one name, or `a.png` and `a_coco.png`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rifenet.formats.remarks import remark


def say_replaced(files: Iterable[Path], record: Path, source: str) -> None:
    """Remarks on files that are about to be replaced and belong to the results of another photo.

    `files`: all that is written for the photo `source`; `record`: the one that names the photo as its `query`.
    """
    for file in files:
        if file.suffix.lower() != ".json" or not file.is_file():
            continue
        other = _query_of(file)
        if other is not None and (file != record or other != source):
            of = f"the results of {other or 'another picture'}"
        elif other is None and file == record:
            of = "another photo's results"
        else:
            continue
        remark(f"result file {file}", f"It belonged to {of} and was replaced. Give save() a name for each photo.")


def _query_of(file: Path) -> str | None:
    """The photo of a record; None for another file."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return str(content["query"]) if isinstance(content, dict) and "query" in content else None
