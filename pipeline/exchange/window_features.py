"""Reads the features of each video of a cache of windows, in the order of time. Torch-free.

A cache of windows has one clip for each window of a video.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.exchange.to_npy import open_checked

NO_WINDOW, FAILED, UNSEALED, DAMAGED = "shorter than a window", "a window failed", "not sealed yet", "damaged"


class NoFeaturesError(Exception):
    """The features of a video cannot be exported. The message is the reason, such as "shorter than a window"."""


class WindowFeatures:
    """Reads one vector for each window of a video from the cache `source`.

    - `specs`: the arrays to read. The vectors of the arrays are joined in this order.
    - `damaged`: a list that receives a sentence for each damaged shard of the cache.
    """

    def __init__(self, source: Cache, specs: Sequence[ArraySpec], damaged: list[str]) -> None:
        self.source, self.specs, self._damaged = source, specs, damaged
        stages = dict.fromkeys(spec.stage for spec in specs)
        self._records = {stage: {record.shard: record for record in sealed_records(source, stage)} for stage in stages}
        sealed = [record for records in self._records.values() for record in records.values()]
        self._failed = {failure.clip_id for record in sealed for failure in record.failures}
        self._rows = _rows_of(source)
        # videos come in the order of their first rows
        self._opened = lru_cache(maxsize=2 * len(specs))(self._open)

    def first_row(self, video: str) -> int:
        """Returns the number of the first row of `video`. Returns 0 if the cache has no row of the video."""
        return self._rows.get(video, [(0, "")])[0][0]

    def of(self, video: str, num_windows: int) -> np.ndarray:
        """Returns the features of `video`, float32 [N, C]: C channels of each of N windows. The video must have
        `num_windows` windows. An array with a time axis is averaged over this axis.

        Raises NoFeaturesError if a window has no features.
        """
        rows = self._rows.get(video, [])
        places = [divmod(row, self.source.shard_clips) for row, _ in rows]
        if not places:
            raise NoFeaturesError(NO_WINDOW)
        if any(clip_id in self._failed for _, clip_id in rows):
            raise NoFeaturesError(FAILED)
        shards = dict.fromkeys(shard for shard, _ in places)
        are_sealed = all(shard in records for records in self._records.values() for shard in shards)
        if len(places) != num_windows or not are_sealed:
            raise NoFeaturesError(UNSEALED)
        return np.ascontiguousarray(np.concatenate([self._vectors(spec, places) for spec in self.specs], 1))

    def _vectors(self, spec: ArraySpec, places: Sequence[tuple[int, int]]) -> np.ndarray:
        views = {shard: self._opened(spec, shard) for shard in dict.fromkeys(shard for shard, _ in places)}
        opened = {shard: view for shard, view in views.items() if view is not None}
        if len(opened) < len(views):
            raise NoFeaturesError(DAMAGED)
        vectors = np.stack([opened[shard].row(row) for shard, row in places]).astype(np.float32)
        return vectors.mean(1) if vectors.ndim == 3 else vectors

    def _open(self, spec: ArraySpec, shard: int) -> Shard | None:
        try:
            return open_checked(self.source, [spec], self._records[spec.stage][shard])[spec.name]
        except CacheError as error:
            self._damaged.append(str(error))
            return None


def _rows_of(source: Cache) -> Mapping[str, list[tuple[int, str]]]:
    """Returns {video id: clips of the video} in the order of time. A clip is (row number, clip id)."""
    table = ClipsTable.read_columns(source.storage, ["video_id", "clip_id", "start_seconds"])
    columns = (table.column(name).to_pylist() for name in ("start_seconds", "video_id", "clip_id"))
    rows: dict[str, list[tuple[float, int, str]]] = {}
    for row, (start, video, clip_id) in enumerate(zip(*columns, strict=True)):
        rows.setdefault(video, []).append((start, row, clip_id))
    return {video: [(row, clip_id) for _, row, clip_id in sorted(of_video)] for video, of_video in rows.items()}
