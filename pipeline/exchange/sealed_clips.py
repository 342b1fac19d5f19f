"""Reads the arrays of single clips for an export, from shards whose checksums are right. Torch-free."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.exchange.to_npy import open_checked

UNSEALED, DAMAGED = "not sealed yet", "damaged"


class SealedClips:
    """Reads the arrays `specs` of the cache `source`, one row at a time. Callers read the rows in ascending order, so
    that each shard is opened only once.

    These attributes describe the cache:

    - `records`: {stage key: {shard: ledger record}} of the sealed shards.
    - `failed`: {clip id: reason} of the failed clips.
    - `damaged`: a sentence for each damaged shard that was found so far.
    """

    def __init__(self, source: Cache, specs: Sequence[ArraySpec]) -> None:
        self.source = source
        self.specs = {key: list(group) for key, group in groupby(specs, key=lambda spec: spec.stage)}
        self.records = {key: {record.shard: record for record in sealed_records(source, key)} for key in self.specs}
        self.failed = {
            failure.clip_id: f"{key}: {failure.reason}"
            for key, records in self.records.items()
            for record in records.values()
            for failure in record.failures
        }
        self.damaged: list[str] = []
        self._open = lru_cache(maxsize=2 * len(self.specs))(self._opened)

    def _opened(self, key: str, shard: int) -> dict[str, Shard] | None:
        try:
            return open_checked(self.source, self.specs[key], self.records[key][shard])
        except CacheError as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
            return None

    def missing(self, number: int, clip_id: str) -> str:
        """Returns why the clip `clip_id` in row `number` cannot be exported, or "" if all its arrays can be read."""
        shard = number // self.source.shard_clips
        if any(shard not in records for records in self.records.values()):
            return UNSEALED
        if clip_id in self.failed:
            return self.failed[clip_id]
        return DAMAGED if any(self._open(key, shard) is None for key in self.specs) else ""

    def values(self, number: int) -> dict[str, np.ndarray]:
        """Returns {array name: values} of the row `number`, for each array that can be read."""
        shard, place = divmod(number, self.source.shard_clips)
        opened = [self._open(stage, shard) or {} for stage in self.specs]
        return {name: view.row(place) for views in opened for name, view in views.items()}
