"""Keeps memory that networks freed for their next layers. Torch-free.

glibc returns a freed block of more than 32 MiB to the system. The system clears the pages of the next block one by one,
and that can take a fifth of the CPU time of a 3D network (benchmarks/memory.py measures it).
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
    """Lets this process and the processes that this process starts keep up to 1 GiB of freed memory each.

    Changes nothing without glibc, or where the environment sets glibc's malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    global _keeps
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in VARIABLES):
        return
    os.environ.update(dict.fromkeys(VARIABLES, str(KEPT_BYTES)))
    _set(dict.fromkeys(GLIBC_BYTES, KEPT_BYTES))
    _keeps = True


@contextmanager
def without_kept_memory() -> Iterator[None]:
    """Returns freed memory to the system in the `with` block, as glibc does by itself."""
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
