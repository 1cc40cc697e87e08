"""Datasets, folds, episodes and image transforms. Only `episodes` imports torch."""
