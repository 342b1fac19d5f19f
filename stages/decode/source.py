"""Identity of a source video, for the ledger."""

from pathlib import Path

import xxhash

from cache_schemas.ledger import Source

SAMPLE_BYTES = 65536


def source_identity(path: str) -> Source | None:
    """Size, mtime and the xxh3_128 of its first, middle and last 64 KiB; None where the file cannot be read."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            digest = xxhash.xxh3_128()
            for start in (0, max(0, size // 2), max(0, size - SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
        return Source(size=size, mtime_ns=Path(path).stat().st_mtime_ns, digest=digest.hexdigest())
    except OSError:
        return None
