"""Finds the regions that are most like a region, among regions of the whole cache. Torch-free.

The regions are drawn evenly, so that their memory and the time of a question do not grow with the cache.
"""

import logging
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.box_frames import frames_with_boxes
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.pipeline.browsing.catalogue import OK, WARNED, ShownClips

MAX_BYTES = 256 << 20  # of vectors that are kept, and of rows that are read for them
MAX_REGIONS = 100_000
WAIT_SECONDS = 20.0
BOXES, COUNT = "proposals/boxes", "proposals/count"
NO_REGIONS = "The cache has no regions yet. The config needs the sections proposals and regions."
log = logging.getLogger("kinegraph")


class Region(NamedTuple):
    """A region of the cache: the box number `box` in the frame number `frame` of the row `row`, all from 0. `frame`
    counts the frames that have boxes.
    """

    row: int
    frame: int
    box: int


class Neighbour(NamedTuple):
    """A region, and its cosine similarity to the region that was asked for."""

    region: Region
    similarity: float


@dataclass(frozen=True, kw_only=True)
class RegionIndex:
    """Unit vectors of M regions: `vectors` [M, D] float32. `places` [M, 3] are row, frame and box of each. `num_all` is
    about the number of regions of the cache from which these were drawn.
    """

    vectors: np.ndarray
    places: np.ndarray
    num_all: int

    def nearest(self, query: np.ndarray, most: int, without: np.ndarray) -> list[Neighbour]:
        """Returns the `most` regions that are most similar to the vector `query` [D], best first. Regions of the rows
        `without` are left out. Of equal regions, the one that comes first in the cache is first.
        """
        similarities = self.vectors @ unit(query)
        similarities[np.isin(self.places[:, 0], without)] = -np.inf
        order = np.argsort(-similarities, kind="stable")[:most]
        return [
            Neighbour(Region(*map(int, self.places[entry])), float(similarities[entry]))
            for entry in order
            if similarities[entry] > -np.inf
        ]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns `vectors` [..., D] as float32 of length 1. A vector of zeros stays as it is."""
    values = np.asarray(vectors, np.float32)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: np.ndarray = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return scaled


def region_arrays_of(cache: Cache) -> list[ArraySpec]:
    """Returns the arrays [T, N, D] of region features of a cache, sorted by name."""
    return [
        spec for name, spec in sorted(cache.arrays().items()) if name.startswith("regions/") and len(spec.shape) == 3
    ]


class Neighbours:
    """Makes a RegionIndex of a cache in a thread of its own, once. `start` begins, and `index` waits for the result."""

    def __init__(self) -> None:
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._index: RegionIndex | None = None
        self._problem = ""

    def start(self, clips: ShownClips) -> None:
        """Begins to make the index, unless that has begun, or the cache has no regions yet."""
        with self._lock:
            specs = region_arrays_of(clips.cache) if self._thread is None else []
            if specs and len(usable_rows(clips, specs[0])):
                self._thread = threading.Thread(
                    target=self._make, args=(clips, specs[0]), name="neighbours", daemon=True
                )
                self._thread.start()

    def index(self) -> RegionIndex:
        """Returns the index. Raises LookupError, with a sentence, where there is none yet."""
        if self._thread is None:
            raise LookupError(NO_REGIONS)
        if not self._done.wait(WAIT_SECONDS):
            raise LookupError("The index of regions is still being made. Load the page again in a moment.")
        if self._index is None:
            raise LookupError(self._problem)
        return self._index

    def _make(self, clips: ShownClips, spec: ArraySpec) -> None:
        try:
            self._index = made_index(clips, spec)
        except (CacheError, ValueError, OSError) as error:
            self._problem = f"The regions cannot be read: {error}"
            log.warning("%s", self._problem)
        finally:
            self._done.set()


def made_index(clips: ShownClips, spec: ArraySpec) -> RegionIndex:
    """Returns a RegionIndex of evenly drawn regions of the array `spec` [T, N, D]. At most MAX_BYTES are read and kept,
    and at most MAX_REGIONS regions are kept.
    """
    cache = clips.cache
    *_, channels = spec.shape
    usable, opened = usable_rows(clips, spec), lru_cache(maxsize=4)(cache.store.open_shard)
    rows = _evenly(usable, max(1, MAX_BYTES // spec.row_bytes))
    count_spec, frames = cache.array(COUNT), box_frames_of(cache, spec)
    places, counts = [], 0
    for row in rows.tolist():
        shard, place = divmod(row, cache.shard_clips)
        count = opened(count_spec, shard).row(place)[frames]  # of each time step
        counts += int(count.sum())
        places += [(row, step, box) for step, num_boxes in enumerate(count.tolist()) for box in range(num_boxes)]
    listed = np.array(places, np.int32).reshape(-1, 3)
    kept = listed[_evenly(np.arange(len(listed)), min(MAX_REGIONS, MAX_BYTES // (4 * channels)))]
    vectors = np.empty((len(kept), channels), np.float32)
    for row in np.unique(kept[:, 0]).tolist():
        shard, place = divmod(row, cache.shard_clips)
        values = opened(spec, shard).row(place)
        first, last = np.searchsorted(kept[:, 0], [row, row + 1])
        vectors[first:last] = unit(values[kept[first:last, 1], kept[first:last, 2]])
    kept[:, 1] = frames[kept[:, 1]]
    num_all = round(counts * len(usable) / max(1, len(rows)))
    return RegionIndex(vectors=vectors, places=kept, num_all=num_all)


def box_frames_of(cache: Cache, spec: ArraySpec) -> np.ndarray:
    """Returns, for each time step of the regions `spec`, the number of the frame with boxes that it belongs to."""
    return frames_with_boxes(spec, cache.array(BOXES))


def usable_rows(clips: ShownClips, spec: ArraySpec) -> np.ndarray:
    """Returns the rows that have regions in the array `spec`, in ascending order."""
    sealed = [clips.stages[key].status for key in (spec.stage, "proposals") if key in clips.stages]
    if len(sealed) < 2:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.all([(status == OK) | (status == WARNED) for status in sealed], axis=0))


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` of `values`, evenly spaced, in their order."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]
