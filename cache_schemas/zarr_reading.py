"""Reads the shards of zarr arrays. A shard in a file is mapped into memory. From a shard at a URL, single rows are
fetched.

A shard object consists of inner chunks, an index, and the checksum (crc32c) of the index. The index has the place and
the size in bytes of each inner chunk.
"""

import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import NONE, decode
from kinegraph.cache_schemas.mapping import mapped
from kinegraph.cache_schemas.storage import Span, Storage

ABSENT = 2**64 - 1


def index_bytes(num_inner: int) -> int:
    """Returns the size in bytes of the index of a shard with `num_inner` inner chunks, including its checksum."""
    return 16 * num_inner + 4


def shard_index(tail: bytes, num_inner: int, where: object) -> np.ndarray:
    """Returns the index of a shard, uint64 [num_inner, 2]: the (offset, size) in bytes of each of its `num_inner` inner
    chunks.

    `tail` is the end of the shard object, which contains the index. `where` is the path or URL of the object, for error
    messages. Raises ValueError if the index is damaged.
    """
    expected = index_bytes(num_inner)
    if len(tail) < expected:
        raise ValueError(f"{where}: {len(tail)} bytes, shorter than its own index ({expected}); run `kinegraph verify`")
    if struct.unpack("<I", tail[-4:])[0] != google_crc32c.value(tail[:-4]):
        raise ValueError(f"{where}: the shard index fails its checksum; run `kinegraph verify`")
    return np.frombuffer(tail[:-4], dtype="<u8").reshape(num_inner, 2)


class ShardView:
    """One array of one shard, mapped into memory from the file `path`. No file descriptor stays open.

    `shape` is the shape of one row. The shard has `shard_clips` rows, in chunks of `inner_rows` rows. Raises ValueError
    if the index of the shard is damaged.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, inner_rows: int, shard_clips: int) -> None:
        num_inner = shard_clips // inner_rows
        self._mapped = mapped(path)
        self._offsets, self._sizes = shard_index(self._mapped[-index_bytes(num_inner) :].tobytes(), num_inner, path).T
        self._shape, self._dtype, self._inner_rows = shape, dtype, inner_rows
        self._row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._path = path

    def row(self, index: int) -> np.ndarray:
        """Returns one row as a read-only view of the mapped file. `index` is the number of the row in the shard, from
        0.
        """
        inner, within = divmod(index, self._inner_rows)
        start = int(self._offsets[inner]) + within * self._row_bytes
        return self._mapped[start : start + self._row_bytes].view(self._dtype).reshape(self._shape)


class CompressedShardView(ShardView):
    """One array of one shard with compressed chunks, mapped into memory. `row` decodes the chunk that holds the row.

    If one chunk holds all rows of the shard, the first call of `row` decodes it, and later calls use the decoded chunk.
    Otherwise each row is a chunk, and every call decodes one chunk.
    """

    def row(self, index: int) -> np.ndarray:
        """Returns one row, read-only. `index` is the number of the row in the shard, from 0. Raises ValueError if the
        chunk that holds the row is damaged.
        """
        inner, within = divmod(index, self._inner_rows)
        chunk = self._chunk(inner) if self._inner_rows == 1 else self._only_chunk
        count = self._row_bytes // self._dtype.itemsize
        return np.frombuffer(chunk, self._dtype, count, within * self._row_bytes).reshape(self._shape)

    @cached_property
    def _only_chunk(self) -> bytes:
        return self._chunk(0)

    def _chunk(self, inner: int) -> bytes:
        start, size = int(self._offsets[inner]), int(self._sizes[inner])
        try:
            return decode(self._mapped[start : start + size].tobytes(), self._inner_rows * self._row_bytes)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}; run `kinegraph verify`") from error


class FetchedShard:
    """One array of one shard at a URL. Each row is fetched with one request for a range of bytes. Raises ValueError if
    the index is damaged.

    - `name`: the name of the shard object in `storage`.
    - `spec`: the description of the array.
    - `shard_clips`: the number of rows of a full shard.
    - `codec`: the compression, such as "zstd" or "none".
    - `tail`: the end of the object, which contains the index of its chunks.
    """

    def __init__(self, storage: Storage, name: str, spec: ArraySpec, shard_clips: int, codec: str, tail: bytes) -> None:
        self._storage, self._name, self._spec, self._is_compressed = storage, name, spec, codec != NONE
        self._inner_rows = spec.inner_rows(shard_clips)
        self._where = f"{storage.root}/{name}"
        self._index = shard_index(tail, shard_clips // self._inner_rows, self._where)

    def row(self, index: int) -> np.ndarray:
        """Fetches one row and returns it read-only. `index` is the number of the row in the shard, from 0. Raises
        ValueError if the row is damaged.
        """
        return fetched_rows(self._storage, [(self, index)])[0]

    def span(self, index: int) -> Span:
        """Returns the range of bytes that has to be fetched to read row number `index` of the shard, counted from 0. In
        a compressed shard, it is the whole chunk that contains the row. Otherwise it is the row alone.
        """
        inner, within = divmod(index, self._inner_rows)
        start, size = (int(value) for value in self._index[inner])
        if not self._is_compressed:
            start, size = start + within * self._spec.row_bytes, self._spec.row_bytes
        return Span(self._name, start, start + size)

    def decoded(self, index: int, content: bytes) -> np.ndarray:
        """Returns row number `index` of the shard, counted from 0, as a read-only array. `content` has the bytes of the
        range `span(index)` of the shard object. Raises ValueError if the bytes are damaged.
        """
        first = 0
        if self._is_compressed:
            first = index % self._inner_rows * self._spec.row_bytes
            try:
                content = decode(content, self._inner_rows * self._spec.row_bytes)
            except ValueError as error:
                raise ValueError(f"{self._where}: {error}; run `kinegraph verify`") from error
        elif len(content) != self._spec.row_bytes:
            raise ValueError(f"{self._where}: ends within row {index}; run `kinegraph verify`")
        count = self._spec.row_bytes // np.dtype(self._spec.dtype).itemsize
        return np.frombuffer(content, self._spec.dtype, count, first).reshape(self._spec.shape)


def fetched_rows(storage: Storage, places: Sequence[tuple[FetchedShard, int]]) -> list[np.ndarray]:
    """Fetches several rows at once. Returns one row for each item of `places`, in this order. An item is a pair (shard,
    number of the row in the shard).

    A chunk that holds several of the rows is fetched once. Raises ValueError if the bytes of a row are damaged.
    """
    spans = [shard.span(index) for shard, index in places]
    different = list(dict.fromkeys(spans))
    content = dict(zip(different, storage.read(different), strict=True))
    return [shard.decoded(index, content[span]) for (shard, index), span in zip(places, spans, strict=True)]
