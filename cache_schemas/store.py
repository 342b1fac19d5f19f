"""Defines what every store must do. A store decides in which objects the arrays of a cache lie. The kinds of stores are
zarr and HDF5.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import by_kind
from kinegraph.cache_schemas.coordinates import Made

Written = dict[str, tuple[int, str]]  # object name -> (size in bytes, xxh3_128)


class Shard(Protocol):
    """A sealed shard of one array, opened in this process. Its method `row` returns single rows."""

    def row(self, index: int) -> np.ndarray:
        """Returns one row, read-only. `index` counts from the first row of the shard. Raises ValueError where the row
        is damaged.
        """
        ...


class Store(Protocol):
    """Reads and writes the arrays of a cache. The values of an array are stored in objects, such as files.

    A store always writes a whole object and never changes a part of one. A work unit is one shard with the stages that
    have to be computed for the shard. An object has values of one work unit only, so two work units never write the
    same object.
    """

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Writes the metadata of the arrays `specs`, so that each array can be read with `num_rows` rows. A second call
        with equal arguments changes nothing. Rows of shards that are not written yet read as the fill value.

        `coordinates` is a function that returns the coordinates: arrays of texts, such as clip_id, by which xarray
        labels the rows. The zarr store writes the coordinates into every group whose coordinates are missing or have
        another number of rows. If `renew` is true, the zarr store also replaces coordinates whose texts differ. The
        HDF5 store writes no coordinates.
        """
        ...

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Checks the objects that `declare` writes for the arrays `specs`, such as zarr.json. Returns the names of
        those that are missing or wrong.

        The number of rows that an object states may be any number in `num_rows`.
        """
        ...

    def declared_shard_clips(self, specs: Sequence[ArraySpec]) -> int | None:
        """Returns the number of rows per shard that the stored metadata of the arrays `specs` states.

        Returns None where this metadata is missing or damaged.
        """
        ...

    def objects_per_shard(self, num_arrays: int) -> int:
        """Returns how many objects one shard of a stage key has. `num_arrays` is the number of arrays of the stage. It
        includes the status array, which says which rows are ok.
        """
        ...

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Writes shard number `shard` of the stage `key`. `arrays` has one pair (spec, rows) for each array of the
        stage. Returns object name -> (size in bytes, xxh3_128 digest).

        Equal rows always become equal bytes. Raises ValueError for rows that do not have the shape and type of their
        array.
        """
        ...

    def open_shard(self, spec: ArraySpec, shard: int) -> Shard:
        """Opens the array `spec` of the sealed shard number `shard` and returns it as a Shard.

        Raises FileNotFoundError where the shard does not exist, ValueError where the shard is damaged.
        """
        ...

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> Sequence[Shard]:
        """Opens shards of one or several arrays. Returns one `Shard` for each (array, shard number) in `wanted`.

        Shards at a URL are fetched side by side. Raises FileNotFoundError where a shard does not exist, ValueError
        where a shard is damaged.
        """
        ...

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Returns one row of an array for each (opened shard, row index in the shard) in `places`, in this order.

        Rows at a URL are fetched side by side. Raises ValueError where a row is damaged.
        """
        ...


def comparable(layout: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those entries of `layout`, the section `store`, that must be equal in the config and in the cache: `kind`
    and `compression`. The number of rows per shard may differ, because the cache alone decides it.
    """
    return {"kind": layout["kind"], "compression": by_kind(layout["compression"])}
