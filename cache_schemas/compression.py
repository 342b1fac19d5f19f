"""Compresses the inner chunks of zarr shards. Each kind of array has its own codec. The kind of an array is the part of
its name before the first `/`, for example `features`.

The compressed chunks are frames of Blosc, a format for compressed arrays that any zarr library reads.
"""

import struct
from collections.abc import Mapping

import numpy as np
from numcodecs import blosc

from kinegraph.cache_schemas.arrays import ARRAY_KINDS

Compression = str | Mapping[str, str]  # one codec for all arrays, or codec by kind; a kind without an entry has "none"
NONE = "none"
_LEVEL = 5
_HEADER_BYTES = 16  # four flag bytes, then nbytes, blocksize and cbytes, little-endian uint32

# Blosc's threads append blocks in the order in which the threads finish, so the bytes would differ from run to run.
# Blosc's threads do not survive a fork either.
blosc.use_threads = False


def codec_of(compression: Compression, array: str) -> str:
    """Returns the codec that `compression` chooses for an array: `none`, `lz4` or `zstd`.

    `array` is the full name of an array (`features/i3d/res5`) or a kind of array (`features`).
    """
    return compression if isinstance(compression, str) else compression.get(array.partition("/")[0], NONE)


def by_kind(compression: Compression) -> dict[str, str]:
    """Returns the codec of every kind of array, for example {"features": "lz4", "proposals": "none", ...}.
    `compression` is one codec for all arrays, or maps kinds to codecs.
    """
    return {kind: codec_of(compression, kind) for kind in ARRAY_KINDS}


def codec_metadata(codec: str, dtype: str) -> list[dict[str, object]]:
    """Returns the part of the list `codecs` in a zarr.json that describes the compression. It is a list with one dict,
    or an empty list if `codec` is "none".

    `dtype` is the type of the array's numbers.
    """
    if codec == NONE:
        return []
    itemsize = np.dtype(dtype).itemsize
    settings = {"typesize": itemsize, "cname": codec, "clevel": _LEVEL, "shuffle": "bitshuffle", "blocksize": 0}
    return [{"name": "blosc", "configuration": settings}]


def encode(codec: str, chunk: np.ndarray) -> bytes:
    """Returns `chunk` as compressed bytes, a frame of Blosc. `codec` is "lz4" or "zstd". Chunks with equal values
    always become equal bytes.
    """
    cname, itemsize = codec.encode(), chunk.dtype.itemsize
    frame: bytes = blosc.compress(chunk, cname, _LEVEL, blosc.BITSHUFFLE, blosc.AUTOBLOCKS, itemsize)
    return frame


def decode(frame: bytes, num_bytes: int) -> bytes:
    """Decompresses one inner chunk of a shard and returns its bytes. `frame` is the compressed chunk, a frame of Blosc.

    Raises ValueError if `frame` is damaged or does not decode to exactly `num_bytes` bytes.
    """
    if len(frame) < _HEADER_BYTES or struct.unpack("<4x3I", frame[:_HEADER_BYTES])[::2] != (num_bytes, len(frame)):
        raise ValueError("a compressed chunk has a damaged header")  # Blosc would trust the header
    try:
        chunk: bytes = blosc.decompress(frame)
    except RuntimeError as error:
        raise ValueError(f"a compressed chunk cannot be decoded ({error})") from error
    return chunk
