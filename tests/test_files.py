"""Files are whole or not there, and an older file stays until the new one is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rifenet.files import write_atomically, write_bytes, write_text


def test_the_old_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path, held = tmp_path / "file.json", tmp_path / "held.json"
    write_text(path, "old")
    os.link(path, held)  # whoever has the old file open keeps all of it
    write_text(path, "new, and longer")
    assert held.read_text() == "old"
    assert path.read_text() == "new, and longer"


def test_nothing_is_seen_at_the_path_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    seen = []

    def write(file: Path) -> None:
        file.write_bytes(b"half")
        seen.append((path.read_bytes(), file.parent, file.name != path.name))
        file.write_bytes(b"whole")

    write_atomically(path, write)
    assert seen == [(b"old", tmp_path, True)]  # in the same folder, so that the last step is a rename
    assert path.read_bytes() == b"whole"
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def fail(file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]
