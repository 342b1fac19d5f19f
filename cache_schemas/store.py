"""The contract of stores: how arrays lie in a cache."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.compression import by_kind
from kinegraph.cache_schemas.coordinates import Made

Written = dict[str, tuple[int, str]]  # by object: bytes and digest


class Shard(Protocol):
    """A sealed shard of one array, opened in this process."""

    def row(self, index: int) -> np.ndarray:
        """Row `index` of the shard, read-only. Raises ValueError where it is damaged."""
        ...


class Store(Protocol):
    """Writes whole objects only, so no two work units write the same one."""

    def declare(
        self, specs: Sequence[ArraySpec], num_rows: int, coordinates: Made | None = None, *, renew: bool = False
    ) -> None:
        """Make all arrays of the cache readable at `num_rows` rows; shards not written yet read as fill. Idempotent.

        zarr keeps `coordinates` beside them: written where they are missing, and compared with those there if `renew`.
        """
        ...

    def misdeclared(self, specs: Sequence[ArraySpec], num_rows: range) -> list[str]:
        """Objects that do not describe the arrays as `declare` does, missing ones too; any of `num_rows` will do."""
        ...

    def objects_per_shard(self, num_arrays: int) -> int:
        """How many objects one shard of a stage key is, its status array counted in `num_arrays`."""
        ...

    def write_shard(self, key: str, shard: int, arrays: Sequence[tuple[ArraySpec, np.ndarray]]) -> Written:
        """Write one shard of a stage key, its rows given array by array; object name -> size and xxh3_128.

        The same rows give the same bytes. Raises ValueError for rows that are not of their array.
        """
        ...

    def open_shard(self, spec: ArraySpec, shard: int) -> Shard:
        """Open a sealed shard. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
        ...

    def open_shards(self, wanted: Sequence[tuple[ArraySpec, int]]) -> Sequence[Shard]:
        """Open sealed shards, (array, shard) each, side by side where they lie far away. Raises as `open_shard`."""
        ...

    def rows(self, places: Sequence[tuple[Shard, int]]) -> Iterable[np.ndarray]:
        """Rows of opened shards, (shard, index) each, side by side where they lie far away. Raises as `Shard.row`."""
        ...


def comparable(layout: Mapping[str, Any]) -> dict[str, Any]:
    """What of a layout must be the same whenever a config meets a cache; `shard_clips` is the cache's to say."""
    return {"kind": layout["kind"], "compression": by_kind(layout["compression"])}
