"""Opens stdin, stdout and stderr if the process was started without them, for example by the shell command `kinegraph
plan CONFIG >&-`.
"""

import os
import sys


def open_standard_streams() -> None:
    """Opens /dev/null in place of each closed stream among stdin, stdout and stderr.

    Otherwise the next file that the process opens would take the place of the closed stream, and printed output would
    go into this file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open returns the lowest free number: descriptor
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115
