"""The annotated photos that ship with the program."""
