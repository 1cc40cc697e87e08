"""The command line: one module for each command, each loaded only when its command is given."""
