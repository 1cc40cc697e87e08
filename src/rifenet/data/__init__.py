"""Datasets, folds, episodes and image transforms. Importing this package imports no torch (`episodes` does)."""
