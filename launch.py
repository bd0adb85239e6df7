"""rnnlab's launcher in a checkout: python launch.py VERB --help. It is python -m rnnlab, from anywhere."""

from rnnlab.run import signals

if __name__ == "__main__":  # now, before what takes long to import
    signals.end_process()

import sys
from pathlib import Path

from rnnlab import __main__ as rnnlab
from rnnlab.run import command

PROGRAM = rnnlab.PROGRAM._replace(command=(sys.executable, str(Path(__file__).resolve())))


def main(arguments: list[str]) -> int:
    """Run the verb that the arguments name; the exit code. See `command.main`."""
    return command.main(PROGRAM, arguments)


if __name__ == "__main__":
    command.launch(PROGRAM, sys.argv[1:])
