"""Slow, independent references: NumPy in float64 with explicit loops, written from the text of the method only."""
