"""Run the command line as `python -m ropo`."""

from ropo.cli.main import entry

if __name__ == "__main__":
    entry()
