"""Pauses Python's search for garbage, which goes through all objects and lets nobody else run meanwhile."""

from __future__ import annotations

import gc
import threading


class _Uncollected:
    """While entered, by any thread, Python looks for no garbage among its objects; then as before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.searched = True

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.searched = gc.isenabled()
            self.inside += 1
            gc.disable()

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside and self.searched:
                gc.enable()


uncollected = _Uncollected()
"""For work that makes hundreds of thousands of objects without cycles: each look takes a tenth of a second and more."""
