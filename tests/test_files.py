"""Files are whole or not there, and nothing of a killed process stays beside them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_disk import tiny_disk

from rifenet.files import (
    LARGEST_NUMBER,
    contents,
    expect_writable,
    misfit,
    naming,
    scratch_folder,
    write_atomically,
    write_bytes,
    write_text,
)

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no lock that ends with its process here.")


def start_write(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing `path`."""
    code = (
        "import sys, time; from pathlib import Path; from rifenet.files import write_atomically\n"
        "def write(file):\n"
        "    file.write_text('half'); file.with_suffix('.part').write_text('more'); print('writing', flush=True)\n"
        "    sys.stdin.read(); file.write_text('whole')\n"
        "write_atomically(Path(sys.argv[1]), write)\n"
    )
    words = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def write_in_another_process(path: Path) -> None:
    code = "import sys; from pathlib import Path; from rifenet import files; files.write_text(Path(sys.argv[1]), 'x')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)


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
        seen.append((path.read_bytes(), file.parent.parent, file.name != path.name))
        file.write_bytes(b"whole")

    write_atomically(path, write)
    assert seen == [(b"old", tmp_path, True)]  # on the same disk, so that the last step is a rename
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


@unix
def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("older")
    with start_write(tmp_path / "a.txt") as process:
        process.kill()
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert [path.name for path in contents(tmp_path)] == ["a.txt"]
    write_in_another_process(tmp_path / "b.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text() == "older"


def test_a_write_that_runs_is_left_alone(tmp_path: Path) -> None:
    with start_write(tmp_path / "a.txt") as process:
        for name in ("b.txt", "c.txt"):
            write_in_another_process(tmp_path / name)
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        process.communicate("")
        assert process.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


@unix
def test_only_our_own_names_are_removed(tmp_path: Path) -> None:
    ours = f".{uuid.uuid4().hex}.tmp"
    (tmp_path / ours).mkdir()  # killed before it had a lock
    (tmp_path / f"{ours}.txt").mkdir()
    (tmp_path / ours[1:]).write_text("no dot")
    (tmp_path / ".notes.tmp").write_text("mine")
    old, new = (tmp_path / f".{uuid.uuid4().hex}.tmp" for _ in range(2))  # files, as older versions left them
    for file, age in ((old, 25 * 60 * 60), (new, 60)):
        file.write_text("half")
        os.utime(file, (time.time() - age,) * 2)
    write_in_another_process(tmp_path / "a.txt")
    expected = {f"{ours}.txt", ours[1:], ".notes.tmp", new.name, "a.txt"}
    assert {path.name for path in tmp_path.iterdir()} == expected


@unix
def test_processes_that_start_and_sweep_at_the_same_time_lose_no_write(tmp_path: Path) -> None:
    """Each new process looks for leftovers just when the others make their folders."""
    code = (
        "import sys; from pathlib import Path; from rifenet import files\n"
        "for number in range(150):\n"
        "    files._remove_leftovers.cache_clear()\n"
        "    files.write_text(Path(sys.argv[1]) / f'{sys.argv[2]}-{number}', 'whole')\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*words, str(number)]) for number in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert {path.name for path in tmp_path.iterdir()} == {f"{a}-{b}" for a in range(4) for b in range(150)}


@unix
def test_stopping_politely_leaves_nothing(tmp_path: Path) -> None:
    with start_write(tmp_path / "a.txt") as process:
        process.send_signal(signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_ends_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "new") as scratch:
        (scratch / "file").write_text(f"{1 / 0}")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_error_names_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kilobytes=64) as disk:
        if not disk.mounted:
            pytest.skip("This system mounts no small disk.")
        path = disk.folder / "a.bin"
        with pytest.raises(OSError, match="No space left") as full:
            write_bytes(path, bytes(100_000))
        assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(path))
        assert list(disk.folder.iterdir()) == []
        tensors = {"a": np.zeros(100_000)}
        with pytest.raises(OSError, match="No space left") as full:
            write_atomically(path, lambda file: save_file(tensors, file))
        assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(path))
        assert list(disk.folder.iterdir()) == []


def test_an_error_over_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write_atomically(tmp_path / "a.txt", lambda file: (tmp_path / "gone.txt").read_text())
    assert missing.value.filename == str(tmp_path / "gone.txt")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as wrong:
        write_bytes(tmp_path / "file" / "a.txt", b"")
    assert str(tmp_path / "file") in str(wrong.value.filename)
    with pytest.raises(OSError, match="File name too long") as long:
        write_bytes(tmp_path / ("n" * 300), b"")
    assert long.value.filename == str(tmp_path / ("n" * 300))


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    expect_writable(tmp_path / "new" / "a.txt")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(OSError, match=r"Expected to be able to write .*new, but cannot: Is a directory"):
        expect_writable(tmp_path / "new")


def test_a_full_disk_names_the_file_that_is_appended_to(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk.folder / "log.jsonl"
        path.write_text("a line\n")
        disk.fill()
        with pytest.raises(OSError, match=r"log\.jsonl") as caught, naming(path), path.open("a") as file:
            file.write("x" * 10_000)
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        disk.release()


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), naming(tmp_path / "log.jsonl"):
        (tmp_path / "other.txt").read_text()


SHAPE = {
    "name": str,
    "sizes": [int],
    "share?": (float, None),
    "rows": [{"id": int, "of?": {str: float}}],
    "more?": (dict, [str]),
    "range?": [int, float],
}
FITTING: dict[str, Any] = {"name": "a", "sizes": [1, 2], "rows": [{"id": 3, "of": {"x": 1}}], "unknown": object()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"share": 1}, ""),
        ({"share": None}, ""),
        ({"more": {"any": "thing"}}, ""),
        ({"more": ["a"]}, ""),
        ({"sizes": [], "rows": []}, ""),
        ({"sizes": [LARGEST_NUMBER]}, ""),
        ({"range": [1, 2.5]}, ""),
        ({"range": [1]}, "it.range to have 2 entries, but got 1"),
        ({"range": [1.5, 2]}, "it.range[0] to be a whole number, but got 1.5"),
        ({"name": 5}, "it.name to be a text, but got 5"),
        ({"name": None}, "it.name to be a text, but got None"),
        ({"sizes": [1, True]}, "it.sizes[1] to be a whole number, but got True"),
        ({"sizes": [1.0]}, "it.sizes[0] to be a whole number, but got 1.0"),
        ({"sizes": [LARGEST_NUMBER + 1]}, f"it.sizes[0] to be a whole number, but got {LARGEST_NUMBER + 1}"),
        ({"sizes": {"0": 1}}, "it.sizes to be a list, but got a dict"),
        ({"share": 10**400}, f"it.share to be a number or null, but got 1{'0' * 59}"),
        ({"share": float("nan")}, "it.share to be a number or null, but got nan"),
        ({"share": float("inf")}, "it.share to be a number or null, but got inf"),
        ({"share": False}, "it.share to be a number or null, but got False"),
        ({"rows": [{"id": 1}, []]}, "it.rows[1] to be names and values, but got a list"),
        ({"rows": [{}]}, "it.rows[0] to have id, but it does not"),
        ({"rows": [{"id": 1, "of": {"x": "y"}}]}, "it.rows[0].of.x to be a number, but got 'y'"),
        ({"more": [1]}, "it.more[0] to be a text, but got 1"),
        ({"more": 1}, "it.more to be names and values or a list, but got 1"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change: dict[str, Any], sentence: str) -> None:
    assert misfit({**FITTING, **change}, SHAPE, "it") == sentence


def test_all_that_is_missing_is_named() -> None:
    assert misfit({"rows": []}, SHAPE, "it") == "it to have name, sizes, but it does not"
    assert misfit(None, SHAPE, "it") == "it to be names and values, but got None"
