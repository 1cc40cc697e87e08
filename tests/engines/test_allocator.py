"""Freed memory goes back to the system; a process of its own, because the setting is for the whole of it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from rifenet.engines.allocator import give_back_memory

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1000

if sys.argv[1] == "yes":
    give_back_memory()
np.ones(30 * 2**20, np.uint8)  # freed at once: from here on glibc would keep what is smaller
before, kept = resident(), []
for _ in range(8):  # each leaves something small behind it
    large = np.ones(20 * 2**20, np.uint8)
    kept.append([np.ones(2**12, np.uint8) for _ in range(40)])
    larger = [np.ones(2 * 2**20, np.uint8) for _ in range(100)]
    kept.append([np.ones(2**12, np.uint8) for _ in range(40)])
    del large, larger
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="The setting is glibc's.")
def test_freed_memory_goes_back_to_the_system() -> None:
    grown = [
        float(subprocess.run([sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, check=True).stdout)
        for asked in ("yes", "no")
    ]
    assert grown[0] < 64 + 15 < 150 < grown[1], grown  # 64 MiB stay


WORK = """
import resource
import numpy as np
from rifenet.engines.allocator import give_back_memory

give_back_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def photo():  # as a network does: maps of less than a megabyte, taken and freed in turn
    maps = [np.ones(900 * 2**10, np.uint8) for _ in range(20)]
    del maps

photo()
before = faults()
for _ in range(20):
    photo()
print((faults() - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="The setting is glibc's.")
def test_what_each_photo_needs_again_is_kept() -> None:
    """The maps have 4,500 pages of 4 KiB; handed out anew for each photo, each page is a fault."""
    found = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True).stdout
    assert float(found) < 500, found
