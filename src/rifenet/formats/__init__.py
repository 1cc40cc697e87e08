"""Reads and writes files of other programs: pictures, label files, outlines, outputs. No datasets, no torch."""
