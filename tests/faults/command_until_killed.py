"""Run a command, killed at its n-th fsync: before or after any rename of any sealing.

Usage: python command_until_killed.py N ARGUMENTS...
"""

import itertools
import os
import signal
import sys
from typing import Any

from kinegraph.cli.app import main

if __name__ == "__main__":
    last = int(sys.argv.pop(1))
    calls, really_sync = itertools.count(1), os.fsync

    def fsync(fd: Any) -> None:
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        really_sync(fd)

    os.fsync = fsync
    main()
