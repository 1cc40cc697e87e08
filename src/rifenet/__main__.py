"""`python -m rifenet` is the command `rifenet`."""

from rifenet.cli.main import entry

if __name__ == "__main__":
    entry()
