"""The contract of stores. A store decides how arrays lie in a cache."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import by_kind
from kinegraph.cache_schemas.coordinates import Made

Written = dict[str, tuple[int, str]]  # object name -> (size in bytes, xxh3_128)


class Shard(Protocol):
    """A sealed shard of one array, opened in this process."""

    def row(self, index: int) -> np.ndarray:
        """Returns row `index` of the shard, read-only. Raises ValueError where the row is damaged."""
        ...


class Store(Protocol):
    """Reads and writes the arrays of a cache.

    A store writes whole objects only, so two work units never write the same object.
    """

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Makes all arrays of the cache readable at `num_rows` rows.

        Shards that are not written yet read as fill. Idempotent. zarr stores `coordinates` beside the arrays where they
        are missing. With `renew`, existing coordinates are compared too.
        """
        ...

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Returns the objects that do not describe the arrays as `declare` does, missing objects included.

        Every number of rows in `num_rows` is accepted.
        """
        ...

    def declared_shard_clips(self, specs: Sequence[ArraySpec]) -> int | None:
        """Returns the rows per shard that the objects written by `declare` state.

        Returns None where these are missing or damaged.
        """
        ...

    def objects_per_shard(self, num_arrays: int) -> int:
        """Returns how many objects make up one shard of a stage key. `num_arrays` includes the status array."""
        ...

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Writes one shard of a stage key, array by array. Returns object name -> (size in bytes, xxh3_128).

        The same rows always have the same bytes. Raises ValueError for rows that do not have the shape and type of
        their array.
        """
        ...

    def open_shard(self, spec: ArraySpec, shard: int) -> Shard:
        """Opens a sealed shard.

        Raises FileNotFoundError where there is no shard, ValueError where the shard is damaged.
        """
        ...

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> Sequence[Shard]:
        """Opens sealed shards. `wanted` has one (array, shard) for each. Remote shards are fetched side by side.

        Raises the errors of `open_shard`.
        """
        ...

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Returns rows of opened shards.

        `places` has one (shard, index) for each row. Remote rows are fetched side by side. Raises the errors of
        `Shard.row`.
        """
        ...


def comparable(layout: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a layout in which config and cache must agree: `kind` and `compression`.

    `shard_clips` is left out, because the cache alone decides it.
    """
    return {"kind": layout["kind"], "compression": by_kind(layout["compression"])}
