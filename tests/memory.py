"""Peak memory of a process, for tests that measure it in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def peak() -> int:
    """Bytes of this process at its peak. `getrusage` would tell those of the process that started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def peak_of(script: str) -> int:
    """Bytes at its peak of a process that runs a Python script. Needs Linux."""
    code = f"{script}\nfrom memory import peak\nprint(peak())"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])
