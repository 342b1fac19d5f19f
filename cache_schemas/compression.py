"""Compression of the inner chunks of zarr shards: per kind of array, as Blosc frames that any zarr library reads."""

import struct
from collections.abc import Mapping

import numpy as np
from numcodecs import blosc

from kinegraph.cache_schemas.arrays import ARRAY_KINDS

Compression = str | Mapping[str, str]  # one codec for all arrays, or codec by kind of array; "none" where not named
NONE = "none"
_LEVEL = 5
_HEADER_BYTES = 16  # four flag bytes, then nbytes, blocksize and cbytes, little-endian uint32

# Blosc's threads append blocks in the order in which they finish: other bytes at each run. They do not survive a fork
# either.
blosc.use_threads = False


def codec_of(compression: Compression, array: str) -> str:
    """The codec of an array by its full name, or of a kind of array: `none`, `lz4` or `zstd`."""
    return compression if isinstance(compression, str) else compression.get(array.partition("/")[0], NONE)


def by_kind(compression: Compression) -> dict[str, str]:
    """The codec of every kind of array."""
    return {kind: codec_of(compression, kind) for kind in ARRAY_KINDS}


def codec_metadata(codec: str, dtype: str) -> list[dict[str, object]]:
    """What follows the bytes codec in zarr.json; nothing where there is no compression."""
    if codec == NONE:
        return []
    itemsize = np.dtype(dtype).itemsize
    settings = {"typesize": itemsize, "cname": codec, "clevel": _LEVEL, "shuffle": "bitshuffle", "blocksize": 0}
    return [{"name": "blosc", "configuration": settings}]


def encode(codec: str, chunk: np.ndarray) -> bytes:
    """One inner chunk as a Blosc frame; the same bytes for the same values."""
    cname, itemsize = codec.encode(), chunk.dtype.itemsize
    found: bytes = blosc.compress(chunk, cname, _LEVEL, blosc.BITSHUFFLE, blosc.AUTOBLOCKS, itemsize)
    return found


def decode(frame: bytes, num_bytes: int) -> bytes:
    """The bytes of one inner chunk. Raises ValueError unless the frame is whole and decodes to `num_bytes`."""
    if len(frame) < _HEADER_BYTES or struct.unpack("<4x3I", frame[:_HEADER_BYTES])[::2] != (num_bytes, len(frame)):
        raise ValueError("a compressed chunk has a damaged header")  # Blosc would believe it
    try:
        found: bytes = blosc.decompress(frame)
    except RuntimeError as error:
        raise ValueError(f"a compressed chunk cannot be decoded ({error})") from error
    return found
