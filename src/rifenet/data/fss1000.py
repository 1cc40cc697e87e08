"""FSS-1000: a folder per class with photos `N.jpg` and masks `N.png`, and three lists of classes (docs/data.md).

One text file holds the lists; the published lists fit in unchanged:

    [train]
    ab_wheel
    ...
    [val]
    ...
    [test]
    ...

Class ids count on through the three lists. Fold 0 tests the classes of [test], fold 1 the classes of [val]. Training
uses the classes of [train] only.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rifenet.data.index import Entry, ImageIndex, build_index

LISTS_FILE = "splits.txt"
_PARTS = ("train", "val", "test")


def open_fss1000(root: Path, list_file: str, part: str, progress: bool) -> ImageIndex:
    """Index of the classes of [train] (part "train"), or of [val] and [test] (part "val").

    Raises FileNotFoundError or ValueError, naming what is missing.
    """
    path = root / (list_file or LISTS_FILE)
    lists = _read_lists(path)
    class_names = [name for names in lists.values() for name in names]
    ids = {name: class_id for class_id, name in enumerate(class_names, start=1)}
    entries, bad = [], []
    for name in lists["train"] if part == "train" else (*lists["val"], *lists["test"]):
        folder = root / name
        images = sorted(folder.glob("*.jpg"), key=lambda image: (len(image.stem), image.stem))
        if not images:
            bad.append((name, f"Expected pictures N.jpg with masks N.png in {folder}, but there are none."))
        for image in images:
            entry = Entry(f"{name}/{image.stem}", image, image.with_suffix(".png"), palette=(ids[name],), bright=True)
            entries.append(entry)
    folders = (folder.name for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith("."))
    bad += [(name, f"Expected the class in {path.name}, but no list has it.") for name in folders if name not in ids]
    folds = tuple(tuple(ids[name] for name in lists[tested]) for tested in ("test", "val") if lists[tested])
    return build_index(
        entries,
        class_names,
        folds,
        root=root,
        dataset="fss1000",
        list_name=f"{path.name} [{'train' if part == 'train' else 'val, test'}]",
        bad_files=bad,
        trainable=tuple(ids[name] for name in lists["train"]),
        progress=progress,
    )


def _read_lists(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the class lists at {path}, but there is no such file. Write the lines [train], [val] and [test],"
            " each followed by its class names, one a line."
        )
    lists: dict[str, list[str]] = {part: [] for part in _PARTS}
    part = ""
    for line in filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())):
        if line.startswith("[") and line.endswith("]"):
            part = line[1:-1].strip()
        elif part in lists:
            lists[part].append(line)
        if part not in lists:
            raise ValueError(f"Expected class names below [train], [val] or [test] in {path}, but got {line!r}.")
    names = [name for listed in lists.values() for name in listed]
    if not lists["train"] or not lists["test"]:
        raise ValueError(f"Expected classes below [train] and [test] in {path}, but one of them has none.")
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"Expected each class once in the lists of {path}, but they repeat {', '.join(repeated)}.")
    return lists
