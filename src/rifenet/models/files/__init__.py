"""Models on disk and by name."""
