"""Run an extraction that sends itself a signal at its n-th fsync: before or after any rename of any sealing.

Usage: python signal_while_sealing.py CONFIG N SIGKILL|SIGSTOP
"""

import itertools
import os
import signal
import sys

from pipeline.config import load_config
from pipeline.extraction import extract

if __name__ == "__main__":
    config, last, sent = sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]]
    calls, really_sync = itertools.count(1), os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == last:
            os.kill(os.getpid(), sent)
        really_sync(descriptor)

    os.fsync = fsync
    extract(load_config(config))
