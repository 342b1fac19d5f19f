"""Stores arrays as zarr v3. Each shard of an array is one object. Any zarr library can read the arrays.

A shard object consists of inner chunks, an index and the crc32c of the index. The index has (offset, size) of each
inner chunk, as little-endian uint64, or 2**64-1 for an absent chunk. This module does not use zarr-python, because it
does not fsync the objects. A power cut could lose their content.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import google_crc32c
import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import NONE, Compression, codec_metadata, codec_of, encode
from kinegraph.cache_schemas.coordinates import (
    COORDINATES,
    Made,
    are_there,
    content_of,
    group_document,
    put_coordinates,
)
from kinegraph.cache_schemas.storage import Span, Storage
from kinegraph.cache_schemas.store import Shard, Written
from kinegraph.cache_schemas.zarr_reading import (
    ABSENT,
    CompressedShardView,
    FetchedShard,
    ShardView,
    fetched_rows,
    index_bytes,
)

DATA = "data.zarr"
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_ONE_BYTE = {"name": "bytes"}


def object_name(array: str, shard: int, ndim: int) -> str:
    """Returns the path of one shard of an array, relative to the cache: `"proposals/count", 3, 2 ->
    "data.zarr/proposals/count/c.3.0"`. `ndim` is the number of axes of the array, including the row axis.
    """
    return f"{DATA}/{array}/c.{'.'.join([str(shard)] + ['0'] * (ndim - 1))}"


def array_metadata(spec: ArraySpec, num_rows: int, shard_clips: int, codec: str = NONE) -> bytes:
    """Returns the content of the zarr.json of the array `spec`. The array has `num_rows` rows, in shards of
    `shard_clips` rows. `codec` is the name of the compression.
    """
    bytes_codec = _ONE_BYTE if np.dtype(spec.dtype).itemsize == 1 else _LITTLE_ENDIAN
    sharding = {
        "chunk_shape": [spec.inner_rows(shard_clips), *spec.shape],
        "codecs": [bytes_codec, *codec_metadata(codec, spec.dtype)],
        "index_codecs": [_LITTLE_ENDIAN, {"name": "crc32c"}],
        "index_location": "end",
    }
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [num_rows, *spec.shape],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_clips, *spec.shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if spec.fill != spec.fill else spec.fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": spec.attributes(),
        "dimension_names": ["row", *spec.dims],
        "storage_transformers": [],
    }
    return json.dumps(document, indent=1).encode()


def shard_parts(spec: ArraySpec, rows: np.ndarray, shard_clips: int, codec: str = NONE) -> Iterator[bytes | memoryview]:
    """Yields the bytes of one shard object in parts: first the rows, compressed with `codec`, then the index of the
    chunks, then the checksum of the index.

    `rows` [n, *spec.shape] are the rows of the shard. n is at most `shard_clips`.
    """
    inner_rows = spec.inner_rows(shard_clips)
    if inner_rows > 1 and len(rows) < inner_rows:
        rows = np.concatenate([rows, spec.empty(inner_rows - len(rows))])
    rows = np.ascontiguousarray(rows)
    num_inner, present = shard_clips // inner_rows, len(rows) // inner_rows
    sizes = np.full(present, inner_rows * spec.row_bytes, dtype="<u8")
    if codec == NONE:
        yield rows.data.cast("B")
    else:
        for inner in range(present):
            frame = encode(codec, rows[inner * inner_rows : (inner + 1) * inner_rows])
            sizes[inner] = len(frame)
            yield frame
    index = np.full((num_inner, 2), ABSENT, dtype="<u8")
    index[:present, 0] = np.cumsum(sizes) - sizes
    index[:present, 1] = sizes
    yield index.tobytes()
    yield struct.pack("<I", google_crc32c.value(index.tobytes()))


class ZarrStore:
    """Stores the arrays of a cache as zarr, in the folder data.zarr. Each shard of an array is one object with up to
    `shard_clips` rows. `compression` says how the arrays are compressed.
    """

    def __init__(self, storage: Storage, shard_clips: int, compression: Compression = NONE) -> None:
        self.storage, self.shard_clips, self.compression = storage, shard_clips, compression

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Writes the zarr.json of each of the arrays `specs`, with `num_rows` rows, and of each zarr group that
        contains them. A second call with equal arguments changes nothing.

        `coordinates` is a function that returns texts by which xarray labels the rows, such as their clip ids. Each
        group gets them if it has none for `num_rows` rows or, with `renew`, if they changed.
        """
        documents = self._documents(specs, num_rows)
        groups = {f"{DATA}/{spec.name}".rpartition("/")[0]: None for spec in specs} if coordinates else {}
        for name, content in documents.items():
            if name.removesuffix("/zarr.json") not in groups:
                self._put_if_changed(name, content)
        for group in groups:
            # a coordinate is left out where an array has its name
            names = [name for name in COORDINATES if f"{group}/{name}/zarr.json" not in documents]
            if coordinates and (
                renew or not are_there(content_of(self.storage, f"{group}/zarr.json"), names, num_rows)
            ):
                made = [one for one in coordinates() if one.name in names]
                put_coordinates(self.storage, group, made)
                self._put_if_changed(f"{group}/zarr.json", group_document(made, num_rows))

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Returns the names of the zarr.json objects that are missing, damaged, or do not describe the arrays `specs`
        and their groups. A zarr.json may state any number of rows in the range `num_rows`.
        """
        documents = self._documents(specs, num_rows.start)
        return [name for name, content in documents.items() if not self._describes(name, content, num_rows)]

    def _describes(self, name: str, expected: bytes, num_rows: range) -> bool:
        """Returns whether the stored zarr.json `name` describes the same array or group as `expected`, the content of a
        zarr.json. Returns False if it is missing or damaged.

        The number of rows may be any number in `num_rows`. Attributes are not compared, because anyone may add
        attributes.
        """
        try:
            seen, wanted = json.loads(self.storage.get(name)), json.loads(expected)
            rows = seen["shape"][0] if "shape" in wanted else num_rows.start
            seen["attributes"] = wanted["attributes"]
            if "shape" in wanted:
                wanted["shape"][0] = rows
        except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
            return False
        return bool(seen == wanted and rows in num_rows)

    def _documents(self, specs: Sequence[ArraySpec], num_rows: int) -> dict[str, bytes]:
        """Returns object name -> content, for the zarr.json of each array in `specs`, with `num_rows` rows, and of each
        group that contains an array.
        """
        group = group_document()
        documents: dict[str, bytes] = {}
        for spec in specs:
            codec = codec_of(self.compression, spec.name)
            documents[f"{DATA}/{spec.name}/zarr.json"] = array_metadata(spec, num_rows, self.shard_clips, codec)
            documents |= {f"{parent}/zarr.json": group for parent in PurePosixPath(DATA, spec.name).parents[:-1]}
        return documents

    def _put_if_changed(self, name: str, content: bytes) -> None:
        if content_of(self.storage, name) != content:
            self.storage.put(name, [content])

    def declared_shard_clips(self, specs: Sequence[ArraySpec]) -> int | None:
        """Returns the number of rows per shard according to the stored zarr.json of the arrays `specs`. The first array
        with a valid zarr.json counts. Returns None if no array has a valid zarr.json.
        """
        for spec in specs:
            name = f"{DATA}/{spec.name}/zarr.json"
            with suppress(FileNotFoundError, ValueError, KeyError, IndexError, TypeError):
                rows = json.loads(self.storage.get(name))["chunk_grid"]["configuration"]["chunk_shape"][0]
                if isinstance(rows, int):
                    return rows
        return None

    def objects_per_shard(self, num_arrays: int) -> int:
        """Returns `num_arrays`, the number of objects in which a shard of a stage is stored. Each array is one
        object.
        """
        return num_arrays

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Writes shard number `shard` of the stage `key`, one object for each array. `arrays` has one pair (spec, rows)
        for each array. Returns object name -> (size in bytes, xxh3_128 digest).

        Raises ValueError for rows whose shape or type is not that of their array.
        """
        written: Written = {}
        for spec, rows in arrays:
            spec.check_rows(rows, self.shard_clips)
            name = object_name(spec.name, shard, len(spec.shape) + 1)
            codec = codec_of(self.compression, spec.name)
            written[name] = self.storage.put(name, shard_parts(spec, rows, self.shard_clips, codec))
        return written

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> list[ShardView | FetchedShard]:
        """Opens several shards for reading. Returns one view for each (array, shard number) in `wanted`: a ShardView of
        a local file, or a FetchedShard at a URL. For URLs, the call fetches only the indexes of the shards, all at the
        same time.

        Raises FileNotFoundError if a shard does not exist, and ValueError if a shard is damaged.
        """
        names = [object_name(spec.name, shard, len(spec.shape) + 1) for spec, shard in wanted]
        if self.storage.local_path(DATA) is not None:
            return [self._mapped(spec, name) for (spec, _), name in zip(wanted, names, strict=True)]
        tails = [index_bytes(self.shard_clips // spec.inner_rows(self.shard_clips)) for spec, _ in wanted]
        contents = self.storage.read([Span(name, -tail) for name, tail in zip(names, tails, strict=True)])
        return [
            FetchedShard(self.storage, name, spec, self.shard_clips, codec_of(self.compression, spec.name), tail)
            for (spec, _), name, tail in zip(wanted, names, contents, strict=True)
        ]

    def _mapped(self, spec: ArraySpec, name: str) -> ShardView:
        path = self.storage.local_path(name)
        assert path is not None
        view = ShardView if codec_of(self.compression, spec.name) == NONE else CompressedShardView
        return view(path, spec.shape, np.dtype(spec.dtype), spec.inner_rows(self.shard_clips), self.shard_clips)

    def open_shard(self, spec: ArraySpec, shard: int) -> ShardView | FetchedShard:
        """Opens the array `spec` of shard number `shard` for reading. Raises FileNotFoundError if the shard does not
        exist, and ValueError if it is damaged.
        """
        return self.open_shards([(spec, shard)])[0]

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Returns one read-only row for each item of `places`, in this order. An item is a pair (opened shard, number
        of the row in the shard). Rows at a URL are fetched at the same time. Raises ValueError if a row is damaged.
        """
        fetched = [(shard, index) for shard, index in places if isinstance(shard, FetchedShard)]
        return fetched_rows(self.storage, fetched) if fetched else (shard.row(index) for shard, index in places)
