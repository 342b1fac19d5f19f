"""Opens the standard streams that a process was started without. The shell command `kinegraph plan CONFIG >&-` starts a
process without stdout.
"""

import os
import sys


def open_standard_streams() -> None:
    """Opens /dev/null in place of each of stdin, stdout and stderr that is closed.

    Without /dev/null, the next opened file would take the number of the closed stream, and output for the stream would
    go into the file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open returns the lowest free number: descriptor
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115
