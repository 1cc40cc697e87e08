"""What takes the figures of the docs; run one from the root of a clone, as `python -m benchmarks.NAME --help`."""
