"""Scoring novel classes by a named protocol, result files, and the tables made from them (protocols.md).

Importing this package imports no torch (`protocol` and `provenance` do), so that tables are written without it.
"""
