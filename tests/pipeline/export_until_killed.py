"""Export a cache to HDF5, killed at the n-th fsync: before or after any rename of any sealing.

Usage: python export_until_killed.py CACHE OUT N
"""

import itertools
import os
import signal
import sys

from cache_schemas.cache import Cache
from pipeline.exporting import export_cache

if __name__ == "__main__":
    cache, out, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
    calls, really_sync = itertools.count(1), os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        really_sync(descriptor)

    os.fsync = fsync
    export_cache(Cache(cache), out, kind="hdf5")
