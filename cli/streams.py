"""The standard streams of a process that was started without some of them (`kinegraph plan CONFIG >&-`)."""

import os
import sys


def open_standard_streams() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed: files would get their numbers, and be printed to."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free, this one
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115
