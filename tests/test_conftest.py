"""What the tests say of themselves: skipped tests of the page are not overlooked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def summary_of(path: str) -> str:
    """The output of the page's tests where programs are found in `path` only, and skipping is allowed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_XDIST_WORKER")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(TESTS / "server" / "test_page_adapt.py")],
        env={**environment, "PATH": path},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_a_browser_the_last_words_are_loud(tmp_path: Path) -> None:
    last = summary_of(str(tmp_path)).strip().splitlines()[-1]
    assert last.startswith("THE PAGE WAS NOT TESTED: 6 tests need Chromium")
