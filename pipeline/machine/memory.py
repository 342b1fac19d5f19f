"""Makes glibc's malloc reuse freed memory, in place of returning it to the system. Torch-free.

By default glibc returns a freed block of more than 32 MiB to the system. The system then clears the pages of the next
block one by one. For a 3D network this can take a fifth of the CPU time (benchmarks/memory.py measures it).
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

KEPT_BYTES = 2**30
TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
GLIBC_BYTES = {MMAP: 2**25, TRIM: 2**26}  # the most to which glibc raises both by itself
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # of mallopt(3)
_keeps = False


def keep_freed_memory() -> None:
    """Makes malloc reuse up to 1 GiB of freed memory, in this process and in processes that it starts.

    Does nothing without glibc, or if environment variables configure glibc's malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    global _keeps
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in VARIABLES):
        return
    os.environ.update(dict.fromkeys(VARIABLES, str(KEPT_BYTES)))
    _set(dict.fromkeys(GLIBC_BYTES, KEPT_BYTES))
    _keeps = True


@contextmanager
def without_kept_memory() -> Iterator[None]:
    """Makes malloc return freed memory to the system during the `with` block, as glibc does by default."""
    if not _keeps:
        yield
        return
    _set(GLIBC_BYTES)
    try:
        yield
    finally:
        _set(dict.fromkeys(GLIBC_BYTES, KEPT_BYTES))


def _set(thresholds: dict[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, size in thresholds.items():
            mallopt(option, size)
