"""Peak memory of a process, for tests that measure it in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path


def peak() -> int:
    """Bytes of this process at its peak. `getrusage` would tell those of the process that started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
