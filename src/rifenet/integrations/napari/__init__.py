"""A plugin for napari: a dock widget that learns from painted slices and segments the others (extra `napari`)."""
