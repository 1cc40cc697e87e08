"""The command line: one module for each command, loaded only when the user runs that command."""
