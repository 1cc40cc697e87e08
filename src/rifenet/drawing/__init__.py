"""Pictures of results: overlays, contact sheets and plots. Imports no other part of the package."""
