"""Other programs that rifenet works with, one file each; each imports its partner inside functions only."""
