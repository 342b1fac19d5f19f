"""Finds the regions of a cache that are most similar to one region. Torch-free.

Only an evenly drawn part of all regions is searched. So memory and time do not grow with the cache.
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

MAX_BYTES = 256 << 20  # limit of the vectors in memory, and of the rows that are read for them
MAX_REGIONS = 100_000
WAIT_SECONDS = 20.0
BOXES, COUNT = "proposals/boxes", "proposals/count"
NO_REGIONS = "The cache has no regions yet. The config needs the sections proposals and regions."
log = logging.getLogger("kinegraph")


class Region(NamedTuple):
    """A region of the cache: the box number `box` in the frame number `frame` of the clip in row `row`. All three count
    from 0. `frame` counts only the frames that have boxes.
    """

    row: int
    frame: int
    box: int


class Neighbour(NamedTuple):
    """A region that was found, and its similarity to the region of the search. The similarity is the cosine of the
    features.
    """

    region: Region
    similarity: float


@dataclass(frozen=True, kw_only=True)
class RegionIndex:
    """M regions of a cache with D channels, among which `nearest` searches."""

    vectors: np.ndarray  # float32 [M, D], the features of each region, scaled to length 1
    places: np.ndarray  # [M, 3], (row, frame, box) of each region, as in Region
    num_all: int  # the approximate number of all regions of the cache. The index may have only a part of them.

    def nearest(self, query: np.ndarray, most: int, without: np.ndarray) -> list[Neighbour]:
        """Returns the `most` regions whose features are most similar to the vector `query`, best first. Regions of the
        rows `without` are left out. If two regions are equally similar, the one that is earlier in the cache comes
        first.
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
    """Returns `vectors` as float32, each scaled to length 1. A vector is along the last axis. Vectors of zeros stay
    zero.
    """
    values = np.asarray(vectors, np.float32)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: np.ndarray = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return scaled


def region_arrays_of(cache: Cache) -> list[ArraySpec]:
    """Returns the arrays of a cache that have one feature vector per region, [time steps, regions, channels]. The
    arrays are sorted by name.
    """
    return [
        spec for name, spec in sorted(cache.arrays().items()) if name.startswith("regions/") and len(spec.shape) == 3
    ]


class Neighbours:
    """Makes the RegionIndex of a cache, once, in a background thread. `start` starts the thread, and `index` waits for
    the result.
    """

    def __init__(self) -> None:
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._index: RegionIndex | None = None
        self._problem = ""

    def start(self, clips: ShownClips) -> None:
        """Starts the thread that makes the index. Does nothing if the thread was started before, or if the cache has no
        regions yet.
        """
        with self._lock:
            specs = region_arrays_of(clips.cache) if self._thread is None else []
            if specs and len(usable_rows(clips, specs[0])):
                self._thread = threading.Thread(
                    target=self._make, args=(clips, specs[0]), name="neighbours", daemon=True
                )
                self._thread.start()

    def index(self) -> RegionIndex:
        """Returns the RegionIndex, in which similar regions are searched, after a wait of at most WAIT_SECONDS. Raises
        LookupError if there is no index after this time. The message says why.
        """
        if self._thread is None:
            raise LookupError(NO_REGIONS)
        if not self._done.wait(WAIT_SECONDS):
            raise LookupError("The index of regions is still being made. Load the page again in a moment.")
        if self._index is None:
            raise LookupError(self._problem)
        return self._index

    def _make(self, clips: ShownClips, spec: ArraySpec) -> None:
        try:
            self._index = build_index(clips, spec)
        except (CacheError, ValueError, OSError) as error:
            self._problem = f"The regions cannot be read: {error}"
            log.warning("%s", self._problem)
        finally:
            self._done.set()


def build_index(clips: ShownClips, spec: ArraySpec) -> RegionIndex:
    """Returns a RegionIndex of evenly drawn regions of the array `spec`, which has the axes [time steps, regions,
    channels]. Reads at most MAX_BYTES bytes of the array. The index has at most MAX_REGIONS regions, whose vectors take
    at most MAX_BYTES bytes.
    """
    cache = clips.cache
    *_, channels = spec.shape
    usable, opened = usable_rows(clips, spec), lru_cache(maxsize=4)(cache.store.open_shard)
    rows = _evenly(usable, max(1, MAX_BYTES // spec.row_bytes))
    count_spec, frames = cache.array(COUNT), box_frames_of(cache, spec)
    places, counts = [], 0
    for row in rows.tolist():
        shard, place = divmod(row, cache.shard_clips)
        count = opened(count_spec, shard).row(place)[frames]  # number of boxes of each time step
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
    """Returns int64 [time steps]: the index of the frame to which each time step of the array `spec` belongs. The index
    counts only frames that have boxes, from 0.
    """
    return frames_with_boxes(spec, cache.array(BOXES))


def usable_rows(clips: ShownClips, spec: ArraySpec) -> np.ndarray:
    """Returns the numbers of the rows that have regions in the array `spec`, in ascending order."""
    sealed = [clips.stages[key].status for key in (spec.stage, "proposals") if key in clips.stages]
    if len(sealed) < 2:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.all([(status == OK) | (status == WARNED) for status in sealed], axis=0))


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` of `values`, evenly spaced and in the same order."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]
