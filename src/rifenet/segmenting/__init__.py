"""The product: classes learned from annotated photos, other photos segmented by them, over any engine. No torch."""
