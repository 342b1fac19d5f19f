"""Run an extraction that kills itself (SIGKILL) at its n-th fsync: before or after any rename of any sealing.

Usage: python die_while_sealing.py CONFIG N
"""

import itertools
import os
import signal
import sys

from pipeline.config import load_config
from pipeline.extraction import extract

if __name__ == "__main__":
    config, last = sys.argv[1], int(sys.argv[2])
    calls, really_sync = itertools.count(1), os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        really_sync(descriptor)

    os.fsync = fsync
    extract(load_config(config))
