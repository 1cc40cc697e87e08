"""Other programs that people already work in: each module imports its partner inside functions only."""
