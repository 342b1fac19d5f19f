"""Compresses the inner chunks of zarr shards. A codec is chosen for each kind of array, for example for `features`. The
kind of an array is the part of the array's name before the first `/`.

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
    """Returns kind of array (such as `features`) -> codec. `compression` is one codec for all arrays, or maps kinds to
    codecs. The result has an entry for every kind of array in both cases.
    """
    return {kind: codec_of(compression, kind) for kind in ARRAY_KINDS}


def codec_metadata(codec: str, dtype: str) -> list[dict[str, object]]:
    """Returns the entries that describe the compression `codec` in the list `codecs` of a zarr.json. The result is an
    empty list if `codec` is `none`, else a list with one dict. The caller puts the entry `bytes` before it.

    `dtype` is the type of the array's numbers.
    """
    if codec == NONE:
        return []
    itemsize = np.dtype(dtype).itemsize
    settings = {"typesize": itemsize, "cname": codec, "clevel": _LEVEL, "shuffle": "bitshuffle", "blocksize": 0}
    return [{"name": "blosc", "configuration": settings}]


def encode(codec: str, chunk: np.ndarray) -> bytes:
    """Returns `chunk` as a compressed Blosc frame. `codec` is the name of a codec of Blosc, such as `zstd`. Chunks with
    equal values always become equal bytes.
    """
    cname, itemsize = codec.encode(), chunk.dtype.itemsize
    frame: bytes = blosc.compress(chunk, cname, _LEVEL, blosc.BITSHUFFLE, blosc.AUTOBLOCKS, itemsize)
    return frame


def decode(frame: bytes, num_bytes: int) -> bytes:
    """Returns the bytes of one inner chunk, uncompressed. Shards are compressed in inner chunks, each of which is one
    Blosc frame.

    Raises ValueError unless `frame` is a whole Blosc frame that decodes to `num_bytes` bytes.
    """
    if len(frame) < _HEADER_BYTES or struct.unpack("<4x3I", frame[:_HEADER_BYTES])[::2] != (num_bytes, len(frame)):
        raise ValueError("a compressed chunk has a damaged header")  # Blosc would trust the header
    try:
        chunk: bytes = blosc.decompress(frame)
    except RuntimeError as error:
        raise ValueError(f"a compressed chunk cannot be decoded ({error})") from error
    return chunk
