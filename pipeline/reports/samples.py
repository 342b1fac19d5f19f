"""Reads a sample of the values of an array and computes its means, deviations and norms. Torch-free.

Shapes: R rows, T time steps, N regions of a time step, C channels, K vectors of a time step, S splits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.box_frames import frames_with_boxes
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.reports.numbers import CacheNumbers

MOST_ROWS, MOST_BYTES = 4096, 256 << 20  # limits of the sample of an array
ROWS_AT_ONCE = 64
DRIFT = 0.5  # a mean has moved if it differs by more standard deviations
LEAST_OF_SPLIT = 30  # the mean of a split with fewer rows is not compared
VECTORS = ("features/", "regions/")  # arrays with one or several vectors per time step
COUNT, BOXES, SCORES = "proposals/count", "proposals/boxes", "proposals/scores"


@dataclass(frozen=True, kw_only=True)
class VectorSummary:
    """A summary of the vectors of one array with T time steps and C channels, for a report. All values are of a sample
    of the array's rows. S is the number of splits.
    """

    name: str  # the name of the array
    rows: np.ndarray  # the row numbers of the sample
    num_usable: int  # the number of all rows that have values
    norms: np.ndarray  # the L2 norm of each vector
    norm_by_step: np.ndarray  # [T], the mean L2 norm at each time step
    zero_share: float  # the share of the values that are 0, from 0 to 1
    num_not_finite: int  # the number of NaN and infinite values
    # `mean`, `std`: [C], the mean and the standard deviation of each channel
    mean: np.ndarray
    std: np.ndarray
    dead: np.ndarray  # the numbers of the channels that have the same value in all vectors
    split_means: np.ndarray  # [S, C], the mean of each channel in each split. NaN for a split with fewer than 30 rows.
    split_norms: np.ndarray  # [S], the mean L2 norm in each split

    def drift(self, first: int, second: int) -> np.ndarray:
        """Returns how far the means of two splits are apart, float64 [channels]. Element c is the absolute difference
        of the two means of channel c, divided by the standard deviation of the channel over all splits. It is 0 for a
        channel without variation. `first` and `second` are numbers of splits.
        """
        difference = np.abs(self.split_means[first] - self.split_means[second])
        drift: np.ndarray = np.divide(difference, self.std, out=np.zeros_like(difference), where=self.std > 0)
        return drift

    def shift(self, other: "VectorSummary") -> float:
        """Returns the share of the channels, from 0 to 1, that differ between two samples. A channel differs if its two
        means are more than half a pooled standard deviation apart. `other` is the summary of an array with the same
        number of channels, for example of the same array in another cache.
        """
        pooled = np.sqrt((self.std**2 + other.std**2) / 2)
        return float((np.abs(self.mean - other.mean) > DRIFT * pooled).mean())


class ArraySamples:
    """Reads samples of the arrays of one cache. A sample is drawn at random from the rows with values, with a fixed
    seed. So each call draws the same sample.
    """

    def __init__(self, numbers: CacheNumbers) -> None:
        self.numbers = numbers
        self.specs = {
            name: spec for name, spec in numbers.cache.arrays().items() if numbers.stages[spec.stage].num_shards
        }
        self._clips: dict[tuple[str, ...], CachedClips] = {}
        self._summaries: dict[str, VectorSummary | None] = {}

    def vector_arrays(self) -> list[str]:
        """Returns the names of the arrays that hold vectors of frames or regions, such as
        `features/i3d/res5_pooled`.
        """
        return [name for name in self.specs if name.startswith(VECTORS)]

    def rows(self, *names: str, most_rows: int = MOST_ROWS) -> np.ndarray:
        """Returns the row numbers of a sample, in ascending order. The arrays `names` have values in all of these rows.

        There are at most `most_rows` rows, and at most 256 MiB of values of each array.
        """
        specs = [self.specs[name] for name in names]
        stages = self.numbers.stages
        usable = np.flatnonzero(np.logical_and.reduce([stages[spec.stage].usable for spec in specs]))
        most = min(most_rows, *(max(1, MOST_BYTES // max(1, spec.row_bytes)) for spec in specs))
        if len(usable) > most:
            usable = np.sort(np.random.default_rng(0).choice(usable, most, replace=False))
        return usable

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns the values of the array `name` in the rows `rows`: [rows, ...]. The values keep the type in which
        they are stored.
        """
        return self.reader(self.specs).read_rows(name, rows)

    def reader(self, arrays: Iterable[str]) -> CachedClips:
        """Returns a reader (CachedClips) for the arrays with the names `arrays`, over all splits. Calls with the same
        names return the same reader.
        """
        names = tuple(sorted({*arrays}))
        if names not in self._clips:
            self._clips[names] = CachedClips(self.numbers.cache, names)
        return self._clips[names]

    def summary(self, name: str) -> VectorSummary | None:
        """Returns a VectorSummary of the array `name`, with the norms, means and deviations of its vectors. Returns
        None if no row has values.
        """
        if name not in self._summaries:
            rows = self.rows(name)
            self._summaries[name] = self._summed_up(name, rows) if len(rows) else None
        return self._summaries[name]

    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Reads the vectors of the array `name` in the rows `rows`. Returns float32 [rows, time steps, K, channels].

        In an array of regions, K is the number of regions of a time step. In an array of maps, K is the number of cells
        of a map. In an array of pooled features, K is 1. The vectors of regions that do not exist are NaN.
        """
        values = self.read(name, rows).astype(np.float32)
        if name.startswith("features/"):
            values = values[..., None] if values.ndim == 3 else values.reshape(*values.shape[:3], -1)
            return np.moveaxis(values, 2, 3)  # [R, T, C, K] -> [R, T, K, C]
        if values.ndim > 4:  # each region has a grid of cells
            values = values.reshape(*values.shape[:4], -1).mean(-1)
        if COUNT in self.specs:
            count = self.read(COUNT, rows)[:, self.box_steps(name)]  # [R, T]
            values[np.arange(values.shape[2]) >= count[..., None]] = np.nan
        return values

    def means(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns one mean vector for each of the rows `rows`, float64 [rows, channels]. The mean is over the time
        steps and the regions or cells of the row. A row without regions is NaN.
        """
        means = [np.empty((0, 0))]
        for _, vectors in self._blocks(name, rows):
            there = np.isfinite(vectors).all(-1, keepdims=True)  # [R, T, K, 1]
            total, count = np.where(there, vectors, 0).sum((1, 2), dtype=np.float64), there.sum((1, 2))
            means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        return np.concatenate(means[1:] or means)

    def box_steps(self, name: str) -> np.ndarray:
        """Finds the boxes that belong to each time step of the array `name`. Returns int64 [time steps]. Element t is
        an index on the time axis of `proposals/boxes`: the boxes at this index belong to time step t of the array
        `name`.
        """
        return frames_with_boxes(self.specs[name], self.specs[BOXES])

    def _blocks(self, name: str, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            yield some, self.vectors(name, some)

    def _summed_up(self, name: str, rows: np.ndarray) -> VectorSummary:
        sums = _Sums(self.specs[name], len(self.numbers.splits))
        for some, vectors in self._blocks(name, rows):
            sums.add(vectors, self.numbers.split_of[some])
        return sums.summary(name, rows, int(self.numbers.stages[self.specs[name].stage].usable.sum()))


class _Sums:
    """Sums over blocks of vectors, from which a VectorSummary is computed. So the whole sample is never in memory."""

    def __init__(self, spec: ArraySpec, num_splits: int) -> None:
        axis = 1 if spec.name.startswith("features/") else 2
        channels, steps = spec.shape[axis], spec.shape[0]
        self.may_lack = axis == 2  # places without a region are NaN
        self.count = self.num_zero = self.num_values = self.num_not_finite = 0
        self.total, self.squares = np.zeros((2, channels))
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.norms: list[np.ndarray] = []
        self.step_norms, self.step_counts = np.zeros((2, steps))
        self.split_total = np.zeros((num_splits, channels))
        self.split_norms, self.split_counts, self.split_rows = np.zeros((3, num_splits))

    def add(self, vectors: np.ndarray, splits: np.ndarray) -> None:
        """Adds a block of `vectors`, as `ArraySamples.vectors` returns them. `splits` has the number of the split of
        each row.
        """
        there = ~np.isnan(vectors).all(-1) | (not self.may_lack)  # [R, T, K]
        finite = np.isfinite(vectors).all(-1) & there
        self.num_not_finite += int((~np.isfinite(vectors[there])).sum())
        flat = vectors[finite].astype(np.float64)  # [n, C]
        if not len(flat):
            return
        self.count += len(flat)
        self.num_values += flat.size
        self.num_zero += int((flat == 0).sum())
        self.total += flat.sum(0)
        self.squares += (flat**2).sum(0)
        self.low, self.high = np.minimum(self.low, flat.min(0)), np.maximum(self.high, flat.max(0))
        norms = np.sqrt((flat**2).sum(1))
        self.norms.append(norms.astype(np.float32))
        row_of, step_of, _ = np.nonzero(finite)
        np.add.at(self.step_norms, step_of, norms)
        np.add.at(self.step_counts, step_of, 1)
        for split in np.unique(splits):
            here = splits[row_of] == split
            self.split_total[split] += flat[here].sum(0)
            self.split_norms[split] += norms[here].sum()
            self.split_counts[split] += here.sum()
            self.split_rows[split] += (splits == split).sum()

    def summary(self, name: str, rows: np.ndarray, num_usable: int) -> VectorSummary:
        count = max(1, self.count)
        mean = self.total / count
        std = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        split_counts = np.maximum(self.split_counts, 1)
        enough = (self.split_rows >= LEAST_OF_SPLIT)[:, None]
        return VectorSummary(
            name=name,
            rows=rows,
            num_usable=num_usable,
            norms=np.concatenate(self.norms) if self.norms else np.zeros(0, np.float32),
            norm_by_step=self.step_norms / np.maximum(self.step_counts, 1),
            zero_share=self.num_zero / max(1, self.num_values),
            num_not_finite=self.num_not_finite,
            mean=mean,
            std=std,
            dead=np.flatnonzero(self.low == self.high) if self.count > 1 else np.zeros(0, np.int64),
            split_means=np.where(enough, self.split_total / split_counts[:, None], np.nan),
            split_norms=np.where(self.split_counts > 0, self.split_norms / split_counts, np.nan),
        )
