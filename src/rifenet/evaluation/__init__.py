"""Scores novel classes by a named protocol, and writes result files and tables of them (protocols.md).

Importing this package imports no torch, so tables can be written without it. `protocol` and `provenance` need it.
"""
