"""Computes the identity of a video file (size, time of change, digest), which the ledger stores."""

from collections.abc import Callable
from pathlib import Path

import xxhash

from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.regular import open_regular
from kinegraph.stages.decode.opening import on_disk

SAMPLE_BYTES = 65536


def source_identity(path: str) -> Source | None:
    """Returns the Source of the file at `path`: its size, its time of change and a digest of its content. The digest is
    the xxh3_128 of the first, middle and last 64 KiB. Returns None if there is no regular file or the file cannot be
    read.
    """
    path = on_disk(path)
    try:
        with open_regular(path) as file:

            def part(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            size = file.seek(0, 2)
            digest = sampled_digest(size, part)
        return Source(size=size, mtime_ns=Path(path).stat().st_mtime_ns, digest=digest)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def sampled_digest(size: int, read_part: Callable[[int, int], bytes]) -> str:
    """Returns the xxh3_128 digest, in hexadecimal, of the first, middle and last 64 KiB of a file of `size` bytes.

    `read_part` is a function: (start, stop) -> the bytes of the file from `start` to `stop` - 1.
    """
    digest = xxhash.xxh3_128()
    for start in (0, max(0, size // 2), max(0, size - SAMPLE_BYTES)):
        digest.update(read_part(start, min(size, start + SAMPLE_BYTES)))
    return digest.hexdigest()
