"""Bounded attacks on the whole program, run by hand: `make campaign`.

Each writes what it found as JSON, with machine and commit.
"""
