"""Pictures of results: overlays, contact sheets and plots. Nothing else of the package."""
