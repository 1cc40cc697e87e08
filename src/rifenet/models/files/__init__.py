"""Saves models, finds them by name and reads them."""
