"""Defines what every store must do. A store decides how the arrays of a cache are divided into objects, for example
into files. There are two kinds of stores: zarr and HDF5.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import by_kind
from kinegraph.cache_schemas.coordinates import Made

Written = dict[str, tuple[int, str]]  # object name -> (size in bytes, xxh3_128)


class Shard(Protocol):
    """One array of one shard, opened for reading. The method `row` returns single rows."""

    def row(self, index: int) -> np.ndarray:
        """Returns one row, read-only. `index` is the number of the row in the shard, from 0. Raises ValueError if the
        row is damaged.
        """
        ...


class Store(Protocol):
    """Reads and writes the arrays of a cache. A store keeps the values of arrays in objects, such as files.

    A store writes only whole objects. An object has values of one shard and one stage only, so two workers on different
    shards or stages never write the same object.
    """

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Writes the metadata of the arrays `specs`, so that other programs can read each array with `num_rows` rows.
        Rows that are not written yet read as the fill value. A second call with equal arguments changes nothing.

        `coordinates` is a function that returns texts by which xarray labels the rows, such as their clip ids. The zarr
        store writes them if they are missing or have another number of rows or, with `renew`, if they changed. The HDF5
        store does not write them.
        """
        ...

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Checks the metadata that `declare` writes for the arrays `specs`, such as zarr.json. Returns the names of the
        objects that are missing or wrong.

        The metadata may state any number of rows in the range `num_rows`.
        """
        ...

    def declared_shard_clips(self, specs: Sequence[ArraySpec]) -> int | None:
        """Returns the number of rows per shard according to the stored metadata of the arrays `specs`. Returns None if
        the metadata is missing or damaged.
        """
        ...

    def objects_per_shard(self, num_arrays: int) -> int:
        """Returns how many objects are written for one shard of one stage. `num_arrays` is the number of arrays of the
        stage, including the array `status/<key>`.
        """
        ...

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Writes shard number `shard` of the stage `key`. `arrays` has one pair (spec, rows) for each array of the
        stage. Returns object name -> (size in bytes, xxh3_128 digest).

        Equal rows always become equal bytes. Raises ValueError for rows whose shape or type is not that of their array.
        """
        ...

    def open_shard(self, spec: ArraySpec, shard: int) -> Shard:
        """Opens the array `spec` of shard number `shard` for reading.

        Raises FileNotFoundError if the shard does not exist, and ValueError if it is damaged.
        """
        ...

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> Sequence[Shard]:
        """Opens several shards for reading. Returns one `Shard` for each (array, shard number) in `wanted`. Shards at a
        URL are fetched at the same time.

        Raises FileNotFoundError if a shard does not exist, and ValueError if a shard is damaged.
        """
        ...

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Returns one row for each item of `places`, in this order. An item is a pair (opened shard, number of the row
        in the shard). Rows at a URL are fetched at the same time.

        Raises ValueError if a row is damaged.
        """
        ...


def comparable(layout: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a section `store` that must be equal in a config and in its cache: `kind` and
    `compression`. `layout` is the section. The number of rows per shard may differ, because the cache alone decides it.
    """
    return {"kind": layout["kind"], "compression": by_kind(layout["compression"])}
