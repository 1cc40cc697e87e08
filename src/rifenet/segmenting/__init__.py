"""The product: learns classes from annotated photos and segments other photos, on any engine. It needs no torch."""
