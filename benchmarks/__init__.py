"""Benchmarks that measure the figures of the docs. Run one from a clone's root: `python -m benchmarks.NAME --help`."""
